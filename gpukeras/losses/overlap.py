"""Losses for sets and sequences: overlap of masks, similarity of embeddings, alignment."""

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import blas, devices, dtypes
from gpukeras.losses.base import LossFunctionWrapper
from gpukeras.ops.loss import as_array
from gpukeras.ops.objective import floating, gradient_of
from gpukeras.registry import register

__all__ = ["CTC", "Circle", "Dice", "Tversky", "circle", "ctc", "dice", "tversky"]


@register("loss")
class Dice(LossFunctionWrapper):
    """One minus the Dice coefficient of two masks.

        loss = 1 - 2 Σ y_true · y_pred / (Σ y_true + Σ y_pred + ε)

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        axis: Axes of the sums; None for all.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> round(Dice()([1.0, 1.0], [1.0, 0.0]).item(), 3)
        0.333
    """

    def __init__(self, reduction="sum_over_batch_size", name="dice", axis=None, dtype=None):
        super().__init__(dice, reduction=reduction, name=name, dtype=dtype, axis=axis)
        self.axis = axis


@register("loss")
class Tversky(LossFunctionWrapper):
    """One minus the Tversky index of two masks (Salehi et al., 2017); Dice where α = β = 1/2.

        loss = 1 - Σ t p / (Σ t p + α Σ t (1 - p) + β Σ (1 - t) p + ε)

    Args:
        alpha, beta: Weights of the two kinds of disagreement.
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        axis: Axes of the sums; None for all.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> round(Tversky()([1.0, 1.0], [1.0, 0.0]).item(), 3)
        0.333
    """

    def __init__(
        self,
        alpha=0.5,
        beta=0.5,
        reduction="sum_over_batch_size",
        name="tversky",
        axis=None,
        dtype=None,
    ):
        super().__init__(
            tversky,
            reduction=reduction,
            name=name,
            dtype=dtype,
            alpha=alpha,
            beta=beta,
            axis=axis,
        )
        self.alpha = alpha
        self.beta = beta
        self.axis = axis


@register("loss")
class Circle(LossFunctionWrapper):
    """Pulls embeddings of one class together and pushes others apart (Sun et al., 2020).

    Args:
        gamma: Scale of the similarities.
        margin: How far they are relaxed.
        remove_diagonal: Whether a sample does not count as similar to itself.
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> Circle()([0, 0, 1], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).item() < 1
        True
    """

    _keeps_y_true = True

    def __init__(
        self,
        gamma=80.0,
        margin=0.4,
        remove_diagonal=True,
        reduction="sum_over_batch_size",
        name="circle",
        dtype=None,
    ):
        super().__init__(
            circle,
            reduction=reduction,
            name=name,
            dtype=dtype,
            gamma=gamma,
            margin=margin,
            remove_diagonal=remove_diagonal,
        )
        self.gamma = gamma
        self.margin = margin
        self.remove_diagonal = remove_diagonal


@register("loss")
class CTC(LossFunctionWrapper):
    """Connectionist temporal classification. Not supported yet: making one says so.

    Example:
        >>> CTC()
        Traceback (most recent call last):
        NotImplementedError: ...
    """

    def __init__(self, reduction="sum_over_batch_size", name="ctc", dtype=None):
        ctc(None, None)


@register("loss")
def ctc(y_true, y_pred):
    """Connectionist temporal classification. Not supported yet: calling it says so.

    Example:
        >>> ctc([[1]], [[[0.5, 0.5]]])
        Traceback (most recent call last):
        NotImplementedError: ...
    """
    raise NotImplementedError(
        "losses.CTC is not supported. Where labels and steps are aligned, use "
        "SparseCategoricalCrossentropy; else write the loss as a function of (y_true, y_pred)."
    )


@register("loss")
@op
def dice(y_true, y_pred, /, axis=None):
    """One minus the Dice coefficient of two masks.

        y       = 1 - 2 I / S,   I = Σ y_true · y_pred, S = Σ y_true + Σ y_pred + ε
        dy_pred = 2 dy (I / S - y_true) / S,   dy_true likewise

    Args:
        y_true, y_pred: The masks.
        axis: Axes of the sums; None for all.

    Example:
        >>> round(dice([1.0, 1.0], [1.0, 0.0]).item(), 3)
        0.333
    """
    t, p, xp = _masks("dice", y_true, y_pred)
    axes = _axes(axis, p.ndim)
    shared = (t * p).sum(axis=axes, keepdims=True)
    both = t.sum(axis=axes, keepdims=True) + p.sum(axis=axes, keepdims=True) + dtypes.epsilon()
    y = 1 - 2 * shared / both

    def backward(dy, needs):
        d = 2 * dy.reshape(y.shape) / both
        ratio = shared / both
        dy_true = gradient_of(d * (ratio - p), t, y_true) if needs.y_true else None
        dy_pred = gradient_of(d * (ratio - t), p, y_pred) if needs.y_pred else None
        return dy_true, dy_pred

    return y.squeeze(axes), backward


@register("loss")
@op
def tversky(y_true, y_pred, /, alpha=0.5, beta=0.5, axis=None):
    """One minus the Tversky index of two masks (Salehi et al., 2017).

        y       = 1 - I / S,   I = Σ t p,  S = I + α Σ t (1 - p) + β Σ (1 - t) p + ε
        dy_pred = -dy (t - I / S (t - α t + β (1 - t))) / S,   dy_true likewise

    Args:
        y_true, y_pred: The masks t and p.
        alpha, beta: Weights of the two kinds of disagreement.
        axis: Axes of the sums; None for all.

    Example:
        >>> round(tversky([1.0, 1.0], [1.0, 0.0]).item(), 3)
        0.333
    """
    t, p, xp = _masks("tversky", y_true, y_pred)
    axes = _axes(axis, p.ndim)
    shared = (t * p).sum(axis=axes, keepdims=True)
    missed = (t * (1 - p)).sum(axis=axes, keepdims=True)
    added = (p * (1 - t)).sum(axis=axes, keepdims=True)
    total = shared + missed * alpha + added * beta + dtypes.epsilon()
    y = 1 - shared / total

    def backward(dy, needs):
        d = -dy.reshape(y.shape) / total
        ratio = shared / total
        dy_true = dy_pred = None
        if needs.y_true:
            dy_true = gradient_of(d * (p - ratio * (p + alpha * (1 - p) - beta * p)), t, y_true)
        if needs.y_pred:
            dy_pred = gradient_of(d * (t - ratio * (t - alpha * t + beta * (1 - t))), p, y_pred)
        return dy_true, dy_pred

    return y.squeeze(axes), backward


@register("loss")
def circle(
    y_true,
    y_pred,
    ref_labels=None,
    ref_embeddings=None,
    remove_diagonal=True,
    gamma=80,
    margin=0.4,
):
    """Pulls embeddings of one class together and pushes others apart (Sun et al., 2020).

        y = softplus(logsumexp(γ (m + d)(d - m) over the same class)
                   + logsumexp(γ (1 + m - d)(1 - m - d) over other classes)),   d = 1 - a · b

    Args:
        y_true: Integer classes.
        y_pred: Embeddings of length 1.
        ref_labels, ref_embeddings: What to compare with; None for `y_true` and `y_pred`.
        remove_diagonal: Whether a sample does not count as similar to itself.
        gamma: γ, the scale of the similarities.
        margin: m, how far they are relaxed.

    Shapes:
        y_true (batch,), y_pred (batch, n)  ->  y (batch,)

    Example:
        >>> circle([0, 1], [[1.0, 0.0], [0.0, 1.0]]).shape
        (2,)
    """
    y = _circle(y_true, y_pred, ref_labels, ref_embeddings, remove_diagonal, float(gamma), float(margin))
    if isinstance(y, Tensor):
        y._keras_mask = Tensor(y.array > 0)
    return y


@op
def _circle(y_true, y_pred, ref_labels, ref_embeddings, /, remove_diagonal, gamma, margin):
    a = floating(as_array(y_pred))
    b = a if ref_embeddings is None else as_array(ref_embeddings)
    label = as_array(y_true).astype(np.int32).reshape(-1, 1)
    other = label if ref_labels is None else as_array(ref_labels).astype(np.int32).reshape(-1, 1)
    if a.ndim != 2 or b.ndim != 2 or len(label) != len(a) or len(other) != len(b):
        raise ValueError(
            f"circle needs one label for each row of the embeddings (batch, n), but got labels "
            f"{label.shape} and {other.shape}, embeddings {a.shape} and {b.shape}."
        )
    xp = devices.array_module(a)
    cosine_distance = 1 - blas.matmul(a, b.T)
    distance = xp.maximum(cosine_distance, 0)
    is_same = label == other.T
    is_other = ~is_same
    if remove_diagonal:
        is_same = is_same & ~xp.eye(*is_same.shape, dtype=bool)
    pull = xp.maximum((margin + distance) * is_same, 0)
    push = xp.maximum((1 + margin - distance) * is_other, 0)
    lp, share_pull = _logsumexp(xp, gamma * pull * (distance - margin), is_same)
    ln, share_push = _logsumexp(xp, gamma * push * (1 - margin - distance), is_other)
    total = lp + ln
    decay = xp.exp(-xp.abs(total))
    y = xp.maximum(total, 0) + xp.log1p(decay)

    def backward(dy, needs):
        d = (dy * xp.where(total >= 0, 1, decay) / (1 + decay))[:, None] * gamma
        slope_pull = (pull > 0) * (distance - margin) + pull
        slope_push = (push > 0) * (distance - (1 - margin)) - push
        d = d * (share_pull * slope_pull + share_push * slope_push)
        d = xp.where(cosine_distance > 0, -d, 0)
        da = blas.matmul(d, b) if needs.y_pred else None
        db = blas.matmul(d.T, a) if needs.ref_embeddings or ref_embeddings is None else None
        if ref_embeddings is None:
            da, db = None if da is None else da + db, None
        return None, da, None, db

    return y, backward


def _logsumexp(xp, x, mask):
    """log Σ exp(x) over the masked entries of each row, and their shares of the sum."""
    top = xp.where(mask, x, -np.inf).max(axis=1, keepdims=True)
    top = xp.where(top == -np.inf, 0, top)  # a row without entries
    e = xp.where(mask, xp.exp(xp.minimum(x - top, 0)), 0)
    total = e.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_total = xp.log(total)
    return (log_total + top)[:, 0], e / xp.where(total == 0, 1, total)


def _masks(name, y_true, y_pred):
    p = floating(as_array(y_pred))
    t = as_array(y_true).astype(p.dtype, copy=False)
    try:
        np.broadcast_shapes(t.shape, p.shape)
    except ValueError:
        raise ValueError(
            f"{name} compares y_true and y_pred element by element, but got shapes {t.shape} and {p.shape}."
        ) from None
    return t, p, devices.array_module(p)


def _axes(axis, ndim):
    if axis is None:
        return tuple(range(ndim))
    return tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)
