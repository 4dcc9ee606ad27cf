"""Whole models in ``.keras`` files, which Keras reads and writes too.

metadata.json       version and date
config.json         the model's config, its build and compile configs included
model.weights.h5    weights, optimizer slots, random states
"""

import datetime
import io
import json
import os
import warnings
import zipfile

from gpukeras import registry
from gpukeras.layers.layer import Layer
from gpukeras.saving import atomic, serialize, store, weights

__all__ = ["load_model", "pack", "save_model", "unpack"]

_CONFIG = "config.json"
_METADATA = "metadata.json"
# The version of Keras whose format this is. Keras reads it to know how to read the rest.
_KERAS_VERSION = "3.15.1"


def save_model(model, filepath, overwrite=True, zipped=None, **kwargs):
    """Write a model into one ``.keras`` file: layers, weights, compile arguments and optimizer.

    A training that goes on from the file goes on as if it had not been interrupted. The file is
    written beside its place and then moved there: whenever the process dies, the old file or the
    new one is there.

    Args:
        model: The model.
        filepath: String or path that ends in ``.keras``.
        overwrite: Whether an existing file is replaced; else the user is asked.
        zipped: True or None; folders are not written.

    Raises:
        ValueError: for another ending.
        OSError: where the file cannot be written; what was there before is untouched.
    """
    if not kwargs.pop("include_optimizer", True):
        raise NotImplementedError(
            "save_model: include_optimizer=False is not supported. Pass a model that is not "
            "compiled, or save_weights with objects_to_skip=[model.optimizer]."
        )
    if kwargs:
        raise ValueError(f"save_model got unknown arguments {sorted(kwargs)}; it takes filepath, overwrite and zipped.")
    if zipped is False:
        raise NotImplementedError("save_model: zipped=False, a folder, is not supported. Save a `.keras` file.")
    path = str(filepath)
    if path.endswith((".h5", ".hdf5")):
        raise ValueError(
            f"Invalid filepath extension for saving: {path!r}. The old `.h5` format of whole "
            f"models is not supported. Use `.keras` for the model as a whole, or "
            f"model.save_weights('name.weights.h5') for the weights."
        )
    if not path.endswith(".keras"):
        raise ValueError(f"Invalid filepath extension for saving: {path!r}. Please add the extension `.keras`.")
    if not model.built:
        warnings.warn(
            f"Model {model.name!r} is saved before it was built, so the file may hold no weights. "
            f"Call it on data first.",
            stacklevel=3,
        )
    if not atomic.may_write(path, overwrite):
        return
    config = serialize.model_to_json(model)
    metadata = {
        "keras_version": _KERAS_VERSION,
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
    }
    image = weights.weights_image(model)
    with atomic.replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_METADATA, json.dumps(metadata))
        archive.writestr(_CONFIG, config)
        with archive.open(store.WEIGHTS, "w", force_zip64=True) as member:
            store.write_in_pieces(member, image)


def load_model(filepath, custom_objects=None, compile=True, safe_mode=True):
    """The model in a ``.keras`` file, with its weights, compiled and with its optimizer if it was.

    Args:
        filepath: String or path of a file that `save_model` wrote, here or in Keras.
        custom_objects: Names and classes or functions of the user's own.
        compile: Whether the model is compiled as it was.
        safe_mode: Kept for Keras's signature; code in files is refused in any case.

    Raises:
        ValueError: for what is no such file, or a damaged one, with its path and what is wrong.
        TypeError: for classes that are not known; see `register_keras_serializable`.
        OSError: where the file cannot be read.
    """
    path = str(filepath)
    _check_path(path)
    # Opened once: another process may replace the file meanwhile, and halves of two must not meet.
    with store.opened_archive(path) as archive:
        text = store.read_member(archive, _CONFIG, path)
        image = store.read_member(archive, store.WEIGHTS, path)
    model = _model_of(text, path, custom_objects, compile, safe_mode)
    with store.opened_hdf5(io.BytesIO(image), path) as file:
        weights.read_weights(model, file, path)
    return model


def pack(model):
    """A model as JSON text and the bytes of its weights file, for `unpack`."""
    return serialize.model_to_json(model), bytes(weights.weights_image(model))


def unpack(text, image, custom_objects):
    """The model that `pack` was given, compiled and with its optimizer if it was."""
    path = "a packed model"
    model = _model_of(text, path, custom_objects, compile=True, safe_mode=True)
    with store.opened_hdf5(io.BytesIO(image), path) as file:
        weights.read_weights(model, file, path)
    return model


def _check_path(path):
    if path.endswith((".h5", ".hdf5")):
        raise ValueError(
            f"File format not supported: {path!r}. Whole models in the old `.h5` format are not "
            f"read; load it in Keras and save it as `.keras`. Files ending in `.weights.h5` hold "
            f"weights alone: make the model, then model.load_weights(path)."
        )
    if os.path.isdir(path):
        raise ValueError(f"File format not supported: {path!r} is a folder. Models are read from `.keras` files.")
    if not path.endswith(".keras"):
        raise ValueError(f"File format not supported: {path!r}. Models are read from files that end in `.keras`.")
    if not os.path.isfile(path):
        raise ValueError(f"File not found: {path!r}. Check the path; the current folder is {os.getcwd()!r}.")


def _model_of(text, path, custom_objects, compile, safe_mode):
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path!r}: {_CONFIG} is no JSON: {error}. The file is damaged; save it anew.") from error
    if not isinstance(config, dict) or "class_name" not in config:
        raise ValueError(f"{path!r}: {_CONFIG} describes no model. The file is damaged; save it anew.")
    if not compile:
        config["compile_config"] = None
    try:
        with registry.sharing_scope():
            model = serialize.deserialize_keras_object(config, custom_objects, safe_mode=safe_mode)
    except (TypeError, NotImplementedError) as error:
        raise type(error)(f"{path!r}: {error}") from error
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path!r}: the model cannot be made of its {_CONFIG}: {error}") from error
    if not isinstance(model, Layer):
        raise ValueError(f"{path!r}: {_CONFIG} describes {type(model).__name__}, which is no model.")
    return model
