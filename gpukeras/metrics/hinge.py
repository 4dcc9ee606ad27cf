"""Distances from a margin."""

from gpukeras.metrics.reduction import MeanMetricWrapper
from gpukeras.ops import objective
from gpukeras.registry import register

__all__ = ["CategoricalHinge", "Hinge", "SquaredHinge"]


@register("metric")
class CategoricalHinge(MeanMetricWrapper):
    """Hinge between the true class's prediction and the largest other one.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> CategoricalHinge()([[0.0, 1.0]], [[0.5, 0.75]]).numpy()
        array(0.75, dtype=float32)
    """

    _direction = "down"

    def __init__(self, name="categorical_hinge", dtype=None):
        super().__init__(objective.categorical_hinge, name=name, dtype=dtype)


@register("metric")
class Hinge(MeanMetricWrapper):
    """How far predictions are from the right side's margin.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> Hinge()([-1.0, 1.0], [0.5, 0.5]).numpy()
        array(1., dtype=float32)
    """

    _direction = "down"

    def __init__(self, name="hinge", dtype=None):
        super().__init__(objective.hinge, name=name, dtype=dtype)


@register("metric")
class SquaredHinge(MeanMetricWrapper):
    """Squared distance from the right side's margin.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> SquaredHinge()([-1.0, 1.0], [0.5, 0.5]).numpy()
        array(1.25, dtype=float32)
    """

    _direction = "down"

    def __init__(self, name="squared_hinge", dtype=None):
        super().__init__(objective.squared_hinge, name=name, dtype=dtype)
