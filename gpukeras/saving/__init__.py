"""Models, weights and configs in files; the namespace `keras.saving`."""

from gpukeras.saving.archive import load_model, save_model
from gpukeras.saving.custom_objects import (
    CustomObjectScope,
    custom_object_scope,
    get_custom_objects,
    get_registered_name,
    get_registered_object,
    register_keras_serializable,
)
from gpukeras.saving.serialize import (
    deserialize_keras_object,
    model_from_json,
    model_to_json,
    serialize_keras_object,
)
from gpukeras.saving.weights import load_weights, save_weights

__all__ = [
    "CustomObjectScope",
    "custom_object_scope",
    "deserialize_keras_object",
    "get_custom_objects",
    "get_registered_name",
    "get_registered_object",
    "load_model",
    "load_weights",
    "model_from_json",
    "model_to_json",
    "register_keras_serializable",
    "save_model",
    "save_weights",
    "serialize_keras_object",
]
