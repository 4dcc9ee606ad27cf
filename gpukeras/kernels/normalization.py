"""Batch and layer normalization: the sums, and the passes that use them.

Batch normalization sees x as (outer, channels, inner) and works on every channel, layer
normalization sees x as (rows, n) and works on every row. CUDA C takes 16-bit arrays too; what there is one of for a
channel or a row is then in float32, as are the sums. On the CPU both go block by block, so that
the passes find their block in cache, and sum by BLAS, which is faster than `sum` and more precise.
"""

import numpy as np

from gpukeras.backend import blas, cuda, devices, memory, threads
from gpukeras.kernels import blocks
from gpukeras.kernels.kernel import kernel
from gpukeras.kernels.linear import ones

__all__ = [
    "batch_moments",
    "batch_scale",
    "batch_scale_backward",
    "batch_sums",
    "layer_norm",
    "layer_norm_backward",
]

_CUDA = cuda.Source("normalization")

# Elements of batch normalization's blocks, which go to threads: long calls, or the threads wait for each other.
# Measured on two threads for the moments of 32768 x 32: 3.5, 2.5, 1.5 and 1.1 ms with blocks of 2^15 to 2^18.
_BATCH_BLOCK = 1 << 18
# Elements from which on all threads take part. Moments of 2^19 elements took 0.16 ms in one thread and 0.19 in two,
# sums for the derivative 0.22 and 0.26; those of 2^20 0.31 and 0.27, 0.46 and 0.34.
_THREADED = 3 << 18
# Elements that it has on a line at most. With a vector for all lines NumPy passes over 2^18 elements in 38 microseconds
# where they lie in lines of 512 to 4064, in 27 where lines are longer than half of its buffer of 8192. Lines of 1024,
# 2048 and 4096, but not of 992 or 2080, took 300: then all arrays' lines start at the same place of a page.
_LINE = 4900
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
    sample = _sample(x)
    mean = _channel_sum(sample)
    mean *= 1.0 / (len(sample) * x.shape[2])
    is_shifted = _is_far(mean, sample)

    def compute(i, sums, vectors, parts):
        (part,) = parts
        if not is_shifted:
            sums[0] = _channel_sum(part, x.shape[1])
            sums[1] = _channel_sum_of_products(part, part, x.shape[1])
            return
        with memory.scratch(part.shape, x.dtype) as centred:
            np.subtract(part, vectors[0], out=centred)
            sums[0] = _channel_sum(centred, x.shape[1])
            sums[1] = _channel_sum_of_products(centred, centred, x.shape[1])

    rest, variance = _walk(compute, (mean,), (x,), 2)
    rest *= 1.0 / count
    variance *= 1.0 / count
    variance -= rest * rest
    return mean + rest if is_shifted else rest, variance


def _sample(x):
    return x[:: max(1, len(x) // _SAMPLE)]


def _is_far(mean, sample):
    """Whether means are so far from zero, next to the deviations of a sample, that sums about zero lose digits."""
    square = _channel_sum(sample * sample)
    return bool((2.0 * len(sample) * sample.shape[2] * mean * mean > square).any())


@batch_moments.cuda
def batch_moments(x):
    if x.shape[2] != 1 or not x.shape[0]:
        return NotImplemented
    moments = _CUDA.columns("batch_moments", x, *x.shape[:2], 2, x, join="moments_of_chunks", join_args=(x,))
    return moments[0], moments[1]


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
    # As x · factor + term it is one pass less. The term is made of the rounded factor, with more digits: the factor's
    # error then counts for x - mean alone.
    term = -mean.astype(np.float64) * factor
    term = (term if offset is None else term + offset).astype(x.dtype)

    def compute(i, sums, vectors, parts):
        part, out = parts
        np.multiply(part, vectors[0], out=out)
        out += vectors[1]

    _walk(compute, (factor, term), (x, y))
    return y


@batch_scale.cuda(wide=("mean", "factor", "offset"))
def batch_scale(x, mean, factor, offset, y):
    if x.shape[2] != 1 or x.size > cuda.MAX_INDEX:
        return NotImplemented
    _CUDA.elementwise("batch_scale", x, x.shape[1], x, mean, factor, offset, y)
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
    if not x.size:
        return batch_sums.reference(x, mean, dy)
    sample = _sample(x)
    is_shifted = _is_far(mean, sample)

    def compute(i, sums, vectors, parts):
        part, dpart = parts
        sums[0] = _channel_sum(dpart, x.shape[1])
        if not is_shifted:
            sums[1] = _channel_sum_of_products(part, dpart, x.shape[1])
            return
        with memory.scratch(part.shape, x.dtype) as centred:
            np.subtract(part, vectors[0], out=centred)
            sums[1] = _channel_sum_of_products(centred, dpart, x.shape[1])

    total, product = _walk(compute, (mean,), (x, dy), 2)
    if not is_shifted:
        product -= mean * total
    return total, product


@batch_sums.cuda(wide=("mean",))
def batch_sums(x, mean, dy):
    if x.shape[2] != 1:
        return NotImplemented
    sums = _CUDA.columns("batch_sums", x, *x.shape[:2], 2, x, mean, dy)
    return sums[0], sums[1]


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
    term = (dy_mean - mean.astype(np.float64) * slope).astype(x.dtype)

    def compute(i, sums, vectors, parts):
        slope, term, factor = vectors
        part, dpart, out = parts
        np.multiply(part, slope, out=out)
        out += term
        np.subtract(dpart, out, out=out)
        out *= factor

    _walk(compute, (slope, term, factor), (x, dy, dx))
    return dx


@batch_scale_backward.cuda(wide=("mean", "factor", "dy_mean", "slope"))
def batch_scale_backward(x, mean, dy, factor, dy_mean, slope, dx):
    if x.shape[2] != 1 or x.size > cuda.MAX_INDEX:
        return NotImplemented
    _CUDA.elementwise("batch_scale_backward", x, x.shape[1], x, mean, dy, factor, dy_mean, slope, dx)
    return dx


@batch_scale_backward.samples
def batch_scale_backward(random, dtype):
    for shape in _SHAPES:
        x, c = random(shape, dtype), shape[1:2]
        mean, *rest = (random(c, dtype) for _ in range(4))
        yield x, mean, random(shape, dtype), *rest, x.copy()


@kernel
def layer_norm(x, gamma, beta, z, y, epsilon, is_centred=True):
    """z ← (x - mean) / sqrt(variance + epsilon), y ← z · gamma + beta for every row of x (rows, n).

    Where not `is_centred`, the mean is taken as zero, and the variance as the mean square. Gamma and beta (n,) may be
    None. y may be z where both are.

    Returns:
        1 / sqrt(variance + epsilon) (rows, 1).
    """
    xp = devices.array_module(x)
    if is_centred:
        xp.subtract(x, x.mean(axis=1, keepdims=True), out=z)
    else:
        z[...] = x
    scale = (z * z).mean(axis=1, keepdims=True)
    scale += epsilon
    scale = 1.0 / xp.sqrt(scale)
    z *= scale
    y[...] = z if gamma is None else z * gamma
    if beta is not None:
        y += beta
    return scale


@layer_norm.cpu
def layer_norm(x, gamma, beta, z, y, epsilon, is_centred=True):
    rows, n = x.shape
    if not x.size:
        return layer_norm.reference(x, gamma, beta, z, y, epsilon, is_centred)
    scale = np.empty((rows, 1), x.dtype)
    average = np.full((n, 1), 1.0 / n, x.dtype)

    def block(part):
        x_part, z_part, y_part, s = x[part], z[part], y[part], scale[part]
        if is_centred:
            x_part = np.subtract(x_part, np.dot(x_part, average), out=z_part)
        np.vecdot(x_part, x_part, out=s[:, 0])
        s *= 1.0 / n
        s += epsilon
        np.sqrt(s, out=s)
        np.reciprocal(s, out=s)
        np.multiply(x_part, s, out=z_part)
        if gamma is not None:
            z_part = np.multiply(z_part, gamma, out=y_part)
        if beta is not None:
            np.add(z_part, beta, out=y_part)
        elif gamma is None and y is not z:
            y_part[...] = z_part

    blocks.for_rows(block, rows, n, uses_blas=True)
    return scale


_ROWS_SHAPES = (7, 5), (900, 80), (4100, 128), (3, 50000)


@layer_norm.cuda
def layer_norm(x, gamma, beta, z, y, epsilon, is_centred=True):
    scale = devices.array_module(x).empty((len(x), 1), cuda.wide_dtype(x.dtype))
    _CUDA.rows("layer_norm", x, *x.shape, x, gamma, beta, epsilon, is_centred, z, y, scale, held=1)
    return scale


@layer_norm.samples
def layer_norm(random, dtype):
    for shape in _ROWS_SHAPES:
        x, gamma, beta = random(shape, dtype), random(shape[1:], dtype), random(shape[1:], dtype)
        yield x, gamma, beta, x.copy(), x.copy(), 1e-3
        yield x, gamma, None, x.copy(), x.copy(), 1e-3, False
        yield x, None, beta, x.copy(), x.copy(), 1e-3
        yield x, None, None, x.copy(), x.copy(), 1e-3
        z = x.copy()
        yield x.T.copy().T, None, None, z, z, 1e-3


@kernel
def layer_norm_backward(z, scale, gamma, dy, dx, needs_gamma, needs_beta, is_centred=True):
    """The derivative of `layer_norm`, with g = dy · gamma.

        dx ← scale · (g - mean of g - z · mean of g · z)      means over the row, the first where `is_centred`
        dgamma = Σ dy · z,  dbeta = Σ dy                       over the rows

    Args:
        dx: Array to write to, or None where the gradient is not wanted.

    Returns:
        dgamma and dbeta (n,), each None where it is not needed.
    """
    product = dy * z
    dgamma = product.sum(axis=0) if needs_gamma else None
    dbeta = dy.sum(axis=0) if needs_beta else None
    if dx is not None:
        g, gz = (dy, product) if gamma is None else (dy * gamma, product * gamma)
        dx[...] = g - z * gz.mean(axis=1, keepdims=True)
        if is_centred:
            dx -= g.mean(axis=1, keepdims=True)
        dx *= scale
    return dgamma, dbeta


@layer_norm_backward.cpu
def layer_norm_backward(z, scale, gamma, dy, dx, needs_gamma, needs_beta, is_centred=True):
    rows, n = z.shape
    if not z.size:
        return layer_norm_backward.reference(z, scale, gamma, dy, dx, needs_gamma, needs_beta, is_centred)
    dgammas, dbetas = {}, {}  # the sums of every block, by its first row
    vector = ones(rows, z.dtype)
    # The means over a row of g and g · z are products of dy and dy · z with gamma / n.
    average = np.full((n, 1), 1.0 / n, z.dtype) if gamma is None else (gamma * (1.0 / n))[:, None]

    def block(part):
        z_part, d, one = z[part], dy[part], vector[part]
        if needs_beta:
            dbetas[part.start] = np.dot(one, d)
        with memory.scratch(d.shape, d.dtype) as product:
            np.multiply(d, z_part, out=product)
            if needs_gamma:
                dgammas[part.start] = np.dot(one, product)
            if dx is None:
                return
            np.multiply(z_part, np.dot(product, average), out=product)
            if is_centred:
                product += np.dot(d, average)
            out = dx[part]
            if gamma is not None:
                d = np.multiply(d, gamma, out=out)
            np.subtract(d, product, out=out)
            out *= scale[part]

    blocks.for_rows(block, rows, n, uses_blas=True)
    return tuple(sum(sums[start] for start in sorted(sums)) if sums else None for sums in (dgammas, dbetas))


@layer_norm_backward.cuda(wide=("scale",))
def layer_norm_backward(z, scale, gamma, dy, dx, needs_gamma, needs_beta, is_centred=True):
    dgamma = dbeta = sums = None
    needs_sums = needs_gamma or needs_beta
    if needs_sums and dx is not None:
        settings = z, scale, gamma, dy, is_centred, dx
        sums = _CUDA.strips("layer_norm_backward_with_sums", z, *z.shape, 2, *settings)
    if sums is None:
        if needs_sums:
            sums = _CUDA.columns("layer_norm_sums", z, *z.shape, 2, z, dy)
        if dx is not None:
            _CUDA.rows("layer_norm_backward", z, *z.shape, z, scale, gamma, dy, is_centred, dx, held=2)
    if sums is not None:
        dgamma, dbeta = sums
    return dgamma if needs_gamma else None, dbeta if needs_beta else None


@layer_norm_backward.samples
def layer_norm_backward(random, dtype):
    for shape in _ROWS_SHAPES:
        z, gamma, dy = random(shape, dtype), random(shape[1:], dtype), random(shape, dtype)
        dy *= shape[0] ** -0.5  # sums over the rows of about 1
        scale = random((shape[0], 1), dtype)
        yield z, scale, gamma, dy, z.copy(), True, True
        yield z, scale, None, dy.T.copy().T, z.copy(), False, True, False
        yield z, scale, gamma, dy, None, True, False


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

    if size >= _THREADED:
        threads.run(block, range(count), uses_blas=True)
    else:
        with blas.one_thread():
            for i in range(count):
                block(i)
    if rows:
        compute(count, sums[count], vectors, [a[outer - rows :] for a in arrays])
    return sums.sum(axis=0)


def _channel_sum(x, channels=None):
    """The sum of every channel of x (outer, channels, inner) or (lines, channels · rows), by BLAS."""
    if x.ndim == 3 and x.shape[2] > 1:
        outer, channels, inner = x.shape
        sums = np.dot(x.reshape(-1, inner), ones(inner, x.dtype))
        return sums.reshape(outer, channels).sum(axis=0)
    x = x.reshape(len(x), -1) if x.ndim == 3 else x
    sums = np.dot(ones(len(x), x.dtype), x)
    return sums if channels in (None, len(sums)) else sums.reshape(-1, channels).sum(axis=0)


def _channel_sum_of_products(x, y, channels):
    """The sum of x · y of every channel, of arrays as `_channel_sum` takes them."""
    if x.ndim == 3 and x.shape[2] > 1:
        return np.einsum("ijk,ijk->ij", x, y).sum(axis=0)
    x, y = (a[:, :, 0] if a.ndim == 3 else a for a in (x, y))
    sums = np.einsum("ij,ij->j", x, y)
    return sums if channels == len(sums) else sums.reshape(-1, channels).sum(axis=0)
