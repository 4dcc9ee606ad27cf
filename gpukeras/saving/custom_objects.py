"""Names under which files find the user's own classes and functions."""

import inspect

from gpukeras import registry

__all__ = [
    "CustomObjectScope",
    "custom_object_scope",
    "get_custom_objects",
    "get_registered_name",
    "get_registered_object",
    "register_keras_serializable",
]


def register_keras_serializable(package="Custom", name=None):
    """Make a class or function known to files, under ``"package>name"``.

    Args:
        package: First part of the name.
        name: Second part; the object's own name if None.

    Example:
        >>> @register_keras_serializable("shop")
        ... class Double(keras.layers.Layer):
        ...     def call(self, inputs):
        ...         return inputs * 2
        >>> get_registered_name(Double)
        'shop>Double'
    """

    def decorate(target):
        if inspect.isclass(target) and not hasattr(target, "get_config"):
            raise ValueError(
                f"{target.__name__} cannot be registered: it has no get_config(), which says how "
                f"to make it again. Define get_config(self), returning the arguments of __init__ "
                f"as a dictionary."
            )
        return registry.register_custom(target, package, name)

    return decorate


def get_registered_name(obj):
    """The name under which a class or function was registered, else its own."""
    return registry.registered_name_of(obj) or obj.__name__


def get_registered_object(name, custom_objects=None, module_objects=None):
    """The class or function of a name: in open scopes, registered, or in the given dictionaries.

    Returns:
        The object, or None where nothing has that name.
    """
    for table in (registry.custom_objects(), custom_objects or {}, module_objects or {}):
        if name in table:
            return table[name]
    return None


def get_custom_objects():
    """The dictionary of all registered custom objects itself; what is put into it can be loaded."""
    return registry._custom


class CustomObjectScope:
    """Names that can be resolved and loaded within a ``with`` block.

    Args:
        custom_objects: Dictionary of names and classes or functions.

    Example:
        >>> class Square(keras.layers.Layer):
        ...     def call(self, inputs):
        ...         return inputs * inputs
        >>> config = keras.saving.serialize_keras_object(Square())
        >>> with CustomObjectScope({"Square": Square}):
        ...     type(keras.saving.deserialize_keras_object(config)).__name__
        'Square'
    """

    def __init__(self, custom_objects):
        self.custom_objects = custom_objects or {}

    def __enter__(self):
        self._scope = registry.custom_object_scope(self.custom_objects)
        self._scope.__enter__()
        return self

    def __exit__(self, *error):
        return self._scope.__exit__(*error)


custom_object_scope = CustomObjectScope
