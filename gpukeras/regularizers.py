"""Penalties on weights and outputs that layers add to the loss."""

import math

import numpy as np

from gpukeras import ops, registry
from gpukeras.backend import dtypes
from gpukeras.configurable import Configurable, serialize
from gpukeras.registry import register

__all__ = [
    "L1",
    "L1L2",
    "L2",
    "OrthogonalRegularizer",
    "Regularizer",
    "deserialize",
    "get",
    "l1",
    "l1_l2",
    "l2",
    "orthogonal_regularizer",
    "serialize",
]


@register("regularizer")
class Regularizer(Configurable):
    """Base of all regularizers; a subclass defines ``__call__(x)``, which gives a scalar.

    Any function of a Tensor to a scalar will do in its place.

    Example:
        >>> class Spread(Regularizer):
        ...     def __call__(self, x):
        ...         return ops.max(x) - ops.min(x)
        >>> Spread()(np.array([1.0, 4.0])).item()
        3.0
    """

    def __call__(self, x):
        """The penalty of x."""
        return 0.0


@register("regularizer", "l1_l2")
class L1L2(Regularizer):
    """l1 · Σ|x| + l2 · Σx².

    Args:
        l1, l2: Factors, not negative.

    Example:
        >>> L1L2(l1=0.5, l2=0.25)(np.array([1.0, -2.0])).item()
        2.75
    """

    def __init__(self, l1=0.0, l2=0.0):
        self.l1 = _factor(0.0 if l1 is None else l1, "L1L2", "l1")
        self.l2 = _factor(0.0 if l2 is None else l2, "L1L2", "l2")

    def __call__(self, x):
        x = ops.convert_to_tensor(x)
        penalty = None
        if self.l1 != 0.0:
            penalty = ops.sum(ops.absolute(x)) * self.l1
        if self.l2 != 0.0:
            squares = ops.sum(ops.square(x)) * self.l2
            penalty = squares if penalty is None else penalty + squares
        return ops.zeros((), x.dtype) if penalty is None else penalty


@register("regularizer")
class L1(Regularizer):
    """l1 · Σ|x|.

    Args:
        l1: Factor, not negative; 0.01 for None.

    Example:
        >>> L1(0.5)(np.array([1.0, -2.0])).item()
        1.5
    """

    def __init__(self, l1=0.01):
        # In floatx, as Keras keeps it and writes it into configs.
        self.l1 = _in_floatx(_factor(0.01 if l1 is None else l1, "L1", "l1"))

    def __call__(self, x):
        return ops.sum(ops.absolute(x)) * self.l1


@register("regularizer")
class L2(Regularizer):
    """l2 · Σx².

    Args:
        l2: Factor, not negative; 0.01 for None.

    Example:
        >>> L2(0.5)(np.array([1.0, -2.0])).item()
        2.5
    """

    def __init__(self, l2=0.01):
        self.l2 = _factor(0.01 if l2 is None else l2, "L2", "l2")

    def __call__(self, x):
        return ops.sum(ops.square(x)) * self.l2


@register("regularizer")
class OrthogonalRegularizer(Regularizer):
    """factor · mean over all pairs of |cosine of the angle between two rows (or columns)|.

    Args:
        factor: Factor, not negative.
        mode: "rows" or "columns".

    Shapes:
        x (rows, columns)  ->  ()

    Example:
        >>> OrthogonalRegularizer(1.0)(np.eye(3)).item()
        0.0
    """

    def __init__(self, factor=0.01, mode="rows"):
        self.factor = _in_floatx(_factor(factor, "OrthogonalRegularizer", "factor"))
        if mode not in ("rows", "columns"):
            raise ValueError(f"OrthogonalRegularizer: mode must be 'rows' or 'columns', but got {mode!r}.")
        self.mode = mode

    def __call__(self, inputs):
        x = ops.convert_to_tensor(inputs)
        if x.ndim != 2:
            raise ValueError(f"OrthogonalRegularizer needs a matrix (two axes), but got shape {x.shape}.")
        if self.mode == "columns":
            x = ops.transpose(x)
        # A row of zeros stays one: its length is taken as epsilon.
        squares = ops.sum(ops.square(x), axis=1, keepdims=True)
        unit = ops.multiply(x, ops.rsqrt(ops.maximum(squares, dtypes.epsilon() ** 2)))
        size = x.shape[0] or 0
        others = ops.subtract(1.0, ops.eye(size, dtype=x.dtype))
        cosines = ops.multiply(ops.matmul(unit, ops.transpose(unit)), others)
        pairs = max(size * (size - 1) // 2, 1)  # one row alone has no penalty
        return ops.multiply(ops.sum(ops.absolute(cosines)), self.factor * 0.5 / pairs)


def _factor(value, who, name):
    if not isinstance(value, (float, int)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{who}: {name} must be a number not below 0, but got {value!r}.")
    return float(value)


def _in_floatx(value):
    return float(np.asarray(value, dtypes.as_dtype(dtypes.floatx())))


def get(identifier):
    """The regularizer that a name, config, class, object or function means; None for None."""
    return registry.resolve("regularizer", identifier)


def deserialize(config, custom_objects=None):
    """The regularizer of a config dictionary that `serialize` wrote, or of a name."""
    with registry.custom_object_scope(custom_objects):
        return registry.resolve("regularizer", config)


# Keras's names in snake case are the classes themselves.
l1 = L1
l1_l2 = L1L2
l2 = L2
orthogonal_regularizer = OrthogonalRegularizer
