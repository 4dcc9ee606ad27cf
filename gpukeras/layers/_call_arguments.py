"""Which argument of `call` is what: binding, shapes for `build`, masks."""

import functools
import inspect

from gpukeras.autograd.symbolic import KerasTensor, flatten, map_structure
from gpukeras.autograd.tensor import Tensor

__all__ = ["CallArguments", "shapes_for", "signature_of"]


class CallSignature:
    """What can be known of a `call` method before it is called.

    Args:
        function: The method as the class has it, whose first parameter is the layer, or a function in its place.
        is_method: Which of both it is.
    """

    def __init__(self, function, is_method):
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if is_method and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            del parameters[0]
        self.signature = signature.replace(parameters=parameters)
        self.names = [p.name for p in parameters]
        self.has_training = "training" in self.names
        self.has_mask = "mask" in self.names
        self.is_variadic = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
        self.defaults = {p.name: p.default for p in parameters if p.default is not p.empty}


@functools.cache
def _signature_of_class(cls):
    return CallSignature(cls.call, not isinstance(inspect.getattr_static(cls, "call"), (staticmethod, classmethod)))


def signature_of(layer):
    """The signature of a layer's `call`, read once per class."""
    if "call" in vars(layer):
        return CallSignature(layer.call, is_method=False)
    return _signature_of_class(type(layer))


class CallArguments:
    """The arguments of one call by name, and which of them are tensors (or structures of tensors).

    Attributes:
        values: Name -> value, defaults included.
        given: Names that the caller passed.
        tensors: Name -> value of the arguments that hold tensors only.
        first: Value of the first argument.
    """

    def __init__(self, layer, call_signature, args, kwargs):
        values = {}
        if call_signature.is_variadic:
            wanted = {k: v for k, v in kwargs.items() if k != "training" or call_signature.has_training}
            bound = call_signature.signature.bind(*args, **wanted)
            self.given = set(bound.arguments)
            bound.apply_defaults()
            values = dict(bound.arguments)
        else:
            names = call_signature.names
            if len(args) > len(names):
                raise TypeError(
                    f"{_who(layer)}: call() takes {len(names)} arguments ({', '.join(names)}), but got {len(args)}."
                )
            values.update(call_signature.defaults)
            values.update(zip(names, args, strict=False))
            for name, value in kwargs.items():
                if name not in names:
                    if name == "training":
                        continue
                    raise TypeError(f"{_who(layer)}: call() has no argument {name!r}; it has {', '.join(names)}.")
                values[name] = value
            missing = [name for name in names if name not in values]
            if missing:
                raise TypeError(f"{_who(layer)}: call() needs the argument {missing[0]!r}.")
            self.given = {*names[: len(args)], *kwargs}
        self.values = values
        first_name = call_signature.names[0] if call_signature.names else None
        self.first = values.get(first_name)
        self.tensors = {}
        for name, value in values.items():
            if isinstance(value, (Tensor, KerasTensor)):
                self.tensors[name] = value
            elif isinstance(value, (list, tuple, dict)) and value:
                leaves = flatten(value)
                are_tensors = [isinstance(leaf, (Tensor, KerasTensor)) for leaf in leaves]
                if all(is_tensor or leaf is None for is_tensor, leaf in zip(are_tensors, leaves, strict=True)):
                    if any(are_tensors):
                        self.tensors[name] = value
                elif any(are_tensors):
                    raise ValueError(
                        f"{_who(layer)}: the argument {name!r} mixes tensors and other values: {value}. "
                        f"Pass the others as arguments of their own."
                    )

    def shapes(self):
        """``{"x_shape": shape}`` for every tensor argument but the mask."""
        return {
            f"{name}_shape": map_structure(_shape_or_none, value)
            for name, value in self.tensors.items()
            if name not in ("mask", "args", "kwargs")
        }


def shapes_for(method, arguments, layer):
    """The keyword arguments for a layer's `build` or `compute_output_shape`.

    A method with one parameter gets the first shape; one with several gets them by name:
    ``query_shape`` is the shape of the call's argument ``query``.
    """
    shapes = arguments.shapes()
    parameters = inspect.signature(method).parameters.values()
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(names) == 1:
        return {names[0]: next(iter(shapes.values()), None)}
    for name in names:
        if not name.endswith("_shape") or name.removesuffix("_shape") not in arguments.values:
            raise ValueError(
                f"{_who(layer)}: every argument of {method.__name__}() must be named after an argument of call() "
                f"with '_shape' appended, but {name!r} is not; call() has {', '.join(arguments.values)}."
            )
    return {name: shapes[name] for name in names if name in shapes}


def _shape_or_none(x):
    return None if x is None else tuple(x.shape)


def _who(layer):
    return f"{type(layer).__name__} {layer.name!r}"
