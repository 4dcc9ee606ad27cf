"""Convolution over any number of spatial axes by columns and matrix products, channels last.

    x (batch, *space, channels), weights (*size, channels / groups, filters)
    ->  y (batch, *grid, filters)

`windows` (`gpukeras.kernels.windows.Windows`) says which places of x each place of y sees. The
columns of x are one row per place of y with everything that its window sees; y is their product
with the weights as a matrix, and the weights' gradient the product of their transpose with dy.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpukeras.backend import blas, devices
from gpukeras.kernels.kernel import kernel
from gpukeras.kernels.windows import windows_of

__all__ = ["add_bias", "bias_gradient", "convolve", "convolve_input_gradient", "convolve_kernel_gradient"]

# On the CPU the columns are made for a few images at a time, so that the product finds them in cache.
# Measured on 3x3 convolutions of 5x5x64 to 66x66x64: 2 to 8 MB do best, 0.5 MB costs a fifth more (the
# products get too thin), 30 MB up to a half.
_BLOCK_BYTES = 4 << 20
# Up to so many channels, columns are laid out with one row for each place and channel: then runs of
# neighbouring windows are copied, not single windows' few channels. Measured: 1 channel 0.6 ms
# instead of 1.4, 3 channels 1.9 instead of 2.4.
_FEW_CHANNELS = 4
# Below so many elements the bias is added in one plain pass.
_SMALL = 1 << 13


@kernel
def convolve(x, weights, windows):
    """y = columns(x) · weights, for each group of channels with filters of its own."""
    groups = x.shape[-1] // weights.shape[-2]
    y = blas.matmul(_columns(x, windows, groups), _matrices(weights, groups))
    return y.transpose(1, 0, 2).reshape(x.shape[0], *windows.grid, weights.shape[-1])


@convolve.cpu
def convolve(x, weights, windows):
    groups = x.shape[-1] // weights.shape[-2]
    if windows.is_pointwise and groups == 1:
        y = blas.matmul(x.reshape(-1, x.shape[-1]), weights.reshape(weights.shape[-2:]))
        return y.reshape(*x.shape[:-1], weights.shape[-1])
    y = np.empty((x.shape[0], *windows.grid, weights.shape[-1]), x.dtype)
    matrices = _matrices(weights, groups)
    for images, rows, columns in _column_blocks(x, windows, groups):
        out = y[images, rows].reshape(-1, groups, weights.shape[-1] // groups)
        if groups == 1:
            blas.matmul(columns[0], matrices[0], out=out[:, 0])
        else:
            blas.matmul(columns, matrices, out=out.transpose(1, 0, 2))
    return y


@convolve.samples
def convolve(random, dtype):
    yield from _samples(random, dtype)


@kernel
def convolve_input_gradient(dy, weights, windows, groups):
    """dx = Σ over the places of a window of dy · weights[place]ᵀ, put where the place is."""
    dx = devices.array_module(dy).zeros(_input_shape(dy, weights, windows, groups), dy.dtype)
    _add_input_gradient(dx, dy, weights, windows, groups)
    return dx


@convolve_input_gradient.cpu
def convolve_input_gradient(dy, weights, windows, groups):
    if windows.is_pointwise and groups == 1:
        dx = blas.matmul(dy.reshape(-1, dy.shape[-1]), weights.reshape(weights.shape[-2:]).T)
        return dx.reshape(_input_shape(dy, weights, windows, groups))
    dx = np.zeros(_input_shape(dy, weights, windows, groups), dy.dtype)
    weights = np.ascontiguousarray(weights.swapaxes(-1, -2)).swapaxes(-1, -2)
    bytes_per_image = dx[:1].nbytes + dy[:1].nbytes
    for images in _image_blocks(len(dy), bytes_per_image):
        _add_input_gradient(dx[images], dy[images], weights, windows, groups)
    return dx


@convolve_input_gradient.samples
def convolve_input_gradient(random, dtype):
    for x, weights, windows in _samples(random, dtype):
        dy = random((x.shape[0], *windows.grid, weights.shape[-1]), dtype) * 0.01
        yield dy, weights, windows, x.shape[-1] // weights.shape[-2]


def _input_shape(dy, weights, windows, groups):
    return (dy.shape[0], *windows.space, groups * weights.shape[-2])


def _add_input_gradient(dx, dy, weights, windows, groups):
    rows = _split(dy, groups)
    channels = weights.shape[-2]
    places = _matrices(weights, groups).reshape(groups, windows.count, channels, -1)
    dx = dx.reshape(*dx.shape[:-1], groups, channels)
    for i, (out, into) in enumerate(windows.taps):
        if groups == 1:
            share = blas.matmul(rows[0], places[0, i].T)
        else:
            share = blas.matmul(rows, places[:, i].swapaxes(1, 2)).transpose(1, 0, 2)
        dx[into] += share.reshape(*dy.shape[:-1], groups, channels)[out]


@kernel
def convolve_kernel_gradient(x, dy, windows, groups):
    """dweights = columns(x)ᵀ · dy, for each group."""
    d = blas.matmul(_columns(x, windows, groups).swapaxes(1, 2), _split(dy, groups))
    return _join_matrices(d, windows)


@convolve_kernel_gradient.cpu
def convolve_kernel_gradient(x, dy, windows, groups):
    if windows.is_pointwise and groups == 1:
        d = blas.matmul(x.reshape(-1, x.shape[-1]).T, dy.reshape(-1, dy.shape[-1]))
        return d.reshape(*windows.size, x.shape[-1], dy.shape[-1])
    d = None
    for images, rows, columns in _column_blocks(x, windows, groups):
        rows = _split(dy[images, rows], groups)
        if groups == 1:
            share = blas.matmul(columns[0].T, rows[0])[None]
        else:
            share = blas.matmul(columns.swapaxes(1, 2), rows)
        d = share if d is None else np.add(d, share, out=d)
    if d is None:  # an empty batch
        return np.zeros((*windows.size, x.shape[-1] // groups, dy.shape[-1]), x.dtype)
    return _join_matrices(d, windows)


@convolve_kernel_gradient.samples
def convolve_kernel_gradient(random, dtype):
    for x, weights, windows in _samples(random, dtype):
        dy = random((x.shape[0], *windows.grid, weights.shape[-1]), dtype) * 0.01
        yield x, dy, windows, x.shape[-1] // weights.shape[-2]


@kernel
def add_bias(y, bias):
    """y += bias. In place."""
    y += bias


@add_bias.cpu
def add_bias(y, bias):
    # A whole line of places at once: NumPy's inner loop is that long, not only as the filters.
    if y.size < _SMALL:
        y += bias
    else:
        lines = y.reshape(-1, y.shape[-2] * y.shape[-1])
        lines += np.tile(bias, y.shape[-2])


@add_bias.samples
def add_bias(random, dtype):
    yield random((2, 5, 6, 3), dtype), random((3,), dtype)
    yield random((4, 40, 50, 8), dtype), random((8,), dtype)
    yield random((0, 4, 3), dtype), random((3,), dtype)


@kernel
def bias_gradient(dy):
    """dbias = Σ dy over all axes but the filters'."""
    return dy.reshape(-1, dy.shape[-1]).sum(axis=0)


@bias_gradient.cpu
def bias_gradient(dy):
    filters = dy.shape[-1]
    # The lines' sum first: longer inner loops, and shorter sums, which keeps more digits.
    lines = dy.reshape(-1, dy.shape[-2] * filters).sum(axis=0)
    return lines.reshape(-1, filters).sum(axis=0)


@bias_gradient.samples
def bias_gradient(random, dtype):
    yield (random((2, 5, 6, 3), dtype),)
    yield (random((4, 9, 8), dtype),)
    yield (random((0, 4, 3), dtype),)


def _columns(x, windows, groups):
    """What every window sees: (groups, batch · grid, places · channels of a group)."""
    if windows.is_pointwise:
        return _split(x, groups)
    xp = devices.array_module(x)
    make = xp.zeros if windows.is_padded else xp.empty
    channels = x.shape[-1] // groups
    columns = make((x.shape[0], *windows.grid, groups, windows.count, channels), x.dtype)
    x = x.reshape(*x.shape[:-1], groups, channels)
    for i, (out, into) in enumerate(windows.taps):
        columns[(*out, ..., i, slice(None))] = x[into]
    columns = columns.reshape(-1, groups, windows.count * channels)
    return columns.transpose(1, 0, 2)


def _column_blocks(x, windows, groups):
    """Columns of a few images, or of a band of rows of one large image, at a time.

    Yields ``images, rows, columns``: two slices into (batch, grid[0]), and the columns of what they
    choose, (groups, windows, places · channels of a group). The next block overwrites them.
    """
    channels = x.shape[-1] // groups
    row_bytes = math.prod(windows.grid[1:]) * windows.count * x.shape[-1] * x.dtype.itemsize
    band = min(max(_BLOCK_BYTES // row_bytes, 1), windows.grid[0])
    buffer = padded = None
    for images in _image_blocks(len(x), row_bytes * windows.grid[0]):
        block = x[images]
        if windows.is_padded:
            if padded is None:
                padded = np.zeros((len(block), *windows.span, x.shape[-1]), x.dtype)
            inside = [
                slice(low, min(low + n, span))
                for low, n, span in zip(windows.lows, windows.space, windows.span, strict=True)
            ]
            block, source = padded[: len(block)], block
            block[(slice(None), *inside)] = source[(slice(None), *(slice(0, s.stop - s.start) for s in inside))]
        view = _window_view(block, windows, groups, channels)
        rank = len(windows.grid)
        is_transposed = channels <= _FEW_CHANNELS
        batch, places = [*range(1 + rank)], [*range(1 + rank, 1 + 2 * rank)]
        group, channel = 1 + 2 * rank, 2 + 2 * rank
        inner = [*places, channel, *batch] if is_transposed else [*batch, *places, channel]
        view = view.transpose(group, *inner)
        axis = inner.index(1) + 1
        for start in range(0, windows.grid[0], band):
            rows = slice(start, min(start + band, windows.grid[0]))
            part = view[(*(slice(None),) * axis, rows)]
            if buffer is None:
                buffer = np.empty(part.size, x.dtype)
            columns = buffer[: part.size].reshape(part.shape)
            np.copyto(columns, part)
            if is_transposed:
                columns = columns.reshape(groups, windows.count * channels, -1).swapaxes(1, 2)
            else:
                columns = columns.reshape(groups, -1, windows.count * channels)
            yield images, rows, columns


def _window_view(x, windows, groups, channels):
    """What every window sees, without a copy: (batch, *grid, *size, groups, channels of a group)."""
    batch, *steps, last = x.strides
    grid = [step * s for step, s in zip(steps, windows.strides, strict=True)]
    size = [step * d for step, d in zip(steps, windows.dilation, strict=True)]
    return as_strided(
        x,
        (len(x), *windows.grid, *windows.size, groups, channels),
        (batch, *grid, *size, channels * last, last),
        writeable=False,
    )


def _image_blocks(batch, bytes_per_image):
    step = max(_BLOCK_BYTES // max(bytes_per_image, 1), 1)
    return [slice(i, min(i + step, batch)) for i in range(0, batch, step)]


def _matrices(weights, groups):
    """The weights as one matrix per group: (groups, places · channels, filters of a group)."""
    return weights.reshape(-1, groups, weights.shape[-1] // groups).transpose(1, 0, 2)


def _join_matrices(d, windows):
    """The way back of `_matrices`."""
    groups, _, filters = d.shape
    return d.transpose(1, 0, 2).reshape(*windows.size, -1, groups * filters)


def _split(y, groups):
    """(batch, *grid, filters) as (groups, batch · grid, filters of a group)."""
    return y.reshape(-1, groups, y.shape[-1] // groups).transpose(1, 0, 2)


def _samples(random, dtype):
    def sample(x, weights, strides, padding, dilation):
        windows = windows_of(x[1:-1], weights[:-2], strides, padding, dilation)
        # Small weights: sums of many terms keep errors in proportion to what they are compared by.
        return random(x, dtype), random(weights, dtype) * 0.01, windows

    yield sample((2, 9, 8, 3), (3, 2, 3, 4), (1, 1), "same", (1, 1))
    yield sample((2, 9, 8, 1), (3, 3, 1, 5), (2, 1), "valid", (1, 1))
    yield sample((3, 20, 4), (4, 2, 6), (3,), "same", (1,))
    yield sample((3, 20, 6), (4, 6, 2), (2,), "causal", (1,))
    yield sample((2, 5, 6, 5, 2), (2, 3, 1, 2, 3), (1, 2, 1), "same", (1, 1, 1))
    yield sample((2, 12, 11, 24), (3, 3, 12, 4), (1, 1), "same", (2, 3))
    yield sample((2, 7, 7, 4), (1, 1, 4, 3), (1, 1), "valid", (1, 1))
    yield sample((2, 7, 7, 4), (1, 1, 4, 3), (3, 2), "valid", (1, 1))
    yield sample((2, 7, 7, 4), (1, 1, 2, 4), (1, 1), "valid", (1, 1))
    yield sample((2, 4, 4, 3), (5, 5, 3, 2), (4, 4), "same", (1, 1))
    yield sample((0, 7, 7, 4), (2, 2, 4, 3), (1, 1), "same", (1, 1))
    yield sample((6, 20, 20, 60), (3, 3, 60, 2), (1, 1), "same", (1, 1))  # several blocks
    yield sample((1, 60, 50, 40), (3, 5, 20, 4), (1, 1), "valid", (1, 1))  # one image in bands
