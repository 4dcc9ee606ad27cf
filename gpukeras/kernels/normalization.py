"""Batch and layer normalization: the sums, and the passes that use them.

Batch normalization sees x as (outer, channels, inner) and works on every channel, layer
normalization sees x as (rows, n) and works on every row. On the CPU both go block by block, so that
the passes find their block in cache, and sum by BLAS, which is faster than `sum` and more precise.
"""

import numpy as np

from gpukeras.backend import devices, memory, threads
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
# Elements of batch normalization's blocks, which go to threads: long calls, or the threads wait for each other.
# Measured on two threads for the moments of 32768 x 32: 3.5, 2.5, 1.5 and 1.1 ms with blocks of 2^15 to 2^18.
_BATCH_BLOCK = 1 << 18
# Elements that it has on a line at most. Lines of 32 took 70 microseconds where those of 512 took 40; lines of 1024,
# 2048 and 4096, but not of 992 or 2080, took 300: then all arrays' lines start at the same place of a page.
_LINE = 512
# Elements below which all is one block of short lines.
_SMALL = 1 << 14
# Rows, at least, from which the moments' shift is taken.
_SAMPLE = 256


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
    # A sample's mean is taken away first, which keeps the digits of small variances about large means.
    sample = x[:: max(1, len(x) // _SAMPLE)]
    mean = _channel_sum(sample)
    mean *= 1.0 / (len(sample) * x.shape[2])

    def compute(i, sums, vectors, parts):
        with memory.scratch(parts[0].shape, x.dtype) as centred:
            np.subtract(parts[0], vectors[0], out=centred)
            sums[0] = _channel_sum(centred, x.shape[1])
            centred *= centred
            sums[1] = _channel_sum(centred, x.shape[1])

    rest, variance = _walk(compute, (mean,), (x,), 2)
    rest *= 1.0 / count
    variance *= 1.0 / count
    variance -= rest * rest
    return mean + rest, variance


@batch_moments.samples
def batch_moments(random, dtype):
    for shape in _SHAPES:
        if shape[0]:
            yield (random(shape, dtype),)


_SHAPES = (7, 5, 1), (3, 4, 6), (900, 80, 1), (5, 80, 300), (9001, 64, 1), (1, 3, 1), (0, 3, 1)


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
    def compute(i, sums, vectors, parts):
        part, out = parts
        np.subtract(part, vectors[0], out=out)
        out *= vectors[1]
        if offset is not None:
            out += vectors[2]

    _walk(compute, (mean, factor) if offset is None else (mean, factor, offset), (x, y))
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
    def compute(i, sums, vectors, parts):
        part, dpart = parts
        sums[0] = _channel_sum(dpart, x.shape[1])
        with memory.scratch(part.shape, x.dtype) as products:
            np.subtract(part, vectors[0], out=products)
            products *= dpart
            sums[1] = _channel_sum(products, x.shape[1])

    total, product = _walk(compute, (mean,), (x, dy), 2)
    return total, product


@batch_sums.samples
def batch_sums(random, dtype):
    for shape in _SHAPES:
        # A small dy: sums of many terms keep errors in proportion to what they are compared by.
        yield random(shape, dtype), random(shape[1:2], dtype), random(shape, dtype) * 0.001


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
    def compute(i, sums, vectors, parts):
        mean, factor, dy_mean, slope = vectors
        part, dpart, out = parts
        np.subtract(part, mean, out=out)
        out *= slope
        out += dy_mean
        np.subtract(dpart, out, out=out)
        out *= factor

    _walk(compute, (mean, factor, dy_mean, slope), (x, dy, dx))
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


def _walk(compute, vectors, arrays, count_of_sums=0):
    """Call ``compute(i, sums, vectors, parts)`` for blocks of arrays (outer, channels, inner), on all threads.

    Where inner is 1, a block has several rows on a line, (lines, channels · rows), and the vectors of channels are
    repeated to that length: NumPy's inner loop is as long as a line.

    Returns:
        The sum over all blocks of what they wrote to ``sums`` (count of sums, channels).
    """
    outer, channels, inner = arrays[0].shape
    repeats = max(1, _LINE // max(1, channels)) if inner == 1 and outer * channels >= _SMALL else 1
    lines = outer // repeats
    size = lines * repeats * channels * inner
    count = min(-(-size // _BATCH_BLOCK), lines)
    if count > 1:
        count += count % 2  # as many for each of two threads
    cuts = [slice(lines * i // count, lines * (i + 1) // count) for i in range(count)]
    rows = outer - lines * repeats
    sums = np.zeros((count + (rows > 0), count_of_sums, channels), arrays[0].dtype)
    if inner == 1:
        arrays = [a[:, :, 0] for a in arrays]
        views = [a[: lines * repeats].reshape(lines, repeats * channels) for a in arrays]
        long_vectors = vectors if repeats == 1 else [np.tile(v, repeats) for v in vectors]
    else:
        views, long_vectors = arrays, [_column(v) for v in vectors]

    def block(i):
        compute(i, sums[i], long_vectors, [view[cuts[i]] for view in views])

    if count > 1:
        threads.run(block, range(count), uses_blas=True)
    elif count:
        block(0)
    if rows:
        compute(count, sums[count], vectors, [a[outer - rows :] for a in arrays])
    return sums.sum(axis=0)


def _channel_sum(x, channels=None):
    """The sum of every channel of x (outer, channels, inner) or (lines, channels · rows), by BLAS."""
    if x.ndim == 3 and x.shape[2] > 1:
        outer, channels, inner = x.shape
        sums = np.dot(x.reshape(-1, inner), np.ones(inner, x.dtype))
        return sums.reshape(outer, channels).sum(axis=0)
    x = x.reshape(len(x), -1) if x.ndim == 3 else x
    sums = np.dot(np.ones(len(x), x.dtype), x)
    return sums if channels in (None, len(sums)) else sums.reshape(-1, channels).sum(axis=0)
