"""Ops that gather many elements into one: sums, means, extremes; and running and sorted forms of them."""

import math

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import devices, dtypes
from gpukeras.ops.elementwise import as_array, as_float, as_number

__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "average",
    "count_nonzero",
    "cumprod",
    "cumsum",
    "logsumexp",
    "max",
    "mean",
    "min",
    "moments",
    "prod",
    "std",
    "sum",
    "var",
]


def _axes(axis, ndim, name):
    """The axes as a tuple of numbers from 0; all of them for None."""
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    for a in axes:
        if not -ndim <= a < ndim:
            raise ValueError(f"{name} got axis {a}, but x has {ndim} axes. Pass axes from {-ndim} to {ndim - 1}.")
    return tuple(a % ndim for a in axes)


def _spread(dy, shape, axes):
    """A reduced gradient over all elements that it came from, as a view."""
    if dy.ndim != len(shape):
        dy = dy.reshape(_kept(shape, axes))
    return devices.array_module(dy).broadcast_to(dy, shape)


def _kept(shape, axes):
    return tuple([1 if axis in axes else size for axis, size in enumerate(shape)])


def _count(shape, axes):
    return math.prod([shape[axis] for axis in axes])


def _sum_dtype(dtype):
    """The dtype of a sum or product: narrow integers are added up in 32 bits, as in Keras."""
    if dtype.kind in "bi":
        return dtypes.as_dtype("int32") if dtype.itemsize < 4 else dtype
    if dtype.kind == "u":
        return dtypes.as_dtype("uint32") if dtype.itemsize < 4 else dtype
    return dtype


@op
def sum(x, /, axis=None, keepdims=False):
    """Sum over some axes, or all.

    dx = dy, spread over the axes again.

    Args:
        axis: An axis, a tuple of axes, or None for all.
        keepdims: Whether the axes stay, with size 1.

    Example:
        >>> sum(np.ones((2, 3)), axis=1).numpy()
        array([3., 3.])
    """
    x = as_array(x)
    axes = _axes(axis, x.ndim, "sum")
    y = x.sum(axis=axes, keepdims=keepdims, dtype=_sum_dtype(x.dtype))
    return y, lambda dy, needs: (_spread(dy, x.shape, axes),)


@op
def mean(x, /, axis=None, keepdims=False):
    """Mean over some axes, or all; of integers in floatx.

    dx = dy / count, spread over the axes again.

    Args:
        axis, keepdims: As in `sum`.

    Example:
        >>> mean(np.array([[1.0, 3.0]]), axis=-1).numpy()
        array([2.])
    """
    x = as_float(x)
    axes = _axes(axis, x.ndim, "mean")
    count = _count(x.shape, axes)
    y = _mean(x, axes, keepdims)
    return y, lambda dy, needs: (_spread(dy / count, x.shape, axes),)


def _mean(x, axes, keepdims):
    if x.dtype.itemsize > 2:
        return x.sum(axis=axes, keepdims=keepdims) / _count(x.shape, axes)
    # Sums of half floats overflow at 65504: add up in float32.
    y = x.sum(axis=axes, keepdims=keepdims, dtype=np.float32) / _count(x.shape, axes)
    return y.astype(x.dtype)


@op
def var(x, /, axis=None, keepdims=False):
    """Variance: the mean of the squared distance from the mean.

    dx = 2 · dy · (x - mean) / count.

    Args:
        axis, keepdims: As in `sum`.

    Example:
        >>> var(np.array([1.0, 3.0])).numpy()
        array(1.)
    """
    x = as_float(x)
    axes = _axes(axis, x.ndim, "var")
    centered, y = _variance(x, axes, keepdims)
    factor = 2 / _count(x.shape, axes) if x.size else 0.0
    return y, lambda dy, needs: (_spread(dy * factor, x.shape, axes) * centered,)


@op
def std(x, /, axis=None, keepdims=False):
    """Standard deviation: the root of the variance.

    dx = dy · (x - mean) / (count · y).

    Args:
        axis, keepdims: As in `sum`.

    Example:
        >>> std(np.array([1.0, 3.0])).numpy()
        array(1.)
    """
    x = as_float(x)
    axes = _axes(axis, x.ndim, "std")
    centered, variance = _variance(x, axes, keepdims)
    y = devices.array_module(x).sqrt(variance)
    count = _count(x.shape, axes)
    return y, lambda dy, needs: (_spread(dy / (y * count), x.shape, axes) * centered,)


def _variance(x, axes, keepdims):
    """The distances from the mean, and the mean of their squares."""
    centered = x - _mean(x, axes, True)
    return centered, _mean(centered * centered, axes, keepdims)


def moments(x, axes, keepdims=False, synchronized=False):
    """Mean and variance over some axes.

    Args:
        x: The values.
        axes: An axis or a tuple of axes.
        keepdims: Whether the axes stay, with size 1.
        synchronized: Whether they are taken over all devices; there is one.

    Example:
        >>> [m.numpy() for m in moments(np.array([1.0, 3.0]), axes=0)]
        [array(2.), array(1.)]
    """
    if synchronized:
        raise NotImplementedError("moments: synchronized=True needs several devices; pass False.")
    return _moments(x, axes, keepdims)


@op
def _moments(x, /, axes, keepdims):
    """Mean and variance; dx = dmean / count + 2 · dvar · (x - mean) / count."""
    x = as_float(x)
    axes = _axes(axes, x.ndim, "moments")
    # Half floats: the square of 256 already overflows.
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    count = _count(x.shape, axes)
    average_ = wide.sum(axis=axes, keepdims=True) / count
    centered = wide - average_
    variance = (centered * centered).sum(axis=axes, keepdims=True) / count
    if not keepdims:
        shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
        average_, variance = average_.reshape(shape), variance.reshape(shape)

    def backward(dy, needs):
        dmean, dvariance = dy
        if dvariance is None:
            dx = _spread(dmean / count, x.shape, axes)
        else:
            dx = _spread(dvariance * (2 / count), x.shape, axes) * centered
            if dmean is not None:
                dx += _spread(dmean / count, x.shape, axes)
        return (dx.astype(x.dtype) if dx.dtype != x.dtype else dx,)

    return (average_.astype(x.dtype), variance.astype(x.dtype)), backward


@op
def prod(x, /, axis=None, keepdims=False, dtype=None):
    """Product over some axes, or all.

    dx = dy · product of all the others, also where some are zero.

    Args:
        axis, keepdims: As in `sum`.
        dtype: Of the result; None for that of a sum.

    Example:
        >>> prod(np.array([2.0, 3.0])).numpy()
        array(6.)
    """
    x = as_array(x)
    axes = _axes(axis, x.ndim, "prod")
    dtype = _sum_dtype(x.dtype) if dtype is None else dtypes.as_dtype(dtype)
    y = x.prod(axis=axes, keepdims=keepdims, dtype=dtype)

    def backward(dy, needs):
        xp = devices.array_module(x)
        # The others' product: those before an element times those behind it.
        last = [axis for axis in range(x.ndim) if axis not in axes] + list(axes)
        rows = x.transpose(last).reshape((*[x.shape[a] for a in last[: x.ndim - len(axes)]], -1))
        ones = xp.ones((*rows.shape[:-1], 1), x.dtype)
        before = xp.cumprod(xp.concatenate([ones, rows[..., :-1]], axis=-1), axis=-1)
        behind = xp.concatenate([ones, rows[..., :0:-1]], axis=-1)
        behind = xp.cumprod(behind, axis=-1)[..., ::-1]
        others = (before * behind).reshape([x.shape[a] for a in last])
        others = others.transpose(sorted(range(x.ndim), key=last.__getitem__))
        return ((_spread(dy, x.shape, axes) * others).astype(x.dtype),)

    return y, backward


@op
def max(x, /, axis=None, keepdims=False, initial=None):
    """The largest element over some axes, or all.

    dy goes to the largest element; equal ones share it.

    Args:
        axis, keepdims: As in `sum`.
        initial: The least value the result can have; needed where there are no elements.

    Example:
        >>> max(np.array([[1.0, 3.0]]), axis=1).numpy()
        array([3.])
    """
    return _extreme(x, axis, keepdims, initial, "max")


@op
def min(x, /, axis=None, keepdims=False, initial=None):
    """The smallest element over some axes, or all.

    dy goes to the smallest element; equal ones share it.

    Args:
        axis, keepdims: As in `sum`.
        initial: The largest value the result can have; needed where there are no elements.

    Example:
        >>> min(np.array([[1.0, 3.0]]), axis=1).numpy()
        array([1.])
    """
    return _extreme(x, axis, keepdims, initial, "min")


def _extreme(x, axis, keepdims, initial, name):
    x = as_array(x)
    axes = _axes(axis, x.ndim, name)
    if _count(x.shape, axes) == 0:
        if initial is None:
            raise ValueError(
                f"{name} over axes {axes} of shape {x.shape} has no elements to choose from. "
                f"Pass initial=, or an array that is not empty."
            )
        kept = _kept(x.shape, axes)
        y = devices.array_module(x).full(kept, initial, x.dtype)
    else:
        y = getattr(x, name)(axis=axes, keepdims=True)
        if initial is not None:
            xp = devices.array_module(x)
            y = (xp.maximum if name == "max" else xp.minimum)(y, initial).astype(x.dtype)

    def backward(dy, needs):
        chosen = (x == y).astype(x.dtype)
        count = chosen.sum(axis=axes, keepdims=True)
        # A result that is `initial` has no element to give to: 0 / 1 instead of 0 / 0.
        count = count + (count == 0).astype(x.dtype)
        return (chosen * (dy.reshape(y.shape) / count),)

    if keepdims:
        return y, backward
    return y.reshape([s for a, s in enumerate(x.shape) if a not in axes]), backward


def amax(x, axis=None, keepdims=False):
    """The largest element over some axes: `max` without `initial`.

    Example:
        >>> amax(np.array([1.0, 3.0])).numpy()
        array(3.)
    """
    return max(x, axis=axis, keepdims=keepdims)


def amin(x, axis=None, keepdims=False):
    """The smallest element over some axes: `min` without `initial`.

    Example:
        >>> amin(np.array([1.0, 3.0])).numpy()
        array(1.)
    """
    return min(x, axis=axis, keepdims=keepdims)


@op
def argmax(x, /, axis=None, keepdims=False):
    """Index of the largest element, the first among equals; of the flat array where axis is None.

    Args:
        axis: One axis or None.
        keepdims: Whether the axis stays, with size 1.

    Example:
        >>> argmax(np.array([1.0, 3.0, 2.0])).numpy()
        array(1, dtype=int32)
    """
    return _arg_extreme(x, axis, keepdims, "argmax")


@op
def argmin(x, /, axis=None, keepdims=False):
    """Index of the smallest element, the first among equals; of the flat array where axis is None.

    Args:
        axis: One axis or None.
        keepdims: Whether the axis stays, with size 1.

    Example:
        >>> argmin(np.array([1.0, 3.0, 2.0])).numpy()
        array(0, dtype=int32)
    """
    return _arg_extreme(x, axis, keepdims, "argmin")


def _arg_extreme(x, axis, keepdims, name):
    x = as_array(x)
    axes = _axes(axis, x.ndim, name)
    if _count(x.shape, axes) == 0:
        raise ValueError(
            f"{name} over axes {axes} of shape {x.shape} has no elements to choose from. "
            f"Pass an array that is not empty."
        )
    y = getattr(x, name)(axis=None if axis is None else axes[0])
    if keepdims:
        y = y.reshape(_kept(x.shape, axes))
    return y.astype(dtypes.as_dtype("int32")), None


@op
def any(x, /, axis=None, keepdims=False):
    """Whether some element over the axes is true, that is, not zero.

    Args:
        axis, keepdims: As in `sum`.

    Example:
        >>> any(np.array([False, True])).numpy()
        array(True)
    """
    x = as_array(x)
    return (x != 0).any(axis=_axes(axis, x.ndim, "any"), keepdims=keepdims), None


@op
def all(x, /, axis=None, keepdims=False):
    """Whether every element over the axes is true, that is, not zero.

    Args:
        axis, keepdims: As in `sum`.

    Example:
        >>> all(np.array([False, True])).numpy()
        array(False)
    """
    x = as_array(x)
    return (x != 0).all(axis=_axes(axis, x.ndim, "all"), keepdims=keepdims), None


@op
def count_nonzero(x, /, axis=None):
    """How many elements over the axes are not zero.

    Args:
        axis: As in `sum`.

    Example:
        >>> count_nonzero(np.array([0, 2, 3])).numpy()
        array(2, dtype=int32)
    """
    x = as_array(x)
    axes = _axes(axis, x.ndim, "count_nonzero")
    return (x != 0).sum(axis=axes, dtype=dtypes.as_dtype("int32")), None


@op
def cumsum(x, /, axis=None, dtype=None):
    """Running sum along an axis; of the flat array where axis is None.

    dx = running sum of dy from the end.

    Args:
        axis: One axis or None.
        dtype: Of the result; None for the dtype of x, booleans in int32.

    Example:
        >>> cumsum(np.array([1.0, 2.0, 3.0])).numpy()
        array([1., 3., 6.])
    """
    number = as_number(x)
    dtype = number.dtype if dtype is None else dtypes.as_dtype(dtype)
    if axis is None:
        flat, along = number.reshape(-1), 0
    else:
        flat, along = number, _axes(axis, number.ndim, "cumsum")[0]
    xp = devices.array_module(number)
    y = xp.cumsum(flat, axis=along, dtype=dtype)

    def backward(dy, needs):
        dx = xp.flip(xp.cumsum(xp.flip(dy, along), axis=along), along)
        return (dx.reshape(number.shape).astype(number.dtype),)

    return y, backward


@op
def cumprod(x, /, axis=None, dtype=None):
    """Running product along an axis; of the flat array where axis is None.

    dx_i = Σ_j>=i dy_j · y_j / x_i; where x has zeros, no derivative is found (NaN).

    Args:
        axis: One axis or None.
        dtype: Of the result; None for the dtype of x, booleans in int32.

    Example:
        >>> cumprod(np.array([1.0, 2.0, 3.0])).numpy()
        array([1., 2., 6.])
    """
    number = as_number(x)
    dtype = number.dtype if dtype is None else dtypes.as_dtype(dtype)
    if axis is None:
        flat, along = number.reshape(-1), 0
    else:
        flat, along = number, _axes(axis, number.ndim, "cumprod")[0]
    xp = devices.array_module(number)
    y = xp.cumprod(flat, axis=along, dtype=dtype)

    def backward(dy, needs):
        dx = xp.flip(xp.cumsum(xp.flip(dy * y, along), axis=along), along) / flat
        return (dx.reshape(number.shape).astype(number.dtype),)

    return y, backward


@op
def logsumexp(x, /, axis=None, keepdims=False):
    """log Σ exp(x) over some axes, without overflow.

    dx = dy · exp(x - y).

    Args:
        axis, keepdims: As in `sum`.

    Example:
        >>> round(float(logsumexp(np.zeros(2))), 4)
        0.6931
    """
    x = as_float(x)
    xp = devices.array_module(x)
    axes = _axes(axis, x.ndim, "logsumexp")
    top = x.max(axis=axes, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    kept = xp.log(xp.exp(x - top).sum(axis=axes, keepdims=True)) + top

    def backward(dy, needs):
        return (xp.exp(x - kept) * dy.reshape(kept.shape),)

    if keepdims:
        return kept, backward
    return kept.reshape([s for a, s in enumerate(x.shape) if a not in axes]), backward


def average(x, axis=None, weights=None):
    """Mean with weights: Σ weights · x / Σ weights.

    Args:
        x: The values.
        axis: An axis, a tuple of axes, or None for all.
        weights: Of the shape of x, or of the one axis; None for the plain mean.

    Example:
        >>> average(np.array([1.0, 3.0]), weights=np.array([3.0, 1.0])).numpy()
        array(1.5)
    """
    if weights is None:
        return mean(x, axis=axis)
    return _weighted_mean(x, weights, axis=axis)


@op
def _weighted_mean(x, weights, /, axis):
    """Σ weights · x / Σ weights; dx = dy · weights / Σ weights, dweights = dy · (x - y) / Σ weights."""
    values, w = as_float(x), as_float(weights)
    axes = _axes(axis, values.ndim, "average")
    if w.shape != values.shape:
        if w.ndim != 1 or len(axes) != 1 or w.shape[0] != values.shape[axes[0]]:
            raise ValueError(
                f"average needs weights of the shape of x, {values.shape}, or of its one axis, but "
                f"got weights of shape {w.shape} and axis {axis}."
            )
        w = w.reshape(_kept(w.shape * values.ndim, [a for a in range(values.ndim) if a != axes[0]]))
    spread = devices.array_module(values).broadcast_to(w, values.shape)
    total = spread.sum(axis=axes, keepdims=True)
    kept = (spread * values).sum(axis=axes, keepdims=True) / total

    def backward(dy, needs):
        share = dy.reshape(kept.shape) / total
        dx = dweights = None
        if needs.x:
            dx = (share * spread).astype(values.dtype)
        if needs.weights:
            dweights = share * (values - kept)
            if weights.shape != values.shape:
                dweights = dweights.sum(axis=tuple(a for a in range(values.ndim) if a != axes[0]))
            dweights = dweights.astype(weights.dtype)
        return dx, dweights

    return kept.reshape([s for a, s in enumerate(values.shape) if a not in axes]), backward
