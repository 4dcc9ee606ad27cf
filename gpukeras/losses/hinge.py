"""Losses that want a margin."""

from gpukeras.losses.base import LossFunctionWrapper
from gpukeras.ops import objective
from gpukeras.registry import register

__all__ = ["CategoricalHinge", "Hinge", "SquaredHinge"]


@register("loss")
class Hinge(LossFunctionWrapper):
    """How far predictions are from the right side's margin; labels are -1 and 1, or 0 and 1.

        loss = mean(max(1 - y_true · y_pred, 0))

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> Hinge()([-1.0, 1.0], [0.5, 0.5]).numpy()
        array(1., dtype=float32)
    """

    def __init__(self, reduction="sum_over_batch_size", name="hinge", dtype=None):
        super().__init__(objective.hinge, reduction=reduction, name=name, dtype=dtype)


@register("loss")
class SquaredHinge(LossFunctionWrapper):
    """Squared distance from the right side's margin; labels are -1 and 1, or 0 and 1.

        loss = mean(max(1 - y_true · y_pred, 0)²)

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> SquaredHinge()([-1.0, 1.0], [0.5, 0.5]).numpy()
        array(1.25, dtype=float32)
    """

    def __init__(self, reduction="sum_over_batch_size", name="squared_hinge", dtype=None):
        super().__init__(objective.squared_hinge, reduction=reduction, name=name, dtype=dtype)


@register("loss")
class CategoricalHinge(LossFunctionWrapper):
    """Hinge between the true class's prediction and the largest other one; labels are one-hot.

        loss = max(max((1 - y_true) · y_pred) - Σ y_true · y_pred + 1, 0)

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> CategoricalHinge()([[0.0, 1.0]], [[0.5, 0.75]]).numpy()
        array(0.75, dtype=float32)
    """

    def __init__(self, reduction="sum_over_batch_size", name="categorical_hinge", dtype=None):
        super().__init__(objective.categorical_hinge, reduction=reduction, name=name, dtype=dtype)
