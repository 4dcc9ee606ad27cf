"""Convolution of every channel with filters of its own, by slices, channels last.

    x (batch, *space, channels), weights (*size, channels, multiplier)
    ->  y (batch, *grid, channels · multiplier)

`windows` (`gpukeras.kernels.windows.Windows`) says which places of x each place of y sees.
"""

import math

from gpukeras.backend import cuda, devices
from gpukeras.kernels.kernel import kernel
from gpukeras.kernels.windows import windows_of

__all__ = ["depthwise", "depthwise_input_gradient", "depthwise_kernel_gradient"]

_CUDA = cuda.Source("depthwise")

_STRIP, _WIDTH = 4, 3  # windows that a thread has along the last axis, and the places of each, as depthwise.cu has them


@kernel
def depthwise(x, weights, windows):
    """y[..., c · m + i] = Σ over places of x[..., c] · weights[place, c, i]."""
    xp = devices.array_module(x)
    x = _repeated(xp, x, weights.shape[-1])
    places = _places(weights, windows)
    y = xp.zeros((x.shape[0], *windows.grid, x.shape[-1]), x.dtype)
    for i, (out, into) in enumerate(windows.taps):
        y[out] += x[into] * places[i]
    return y


@depthwise.cuda
def depthwise(x, weights, windows):
    filters, multiplier = weights.shape[-2] * weights.shape[-1], weights.shape[-1]
    y = devices.array_module(x).empty((x.shape[0], *windows.grid, filters), x.dtype)
    if not cuda.has_places(windows, x, y):
        return NotImplemented
    if _has_strips(windows, filters, multiplier, x.dtype):
        _launch_strips(x, weights, windows, False, y)
        return y
    _CUDA.places("depthwise", y, filters, windows, multiplier, x, weights, y)
    return y


def _has_strips(windows, filters, multiplier, dtype):
    """Whether threads can walk along the last axis: windows of three places that follow one another."""
    along = windows.size[-1], windows.strides[-1], windows.dilation[-1]
    return along == (_WIDTH, 1, 1) and multiplier == 1 and filters % cuda.lanes(dtype) == 0


def _strips(windows, batch):
    """How many runs of windows along the last axis there are for threads."""
    return batch * math.prod(windows.grid[:-1]) * -(-windows.grid[-1] // _STRIP)


def _launch_strips(x, weights, windows, is_flipped, y):
    """y ← the convolution of x, with the places of the weights in reverse order where they are flipped."""
    channels, numbers = x.shape[-1], cuda.geometry(windows, devices.array_module(x))
    count = _strips(windows, len(x)) * channels // cuda.lanes(x.dtype)
    blocks = min(max(-(-count // cuda.THREADS), 1), cuda.MAX_BLOCKS)
    arguments = count, channels, numbers, is_flipped, x, weights, y
    _CUDA.launch("depthwise_in_strips", x, (blocks,), (cuda.THREADS,), *arguments)


@depthwise.samples
def depthwise(random, dtype):
    yield from _samples(random, dtype)


@kernel
def depthwise_input_gradient(dy, weights, windows):
    """dx[..., c] = Σ over places and i of the shifted dy[..., c · m + i] · weights[place, c, i]."""
    xp = devices.array_module(dy)
    channels, multiplier = weights.shape[-2:]
    places = _places(weights, windows)
    dx = xp.zeros((dy.shape[0], *windows.space, dy.shape[-1]), dy.dtype)
    for i, (out, into) in enumerate(windows.taps):
        dx[into] += dy[out] * places[i]
    return _summed(dx, channels, multiplier)


@depthwise_input_gradient.cuda
def depthwise_input_gradient(dy, weights, windows):
    channels, multiplier = weights.shape[-2:]
    dx = devices.array_module(dy).empty((dy.shape[0], *windows.space, channels), dy.dtype)
    if not cuda.has_places(windows, dy, dx):
        return NotImplemented
    if windows.mirrored is not None and _has_strips(windows, channels, multiplier, dy.dtype):
        _launch_strips(dy, weights, windows.mirrored, True, dx)
        return dx
    _CUDA.places("depthwise_input_gradient", dx, channels, windows, multiplier, dy, weights, dx)
    return dx


@depthwise_input_gradient.samples
def depthwise_input_gradient(random, dtype):
    for x, weights, windows in _samples(random, dtype):
        filters = weights.shape[-2] * weights.shape[-1]
        yield random((x.shape[0], *windows.grid, filters), dtype), weights, windows


@kernel
def depthwise_kernel_gradient(x, dy, windows):
    """dweights[place, c, i] = Σ over all windows of x[..., c] · dy[..., c · m + i]."""
    xp = devices.array_module(x)
    channels = x.shape[-1]
    x = _repeated(xp, x, dy.shape[-1] // channels)
    axes = tuple(range(dy.ndim - 1))
    dplaces = [(x[into] * dy[out]).sum(axis=axes) for out, into in windows.taps]
    return xp.stack(dplaces).reshape(*windows.size, channels, -1)


@depthwise_kernel_gradient.cuda
def depthwise_kernel_gradient(x, dy, windows):
    if not cuda.has_places(windows, x, dy):
        return NotImplemented
    filters, channels = dy.shape[-1], x.shape[-1]
    numbers = cuda.geometry(windows, devices.array_module(x))
    if (
        _has_strips(windows, filters, filters // channels, x.dtype)
        and windows.count in (_WIDTH, 3 * _WIDTH)
        and dy.size
    ):
        rows, name = _strips(windows, len(x)), "depthwise_kernel_gradient_in_strips"
        sums = _CUDA.columns(name, x, rows, channels, windows.count, numbers, x, dy).astype(x.dtype, copy=False)
        return sums.reshape(*windows.size, channels, 1)
    rows, columns = dy.size // filters, windows.count * filters
    settings = numbers, filters, filters // channels
    sums = _CUDA.columns("depthwise_kernel_gradient", x, rows, columns, 1, *settings, x, dy).astype(x.dtype, copy=False)
    return sums.reshape(*windows.size, channels, -1)


@depthwise_kernel_gradient.samples
def depthwise_kernel_gradient(random, dtype):
    for x, weights, windows in _samples(random, dtype):
        filters = weights.shape[-2] * weights.shape[-1]
        yield x, random((x.shape[0], *windows.grid, filters), dtype) * 0.001, windows


def _repeated(xp, x, multiplier):
    """Every channel once for each of its filters."""
    return x if multiplier == 1 else xp.repeat(x, multiplier, axis=-1)


def _summed(dx, channels, multiplier):
    """The way back of `_repeated`."""
    if multiplier == 1:
        return dx
    # Slices are many times faster than a sum over a short last axis.
    dx = dx.reshape(*dx.shape[:-1], channels, multiplier)
    return sum((dx[..., i] for i in range(1, multiplier)), start=dx[..., 0])


def _places(weights, windows):
    return weights.reshape(windows.count, -1)


def _samples(random, dtype):
    def sample(x, weights, strides, padding, dilation):
        windows = windows_of(x[1:-1], weights[:-2], strides, padding, dilation)
        # Small weights: sums of many terms keep errors in proportion to what they are compared by.
        return random(x, dtype), random(weights, dtype) * 0.01, windows

    yield sample((2, 9, 8, 3), (3, 2, 3, 1), (1, 1), "same", (1, 1))
    yield sample((2, 9, 8, 3), (3, 3, 3, 2), (2, 2), "valid", (1, 1))
    yield sample((3, 20, 4), (4, 4, 3), (1,), "same", (2,))
    yield sample((2, 5, 5, 2), (1, 1, 2, 1), (1, 1), "valid", (1, 1))
    yield sample((0, 5, 5, 2), (3, 3, 2, 2), (1, 1), "same", (1, 1))
    for padding in "same", "valid":  # in strips
        yield sample((2, 6, 9, 16), (3, 3, 16, 1), (1, 1), padding, (1, 1))
    yield sample((2, 9, 5, 24), (2, 3, 24, 1), (2, 1), "same", (1, 1))
    yield sample((3, 21, 16), (3, 16, 1), (1,), "causal", (1,))
    yield sample((2, 4, 3, 5, 8), (2, 1, 3, 8, 1), (1, 1, 1), "same", (1, 1, 1))
    yield sample((0, 5, 5, 16), (3, 3, 16, 1), (1, 1), "same", (1, 1))
    yield sample((300, 6, 7, 16), (3, 3, 16, 1), (1, 1), "same", (1, 1))  # several chunks
