"""Pooling over any number of spatial axes by slices, one pass for each place of the window.

`windows` (`gpukeras.kernels.windows.Windows`) says which places of x (batch, *space, channels)
each place of y (batch, *grid, channels) sees.
"""

import functools
import math

import numpy as np

from gpukeras.backend import cuda, devices, memory, threads
from gpukeras.kernels.activation import relu_backward
from gpukeras.kernels.deferred import Deferred
from gpukeras.kernels.kernel import kernel
from gpukeras.kernels.linear import sum_of_rows
from gpukeras.kernels.windows import windows_of

__all__ = ["average_pool", "average_pool_gradient", "deferred_max_pool_gradient", "max_pool", "max_pool_gradient"]

_CUDA = cuda.Source("pooling")

# On the CPU a few images at a time go through all passes, so that the later ones find them in cache: so many elements
# of x in one thread, and so many from which on all threads take part. Measured for 2x2 windows: 64x26x26x32 forward
# 0.9 ms in one thread, 0.6 in two, in blocks of 2^17 elements 1.05; 64x11x11x64, half a million, 0.2 and 0.3.
_BLOCK = 1 << 18
_THREADED = 1 << 20
_THREAD_BLOCK = 1 << 19
# Elements of x from which on its gradient waits for its use. A step of 64 images with two layers of convolution,
# rectifier and pooling took 17.4 ms with gradients computed at once, and 15.3 so.
_DEFERRED = 1 << 16


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

    def compute(images):
        block, out_block = x[images], y[images]
        taps = windows.taps
        if windows.is_padded:
            out_block[...] = _lowest(x.dtype)
        elif len(taps) > 1:
            np.maximum(block[taps[0][1]], block[taps[1][1]], out=out_block)
            taps = taps[2:]
        else:
            out_block[...] = block[taps[0][1]]
            taps = []
        for out, into in taps:
            np.maximum(out_block[out], block[into], out=out_block[out])

    _for_blocks(compute, x)
    return y


@max_pool.cuda
def max_pool(x, windows):
    return _pooled_on_gpu("max_pool", x, windows)


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
    dx = np.empty(x.shape, dy.dtype)
    _for_blocks(lambda images: _write_gradient(dy[images], x[images], y[images], windows, dx[images]), x)
    return dx


def _write_gradient(dy, x, y, windows, dx):
    boolean = np.dtype(bool)
    if not windows.is_tiling:
        dx[...] = 0
    with memory.scratch(y.shape, boolean) as is_here, memory.scratch(y.shape, boolean) as is_open:
        is_open.fill(True)  # windows whose maximum is still to come
        for out, into in windows.taps[:-1]:
            here, still = is_here[out], is_open[out]
            np.equal(x[into], y[out], out=here)
            here &= still
            still ^= here
            _add_chosen(dy[out], here, dx[into], windows.is_disjoint)
        out, into = windows.taps[-1]
        _add_chosen(dy[out], is_open[out], dx[into], windows.is_disjoint)


def _add_chosen(dy, is_chosen, dx, is_first):
    """dx += dy where it is chosen; `is_first` if nothing was added before."""
    if is_first:
        np.multiply(dy, is_chosen, out=dx)  # 0.6 of the time of a mask of bits, 0.2 of a copy with `where`
    else:
        dx += dy * is_chosen


def deferred_max_pool_gradient(dy, x, y, windows):
    """`max_pool_gradient`, computed where it is used if that can be."""
    is_plain = type(x) is type(y) is type(dy) is np.ndarray and x.dtype == dy.dtype and x.dtype.char in "fd"
    if is_plain and windows.is_disjoint and x.size >= _DEFERRED:
        return _MaxPoolGradient(dy, x, y, windows)
    return max_pool_gradient(dy, x, y, windows)


class _MaxPoolGradient(Deferred):
    def __init__(self, dy, x, y, windows):
        super().__init__(x.shape, dy.dtype)
        self.dy, self.x, self.y, self.windows = dy, x, y, windows

    def array(self):
        return max_pool_gradient(self.dy, self.x, self.y, self.windows)

    def write(self, samples, out):
        _write_gradient(self.dy[samples], self.x[samples], self.y[samples], self.windows, out)

    def after_rectifier(self, y):
        if y is not self.x:
            return None
        # Each dy goes to one place, where x is the maximum: the rectifier lets it pass where that is positive.
        return _MaxPoolGradient(relu_backward(self.dy, self.y), self.x, self.y, self.windows)

    def sum_of_rows(self):
        return sum_of_rows(self.dy.reshape(-1, self.dy.shape[-1]))


@max_pool_gradient.cuda
def max_pool_gradient(dy, x, y, windows):
    xp, channels = devices.array_module(x), x.shape[-1]
    dx = xp.empty_like(x)
    if not cuda.has_places(windows, x, y) or windows.count > np.iinfo(np.int16).max:
        return NotImplemented
    if _has_cells(windows):
        _launch_on_cells("max_pool_gradient_disjoint", dx, windows, dy, x, y, dx)
        return dx
    taps = xp.empty(y.shape, np.int16)
    _CUDA.places("places_of_maxima", y, channels, windows, x, y, taps)
    _CUDA.places("max_pool_gradient", dx, channels, windows, dy, taps, dx)
    return dx


def _has_cells(windows):
    """Whether every window lies within a cell of its own, from its first place to before the next one's."""
    return windows.is_disjoint and max(windows.dilation) == 1


def _launch_on_cells(name, dx, windows, *args):
    """Run a kernel whose threads have a cell each of dx (batch, *space, channels)."""
    count = len(dx) * math.prod(cuda.cells_of(windows)) * dx.shape[-1]
    numbers = cuda.geometry(windows, devices.array_module(dx))
    _CUDA.launch(name, dx, (cuda.blocks_of(count, dx.dtype),), (cuda.THREADS,), count, dx.shape[-1], numbers, *args)


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

    def compute(images):
        block, out_block = x[images], y[images]
        for out, into in windows.taps:
            np.add(out_block[out], block[into], out=out_block[out])
        out_block *= share

    _for_blocks(compute, x)
    return y


@average_pool.cuda
def average_pool(x, windows):
    return _pooled_on_gpu("average_pool", x, windows)


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

    def compute(images):
        shares, dblock = dy[images] * share, dx[images]
        for out, into in windows.taps:
            if windows.is_disjoint:
                dblock[into] = shares[out]
            else:
                np.add(dblock[into], shares[out], out=dblock[into])

    _for_blocks(compute, dx)
    return dx


@average_pool_gradient.cuda
def average_pool_gradient(dy, windows):
    dx = devices.array_module(dy).empty((dy.shape[0], *windows.space, dy.shape[-1]), dy.dtype)
    if not cuda.has_places(windows, dy, dx):
        return NotImplemented
    if _has_cells(windows):
        _launch_on_cells("average_pool_gradient_disjoint", dx, windows, dy, dx)
    else:
        _CUDA.places("average_pool_gradient", dx, dy.shape[-1], windows, dy, dx)
    return dx


@average_pool_gradient.samples
def average_pool_gradient(random, dtype):
    for x, windows in _samples(random, dtype):
        yield random((x.shape[0], *windows.grid, x.shape[-1]), dtype), windows


def _pooled_on_gpu(name, x, windows):
    y = devices.array_module(x).empty((x.shape[0], *windows.grid, x.shape[-1]), x.dtype)
    if not cuda.has_places(windows, x, y):
        return NotImplemented
    _CUDA.places(name, y, x.shape[-1], windows, x, y)
    return y


def _for_blocks(compute, x):
    """Call ``compute(images)`` for slices of a few images, on all threads where there is enough to do."""
    is_threaded = x.size >= _THREADED
    count = min(-(-x.size // (_THREAD_BLOCK if is_threaded else _BLOCK)), len(x))
    if is_threaded:
        count = min(count + count % 2, len(x))  # as many for each of two threads
    cuts = [slice(len(x) * i // count, len(x) * (i + 1) // count) for i in range(count)]
    if is_threaded:
        threads.run(compute, cuts)
    else:
        for images in cuts:
            compute(images)


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
    yield sample((2, 11, 7, 16), (2, 2), (2, 3), "valid")  # places that no window sees
    yield sample((2, 7, 9, 16), (3, 3), (3, 3), "same")
    yield sample((2, 4, 5, 6, 2), (2, 2, 3), (2, 2, 2), "valid")
    yield sample((2, 2, 3, 1), (5, 5), (5, 5), "same")
    yield sample((3, 70, 70, 32), (3, 3), (2, 2), "same")  # several blocks
