"""How well predictions go up and down with labels."""

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import dtypes
from gpukeras.metrics.reduction import MeanMetricWrapper
from gpukeras.ops import objective
from gpukeras.ops.loss import as_array, same_rank
from gpukeras.registry import register

__all__ = [
    "ConcordanceCorrelation",
    "PearsonCorrelation",
    "concordance_correlation",
    "pearson_correlation",
]


@register("metric")
class PearsonCorrelation(MeanMetricWrapper):
    """Pearson's correlation of labels and predictions, mean over samples.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.
        axis: The axis along which they are correlated.

    Example:
        >>> PearsonCorrelation()([[0.0, 1.0, 2.0]], [[0.0, 2.0, 4.0]]).numpy().round(5)
        np.float32(1.0)
    """

    _direction = "up"

    def __init__(self, name="pearson_correlation", dtype=None, axis=-1):
        super().__init__(pearson_correlation, name=name, dtype=dtype, axis=axis)
        self.axis = axis


@register("metric")
class ConcordanceCorrelation(MeanMetricWrapper):
    """Lin's concordance correlation of labels and predictions, mean over samples.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.
        axis: The axis along which they are correlated.

    Example:
        >>> ConcordanceCorrelation()([[0.0, 1.0, 2.0]], [[0.0, 1.0, 2.0]]).numpy().round(5)
        np.float32(1.0)
    """

    _direction = "up"

    def __init__(self, name="concordance_correlation", dtype=None, axis=-1):
        super().__init__(concordance_correlation, name=name, dtype=dtype, axis=axis)
        self.axis = axis


@op
def pearson_correlation(y_true, y_pred, /, axis=-1):
    """Pearson's correlation: mean of the product of the standardized values.

    Example:
        >>> pearson_correlation([[0.0, 1.0, 2.0]], [[0.0, 2.0, 4.0]]).numpy().round(5)
        array([1.], dtype=float32)
    """
    t, p = _pair("pearson_correlation", y_true, y_pred)
    t = t - t.mean(axis=axis, keepdims=True)
    p = p - p.mean(axis=axis, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # rows that do not vary have none: NaN
        t = t / t.std(axis=axis, keepdims=True)
        p = p / p.std(axis=axis, keepdims=True)
    return (t * p).mean(axis=axis), None


@op
def concordance_correlation(y_true, y_pred, /, axis=-1):
    """Lin's concordance correlation, in the form that Keras computes.

        mean(2 (t - mean p)(p - mean p) / (var t + var p + (mean t - mean p)² + ε))

    Example:
        >>> concordance_correlation([[0.0, 1.0, 2.0]], [[0.0, 1.0, 2.0]]).numpy().round(5)
        array([1.], dtype=float32)
    """
    t, p = _pair("concordance_correlation", y_true, y_pred)
    t_mean, p_mean = t.mean(axis=axis, keepdims=True), p.mean(axis=axis, keepdims=True)
    variance = t.var(axis=axis, keepdims=True) + p.var(axis=axis, keepdims=True)
    distance = t_mean - p_mean
    norm = variance + distance * distance + dtypes.epsilon()
    return (2 * ((t - p_mean) * (p - p_mean)) / norm).mean(axis=axis), None


def _pair(name, y_true, y_pred):
    p = objective.floating(as_array(y_pred))
    t, p = same_rank(as_array(y_true).astype(p.dtype, copy=False), p)
    objective.check_shapes(name, t, p)
    return t, p
