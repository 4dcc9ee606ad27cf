"""Softmax and its kin: maps to the simplex of positive numbers that add up to one."""

import functools
import warnings

from gpukeras.autograd.op import op
from gpukeras.backend import cuda, devices, dtypes
from gpukeras.kernels import softmax as kernels
from gpukeras.kernels.deferred import Deferred
from gpukeras.ops.activation import in_float32_or_wider

__all__ = ["log_softmax", "masked_softmax", "softmax", "sparsemax"]


def _in_float32_or_wider_but_for_kernels(function):
    """Like `in_float32_or_wider`, but short rows' softmax stays short on a GPU, whose kernels compute in float32."""
    widened = in_float32_or_wider(function)

    @functools.wraps(function)
    def chosen(x, axis=-1):
        if not (_is_short(x) and cuda.runs_on(x) and axis in (-1, x.ndim - 1) and x.flags.c_contiguous):
            return widened(x, axis)
        y, backward = function(x, axis)
        xp = devices.array_module(x)

        def backward_of_plain(dy, needs):
            if not isinstance(dy, Deferred):
                dy = xp.ascontiguousarray(dy.astype(x.dtype, copy=False))
            return backward(dy, needs)

        backward_of_plain.takes_crossentropy = True
        return y, backward_of_plain

    return chosen


@op
@_in_float32_or_wider_but_for_kernels
def softmax(x, /, axis=-1):
    """Exponentials divided by their sum: positive numbers that add up to one.

        y  = exp(x) / Σ exp(x)
        dx = y · (dy - Σ y · dy)

    Args:
        x: Array.
        axis: Axis or tuple of axes that the sums run over; None for all.

    Example:
        >>> softmax([[1.0, 1.0], [0.0, 1000.0]]).numpy()
        array([[0.5, 0.5],
               [0. , 1. ]], dtype=float32)
    """
    axis = _standardize(axis, x, "softmax")
    if isinstance(axis, int) and x.shape[axis] == 1:
        warnings.warn(
            f"softmax over axis {axis} of an array of shape {x.shape}, which has size 1, is "
            f"always 1. Did you mean sigmoid?",
            stacklevel=3,
        )
    xp = devices.array_module(x)
    y = kernels.softmax(x, xp.empty_like(x, order="C"), axis)

    def backward(dy, needs):
        if isinstance(dy, Deferred):
            dx = dy.through_softmax(y) if axis == y.ndim - 1 else None
            if dx is not None:
                return (dx,)
            dy = dy.array()
        return (kernels.softmax_backward(y, dy, xp.empty_like(y), axis),)

    backward.takes_crossentropy = True
    return y, backward


@op
@in_float32_or_wider
def masked_softmax(x, mask, /, axis=-1):
    """Softmax over those elements that a mask lets through; zero elsewhere.

        y  = exp(x) / Σ exp(x) where mask, else 0        the sum over the elements in the mask
        dx = y · (dy - Σ y · dy)

    Args:
        x: Array.
        mask: Boolean array (of numbers, true above 1/2) that broadcasts to x.
        axis: Axis or tuple of axes that the sums run over; None for all.

    Example:
        >>> masked_softmax([1.0, 1.0, 9.0], np.array([True, True, False])).numpy()
        array([0.5, 0.5, 0. ], dtype=float32)
    """
    axis = _standardize(axis, x, "masked_softmax")
    sizes = zip(mask.shape[::-1], x.shape[::-1], strict=False)
    if mask.ndim > x.ndim or any(m not in (1, n) for m, n in sizes):
        raise ValueError(
            f"The mask of a softmax must broadcast to its input, but got a mask of shape "
            f"{mask.shape} for an input of shape {x.shape}. Insert axes of size 1."
        )
    xp = devices.array_module(x)
    hidden = ~mask if mask.dtype == "bool" else mask <= 0.5
    y = xp.where(hidden, -0.7 * float(xp.finfo(x.dtype).max), x)
    kernels.softmax(y, y, axis)
    xp.copyto(y, 0.0, where=hidden)

    def backward(dy, needs):
        return kernels.softmax_backward(y, dy, xp.empty_like(y), axis), None

    return y, backward


@op
@in_float32_or_wider
def log_softmax(x, /, axis=-1):
    """Logarithm of softmax, precise where softmax is almost zero.

        y  = x - log Σ exp(x)
        dx = dy - exp(y) · Σ dy

    Args:
        x: Array.
        axis: Axis or tuple of axes that the sums run over; None for all.

    Example:
        >>> log_softmax([0.0, 100.0]).numpy()
        array([-100.,    0.], dtype=float32)
    """
    axis = _standardize(axis, x, "log_softmax")
    xp = devices.array_module(x)
    y = kernels.log_softmax(x, xp.empty_like(x, order="C"), axis)

    def backward(dy, needs):
        return (kernels.log_softmax_backward(y, dy, xp.empty_like(y), axis),)

    return y, backward


@op
@in_float32_or_wider
def sparsemax(x, /, axis=-1):
    """The nearest point of the probability simplex: a softmax with exact zeros.

        y  = max(x - τ, 0)                           with τ such that Σ y = 1
        dx = dy - mean of dy over {y > 0}, where y > 0, else 0

    Keras 3.15 computes another τ where more than one element is positive, and its rows then do
    not add up to one; here they do, as in the paper.

    Args:
        x: Array.
        axis: The axis.

    Reference: Martins and Astudillo, "From Softmax to Sparsemax" (2016).

    Example:
        >>> sparsemax([1.5, 1.0, 0.0]).numpy()
        array([0.75, 0.25, 0.  ], dtype=float32)
    """
    if not isinstance(axis, int):
        raise ValueError(f"sparsemax takes one axis, but got axis={axis!r}.")
    axis = _standardize(axis, x, "sparsemax")
    xp = devices.array_module(x)
    wide = xp.moveaxis(x, axis, -1)
    falling = -xp.sort(-wide, axis=-1)
    excess = xp.cumsum(falling, axis=-1) - 1.0
    # The k largest elements are positive, k the largest number for which the k-th of them exceeds
    # (their sum - 1) / k. That ratio rises up to this k and falls beyond: τ is its maximum.
    ranks = xp.arange(1, wide.shape[-1] + 1, dtype=wide.dtype)
    tau = (excess / ranks).max(axis=-1, keepdims=True)
    is_on = wide > tau
    y = xp.where(is_on, wide - tau, 0)

    def backward(dy, needs):
        dy = xp.moveaxis(dy, axis, -1) * is_on
        dx = dy - is_on * (dy.sum(axis=-1, keepdims=True) / is_on.sum(axis=-1, keepdims=True).astype(y.dtype))
        return (xp.moveaxis(dx, -1, axis),)

    return xp.moveaxis(y, -1, axis), backward


def _is_short(x):
    return hasattr(x, "dtype") and x.dtype.itemsize == 2 and dtypes.is_float(x.dtype) and x.ndim > 0


def _standardize(axis, x, name):
    """`axis` as a non-negative integer, or a tuple of several; None stands for all axes."""
    if axis is None:
        axis = tuple(range(x.ndim))
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    if not axes or not all(-x.ndim <= a < x.ndim for a in axes):
        raise ValueError(
            f"{name} got axis={axis} for an array of shape {x.shape}. Choose from {-x.ndim} to {x.ndim - 1}."
        )
    axes = tuple(a % x.ndim for a in axes)
    return axes[0] if len(axes) == 1 else axes
