"""What the confusion metrics compute: counts at thresholds, shares of them, areas under curves."""

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import devices, dtypes
from gpukeras.ops.indexing import scatter_add
from gpukeras.ops.loss import as_array, same_rank

__all__ = [
    "NEGATIVE",
    "are_even",
    "area_under_curve",
    "best_where",
    "checked_thresholds",
    "confusion_counts",
    "ratio",
]

NEGATIVE = -1e10  # stands for a prediction that is not among the largest k


def checked_thresholds(owner, thresholds, default):
    """Thresholds as a list, each in [0, 1]; the default where there are none."""
    if thresholds is None:
        return [default]
    thresholds = list(thresholds) if isinstance(thresholds, (list, tuple, np.ndarray)) else [thresholds]
    wrong = [t for t in thresholds if t is None or not 0 <= t <= 1]
    if wrong:
        raise ValueError(f"{owner}: thresholds must lie in [0, 1], but got {wrong}.")
    return thresholds


def are_even(thresholds):
    """Whether thresholds part [0, 1] evenly, so that a prediction's bucket can be computed."""
    if len(thresholds) < 3:
        return False
    even = np.arange(len(thresholds), dtype=np.float32) / (len(thresholds) - 1)
    return bool(np.allclose(thresholds, even, atol=dtypes.epsilon()))


@op
def confusion_counts(
    y_true,
    y_pred,
    sample_weight,
    label_weights,
    thresholds,
    /,
    kinds,
    is_even=False,
    has_ends=False,
    is_multi_label=False,
    top_k=None,
    class_id=None,
):
    """Weighted counts of true and false positives and negatives at each threshold.

    Args:
        y_true: Labels, 0 or 1.
        y_pred: Predictions.
        sample_weight: Weights of samples or elements, or None.
        label_weights: Weights of the labels (last axis), or None.
        thresholds: One number or a vector.
        kinds: Which counts, of ``"tp", "fp", "tn", "fn"``.
        is_even: Whether thresholds part [0, 1] evenly: then each prediction is put into its bucket
            and the buckets are summed up, instead of comparing with every threshold.
        has_ends: Whether even thresholds begin below 0 and end above 1.
        is_multi_label: Whether each label is counted by itself.
        top_k, class_id: As in `Precision`.

    Shapes:
        counts (thresholds,), or (thresholds, labels)
    """
    dtype = dtypes.as_dtype(dtypes.floatx())
    p, t = as_array(y_pred).astype(dtype, copy=False), as_array(y_true).astype(dtype, copy=False)
    xp = devices.array_module(p)
    p, t = same_rank(p, t)
    weight = None
    if sample_weight is not None:
        weight = as_array(sample_weight).astype(dtype, copy=False)[..., None]
        weight = same_rank(t, weight, expand_rank_1=False)[1]
    if top_k is not None:
        p = _only_top(xp, p, top_k)
    if class_id is not None:
        if p.ndim == 1:
            raise ValueError(f"class_id={class_id} needs y_pred of shape (batch, classes), but got {p.shape}.")
        t, p = t[..., class_id, None], p[..., class_id, None]
    if t.shape != p.shape:
        raise ValueError(f"Counting needs y_true of the shape of y_pred, but got {t.shape} and {p.shape}.")
    weight = _spread(xp, weight, p.shape, "sample_weight")
    if label_weights is not None:
        labels = _spread(xp, as_array(label_weights).astype(dtype)[None], p.shape, "label_weights")
        weight = labels if weight is None else weight * labels
    t = t != 0
    if not is_multi_label:
        p, t = p.reshape(-1, 1), t.reshape(-1, 1)
        weight = None if weight is None else weight.reshape(-1, 1)
    if is_even:
        counts = _by_bucket(xp, t, p, weight, thresholds.shape[0], kinds, has_ends, dtype)
    else:
        counts = _by_threshold(t, p, weight, thresholds, kinds, dtype)
    return tuple([c if is_multi_label else c[:, 0] for c in counts]), None


def _by_threshold(t, p, weight, thresholds, kinds, dtype):
    """Counts (thresholds, labels) by comparison of all predictions with all thresholds."""
    if hasattr(thresholds, "shape"):
        thresholds = thresholds.reshape(-1, 1, 1)
    is_positive = p[None] > thresholds
    counts = []
    for kind in kinds:
        chosen = (t if kind in ("tp", "fn") else ~t) & (is_positive if kind in ("tp", "fp") else ~is_positive)
        if weight is not None:
            chosen = chosen * weight
        counts.append(chosen.sum(axis=1, dtype=dtype))
    return counts


def _by_bucket(xp, t, p, weight, size, kinds, has_ends, dtype):
    """The same for even thresholds: a histogram, then sums from its end."""
    labels = p.shape[1]
    bucket = xp.ceil(xp.minimum(xp.maximum(p, 0), 1) * (size - 1))
    if has_ends:
        bucket = xp.maximum(bucket, 1)  # a prediction of 0 lies above the first threshold
    # slot 0 takes predictions below all thresholds; false labels stand behind true ones
    slot = bucket.astype(np.int32) + xp.where(t, 0, labels * (size + 1))
    if labels > 1:
        slot = slot + xp.arange(labels) * (size + 1)
    histogram = xp.zeros(2 * labels * (size + 1), dtype)
    weight = xp.ones(p.shape, dtype) if weight is None else weight
    scatter_add(histogram, slot.reshape(-1), weight.reshape(-1))
    histogram = histogram.reshape(2, labels, size + 1)
    above = histogram[:, :, :0:-1].cumsum(axis=2)[:, :, ::-1]
    counts = {"tp": above[0].T, "fp": above[1].T}
    if "tn" in kinds or "fn" in kinds:
        total = histogram.sum(axis=2)
        counts["fn"], counts["tn"] = total[0] - counts["tp"], total[1] - counts["fp"]
    return [counts[kind] for kind in kinds]


def _only_top(xp, x, k):
    """x where it is among the k largest of its row, else a very small number."""
    if not 0 < k <= x.shape[-1]:
        raise ValueError(f"top_k must lie between 1 and {x.shape[-1]} classes, but got {k}.")
    places = xp.argsort(-x, axis=-1, kind="stable")[..., :k]
    is_top = (places[..., None] == xp.arange(x.shape[-1])).any(axis=-2)
    return xp.where(is_top, x, NEGATIVE)


def _spread(xp, weight, shape, name):
    if weight is None or weight.shape == shape:
        return weight
    try:
        return xp.broadcast_to(weight, shape)
    except ValueError:
        raise ValueError(f"The {name} of shape {weight.shape} does not fit predictions of shape {shape}.") from None


@op
def ratio(part, a, b, /):
    """part / (a + b), and 0 where that is 0.

    Example:
        >>> ratio(np.array([1.0, 0.0]), np.array([1.0, 0.0]), np.array([1.0, 0.0])).numpy()
        array([0.5, 0. ])
    """
    return _divide(devices.array_module(part), part, a + b), None


@op
def best_where(limited, sought, /, limit):
    """The largest of `sought` where `limited` reaches the limit, at least 0.

    Example:
        >>> best_where(np.array([0.2, 0.8]), np.array([0.9, 0.5]), limit=0.5).numpy()
        array(0.5)
    """
    xp = devices.array_module(sought)
    return xp.maximum(xp.where(limited >= limit, sought, 0).max(), 0), None


@op
def area_under_curve(tp, fp, tn, fn, label_weights, /, curve, summation_method):
    """Area under a curve whose points are counted at descending shares of positives.

    Args:
        tp, fp, tn, fn: Counts at each threshold, (thresholds,) or (thresholds, labels).
        label_weights: Weights of the labels' areas, or None.
        curve: ``"ROC"``, ``"PR"`` or ``"PRGAIN"``.
        summation_method: ``"interpolation"``, ``"majoring"`` or ``"minoring"``.
    """
    xp = devices.array_module(tp)
    if curve == "PR" and summation_method == "interpolation":
        terms = _interpolated_precision(xp, tp, fp, fn)
    else:
        x, y = _points(xp, tp, fp, tn, fn, curve)
        if summation_method == "interpolation":
            heights = (y[:-1] + y[1:]) / 2
        else:
            pick = xp.minimum if summation_method == "minoring" else xp.maximum
            heights = pick(y[:-1], y[1:])
        terms = (x[:-1] - x[1:]) * heights
    if tp.ndim == 1:
        return terms.sum(), None
    areas = terms.sum(axis=0)
    if label_weights is None:
        return areas.mean(), None
    return _divide(xp, (areas * label_weights).sum(), label_weights.sum()), None


def _points(xp, tp, fp, tn, fn, curve):
    if curve == "ROC":
        return _divide(xp, fp, fp + tn), _divide(xp, tp, tp + fn)
    if curve == "PR":
        return _divide(xp, tp, tp + fn), _divide(xp, tp, tp + fp)
    odds = _divide(xp, tp + fn, tn + fp)
    recall_gain = xp.where(tp == 0, 0, 1 - odds * _divide(xp, fn, tp))
    precision_gain = xp.where(tp == 0, 1, 1 - odds * _divide(xp, fp, tp))
    return xp.maximum(recall_gain, 0), precision_gain


def _interpolated_precision(xp, tp, fp, fn):
    """Areas between thresholds where true positives grow linearly (Davis and Goadrich, 2006)."""
    p = tp + fp
    dtp, dp = tp[:-1] - tp[1:], p[:-1] - p[1:]
    slope = _divide(xp, dtp, xp.maximum(dp, 0))
    intercept = tp[1:] - slope * p[1:]
    is_safe = (p[:-1] > 0) & (p[1:] > 0)
    growth = xp.where(is_safe, _divide(xp, p[:-1], xp.maximum(p[1:], 0)), 1)
    area = slope * (dtp + intercept * xp.log(growth))
    return _divide(xp, area, xp.maximum(tp[1:] + fn[1:], 0))


def _divide(xp, a, b):
    is_zero = b == 0
    return xp.where(is_zero, 0, a / xp.where(is_zero, 1, b))
