"""Keras's cross entropies of ``(y_true, y_pred)``, one value per sample, for losses and metrics.

They add label smoothing, masks and focal weights to the cross entropies of `gpukeras.ops.loss`.
"""

from collections import namedtuple

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.backend import devices, dtypes
from gpukeras.kernels import loss as kernels
from gpukeras.ops import loss
from gpukeras.ops.loss import as_array
from gpukeras.ops.objective import floating, gradient_of, is_alike, mean_form
from gpukeras.registry import register

__all__ = [
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "sparse_categorical_crossentropy",
]

_Needs = namedtuple("_Needs", ["target", "output"])


@register("loss")
@op
def categorical_crossentropy(y_true, y_pred, /, from_logits=False, label_smoothing=0.0, axis=-1):
    """Cross entropy between one-hot labels, or distributions, and predictions.

        y = -Σ t · log p,   t = (1 - smoothing) y_true + smoothing / classes,   p as in `ops`

    Args:
        y_true: One-hot labels.
        y_pred: Predicted probabilities, or logits.
        from_logits: Whether `y_pred` holds logits.
        label_smoothing: Share of the labels that is spread evenly over all classes.
        axis: The axis of the classes.

    Shapes:
        y_true, y_pred (..., classes)  ->  y (...)

    Example:
        >>> round(categorical_crossentropy([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.6931
    """
    _check_axis("categorical_crossentropy", axis)
    t, p = _labels(y_true, y_pred)
    smooth = _smoothed(t, label_smoothing, t.shape[-1] if t.ndim else 1)
    y, crossentropy_backward = loss.categorical_crossentropy.function(smooth, p, from_logits, axis)
    return y, _label_backward(crossentropy_backward, y_true, y_pred, label_smoothing)


@register("loss")
def sparse_categorical_crossentropy(y_true, y_pred, from_logits=False, ignore_class=None, axis=-1):
    """Cross entropy between integer classes and predictions.

    Args:
        y_true: Classes, from 0.
        y_pred: Predicted probabilities, or logits.
        from_logits: Whether `y_pred` holds logits.
        ignore_class: A class whose entries count for nothing: their loss is 0 and they are masked.
        axis: The axis of the classes.

    Shapes:
        y_true (...) or (..., 1), y_pred (..., classes)  ->  y (...)

    Example:
        >>> round(sparse_categorical_crossentropy([1], [[0.5, 0.5]]).item(), 4)
        0.6931
    """
    if ignore_class is None:
        return loss.sparse_categorical_crossentropy(y_true, y_pred, from_logits, axis)
    y_true, is_valid = _ignored(y_true, ignore_class=ignore_class)
    y = loss.sparse_categorical_crossentropy(y_true, y_pred, from_logits, axis)
    if isinstance(y, Tensor):
        y._keras_mask = Tensor(is_valid.array.reshape(y.shape))
    return y


@mean_form(sparse_categorical_crossentropy, widens=True)
def _mean_of_sparse_crossentropies(y_true, y_pred, from_logits=False, ignore_class=None, axis=-1):
    return loss.mean_sparse_categorical_crossentropy(y_true, y_pred, from_logits, axis)


@op
def _ignored(y_true, /, ignore_class):
    """Classes with -1 for the one to ignore, and a mask that is False there."""
    xp = devices.array_module(y_true)
    label = as_array(y_true).astype(np.int32)
    is_valid = label != int(ignore_class)
    return (xp.where(is_valid, label, -1), is_valid), None


@register("loss", "bce", "BCE")
@op
def binary_crossentropy(y_true, y_pred, /, from_logits=False, label_smoothing=0.0, axis=-1):
    """Mean cross entropy of yes-or-no predictions.

        y = mean(-t · log p - (1 - t) · log(1 - p)),   t = (1 - smoothing) y_true + smoothing / 2

    Args:
        y_true: Labels, 0 or 1.
        y_pred: Predicted probabilities, or logits.
        from_logits: Whether `y_pred` holds logits.
        label_smoothing: Share of the labels that is replaced by 1/2.
        axis: The axis, or axes, of the mean.

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> round(binary_crossentropy([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.6931
    """
    t, p = _labels(y_true, y_pred)
    smooth = _smoothed(t, label_smoothing, 2)
    y, crossentropy_backward = loss.binary_crossentropy.function(smooth, p, from_logits)
    xp = devices.array_module(p)
    mean = y.mean(axis=axis, dtype=None if y.dtype.itemsize >= 4 else np.float32)
    backward = _label_backward(crossentropy_backward, y_true, y_pred, label_smoothing)

    def mean_backward(dy, needs):
        if axis is not None:
            dy = xp.expand_dims(dy, axis)
        return backward(dy * (mean.size / max(y.size, 1)), needs)

    return xp.asarray(mean, p.dtype), mean_backward


@mean_form(binary_crossentropy)
def _mean_of_binary_crossentropies(y_true, y_pred, from_logits=False, label_smoothing=0.0, axis=-1):
    if from_logits or label_smoothing or not is_alike(y_true, y_pred):
        return None
    total, both = kernels.binary_crossentropy(y_pred, y_true, dtypes.epsilon())
    xp = devices.array_module(both)
    factor = 1 / y_pred.size

    def backward(dy, needs):
        dy = dy * factor
        dy_true = dy_pred = None
        if needs[0]:
            log_p, log_not_p = xp.log(both)
            dy_true = ((log_not_p - log_p) * dy).reshape(y_true.shape)
        if needs[1]:
            dy_pred = kernels.binary_crossentropy_backward(y_pred, y_true, both, dy)
        return dy_true, dy_pred

    return xp.asarray(total * factor, both.dtype), backward


@register("loss")
@op
def categorical_focal_crossentropy(
    y_true, y_pred, /, alpha=0.25, gamma=2.0, from_logits=False, label_smoothing=0.0, axis=-1
):
    """Categorical cross entropy that gives easy examples less weight (Lin et al., 2018).

        y = -Σ α (1 - p)^γ · t · log p,   p = y_pred / Σ y_pred, clipped to [ε, 1 - ε]

    Args:
        y_true: One-hot labels.
        y_pred: Predicted probabilities, or logits.
        alpha: Weight of the classes, one number or one per class.
        gamma: How much weight easy examples lose.
        from_logits: Whether `y_pred` holds logits.
        label_smoothing: Share of the labels that is spread evenly over all classes.
        axis: The axis of the classes.

    Shapes:
        y_true, y_pred (..., classes)  ->  y (...)

    Example:
        >>> round(categorical_focal_crossentropy([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.0433
    """
    _check_axis("categorical_focal_crossentropy", axis)
    t, x = _labels(y_true, y_pred, is_wide=True)
    _check_shapes("categorical_focal_crossentropy", t, x)
    xp = devices.array_module(x)
    t = _smoothed(t, label_smoothing, t.shape[-1])
    alpha = alpha if isinstance(alpha, (int, float)) else convert_to_array(alpha, x.dtype)
    if from_logits:
        x = xp.exp(x - x.max(axis=axis, keepdims=True))
        x /= x.sum(axis=axis, keepdims=True)
    total = x.sum(axis=axis, keepdims=True)
    p = x / total
    clipped = loss.clip_probability(xp, p)
    log_p = xp.log(clipped)
    weight = alpha * (1 - clipped) ** gamma
    y = -(weight * t * log_p).sum(axis=axis)

    def backward(dy, needs):
        dy = xp.expand_dims(dy, axis)
        dy_true = dy_pred = None
        if needs.y_true:
            dy_true = gradient_of(-dy * weight * log_p * (1 - label_smoothing), t, y_true)
        if needs.y_pred:
            slope = gamma * alpha * (1 - clipped) ** (gamma - 1)
            d = xp.where(p == clipped, t * (slope * log_p - weight / clipped), 0) * dy
            d = (d - (d * p).sum(axis=axis, keepdims=True)) / total
            if from_logits:
                d = x * (d - (d * x).sum(axis=axis, keepdims=True))
            dy_pred = gradient_of(d, x, y_pred)
        return dy_true, dy_pred

    return y.astype(_result_dtype(y_pred), copy=False), backward


@register("loss")
@op
def binary_focal_crossentropy(
    y_true,
    y_pred,
    /,
    apply_class_balancing=False,
    alpha=0.25,
    gamma=2.0,
    from_logits=False,
    label_smoothing=0.0,
    axis=-1,
):
    """Binary cross entropy that gives easy examples less weight (Lin et al., 2018).

        y = mean(α_t (1 - p_t)^γ · crossentropy),   p_t = t p + (1 - t)(1 - p),  α_t likewise or 1

    Args:
        y_true: Labels, 0 or 1.
        y_pred: Predicted probabilities, or logits.
        apply_class_balancing: Whether the classes are weighted with `alpha`.
        alpha: Weight of class 1; class 0 has 1 - alpha.
        gamma: How much weight easy examples lose.
        from_logits: Whether `y_pred` holds logits.
        label_smoothing: Share of the labels that is replaced by 1/2.
        axis: The axis, or axes, of the mean.

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> round(binary_focal_crossentropy([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.1733
    """
    t, x = _labels(y_true, y_pred, is_wide=True)
    _check_shapes("binary_focal_crossentropy", t, x)
    xp = devices.array_module(x)
    t = _smoothed(t, label_smoothing, 2)
    if from_logits:
        x = 0.5 * xp.tanh(0.5 * x) + 0.5  # the sigmoid, without overflow
    p = loss.clip_probability(xp, x)
    log_p, log_not_p = xp.log(p), xp.log(1 - p)
    entropy = -(t * log_p + (1 - t) * log_not_p)
    distance = t + x - 2 * t * x  # 1 - p_t
    focus = distance**gamma
    balance = t * alpha + (1 - t) * (1 - alpha) if apply_class_balancing else 1
    values = balance * focus * entropy
    y = values.mean(axis=axis)

    def backward(dy, needs):
        if axis is not None:
            dy = xp.expand_dims(dy, axis)
        dy = dy * (y.size / max(values.size, 1))
        slope = gamma * distance ** (gamma - 1) if gamma else 0
        dy_true = dy_pred = None
        if needs.y_true:
            d = balance * (slope * (1 - 2 * x) * entropy + focus * (log_not_p - log_p))
            if apply_class_balancing:
                d += (2 * alpha - 1) * focus * entropy
            dy_true = gradient_of(d * dy * (1 - label_smoothing), t, y_true)
        if needs.y_pred:
            d = slope * (1 - 2 * t) * entropy + focus * xp.where(p == x, (p - t) / (p * (1 - p)), 0)
            if from_logits:
                d *= x * (1 - x)
            dy_pred = gradient_of(d * balance * dy, x, y_pred)
        return dy_true, dy_pred

    return xp.asarray(y, _result_dtype(y_pred)), backward


def _label_backward(backward, y_true, y_pred, label_smoothing):
    """`backward` of a cross entropy, continued through smoothing and casts."""

    def continued(dy, needs):
        dtarget, doutput = backward(dy, _Needs(needs.y_true, needs.y_pred))
        if dtarget is not None:
            dtarget = gradient_of(dtarget * (1 - label_smoothing), dtarget, y_true)
        return dtarget, None if doutput is None else gradient_of(doutput, doutput, y_pred)

    return continued


def _labels(y_true, y_pred, is_wide=False):
    """Both in the float dtype of y_pred, or in float32 if that is shorter and `is_wide`."""
    p = floating(as_array(y_pred))
    if is_wide and p.dtype.itemsize < 4:
        p = p.astype(np.float32)
    return as_array(y_true).astype(p.dtype, copy=False), p


def _result_dtype(y_pred):
    return floating(as_array(y_pred)).dtype


def _smoothed(t, smoothing, count):
    return t * (1 - smoothing) + smoothing / count if smoothing else t


def _check_shapes(name, t, p):
    if t.shape != p.shape:
        raise ValueError(
            f"{name} needs y_true of the shape of y_pred, but got {t.shape} and {p.shape}. "
            f"Encode integer classes with keras.utils.to_categorical, or reshape."
        )


def _check_axis(name, axis):
    if isinstance(axis, bool):
        raise ValueError(f"{name} takes an integer axis, but got {axis}.")
