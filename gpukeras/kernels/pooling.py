"""Pooling over any number of spatial axes by slices, one pass for each place of the window.

`windows` (`gpukeras.kernels.windows.Windows`) says which places of x (batch, *space, channels)
each place of y (batch, *grid, channels) sees.
"""

import functools
import math

import numpy as np

from gpukeras.backend import devices
from gpukeras.kernels.kernel import kernel
from gpukeras.kernels.windows import windows_of

__all__ = ["average_pool", "average_pool_gradient", "max_pool", "max_pool_gradient"]

# On the CPU a few images at a time go through all passes, so that the later ones find them in cache.
_BLOCK_BYTES = 1 << 20


@kernel
def max_pool(x, windows):
    """y = maximum over the places of each window; padding never wins."""
    xp = devices.array_module(x)
    y = xp.full((x.shape[0], *windows.grid, x.shape[-1]), _lowest(x.dtype), x.dtype)
    for out, into in windows.taps:
        y[out] = xp.maximum(y[out], x[into])
    return y


@max_pool.cpu
def max_pool(x, windows):
    y = np.empty((x.shape[0], *windows.grid, x.shape[-1]), x.dtype)
    for images in _blocks(x):
        block, out_block = x[images], y[images]
        taps = windows.taps
        if windows.is_padded:
            out_block[...] = _lowest(x.dtype)
        else:
            out_block[...] = block[taps[0][1]]
            taps = taps[1:]
        for out, into in taps:
            np.maximum(out_block[out], block[into], out=out_block[out])
    return y


@max_pool.samples
def max_pool(random, dtype):
    yield from _samples(random, dtype)


@kernel
def max_pool_gradient(dy, x, y, windows):
    """dx = dy at the first place of each window that holds its maximum."""
    xp = devices.array_module(x)
    dx = xp.zeros(x.shape, dy.dtype)
    is_open = xp.ones(y.shape, bool)  # windows whose maximum is still to come
    for out, into in windows.taps:
        is_here = (x[into] == y[out]) & is_open[out]
        dx[into] += dy[out] * is_here
        is_open[out] &= ~is_here
    return dx


@max_pool_gradient.cpu
def max_pool_gradient(dy, x, y, windows):
    dx = np.zeros(x.shape, dy.dtype)
    # The part of dy that has not found its place yet; what a place takes is cut out by a mask of
    # bits, which costs a third of NumPy's `where` and lets no inf or nan through.
    bits = np.dtype(f"i{dy.dtype.itemsize}")
    for images in _blocks(x):
        block, out_block, dblock = x[images], y[images], dx[images]
        rest = dy[images].view(bits).copy()
        is_here, mask = np.empty(rest.shape, bool), np.empty(rest.shape, bits)
        for out, into in windows.taps[:-1]:
            here = is_here[out]
            taken = mask[out]
            np.equal(block[into], out_block[out], out=here)
            np.copyto(taken, np.negative(here.view(np.int8)))  # 0 or all bits
            taken &= rest[out]
            rest[out] ^= taken
            if windows.is_disjoint:
                dblock[into] = taken.view(dy.dtype)
            else:
                dblock[into] += taken.view(dy.dtype)
        out, into = windows.taps[-1]
        dblock[into] += rest[out].view(dy.dtype)
    return dx


@max_pool_gradient.samples
def max_pool_gradient(random, dtype):
    for x, windows in _samples(random, dtype):
        x = (x * 2).round()  # with ties
        y = max_pool.reference(x, windows)
        yield random(y.shape, dtype), x, y, windows


@kernel
def average_pool(x, windows):
    """y = mean over the places of each window that lie inside x."""
    xp = devices.array_module(x)
    y = xp.zeros((x.shape[0], *windows.grid, x.shape[-1]), x.dtype)
    for out, into in windows.taps:
        y[out] += x[into]
    y *= _one_over_count(windows, x)
    return y


@average_pool.cpu
def average_pool(x, windows):
    y = np.zeros((x.shape[0], *windows.grid, x.shape[-1]), x.dtype)
    share = _one_over_count(windows, x)
    for images in _blocks(x):
        block, out_block = x[images], y[images]
        for out, into in windows.taps:
            np.add(out_block[out], block[into], out=out_block[out])
        out_block *= share
    return y


@average_pool.samples
def average_pool(random, dtype):
    yield from _samples(random, dtype)


@kernel
def average_pool_gradient(dy, windows):
    """dx = Σ over the windows that see a place of dy / count."""
    xp = devices.array_module(dy)
    shares = dy * _one_over_count(windows, dy)
    dx = xp.zeros((dy.shape[0], *windows.space, dy.shape[-1]), dy.dtype)
    for out, into in windows.taps:
        dx[into] += shares[out]
    return dx


@average_pool_gradient.cpu
def average_pool_gradient(dy, windows):
    dx = np.zeros((dy.shape[0], *windows.space, dy.shape[-1]), dy.dtype)
    share = _one_over_count(windows, dy)
    for images in _blocks(dx):
        shares, dblock = dy[images] * share, dx[images]
        for out, into in windows.taps:
            if windows.is_disjoint:
                dblock[into] = shares[out]
            else:
                np.add(dblock[into], shares[out], out=dblock[into])
    return dx


@average_pool_gradient.samples
def average_pool_gradient(random, dtype):
    for x, windows in _samples(random, dtype):
        yield random((x.shape[0], *windows.grid, x.shape[-1]), dtype), windows


def _blocks(x):
    """Slices of a few images each."""
    step = max(_BLOCK_BYTES // max(x[:1].nbytes, 1), 1)
    return [slice(i, i + step) for i in range(0, len(x), step)]


def _one_over_count(windows, x):
    """1 / how many places of a window lie inside x: a number, or an array (*grid, 1)."""
    if not windows.is_padded:
        return 1.0 / windows.count
    return _one_over_counts(windows, x.dtype, devices.array_module(x))


@functools.lru_cache(maxsize=64)  # made once: a captured step may not copy from the host
def _one_over_counts(windows, dtype, xp):
    counts = functools.reduce(lambda grid, axis: [n * k for n in grid for k in axis], windows.places_inside(), [1])
    return xp.asarray([1.0 / n for n in counts], dtype=dtype).reshape(*windows.grid, 1)


def _lowest(dtype):
    """What is not larger than any number of a dtype."""
    return -math.inf if dtype.kind not in "iub" else (0 if dtype.kind in "ub" else -(2 ** (8 * dtype.itemsize - 1)))


def _samples(random, dtype):
    def sample(x, size, strides, padding):
        return random(x, dtype), windows_of(x[1:-1], size, strides, padding, (1,) * len(size))

    yield sample((3, 8, 9, 4), (2, 2), (2, 2), "valid")
    yield sample((3, 8, 9, 4), (2, 2), (2, 2), "same")
    yield sample((2, 7, 7, 3), (3, 2), (1, 2), "same")
    yield sample((2, 9, 5), (2,), (3,), "valid")
    yield sample((2, 4, 5, 6, 2), (2, 2, 3), (2, 2, 2), "valid")
    yield sample((2, 2, 3, 1), (5, 5), (5, 5), "same")
    yield sample((3, 70, 70, 32), (3, 3), (2, 2), "same")  # several blocks
