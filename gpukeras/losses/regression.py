"""Losses for numbers: errors and their distances."""

from gpukeras.losses.base import LossFunctionWrapper
from gpukeras.ops import objective
from gpukeras.registry import register

__all__ = [
    "CosineSimilarity",
    "Huber",
    "LogCosh",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
]


@register("loss")
class MeanSquaredError(LossFunctionWrapper):
    """Mean of the squared errors.

        loss = mean((y_true - y_pred)²)

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> MeanSquaredError()([0.0, 1.0], [1.0, 1.0]).numpy()
        array(0.5, dtype=float32)
    """

    def __init__(self, reduction="sum_over_batch_size", name="mean_squared_error", dtype=None):
        super().__init__(objective.mean_squared_error, reduction=reduction, name=name, dtype=dtype)


@register("loss")
class MeanAbsoluteError(LossFunctionWrapper):
    """Mean of the absolute errors.

        loss = mean(|y_true - y_pred|)

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> MeanAbsoluteError()([0.0, 1.0], [1.0, 1.0]).numpy()
        array(0.5, dtype=float32)
    """

    def __init__(self, reduction="sum_over_batch_size", name="mean_absolute_error", dtype=None):
        super().__init__(objective.mean_absolute_error, reduction=reduction, name=name, dtype=dtype)


@register("loss")
class MeanAbsolutePercentageError(LossFunctionWrapper):
    """Mean of the errors in percent of the true values.

        loss = 100 · mean(|y_true - y_pred| / max(|y_true|, ε))

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> MeanAbsolutePercentageError()([2.0, 4.0], [1.0, 4.0]).numpy()
        array(25., dtype=float32)
    """

    def __init__(self, reduction="sum_over_batch_size", name="mean_absolute_percentage_error", dtype=None):
        super().__init__(objective.mean_absolute_percentage_error, reduction=reduction, name=name, dtype=dtype)


@register("loss")
class MeanSquaredLogarithmicError(LossFunctionWrapper):
    """Mean of the squared differences of logarithms.

        loss = mean((log(1 + y_true) - log(1 + y_pred))²)

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> MeanSquaredLogarithmicError()([1.0, 2.0], [1.0, 2.0]).numpy()
        array(0., dtype=float32)
    """

    def __init__(self, reduction="sum_over_batch_size", name="mean_squared_logarithmic_error", dtype=None):
        super().__init__(objective.mean_squared_logarithmic_error, reduction=reduction, name=name, dtype=dtype)


@register("loss")
class CosineSimilarity(LossFunctionWrapper):
    """Cosine of the angle between two vectors, negated: -1 where they point the same way.

        loss = -Σ y_true · y_pred / (|y_true| |y_pred|)

    Args:
        axis: The axis of the vectors' elements.
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> CosineSimilarity()([[0.0, 2.0]], [[0.0, 1.0]]).numpy()
        array(-1., dtype=float32)
    """

    _not_in_config = ("axis",)

    def __init__(self, axis=-1, reduction="sum_over_batch_size", name="cosine_similarity", dtype=None):
        super().__init__(objective.cosine_similarity, reduction=reduction, name=name, dtype=dtype, axis=axis)


@register("loss")
class Huber(LossFunctionWrapper):
    """Squared error where it is small, absolute error beyond.

        loss = mean(e²/2 where |e| ≤ δ, else δ |e| - δ²/2),   e = y_pred - y_true

    Args:
        delta: δ, where the one becomes the other.
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> Huber()([0.0, 0.0], [1.0, 3.0]).numpy()
        array(1.5, dtype=float32)
    """

    _not_in_config = ("delta",)

    def __init__(self, delta=1.0, reduction="sum_over_batch_size", name="huber_loss", dtype=None):
        super().__init__(objective.huber, reduction=reduction, name=name, dtype=dtype, delta=delta)


@register("loss")
class LogCosh(LossFunctionWrapper):
    """Logarithm of the hyperbolic cosine of the errors: between squared and absolute.

        loss = mean(log cosh(y_pred - y_true))

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> LogCosh()([1.0, 2.0], [1.0, 2.0]).numpy()
        array(0., dtype=float32)
    """

    def __init__(self, reduction="sum_over_batch_size", name="log_cosh", dtype=None):
        super().__init__(objective.log_cosh, reduction=reduction, name=name, dtype=dtype)
