"""F-scores: precision and recall in one number, for each class."""

from gpukeras.autograd.op import op
from gpukeras.backend import devices, dtypes
from gpukeras.metrics.base import Metric, add_in_place, as_tensor
from gpukeras.registry import register

__all__ = ["F1Score", "FBetaScore"]

_AVERAGES = (None, "micro", "macro", "weighted")


@register("metric")
class FBetaScore(Metric):
    """Weighted harmonic mean of precision and recall.

        (1 + β²) precision · recall / (β² precision + recall)

    Args:
        average: ``"micro"`` counts all classes together, ``"macro"`` averages the classes' scores,
            ``"weighted"`` does so by their numbers, None keeps them.
        beta: β, how much more recall counts than precision.
        threshold: Above it a prediction is positive; None for the largest of the row.
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> score = FBetaScore(beta=2.0)(np.eye(2), np.array([[0.9, 0.1], [0.4, 0.6]]))
        >>> score.numpy().round(3)
        array([1., 1.], dtype=float32)
    """

    _direction = "up"

    def __init__(self, average=None, beta=1.0, threshold=None, name="fbeta_score", dtype=None):
        super().__init__(name=name, dtype=dtype)
        owner = type(self).__name__
        if average not in _AVERAGES:
            raise ValueError(f"{owner}: average must be one of {_AVERAGES}, but got {average!r}.")
        if not isinstance(beta, float) or beta <= 0:
            raise ValueError(f"{owner}: beta must be a float above 0, but got {beta!r}.")
        if threshold is not None and not (isinstance(threshold, float) and 0 < threshold <= 1):
            raise ValueError(f"{owner}: threshold must be None or a float in (0, 1], but got {threshold!r}.")
        self.average = average
        self.beta = beta
        self.threshold = threshold
        self._is_built = False

    def _build(self, true_shape, pred_shape):
        if len(true_shape) != 2 or len(pred_shape) != 2:
            raise ValueError(
                f"{type(self).__name__} needs y_true and y_pred of shape (batch, classes), but got "
                f"{true_shape} and {pred_shape}."
            )
        shape = () if self.average == "micro" else pred_shape[1:]
        for name in (
            "true_positives",
            "false_positives",
            "false_negatives",
            "intermediate_weights",
        ):
            setattr(self, name, self.add_variable(shape, None, dtype=self.dtype, name=name))
        self._is_built = True

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true = as_tensor(y_true, self._array_dtype)
        y_pred = as_tensor(y_pred, self._array_dtype)
        if not self._is_built:
            self._build(y_true.shape, y_pred.shape)
        counts = _class_counts(
            y_true,
            y_pred,
            sample_weight,
            threshold=self.threshold,
            axis=None if self.average == "micro" else 0,
        )
        for variable, count in zip(self._variables, counts, strict=True):
            add_in_place(variable, count)

    def result(self):
        if not self._is_built:
            raise ValueError(f"{type(self).__name__}: call update_state before result.")
        return _f_score(*self._variables, average=self.average, beta=self.beta)


@register("metric")
class F1Score(FBetaScore):
    """Harmonic mean of precision and recall.

        2 precision · recall / (precision + recall)

    Args:
        average: ``"micro"`` counts all classes together, ``"macro"`` averages the classes' scores,
            ``"weighted"`` does so by their numbers, None keeps them.
        threshold: Above it a prediction is positive; None for the largest of the row.
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> score = F1Score(threshold=0.5)(np.eye(2), np.array([[0.9, 0.1], [0.4, 0.3]]))
        >>> score.numpy().round(3)
        array([1., 0.], dtype=float32)
    """

    def __init__(self, average=None, threshold=None, name="f1_score", dtype=None):
        super().__init__(average=average, beta=1.0, threshold=threshold, name=name, dtype=dtype)


@op
def _class_counts(y_true, y_pred, sample_weight, /, threshold, axis):
    """True positives, false positives, false negatives and positives, weighted by sample."""
    xp = devices.array_module(y_pred)
    t = y_true
    if threshold is None:
        p = (y_pred >= y_pred.max(axis=-1, keepdims=True)) & (xp.abs(y_pred) > 1e-9)
    else:
        p = y_pred > threshold
    if t.shape != p.shape:
        raise ValueError(f"F-scores need y_true of the shape of y_pred, but got {t.shape} and {p.shape}.")
    p = p.astype(t.dtype)
    both = p * t
    counts = both, p * (1 - t), (1 - p) * t, t
    if sample_weight is not None:
        weight = as_tensor(sample_weight, t.dtype).array[:, None]
        counts = [count * weight for count in counts]
    return tuple([count.sum(axis=axis) for count in counts]), None


@op
def _f_score(tp, fp, fn, positives, /, average, beta):
    epsilon = dtypes.epsilon()
    precision = tp / (tp + fp + epsilon)
    recall = tp / (tp + fn + epsilon)
    score = precision * recall / (beta**2 * precision + recall + epsilon) * (1 + beta**2)
    if average == "weighted":
        score = (score * (positives / (positives.sum() + epsilon))).sum()
    elif average is not None:
        score = score.mean()
    return score, None
