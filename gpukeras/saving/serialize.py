"""Objects as configs: plain values that JSON can hold, as Keras reads and writes them.

    {"module": "keras.layers", "class_name": "Dense", "config": {...}, "registered_name": None}

A config names classes; the registry and the user's custom objects say which. Nothing is imported,
evaluated or executed because a file says so.
"""

import inspect
import json
from typing import Any

import numpy as np

from gpukeras import registry
from gpukeras.autograd.symbolic import KerasTensor, Operation
from gpukeras.autograd.tensor import Tensor, Variable, convert_to_array
from gpukeras.backend import dtypes
from gpukeras.saving import operations
from gpukeras.saving.custom_objects import get_registered_name
from gpukeras.saving.operations import call_arguments

__all__ = [
    "call_arguments",
    "deserialize_keras_object",
    "model_from_json",
    "model_to_json",
    "serialize_keras_object",
]

_PLAIN = (str, bool, int, float)


# --- Writing --------------------------------------------------------------------------------------


def serialize_keras_object(obj) -> Any:
    """The config of an object: a dictionary for objects, the value itself for plain ones.

    Args:
        obj: A layer, model, optimizer, loss, metric, ...; a function; a NumPy array or scalar,
        Tensor,
            KerasTensor, bytes, slice; a plain value; lists, tuples and dictionaries of all of
            these.

    Returns:
        What `deserialize_keras_object` takes and ``json.dumps`` writes.

    Raises:
        ValueError: for a lambda, since files must not carry code.
        TypeError: for an object that has no ``get_config()``.

    Example:
        >>> serialize_keras_object(keras.initializers.Ones())["class_name"]
        'Ones'
    """
    if obj is None or isinstance(obj, _PLAIN):
        return obj
    if isinstance(obj, tuple):
        return tuple(serialize_keras_object(item) for item in obj)
    if isinstance(obj, list):
        return [serialize_keras_object(item) for item in obj]
    if isinstance(obj, dict):
        return {key: serialize_keras_object(item) for key, item in obj.items()}
    if isinstance(obj, bytes):
        return {"class_name": "__bytes__", "config": {"value": obj.decode("utf-8")}}
    if isinstance(obj, slice):
        ends = {part: serialize_keras_object(getattr(obj, part)) for part in ("start", "stop", "step")}
        return {"class_name": "__slice__", "config": ends}
    if obj is Ellipsis:
        return {"class_name": "__ellipsis__", "config": {}}
    if isinstance(obj, KerasTensor):
        return _serialize_keras_tensor(obj)
    if isinstance(obj, Variable):
        raise TypeError(
            f"Variable {obj.path!r} cannot be written into a config, which has no place for "
            f"weights. Let a layer own it (add_weight) and call the layer."
        )
    if isinstance(obj, Tensor):
        return _array_config("__tensor__", obj.numpy())
    if isinstance(obj, np.generic) or (isinstance(obj, np.ndarray) and obj.ndim == 0):
        return obj.item()
    if isinstance(obj, np.ndarray):
        return _array_config("__numpy__", obj)
    if isinstance(obj, Operation):
        config = operations.serialize(obj)
        return {**config, "config": serialize_keras_object(config["config"])}
    if inspect.isclass(obj):
        return {
            "module": "builtins",
            "class_name": "type",
            "config": obj.__name__,
            "registered_name": "type",
        }
    if hasattr(obj, "get_config"):
        return _serialize_object(obj)
    if callable(obj) and hasattr(obj, "__name__"):
        return _serialize_function(obj)
    raise TypeError(
        f"Cannot write {obj!r} ({type(obj).__name__}) into a config. "
        f"Give its class get_config() and from_config(), or pass a plain value."
    )


def _array_config(class_name, array):
    return {
        "class_name": class_name,
        "config": {"value": array.tolist(), "dtype": array.dtype.name},
    }


def _serialize_keras_tensor(tensor):
    history = tensor._keras_history
    if history is not None:
        history = [history[0].name, *history[1:]]
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": tensor.shape, "dtype": tensor.dtype, "keras_history": history},
    }


def _serialize_function(function):
    name = get_registered_name(function)
    if name == "<lambda>":
        raise ValueError(
            "A lambda cannot be written into a config, because a file must not carry code. "
            "Define a named function and decorate it with "
            "@keras.saving.register_keras_serializable()."
        )
    return {
        "module": "builtins",
        "class_name": "function",
        "config": name,
        "registered_name": "function",
    }


def _serialize_object(obj):
    cls = type(obj)
    inner = obj.get_config()
    if not isinstance(inner, dict):
        raise TypeError(f"{cls.__name__}.get_config() must return a dictionary, but returned {inner!r}.")
    kind = registry.kind_of(cls)
    module = registry.KERAS_MODULES[kind] if kind else cls.__module__
    is_exported = kind is not None and not module.startswith("keras.src")
    config = {
        "module": None if module == "__main__" else module,
        "class_name": vars(cls).get("_keras_name", cls.__name__),
        "config": serialize_keras_object(inner),
        "registered_name": None if is_exported else get_registered_name(cls),
    }
    for key, method in (
        ("build_config", "get_build_config"),
        ("compile_config", "get_compile_config"),
    ):
        if hasattr(obj, method):
            settings = getattr(obj, method)()
            if settings is not None:
                config[key] = serialize_keras_object(settings)
    return registry.note_written(obj, config)


# --- Reading --------------------------------------------------------------------------------------


def deserialize_keras_object(config, custom_objects=None, safe_mode=True, **kwargs) -> Any:
    """The object that a config describes.

    Args:
        config: What `serialize_keras_object` returned, or the same after JSON.
        custom_objects: Names and classes or functions of the user's own.
        safe_mode: Kept for Keras's signature; code in a config is refused in any case.

    Returns:
        The object; configs nested in lists and dictionaries become objects too.

    Raises:
        TypeError: for a class or function that nobody registered, and for a config of a wrong form.
        ValueError: for code in the config.

    Example:
        >>> config = serialize_keras_object(keras.layers.Dense(2, name="head"))
        >>> deserialize_keras_object(config).name
        'head'
    """
    module_objects = kwargs.pop("module_objects", None)
    if kwargs:
        raise TypeError(f"deserialize_keras_object got unknown arguments {sorted(kwargs)}.")
    if custom_objects or module_objects:
        # Opened once, here: all that is nested, and what from_config() resolves, sees these names
        # too.
        with registry.custom_object_scope({**(module_objects or {}), **(custom_objects or {})}):
            return _read(config)
    return _read(config)


def _read(config):
    if isinstance(config, str):
        return registry.custom_objects().get(config, config)
    if config is None or isinstance(config, _PLAIN):
        return config
    if isinstance(config, (list, tuple)):
        return [_read(item) for item in config]
    if not isinstance(config, dict):
        raise TypeError(f"A config consists of plain values, lists and dictionaries, but got {config!r}.")
    if "class_name" not in config or "config" not in config:
        return {key: _read(item) for key, item in config.items()}
    name, inner = config["class_name"], config["config"]
    if not isinstance(name, str):
        raise TypeError(f"'class_name' must be a string, but got {name!r}.")
    if name in _SPECIAL:
        try:
            return _SPECIAL[name](inner)
        except (KeyError, TypeError, AttributeError) as error:
            raise TypeError(f"The config of a {name} is not as serialize_keras_object writes it: {inner!r}.") from error
    if name == "function":
        return _find_function(config)
    return _read_object(config, name, {} if inner is None else inner)


def _read_keras_tensor(inner):
    tensor = KerasTensor(inner["shape"], inner["dtype"])
    vars(tensor)["_pre_serialization_keras_history"] = inner["keras_history"]
    return tensor


def _refuse_lambda(inner):
    raise ValueError(
        "The config holds a Python lambda, that is, code. Code from files is not run, with "
        "safe_mode=False neither. Where the model is saved, replace the lambda by a named function "
        "decorated with @keras.saving.register_keras_serializable()."
    )


def _refuse_typespec(inner):
    raise ValueError("The config holds a TensorFlow TypeSpec, which has no meaning here. Save the model without it.")


_SPECIAL = {
    "__bytes__": lambda inner: inner["value"].encode("utf-8"),
    "__ellipsis__": lambda inner: Ellipsis,
    "__keras_tensor__": _read_keras_tensor,
    "__lambda__": _refuse_lambda,
    "__numpy__": lambda inner: np.array(inner["value"], dtype=dtypes.as_dtype(inner["dtype"])),
    "__slice__": lambda inner: slice(_read(inner["start"]), _read(inner["stop"]), _read(inner["step"])),
    "__tensor__": lambda inner: Tensor(convert_to_array(inner["value"], dtypes.as_dtype(inner["dtype"]))),
    "__typespec__": _refuse_typespec,
}


def _find_function(config):
    name = config["config"]
    if not isinstance(name, str):
        raise TypeError(f"The config of a function must be its name, but got {name!r}.")
    custom = registry.custom_objects()
    if name in custom:
        return custom[name]
    for kind in registry.KERAS_MODULES:
        function = registry.find(name, [kind])
        if function is not None and not inspect.isclass(function):
            return function
    if ">" not in name:  # early Keras 3 wrote a registered function without its package
        for full_name, function in custom.items():
            if full_name.endswith(f">{name}"):
                return function
    raise TypeError(_unknown("function", name, config))


def _read_object(config, name, inner):
    if not isinstance(inner, dict):
        raise TypeError(f"The config of a {name} must be a dictionary, but got {inner!r}.")
    made = registry.recalled(config)
    if made is not None:
        return made
    cls: Any = _find_class(config, name)
    if cls is None:
        made: Any = operations.deserialize(name, inner)
    elif not inspect.isclass(cls):
        return cls
    else:
        from_config = getattr(cls, "from_config", None)
        if from_config is None:
            raise TypeError(f"{cls.__name__} has no from_config(), so no object can be made of its config.")
        made = from_config(dict(inner))
    build_config = config.get("build_config")
    if build_config and not getattr(made, "built", True):
        made.build_from_config(build_config)
        made.built = True
    compile_config = config.get("compile_config")
    if compile_config:
        made.compile_from_config(compile_config)
    return registry.note_read(config, made)


def _find_class(config, name):
    """The class of a config, or None for an op of a functional graph."""
    custom = registry.custom_objects()
    registered_name = config.get("registered_name", name)
    if registered_name in custom:
        return custom[registered_name]
    module = config.get("module")
    if isinstance(module, str) and module.split(".")[0] == "keras":
        for kind in _kinds_of_module(module):
            found = registry.registered(kind).get(name) or registry.find(name, [kind])
            if found is not None:
                return found
        if module.startswith("keras.src.ops."):
            return None
    raise TypeError(_unknown("class", name, config))


def _kinds_of_module(module):
    """The kinds that a Keras module may hold; also of its private modules and public aliases."""
    exact = [kind for kind, name in registry.KERAS_MODULES.items() if name == module]
    part = {*module.removeprefix("keras.src.").removeprefix("keras.").split(".")}
    return exact + [kind for kind, words in _WORDS.items() if part & words and kind not in exact]


_WORDS = {
    "constraint": {"constraints"},
    "functional": {"functional", "models"},
    "initializer": {"initializers"},
    "layer": {"layers"},
    "loss": {"losses"},
    "metric": {"metrics"},
    "model": {"models", "sequential", "model"},
    "optimizer": {"optimizers"},
    "policy": {"dtype_policies"},
    "random": {"random"},
    "regularizer": {"regularizers"},
    "schedule": {"schedules"},
}


def _unknown(what, name, config):
    module = config.get("module")
    kinds = _kinds_of_module(module) if isinstance(module, str) else []
    if kinds and module.split(".")[0] == "keras":
        candidates = [candidate for kind in kinds for candidate in registry.registered(kind)]
        hint = registry.suggest(name, candidates)
        return f"There is no {what} {name!r} of the module {module!r} here. {hint}"
    return (
        f"Unknown {what} {name!r} (registered name {config.get('registered_name')!r}, module "
        f"{module!r}). Decorate it with @keras.saving.register_keras_serializable() and run that "
        f"code before loading, or pass custom_objects={{{name!r}: {name.split('>')[-1]}}}. Files "
        f"never import modules by themselves."
    )


# --- JSON -----------------------------------------------------------------------------------------


def model_to_json(model, **kwargs):
    """The model's config as a JSON string: layers and how they are connected, no weights.

    Args:
        model: The model.
        **kwargs: Arguments of ``json.dumps``.
    """
    with registry.sharing_scope():
        config = serialize_keras_object(model)
    return json.dumps(registry.without_lonely_marks(config), **kwargs)


def model_from_json(json_string, custom_objects=None):
    """A new model, with new weights, from what ``model.to_json()`` returned.

    Args:
        json_string: The JSON.
        custom_objects: Names and classes or functions of the user's own.
    """
    try:
        config = json.loads(json_string)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"model_from_json needs what model.to_json() returned, but this is no JSON: {error}"
        ) from error
    with registry.sharing_scope():
        return deserialize_keras_object(config, custom_objects=custom_objects)
