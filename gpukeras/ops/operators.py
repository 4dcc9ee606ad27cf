"""Gives Tensor and KerasTensor their operators and methods, which are ops."""

from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.ops import (
    comparison,
    core,
    diagonals,
    elementwise,
    indexing,
    linalg,
    reduction,
    shaping,
)

__all__ = []

_BINARY = {
    "add": elementwise.add,
    "sub": elementwise.subtract,
    "mul": elementwise.multiply,
    "truediv": elementwise.divide,
    "floordiv": elementwise.floor_divide,
    "mod": elementwise.mod,
    "pow": elementwise.power,
    "matmul": linalg.matmul,
    "and": comparison.bitwise_and,
    "or": comparison.bitwise_or,
    "xor": comparison.bitwise_xor,
    "lshift": comparison.bitwise_left_shift,
    "rshift": comparison.bitwise_right_shift,
}
_COMPARISONS = {
    "lt": comparison.less,
    "le": comparison.less_equal,
    "gt": comparison.greater,
    "ge": comparison.greater_equal,
}
_METHODS = {
    "all": reduction.all,
    "any": reduction.any,
    "argmax": reduction.argmax,
    "argmin": reduction.argmin,
    "astype": core.cast,
    "clip": elementwise.clip,
    "copy": core.copy,
    "cumprod": reduction.cumprod,
    "cumsum": reduction.cumsum,
    "diagonal": diagonals.diagonal,
    "dot": linalg.dot,
    "flatten": shaping.ravel,
    "max": reduction.max,
    "mean": reduction.mean,
    "min": reduction.min,
    "prod": reduction.prod,
    "ravel": shaping.ravel,
    "repeat": shaping.repeat,
    "round": elementwise.round,
    "squeeze": shaping.squeeze,
    "std": reduction.std,
    "sum": reduction.sum,
    "swapaxes": shaping.swapaxes,
    "take": indexing.take,
    "trace": diagonals.trace,
    "var": reduction.var,
}


def _reflected(operation):
    def operate(self, other):
        return operation(other, self)

    return operate


def _binary(operation):
    def operate(self, other):
        return operation(self, other)

    return operate


def _equality(operation):
    def compare(self, other):
        if other is None or isinstance(other, (str, bytes)):
            return NotImplemented  # Python then compares identities
        return operation(self, other)

    return compare


def _getitem(self, key):
    return indexing.get_item(self, key)


def _setitem(self, key, value):
    raise TypeError(
        f"The values of a {type(self).__name__} never change, so x[...] = value does not work. "
        f"Use ops.slice_update or ops.scatter_update, which return a new Tensor, or a Variable's assign()."
    )


def _reshape(self, *newshape):
    """The same elements in another shape, given as one sequence or as several numbers."""
    return shaping.reshape(self, newshape[0] if len(newshape) == 1 else newshape)


def _transpose(self, *axes):
    """The axes in another order, given as one sequence or as several numbers; none: turned around."""
    if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], (tuple, list))):
        axes = axes[0]
    return shaping.transpose(self, axes or None)


def _method(operation):
    def method(self, *args, **kwargs):
        return operation(self, *args, **kwargs)

    method.__name__, method.__doc__ = operation.__name__, operation.__doc__
    return method


def _install(kind):
    for name, operation in _BINARY.items():
        setattr(kind, f"__{name}__", _binary(operation))
        setattr(kind, f"__r{name}__", _reflected(operation))
    for name, operation in _COMPARISONS.items():
        setattr(kind, f"__{name}__", _binary(operation))
    # __hash__ stays the identity: it is defined in the classes themselves.
    kind.__eq__ = _equality(comparison.equal)
    kind.__ne__ = _equality(comparison.not_equal)
    kind.__neg__ = lambda self: elementwise.negative(self)
    kind.__pos__ = lambda self: self
    kind.__abs__ = lambda self: elementwise.absolute(self)
    kind.__invert__ = lambda self: comparison.bitwise_not(self)
    kind.__round__ = lambda self, decimals=None: elementwise.round(self, decimals=decimals or 0)
    kind.__getitem__ = _getitem
    kind.__setitem__ = _setitem
    kind.T = property(lambda self: shaping.transpose(self), doc="The axes turned around.")
    kind.reshape = _reshape
    kind.transpose = _transpose
    for name, operation in _METHODS.items():
        setattr(kind, name, _method(operation))


_install(Tensor)
_install(KerasTensor)
_snapshot = "_snapshot"  # what Variable.value reads
setattr(Variable, _snapshot, _method(core.copy))
