"""Projections that optimizers apply to weights after each update."""

from gpukeras import ops, registry
from gpukeras.backend import dtypes
from gpukeras.configurable import Configurable, serialize
from gpukeras.registry import register

__all__ = [
    "Constraint",
    "MaxNorm",
    "MinMaxNorm",
    "NonNeg",
    "UnitNorm",
    "deserialize",
    "get",
    "max_norm",
    "min_max_norm",
    "non_neg",
    "serialize",
    "unit_norm",
]


@register("constraint")
class Constraint(Configurable):
    """Base of all constraints; a subclass defines ``__call__(w)``, which projects a weight.

    Example:
        >>> class Binary(Constraint):
        ...     def __call__(self, w):
        ...         return ops.sign(w)
        >>> Binary()(np.array([0.3, -2.0])).numpy()
        array([ 1., -1.])
    """

    def __call__(self, w):
        """The weight, projected."""
        return w


@register("constraint")
class MaxNorm(Constraint):
    """Shrinks weights whose norm along `axis` exceeds `max_value` to that norm.

    Args:
        max_value: Largest norm.
        axis: Axis or axes whose elements belong to one unit: 0 for Dense kernels (inputs, units),
            [0, 1, 2] for Conv2D kernels.

    Example:
        >>> MaxNorm(1.0)(np.array([[3.0], [4.0]])).numpy().round(4)
        array([[0.6],
               [0.8]])
    """

    def __init__(self, max_value=2, axis=0):
        self.max_value = max_value
        self.axis = axis

    def __call__(self, w):
        norms = _norms(w, self.axis)
        return w * (ops.clip(norms, 0, self.max_value) / (norms + dtypes.epsilon()))


@register("constraint")
class NonNeg(Constraint):
    """Sets negative weights to zero.

    Example:
        >>> NonNeg()(np.array([-1.0, 2.0])).numpy()
        array([0., 2.])
    """

    def __call__(self, w):
        return ops.maximum(w, 0)


@register("constraint")
class UnitNorm(Constraint):
    """Scales weights to norm 1 along `axis`.

    Args:
        axis: Axis or axes whose elements belong to one unit: 0 for Dense kernels (inputs, units),
            [0, 1, 2] for Conv2D kernels.

    Example:
        >>> UnitNorm()(np.array([[3.0], [4.0]])).numpy().round(4)
        array([[0.6],
               [0.8]])
    """

    def __init__(self, axis=0):
        self.axis = axis

    def __call__(self, w):
        return w / (_norms(w, self.axis) + dtypes.epsilon())


@register("constraint")
class MinMaxNorm(Constraint):
    """Scales weights so that their norm along `axis` comes to lie between two bounds.

        w · (rate · clip(norm, min_value, max_value) + (1 - rate) · norm) / norm

    Args:
        min_value, max_value: Bounds.
        rate: 1 brings the norm between the bounds at once, less moves it there step by step.
        axis: Axis or axes whose elements belong to one unit: 0 for Dense kernels (inputs, units),
            [0, 1, 2] for Conv2D kernels.

    Example:
        >>> MinMaxNorm(0.5, 1.0)(np.array([[3.0], [4.0]])).numpy().round(4)
        array([[0.6],
               [0.8]])
    """

    def __init__(self, min_value=0.0, max_value=1.0, rate=1.0, axis=0):
        self.min_value = min_value
        self.max_value = max_value
        self.rate = rate
        self.axis = axis

    def __call__(self, w):
        norms = _norms(w, self.axis)
        desired = ops.clip(norms, self.min_value, self.max_value) * self.rate
        desired = desired + norms * (1 - self.rate)
        return w * (desired / (norms + dtypes.epsilon()))


def _norms(w, axis):
    axis = tuple(axis) if isinstance(axis, list) else axis
    return ops.sqrt(ops.sum(ops.square(w), axis=axis, keepdims=True))


def get(identifier):
    """The constraint that a name, config, class, object or function means; None for None."""
    return registry.resolve("constraint", identifier)


def deserialize(config, custom_objects=None):
    """The constraint of a config dictionary that `serialize` wrote, or of a name."""
    with registry.custom_object_scope(custom_objects):
        return registry.resolve("constraint", config)


# Keras's names in snake case are the classes themselves.
max_norm = MaxNorm
min_max_norm = MinMaxNorm
non_neg = NonNeg
unit_norm = UnitNorm
