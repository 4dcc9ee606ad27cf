"""The constructor is the config: `Configurable` reads `get_config` off the signature of `__init__`."""

import functools
import inspect
from typing import Any

import numpy as np

from gpukeras import registry

__all__ = ["Configurable", "serialize"]


class Configurable:
    """Base of everything that a file can name: layers, models, optimizers, losses, initializers, ...

    Every constructor argument is stored under its own name; `get_config` reads it back, walking the
    ``__init__`` signatures along the class order and upwards through ``**kwargs``. Arguments a class
    stores elsewhere are taken from what the constructor was called with.

    A class names its exceptions in two attributes:
        _not_in_config: arguments that Keras never saves.
        _in_config_if_set: arguments that Keras saves only when they are not None.

    A third, `_keras_name`, is the name in files of a class that Keras exports under another than its own.
    """

    _constructor_call: tuple[tuple, dict]
    _not_in_config: tuple[str, ...] = ()
    _in_config_if_set: tuple[str, ...] = ()

    def __new__(cls, *args, **kwargs):
        instance = super().__new__(cls)
        # object.__setattr__: subclasses may track what is assigned to them.
        object.__setattr__(instance, "_constructor_call", (args, kwargs))
        return instance

    def get_config(self):
        """The constructor's arguments, ready to be written as JSON."""
        config = {}
        left_out = _collect(type(self), "_not_in_config")
        if_set = _collect(type(self), "_in_config_if_set")
        for name, default in constructor_parameters(type(self)).items():
            if name in left_out:
                continue
            value = self._constructor_argument(name, default)
            if value is None and name in if_set:
                continue
            config[name] = serialize(value)
        return config

    def _constructor_argument(self, name, default):
        try:
            return getattr(self, name)
        except AttributeError:
            pass
        args, kwargs = self._constructor_call
        if name in kwargs:
            return kwargs[name]
        try:
            bound = inspect.signature(type(self).__init__).bind_partial(self, *args, **kwargs)
        except TypeError:
            bound = None
        if bound is not None and name in bound.arguments:
            return bound.arguments[name]
        if default is inspect.Parameter.empty:
            raise NotImplementedError(
                f"{type(self).__name__} has no attribute {name!r}, so its config cannot be read off its "
                f"constructor. Store the argument as self.{name}, or define get_config()."
            )
        return default

    @classmethod
    def from_config(cls, config):
        """A new object from what `get_config` returned."""
        try:
            return cls(**config)
        except TypeError as error:
            raise TypeError(
                f"{cls.__name__} cannot be built from its config: {error}. "
                f"The config has the keys {sorted(config)}; define from_config() or accept them in __init__."
            ) from error


@functools.cache
def constructor_parameters(cls):
    """Name -> default of every argument that the constructor of `cls` accepts, base classes included."""
    found = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        passes_on = False
        for parameter in list(inspect.signature(base.__init__).parameters.values())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                found.setdefault(parameter.name, parameter.default)
        if not passes_on:
            break
    return found


@functools.cache
def _collect(cls, attribute):
    return frozenset(name for base in cls.__mro__ for name in vars(base).get(attribute, ()))


def serialize(value) -> Any:
    """The JSON form of a value, as Keras writes it.

    Numbers, strings, lists and dictionaries stay; objects become
    ``{"module", "class_name", "config", "registered_name"}``; registered functions become their name.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        items = [serialize(v) for v in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {key: serialize(v) for key, v in value.items()}
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, np.ndarray):
        return {
            "class_name": "__numpy__",
            "config": {"value": value.tolist(), "dtype": value.dtype.name},
        }
    if inspect.isfunction(value) or inspect.isbuiltin(value) or isinstance(value, functools.partial):
        return _serialize_function(value)
    if inspect.isclass(value):
        return _named(value.__name__, "type")
    if hasattr(value, "get_config"):
        return _serialize_object(value)
    raise TypeError(
        f"Cannot write {value!r} ({type(value).__name__}) into a config. "
        f"Give its class get_config() and from_config(), or pass a plain value."
    )


def _serialize_object(value):
    cls = type(value)
    kind = registry.kind_of(cls)
    module = registry.KERAS_MODULES[kind] if kind else cls.__module__
    is_exported = kind is not None and not module.startswith("keras.src")
    config = {
        "module": None if module == "__main__" else module,
        "class_name": vars(cls).get("_keras_name", cls.__name__),
        "config": serialize(value.get_config()),
        "registered_name": None if is_exported else registry.registered_name_of(cls) or cls.__name__,
    }
    if hasattr(value, "get_build_config"):
        build_config = value.get_build_config()
        if build_config is not None:
            config["build_config"] = serialize(build_config)
    return registry.note_written(value, config)


def _serialize_function(function):
    name = getattr(function, "__name__", None)
    if name is None or name == "<lambda>":
        raise ValueError(
            "A lambda cannot be written into a config, because a file must not carry code. "
            "Define a named function and decorate it with @keras.saving.register_keras_serializable()."
        )
    if registry.kind_of(function):
        return name
    return _named(registry.registered_name_of(function) or name, "function")


def _named(name, class_name):
    return {
        "module": "builtins",
        "class_name": class_name,
        "config": name,
        "registered_name": class_name,
    }
