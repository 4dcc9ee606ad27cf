"""Errors of predicted numbers, and how well they follow the true ones."""

import warnings

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import devices
from gpukeras.metrics.base import Metric, add_in_place, as_tensor
from gpukeras.metrics.reduction import Mean, MeanMetricWrapper
from gpukeras.ops import objective
from gpukeras.ops.exponential import sqrt
from gpukeras.ops.loss import as_array, same_rank
from gpukeras.registry import register

__all__ = [
    "CosineSimilarity",
    "LogCoshError",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "R2Score",
    "RootMeanSquaredError",
]

_AGGREGATIONS = (None, "uniform_average", "variance_weighted_average")


@register("metric", "mse", "MSE")
class MeanSquaredError(MeanMetricWrapper):
    """Mean of the squared errors.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> MeanSquaredError()([0.0, 1.0], [1.0, 1.0]).numpy()
        array(0.5, dtype=float32)
    """

    _direction = "down"

    def __init__(self, name="mean_squared_error", dtype=None):
        super().__init__(objective.mean_squared_error, name=name, dtype=dtype)


@register("metric", "mae", "MAE")
class MeanAbsoluteError(MeanMetricWrapper):
    """Mean of the absolute errors.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> MeanAbsoluteError()([0.0, 1.0], [1.0, 1.0]).numpy()
        array(0.5, dtype=float32)
    """

    _direction = "down"

    def __init__(self, name="mean_absolute_error", dtype=None):
        super().__init__(objective.mean_absolute_error, name=name, dtype=dtype)


@register("metric", "mape", "MAPE")
class MeanAbsolutePercentageError(MeanMetricWrapper):
    """Mean of the errors in percent of the true values.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> MeanAbsolutePercentageError()([2.0, 4.0], [1.0, 4.0]).numpy()
        array(25., dtype=float32)
    """

    _direction = "down"

    def __init__(self, name="mean_absolute_percentage_error", dtype=None):
        super().__init__(objective.mean_absolute_percentage_error, name=name, dtype=dtype)


@register("metric", "msle", "MSLE")
class MeanSquaredLogarithmicError(MeanMetricWrapper):
    """Mean of the squared differences of logarithms.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> MeanSquaredLogarithmicError()([1.0, 2.0], [1.0, 2.0]).numpy()
        array(0., dtype=float32)
    """

    _direction = "down"

    def __init__(self, name="mean_squared_logarithmic_error", dtype=None):
        super().__init__(objective.mean_squared_logarithmic_error, name=name, dtype=dtype)


@register("metric")
class LogCoshError(MeanMetricWrapper):
    """Mean logarithm of the hyperbolic cosine of the errors.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> LogCoshError()([1.0, 2.0], [1.0, 2.0]).numpy()
        array(0., dtype=float32)
    """

    _direction = "down"

    def __init__(self, name="logcosh", dtype=None):
        super().__init__(objective.log_cosh, name=name, dtype=dtype)


@register("metric")
class RootMeanSquaredError(Mean):
    """Root of the mean of the squared errors.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> RootMeanSquaredError()([0.0, 0.0], [3.0, 3.0]).numpy()
        array(3., dtype=float32)
    """

    _direction = "down"

    def __init__(self, name="root_mean_squared_error", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        values = _squared_error(y_true, y_pred, dtype=self._array_dtype)
        super().update_state(values, sample_weight=sample_weight)

    def result(self):
        return sqrt(super().result())


@register("metric")
class CosineSimilarity(MeanMetricWrapper):
    """Cosine of the angle between labels and predictions: 1 where they point the same way.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.
        axis: The axis of the vectors' elements.

    Example:
        >>> CosineSimilarity()([[0.0, 2.0]], [[0.0, 1.0]]).numpy()
        array(1., dtype=float32)
    """

    _direction = "up"
    _not_in_config = ("axis",)

    def __init__(self, name="cosine_similarity", dtype=None, axis=-1):
        super().__init__(_cosine_similarity, name=name, dtype=dtype, axis=axis)


@register("metric")
class R2Score(Metric):
    """Coefficient of determination: 1 for perfect predictions, 0 for those of the mean.

        1 - Σ (y_true - y_pred)² / Σ (y_true - mean)²

    Args:
        class_aggregation: How the outputs' scores become one: ``"uniform_average"``,
            ``"variance_weighted_average"``, or None to keep them.
        num_regressors: Number of the model's independent variables, for the adjusted score; 0 for
            the plain one.
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> score = R2Score()(np.array([[1.0], [4.0], [3.0]]), np.array([[2.0], [4.0], [4.0]]))
        >>> round(score.item(), 3)
        0.571
    """

    _direction = "up"

    def __init__(self, class_aggregation="uniform_average", num_regressors=0, name="r2_score", dtype=None):
        super().__init__(name=name, dtype=dtype)
        if class_aggregation not in _AGGREGATIONS:
            raise ValueError(
                f"R2Score: class_aggregation must be one of {_AGGREGATIONS}, but got {class_aggregation!r}."
            )
        if num_regressors < 0:
            raise ValueError(f"R2Score: num_regressors must be 0 or more, but got {num_regressors}.")
        self.class_aggregation = class_aggregation
        self.num_regressors = num_regressors
        self.num_samples = self.add_variable((), None, name="num_samples")
        self._is_built = False

    def _build(self, shape):
        if len(shape) != 2:
            raise ValueError(f"R2Score needs y_true and y_pred of shape (batch, outputs), but got {shape}.")
        self.squared_sum = self.add_variable(shape[1:], None, name="squared_sum")
        self.sum = self.add_variable(shape[1:], None, name="sum")
        self.total_mse = self.add_variable(shape[1:], None, name="residual")
        self.count = self.add_variable(shape[1:], None, name="count")
        self._is_built = True

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true = as_tensor(y_true, self._array_dtype)
        y_pred = as_tensor(y_pred, self._array_dtype)
        if not self._is_built:
            self._build(max(y_true.shape, y_pred.shape, key=len))
        sums = _moments(y_true, y_pred, sample_weight)
        targets = self.sum, self.squared_sum, self.total_mse, self.count
        for variable, value in zip(targets, sums, strict=True):
            add_in_place(variable, value)
        add_in_place(self.num_samples, y_true.size)

    def result(self):
        if not self._is_built:
            raise ValueError("R2Score: call update_state before result.")
        adjustment = None
        if self.num_regressors:
            n = self.num_samples.item()
            if self.num_regressors >= n - 1:
                warnings.warn(
                    f"R2Score: {self.num_regressors} regressors are too many for {n:.0f} values; "
                    f"the score is the plain one.",
                    stacklevel=2,
                )
            else:
                adjustment = (n - 1) / (n - self.num_regressors - 1)
        return _r2(
            self.sum,
            self.squared_sum,
            self.total_mse,
            self.count,
            aggregation=self.class_aggregation,
            adjustment=adjustment,
        )


@op
def _squared_error(y_true, y_pred, /, dtype):
    t, p = as_array(y_true).astype(dtype, copy=False), as_array(y_pred).astype(dtype, copy=False)
    t, p = same_rank(t, p)
    objective.check_shapes("RootMeanSquaredError", t, p)
    error = p - t
    return error * error, None


@op
def _cosine_similarity(y_true, y_pred, /, axis=-1):
    return -objective.cosine_similarity.function(y_true, y_pred, axis)[0], None


@op
def _moments(y_true, y_pred, sample_weight, /):
    """Σ w y, Σ w y², Σ w (y - y_pred)² and Σ w over the batch."""
    t, p = same_rank(y_true, y_pred)
    objective.check_shapes("R2Score", t, p)
    xp = devices.array_module(t)
    if sample_weight is None:
        w = xp.ones(t.shape, t.dtype)
    else:
        w = as_array(sample_weight).astype(t.dtype, copy=False)
        w = xp.broadcast_to(w[:, None] if w.ndim == 1 else w, t.shape)
    weighted = t * w
    error = t - p
    squares = (t * weighted).sum(axis=0), (error * error * w).sum(axis=0)
    return (weighted.sum(axis=0), *squares, w.sum(axis=0)), None


@op
def _r2(total, squared_total, residual, count, /, aggregation, adjustment):
    xp = devices.array_module(total)
    with np.errstate(divide="ignore", invalid="ignore"):  # outputs that do not vary
        variation = squared_total - total * (total / count)
        score = 1 - residual / variation
    score = xp.where(xp.isinf(score), 0, score)
    if aggregation == "uniform_average":
        score = score.mean()
    elif aggregation == "variance_weighted_average":
        score = (variation * score).sum() / variation.sum()
    return score if adjustment is None else 1 - (1 - score) * adjustment, None
