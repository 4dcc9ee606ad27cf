"""Batch and layer normalization: the sums, and the passes that use them.

Batch normalization sees x as (outer, channels, inner) and works on every channel, layer
normalization sees x as (rows, n) and works on every row. On the CPU both go block by block, so that
the passes find their block in cache, and sum by BLAS, which is faster than `sum` and more precise.
"""

import numpy as np

from gpukeras.backend import devices
from gpukeras.kernels.kernel import kernel

__all__ = [
    "batch_moments",
    "batch_scale",
    "batch_scale_backward",
    "batch_sums",
    "layer_norm",
    "layer_norm_backward",
]

# Elements of a block: 128 KB of float32, of which three fit into the second-level cache.
_BLOCK = 32768


def _column(v):
    """A vector over channels, ready to meet (outer, channels, inner)."""
    return v[:, None]


@kernel
def batch_moments(x):
    """Mean and variance of every channel of x (outer, channels, inner).

    The mean of what is left after the mean is taken away, zero but for rounding, corrects both.
    """
    mean = x.mean(axis=(0, 2))
    centred = x - _column(mean)
    rest = centred.mean(axis=(0, 2))
    centred *= centred
    return mean + rest, centred.mean(axis=(0, 2)) - rest * rest


@batch_moments.cpu
def batch_moments(x):
    count = x.shape[0] * x.shape[2]
    if not count:
        return batch_moments.reference(x)
    mean = _channel_sum(x)
    mean *= 1.0 / count
    rest, variance = np.zeros_like(mean), np.zeros_like(mean)
    scratch = None
    for (part,) in _blocks(x):
        scratch = np.empty_like(part) if scratch is None else scratch[: len(part)]
        np.subtract(part, _column(mean), out=scratch)
        rest += _channel_sum(scratch)
        scratch *= scratch
        variance += _channel_sum(scratch)
    rest *= 1.0 / count
    variance *= 1.0 / count
    return mean + rest, variance - rest * rest


@batch_moments.samples
def batch_moments(random, dtype):
    for shape in _SHAPES:
        yield (random(shape, dtype),)


_SHAPES = (7, 5, 1), (3, 4, 6), (900, 80, 1), (5, 80, 300)


@kernel
def batch_scale(x, mean, factor, offset, y):
    """y ← (x - mean) · factor + offset, with one mean, factor and offset (or None) a channel."""
    devices.array_module(x).subtract(x, _column(mean), out=y)
    y *= _column(factor)
    if offset is not None:
        y += _column(offset)
    return y


@batch_scale.cpu
def batch_scale(x, mean, factor, offset, y):
    for part, out in _blocks(x, y):
        batch_scale.reference(part, mean, factor, offset, out)
    return y


@batch_scale.samples
def batch_scale(random, dtype):
    for shape in _SHAPES:
        x, c = random(shape, dtype), shape[1:2]
        yield x, random(c, dtype), random(c, dtype), random(c, dtype), x.copy()
        yield x, random(c, dtype), random(c, dtype), None, x.copy()


@kernel
def batch_sums(x, mean, dy):
    """Σ dy and Σ dy · (x - mean) for every channel."""
    return dy.sum(axis=(0, 2)), (dy * (x - _column(mean))).sum(axis=(0, 2))


@batch_sums.cpu
def batch_sums(x, mean, dy):
    products = np.zeros_like(mean)
    scratch = None
    for part, dpart in _blocks(x, dy):
        scratch = np.empty_like(part) if scratch is None else scratch[: len(part)]
        np.subtract(part, _column(mean), out=scratch)
        scratch *= dpart
        products += _channel_sum(scratch)
    return _channel_sum(dy), products


@batch_sums.samples
def batch_sums(random, dtype):
    for shape in _SHAPES:
        yield random(shape, dtype), random(shape[1:2], dtype), random(shape, dtype)


@kernel
def batch_scale_backward(x, mean, dy, factor, dy_mean, slope, dx):
    """dx ← factor · (dy - dy_mean - (x - mean) · slope), every coefficient one a channel."""
    xp = devices.array_module(x)
    xp.subtract(x, _column(mean), out=dx)
    dx *= _column(slope)
    dx += _column(dy_mean)
    xp.subtract(dy, dx, out=dx)
    dx *= _column(factor)
    return dx


@batch_scale_backward.cpu
def batch_scale_backward(x, mean, dy, factor, dy_mean, slope, dx):
    for part, dpart, out in _blocks(x, dy, dx):
        batch_scale_backward.reference(part, mean, dpart, factor, dy_mean, slope, out)
    return dx


@batch_scale_backward.samples
def batch_scale_backward(random, dtype):
    for shape in _SHAPES:
        x, c = random(shape, dtype), shape[1:2]
        mean, *rest = (random(c, dtype) for _ in range(4))
        yield x, mean, random(shape, dtype), *rest, x.copy()


@kernel
def layer_norm(x, gamma, beta, y, epsilon, is_centred=True):
    """y ← (x - mean) / sqrt(variance + epsilon) · gamma + beta for every row of x (rows, n).

    Where not `is_centred`, the mean is taken as zero, and the variance as the mean square. Gamma
    and beta (n,) may be None.

    Returns:
        The mean (rows, 1), or None, and 1 / sqrt(variance + epsilon) (rows, 1).
    """
    xp = devices.array_module(x)
    mean = None
    if is_centred:
        mean = x.mean(axis=1, keepdims=True)
        xp.subtract(x, mean, out=y)
    else:
        y[...] = x
    scale = (y * y).mean(axis=1, keepdims=True)
    scale += epsilon
    scale = 1.0 / xp.sqrt(scale)
    y *= scale
    if gamma is not None:
        y *= gamma
    if beta is not None:
        y += beta
    return mean, scale


@layer_norm.cpu
def layer_norm(x, gamma, beta, y, epsilon, is_centred=True):
    rows, n = x.shape
    if not x.size:
        return layer_norm.reference(x, gamma, beta, y, epsilon, is_centred)
    scale = np.empty((rows, 1), x.dtype)
    mean = np.dot(x, np.full((n, 1), 1.0 / n, x.dtype)) if is_centred else None
    step = max(1, _BLOCK // n)
    for start in range(0, rows, step):
        block = slice(start, start + step)
        part, out = x[block], y[block]
        if mean is not None:
            part = np.subtract(part, mean[block], out=out)
        s = scale[block]
        np.einsum("ij,ij->i", part, part, out=s[:, 0])
        s *= 1.0 / n
        s += epsilon
        np.sqrt(s, out=s)
        np.reciprocal(s, out=s)
        np.multiply(part, s, out=out)
        if gamma is not None:
            out *= gamma
        if beta is not None:
            out += beta
    return mean, scale


@layer_norm.samples
def layer_norm(random, dtype):
    for shape in ((7, 5), (900, 80), (3, 50000)):
        x, gamma, beta = random(shape, dtype), random(shape[1:], dtype), random(shape[1:], dtype)
        yield x, gamma, beta, x.copy(), 1e-3
        yield x, gamma, None, x.copy(), 1e-3, False
        yield x, None, None, x.copy(), 1e-3


@kernel
def layer_norm_backward(x, mean, scale, gamma, dy, dx, needs_gamma):
    """The derivative of `layer_norm`, with z = (x - mean) · scale and g = dy · gamma.

        dx ← scale · (g - mean of g - z · mean of g · z)      means over the row
        dgamma = Σ dy · z                                      over the rows

    Returns dgamma (n,), or None where it is not needed.
    """
    z = (x if mean is None else x - mean) * scale
    dgamma = (dy * z).sum(axis=0) if needs_gamma else None
    g = dy if gamma is None else dy * gamma
    z *= (g * z).mean(axis=1, keepdims=True)
    if mean is not None:
        z += g.mean(axis=1, keepdims=True)
    devices.array_module(x).subtract(g, z, out=dx)
    dx *= scale
    return dgamma


@layer_norm_backward.cpu
def layer_norm_backward(x, mean, scale, gamma, dy, dx, needs_gamma):
    rows, n = x.shape
    if not x.size:
        return layer_norm_backward.reference(x, mean, scale, gamma, dy, dx, needs_gamma)
    dgamma = np.zeros(n, x.dtype) if needs_gamma else None
    step = max(1, _BLOCK // n)
    z_block, g_block = (
        np.empty((min(step, rows), n), x.dtype),
        np.empty((min(step, rows), n), x.dtype),
    )
    average = np.full(n, 1.0 / n, x.dtype)
    ones = np.ones(len(z_block), x.dtype)
    for start in range(0, rows, step):
        block = slice(start, start + step)
        g, out, s = dy[block], dx[block], scale[block]
        z, scratch = z_block[: len(g)], g_block[: len(g)]
        if mean is None:
            np.multiply(x[block], s, out=z)
        else:
            np.subtract(x[block], mean[block], out=z)
            z *= s
        if needs_gamma:
            dgamma += np.dot(ones[: len(g)], np.multiply(g, z, out=scratch))
        if gamma is not None:
            g = np.multiply(g, gamma, out=scratch)
        z *= (np.einsum("ij,ij->i", g, z) * (1.0 / n))[:, None]
        if mean is not None:
            z += np.dot(g, average)[:, None]
        np.subtract(g, z, out=out)
        out *= s
    return dgamma


@layer_norm_backward.samples
def layer_norm_backward(random, dtype):
    for shape in ((7, 5), (900, 80), (3, 50000)):
        x, gamma, dy = random(shape, dtype), random(shape[1:], dtype), random(shape, dtype)
        rows = (shape[0], 1)
        mean, scale = random(rows, dtype), random(rows, dtype)
        yield x, mean, scale, gamma, dy, x.copy(), True
        yield x, None, scale, None, dy, x.copy(), False


def _channel_sum(x):
    """The sum of every channel of x (outer, channels, inner), by BLAS."""
    outer, channels, inner = x.shape
    if inner == 1:
        return np.dot(np.ones(outer, x.dtype), x[:, :, 0])
    sums = np.dot(x.reshape(-1, inner), np.ones(inner, x.dtype))
    return sums.reshape(outer, channels).sum(axis=0)


def _blocks(*arrays):
    """Corresponding parts of the arrays along their first axis."""
    outer, channels, inner = arrays[0].shape
    step = max(1, _BLOCK // max(1, channels * inner))
    for start in range(0, outer, step):
        yield tuple(a[start : start + step] for a in arrays)
