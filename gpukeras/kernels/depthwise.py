"""Convolution of every channel with filters of its own, by slices, channels last.

    x (batch, *space, channels), weights (*size, channels, multiplier)
    ->  y (batch, *grid, channels · multiplier)

`windows` (`gpukeras.kernels.windows.Windows`) says which places of x each place of y sees.
"""

from gpukeras.backend import cuda, devices
from gpukeras.kernels.kernel import kernel
from gpukeras.kernels.windows import windows_of

__all__ = ["depthwise", "depthwise_input_gradient", "depthwise_kernel_gradient"]

_CUDA = cuda.Source("depthwise")


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
    _CUDA.places("depthwise", y, filters, windows, multiplier, x, weights, y)
    return y


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
    rows, columns = dy.size // filters, windows.count * filters
    settings = cuda.geometry(windows, devices.array_module(x)), filters, filters // channels
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
