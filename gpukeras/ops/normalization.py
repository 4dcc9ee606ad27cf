"""Normalization over batches, layers and groups."""

import math
from typing import Any

from gpukeras.autograd.op import op
from gpukeras.backend import cuda, devices, dtypes
from gpukeras.kernels import normalization as kernels
from gpukeras.ops.elementwise import as_float

__all__ = [
    "batch_norm_train",
    "batch_normalization",
    "exponential_average",
    "group_normalization",
    "layer_normalization",
    "rms_normalization",
]


def batch_normalization(x, mean, variance, axis, offset=None, scale=None, epsilon=1e-3):
    """Normalization with a given mean and variance of every channel.

        y        = (x - mean) · r · scale + offset          r = 1 / sqrt(variance + epsilon)
        dx       = dy · r · scale
        doffset  = Σ dy
        dscale   = r · Σ dy · (x - mean)                     sums over all axes but `axis`
        dmean    = -r · scale · Σ dy
        dvariance = -r³ / 2 · scale · Σ dy · (x - mean)

    Args:
        x: Array.
        mean, variance: Arrays (channels,).
        axis: The axis of the channels.
        offset, scale: Arrays (channels,) or None.
        epsilon: Keeps the root away from zero.

    Example:
        >>> x = np.array([[1.0, 5.0], [3.0, 5.0]])
        >>> batch_normalization(x, np.array([2.0, 5.0]), np.ones(2), -1, epsilon=0.0).numpy()
        array([[-1.,  0.],
               [ 1.,  0.]])
    """
    return _batch_normalization(x, mean, variance, offset, scale, axis=axis, epsilon=epsilon)


@op
def _batch_normalization(x, mean, variance, offset=None, scale=None, /, axis=-1, epsilon=1e-3):
    x = as_float(x)
    view, axis = _channels_view(x, axis, "batch_normalization")
    mean, variance, offset, scale = _per_channel(
        view, x, axis, {"mean": mean, "variance": variance, "offset": offset, "scale": scale}
    )
    xp = devices.array_module(x)
    root = 1.0 / xp.sqrt(variance[1] + epsilon)
    factor = root if scale is None else root * scale[1]
    y = kernels.batch_scale(view, mean[1], factor, offset and offset[1], xp.empty_like(view))

    def backward(dy, needs):
        dview = _like(view, dy)
        dx = dmean = dvariance = doffset = dscale = None
        if needs.x:
            dx = (_wide(dview) * factor[:, None]).reshape(x.shape).astype(x.dtype, copy=False)
        if needs.mean or needs.variance or needs.offset or needs.scale:
            total, product = kernels.batch_sums(view, mean[1], dview)
            dmean = _cast(-factor * total, mean) if needs.mean else None
            dvariance = _cast(-0.5 * factor * root * root * product, variance) if needs.variance else None
            doffset = _cast(total, offset) if needs.offset else None
            dscale = _cast(root * product, scale) if needs.scale else None
        return dx, dmean, dvariance, doffset, dscale

    return y.reshape(x.shape).astype(x.dtype, copy=False), backward


@op
def batch_norm_train(x, scale=None, offset=None, mask=None, /, axis=-1, epsilon=1e-3):
    """Normalization with the mean and variance that the batch itself has, for every channel.

        mean     = mean of x,  variance = mean of (x - mean)²   over all axes but `axis`
        y        = z · scale + offset                           z = (x - mean) · r
        dx       = r · scale · (dy - mean of dy - z · mean of dy · z)
        dscale   = Σ dy · z
        doffset  = Σ dy                                         r = 1 / sqrt(variance + epsilon)

    With a mask only the chosen elements count in mean and variance, and all are normalized.

    Args:
        x: Array.
        scale, offset: Arrays (channels,) or None.
        mask: Boolean array of the shape of x without its last axis; or None.
        axis: The axis of the channels.
        epsilon: Keeps the root away from zero.

    Returns:
        y of x's dtype; mean and variance (channels,), in float32 where x is shorter.

    Reference: Ioffe and Szegedy, "Batch Normalization" (2015).

    Example:
        >>> y, mean, variance = batch_norm_train(np.array([[1.0], [3.0]]), epsilon=0.0)
        >>> y.numpy().ravel(), mean.numpy(), variance.numpy()
        (array([-1.,  1.]), array([2.]), array([1.]))
    """
    x = as_float(x)
    view, axis = _channels_view(x, axis, "batch_norm_train", is_masked=mask is not None)
    scale, offset = _per_channel(view, x, axis, {"scale": scale, "offset": offset})
    xp = devices.array_module(x)
    count = view.shape[0] * view.shape[2]
    weights = None
    if mask is None:
        mean, variance = kernels.batch_moments(view)
    else:
        weights = _weights(mask, x, view, axis)
        mean = (view * weights).sum(axis=(0, 2))
        centred = view - mean[:, None]
        variance = (centred * centred * weights).sum(axis=(0, 2))
    root = 1.0 / xp.sqrt(variance + epsilon)
    factor = root if scale is None else root * scale[1]
    y = kernels.batch_scale(view, mean, factor, offset and offset[1], xp.empty_like(view))

    def backward(dys, needs):
        dy, dmean, dvariance = dys
        dview = xp.zeros_like(view) if dy is None else _like(view, dy)
        total, product = kernels.batch_sums(view, mean, dview)
        dx = None
        if needs.x:
            slope = root * root * product
            if weights is None and dmean is None and dvariance is None:
                dx = kernels.batch_scale_backward(
                    view, mean, dview, factor, total / count, slope / count, xp.empty_like(view)
                )
            else:
                a = -factor * total if dmean is None else dmean - factor * total
                b = -factor * slope if dvariance is None else 2.0 * dvariance - factor * slope
                share = 1.0 / count if weights is None else weights
                dx = _wide(dview) * factor[:, None] + share * (a[:, None] + b[:, None] * (_wide(view) - mean[:, None]))
            dx = dx.reshape(x.shape).astype(x.dtype, copy=False)
        dscale = _cast(root * product, scale) if needs.scale else None
        doffset = _cast(total, offset) if needs.offset else None
        return dx, dscale, doffset, None

    return (y.reshape(x.shape).astype(x.dtype, copy=False), mean, variance), backward


@op
def exponential_average(average, value, /, momentum):
    """A running average moved on by one value: average · momentum + value · (1 - momentum).

    It has no derivative: running averages are state, not something to train.

    Example:
        >>> exponential_average(np.zeros(1), np.ones(1), 0.75).numpy()
        array([0.25])
    """
    moved = average * momentum
    moved += value * (1.0 - momentum)
    return moved.astype(average.dtype, copy=False), None


def layer_normalization(x, gamma=None, beta=None, axis=-1, epsilon=None, rms_scaling=False):
    """Normalization of every example by the mean and variance of its own features.

        y      = z · gamma + beta                        z = (x - mean) · r
        dx     = r · (g - mean of g - z · mean of g · z)   g = dy · gamma, means over `axis`
        dgamma = Σ dy · z                                sums over all other axes
        dbeta  = Σ dy                                    r = 1 / sqrt(variance + epsilon)

    With `rms_scaling` z is x · r, and beta is left out. Keras calls this deprecated, since r is not
    the root mean square; `rms_normalization` is what it was meant to be.

    Args:
        x: Array.
        gamma, beta: Arrays of the sizes of `axis`, or None.
        axis: Axis or axes over which mean and variance are taken.
        epsilon: Keeps the root away from zero; None for ``keras.config.epsilon()``.
        rms_scaling: Whether x is only scaled, not centred.

    Reference: Ba et al., "Layer Normalization" (2016).

    Example:
        >>> layer_normalization(np.array([[1.0, 3.0], [5.0, 9.0]])).numpy().round(3)
        array([[-1.,  1.],
               [-1.,  1.]])
    """
    epsilon = dtypes.epsilon() if epsilon is None else epsilon
    if rms_scaling:
        return _variance_scaling(x, gamma, axis=axis, epsilon=epsilon)
    return _layer_normalization(x, gamma, beta, axis=axis, epsilon=epsilon)


@op
def _layer_normalization(x, gamma: Any = None, beta: Any = None, /, axis=-1, epsilon=1e-7, is_centred=True):
    x = as_float(x)
    xp = devices.array_module(x)
    rows, restore = _rows_view(x, axis, "layer_normalization" if is_centred else "rms_normalization", True)
    weight, bias = _flat(gamma, rows, "gamma"), _flat(beta, rows, "beta")
    z = xp.empty(rows.shape, rows.dtype)
    y = z if weight is bias is None else xp.empty(rows.shape, rows.dtype)
    root = kernels.layer_norm(rows, weight, bias, z, y, epsilon, is_centred)

    def backward(dy, needs):
        drows, _ = _rows_view(dy.astype(x.dtype, copy=False), axis, "layer_normalization", True)
        dx = xp.empty(rows.shape, rows.dtype) if needs.x else None
        dgamma, dbeta = kernels.layer_norm_backward(z, root, weight, drows, dx, needs.gamma, needs.beta, is_centred)
        return (
            restore(dx).astype(x.dtype, copy=False) if needs.x else None,
            dgamma.reshape(gamma.shape).astype(gamma.dtype, copy=False) if needs.gamma else None,
            dbeta.reshape(beta.shape).astype(beta.dtype, copy=False) if needs.beta else None,
        )

    return restore(y).astype(x.dtype, copy=False), backward


@op
def _variance_scaling(x, gamma: Any = None, /, axis=-1, epsilon=1e-7):
    """y = x · r · gamma with r = 1 / sqrt(variance of x + epsilon)."""
    x = as_float(x)
    xp = devices.array_module(x)
    rows, restore = _rows_view(x, axis, "layer_normalization")
    weight = _flat(gamma, rows, "gamma")
    centred = rows - rows.mean(axis=1, keepdims=True)
    root = 1.0 / xp.sqrt((centred * centred).mean(axis=1, keepdims=True) + epsilon)
    z = rows * root
    y = z if weight is None else z * weight

    def backward(dy, needs):
        drows, _ = _rows_view(dy, axis, "layer_normalization")
        dx = dgamma = None
        if needs.gamma:
            dgamma = (drows * z).sum(axis=0).reshape(gamma.shape).astype(gamma.dtype, copy=False)
        if needs.x:
            g = drows if weight is None else drows * weight
            dx = root * (g - centred * (root * (g * z).mean(axis=1, keepdims=True)))
            dx = restore(dx).astype(x.dtype, copy=False)
        return dx, dgamma

    return restore(y).astype(x.dtype, copy=False), backward


def rms_normalization(x, scale=None, axis=-1, epsilon=None):
    """Division by the root mean square of the features.

        y      = z · scale                        z = x · r
        dx     = r · (g - z · mean of g · z)      g = dy · scale, means over `axis`
        dscale = Σ dy · z                         r = 1 / sqrt(mean of x² + epsilon)

    Args:
        x: Array.
        scale: Array of the sizes of `axis`, or None.
        axis: Axis or axes over which the mean is taken.
        epsilon: Keeps the root away from zero; None for ``keras.config.epsilon()``.

    Reference: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).

    Example:
        >>> rms_normalization(np.array([[3.0, 4.0]])).numpy().round(3)
        array([[0.849, 1.131]])
    """
    epsilon = dtypes.epsilon() if epsilon is None else epsilon
    return _layer_normalization(x, scale, None, axis=axis, epsilon=epsilon, is_centred=False)


@op
def group_normalization(x, gamma: Any = None, beta: Any = None, /, groups=32, axis=-1, epsilon=1e-3):
    """Normalization of every example by the mean and variance of each group of its channels.

        y      = z · gamma + beta                        z = (x - mean) · r
        dx     = r · (g - mean of g - z · mean of g · z)   g = dy · gamma, means over a group
        dgamma = Σ dy · z,  dbeta = Σ dy                 r = 1 / sqrt(variance + epsilon)

    Args:
        x: Array (batch, ...).
        gamma, beta: Arrays (channels,) or None.
        groups: Number of groups that the channels are divided into, in order.
        axis: The axis of the channels.
        epsilon: Keeps the root away from zero.

    Reference: Wu and He, "Group Normalization" (2018).

    Example:
        >>> x = np.array([[1.0, 3.0, 5.0, 9.0]])
        >>> group_normalization(x, groups=2, epsilon=0.0).numpy()
        array([[-1.,  1., -1.,  1.]])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    axis = _one_axis(axis, x, "group_normalization")
    channels = x.shape[axis]
    if axis == 0 or channels % groups:
        raise ValueError(
            f"group_normalization divides {channels} channels into {groups} equal groups, but got "
            f"shape {x.shape} and axis {axis}. Choose a divisor of {channels}."
        )
    wide = x.astype("float32") if x.dtype.itemsize < 4 else x
    # (batch, outer, groups, channels of a group, inner)
    shape = (
        x.shape[0],
        math.prod(x.shape[1:axis]),
        groups,
        channels // groups,
        math.prod(x.shape[axis + 1 :]),
    )
    view = wide.reshape(shape)
    of_group, of_channel = (1, 3, 4), (0, 1, 4)
    z = view - view.mean(axis=of_group, keepdims=True)
    root = 1.0 / xp.sqrt((z * z).mean(axis=of_group, keepdims=True) + epsilon)
    z *= root
    weight, bias = (
        None if v is None else v.astype(wide.dtype, copy=False).reshape(groups, -1, 1) for v in (gamma, beta)
    )
    y = z if weight is None else z * weight
    y = y if bias is None else y + bias

    def backward(dy, needs):
        dy = dy.astype(wide.dtype, copy=False).reshape(shape)
        dx = dgamma = dbeta = None
        if needs.gamma:
            dgamma = (dy * z).sum(axis=of_channel).reshape(-1).astype(gamma.dtype, copy=False)
        if needs.beta:
            dbeta = dy.sum(axis=of_channel).reshape(-1).astype(beta.dtype, copy=False)
        if needs.x:
            g = dy if weight is None else dy * weight
            dx = z * (g * z).mean(axis=of_group, keepdims=True)
            dx += g.mean(axis=of_group, keepdims=True)
            dx = root * (g - dx)
            dx = dx.reshape(x.shape).astype(x.dtype, copy=False)
        return dx, dgamma, dbeta

    return y.reshape(x.shape).astype(x.dtype, copy=False), backward


def _one_axis(axis, x, name):
    if not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"{name} got axis={axis} for an array of shape {x.shape}. Choose from {-x.ndim} to {x.ndim - 1}."
        )
    return axis % x.ndim


def _channels_view(x, axis, name, is_masked=False):
    """x as (outer, channels, inner), in float32 where it is shorter; and the axis from 0.

    On a GPU short numbers stay so where the kernels take them: channels last, and every element counts.
    """
    axis = _one_axis(axis, x, name)
    inner = math.prod(x.shape[axis + 1 :])
    view = x.reshape(math.prod(x.shape[:axis]), x.shape[axis], inner)
    is_for_kernels = inner == 1 and not is_masked and 0 < x.size <= cuda.MAX_INDEX
    dtype = cuda.dtype_of_work(x, x.dtype) if is_for_kernels else cuda.wide_dtype(x.dtype)
    view = view.astype(dtype, copy=False)
    return (view if dtype.itemsize >= 4 else devices.array_module(x).ascontiguousarray(view)), axis


def _wide(view):
    """In float32 where it is shorter."""
    return view.astype(cuda.wide_dtype(view.dtype), copy=False)


def _like(view, dy):
    dy = dy.reshape(view.shape).astype(view.dtype, copy=False)
    return dy if dy.dtype.itemsize >= 4 else devices.array_module(dy).ascontiguousarray(dy)


def _per_channel(view, x, axis, vectors):
    """Each vector paired with its form in the dtype that `view` is computed in; None for None."""
    made = []
    for name, vector in vectors.items():
        if vector is not None and vector.shape != view.shape[1:2]:
            raise ValueError(
                f"Batch normalization of shape {x.shape} along axis {axis} needs {name} of shape "
                f"{view.shape[1:2]}, but got {vector.shape}."
            )
        made.append(None if vector is None else (vector, vector.astype(cuda.wide_dtype(view.dtype), copy=False)))
    return made


def _cast(gradient, vector):
    return gradient.astype(vector[0].dtype, copy=False)


def _weights(mask, x, view, axis):
    """The share of every element in mean and variance, to be broadcast to `view`; 0 if masked."""
    if mask.shape != x.shape[:-1]:
        raise ValueError(
            f"batch_norm_train takes a mask of the shape of x without its last axis, but got x of "
            f"shape {x.shape} and a mask of shape {mask.shape}."
        )
    weights = (mask != 0).astype(view.dtype)
    if axis == x.ndim - 1:
        weights = weights.reshape(-1, 1, 1)
    else:
        weights = devices.array_module(x).broadcast_to(weights[..., None], x.shape)
        weights = weights.reshape(view.shape)
    return weights / (weights.sum(axis=(0, 2), keepdims=True) + dtypes.epsilon())


def _rows_view(x, axis, name, takes_short=False):
    """x as (rows, n), n elements of `axis` each; and the way back.

    In float32 at least, but on a GPU, where `takes_short`, as x is: its kernels take 16 bits.
    """
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = sorted(_one_axis(a, x, name) for a in axes)
    wide = x.astype(cuda.dtype_of_work(x, x.dtype) if takes_short else cuda.wide_dtype(x.dtype), copy=False)
    if wide.dtype.itemsize < 4:
        wide = devices.array_module(x).ascontiguousarray(wide)
    n = math.prod(x.shape[a] for a in axes)
    if axes == list(range(x.ndim - len(axes), x.ndim)):
        return wide.reshape(-1, n) if n else wide.reshape(0, 1), lambda rows: rows.reshape(x.shape)
    others = [a for a in range(x.ndim) if a not in axes]
    order = (*others, *axes)
    back = sorted(range(x.ndim), key=order.__getitem__)
    moved = wide.transpose(order)

    def restore(rows):
        return rows.reshape(moved.shape).transpose(back)

    return moved.reshape(-1, n), restore


def _flat(vector, rows, name):
    """A weight as (n,) in the dtype of `rows`, or None."""
    if vector is None:
        return None
    if vector.size != rows.shape[1]:
        raise ValueError(
            f"Normalization over {rows.shape[1]} elements needs {name} of as many, but got shape {vector.shape}."
        )
    return vector.reshape(-1).astype(rows.dtype, copy=False)
