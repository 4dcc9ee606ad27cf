"""Convolution over any number of spatial axes by columns and matrix products, channels last.

    x (batch, *space, channels), weights (*size, channels / groups, filters)
    ->  y (batch, *grid, filters)

`windows` (`gpukeras.kernels.windows.Windows`) says which places of x each place of y sees. The
columns of x are one row per place of y with everything that its window sees; y is their product
with the weights as a matrix, and the weights' gradient the product of their transpose with dy.

How the CPU walks over columns, and back from them, is in `gpukeras.kernels.columns`. On a GPU the optional library
cuDNN computes what it has an engine for; what is one matrix product over x as it lies needs none.
"""

import math

import numpy as np

from gpukeras.backend import blas, cuda, cudnn, devices, graphs, memory, threads
from gpukeras.kernels import blocks, columns
from gpukeras.kernels.activation import relu_backward
from gpukeras.kernels.columns import join_matrices, matrices_of, mirrored, places_of, split
from gpukeras.kernels.deferred import Deferred, as_array
from gpukeras.kernels.kernel import kernel
from gpukeras.kernels.linear import finish_on_gpu, sum_of_rows
from gpukeras.kernels.windows import windows_of

__all__ = [
    "bias_gradient",
    "convolve",
    "convolve_and_kernel_gradient",
    "convolve_gradients",
    "convolve_input_gradient",
    "convolve_kernel_gradient",
    "finish",
    "rectifier_gradient",
]

_CUDA = cuda.Source("convolution")

# Columns that a GPU makes take at most so many bytes; more images than fit go one part after the other.
_MOST_COLUMNS = 256 << 20

# Multiply-adds from which on cuDNN's engines were the faster ones on an H200, for 1 to 512 channels. Below they lose to
# the launches that come with them, which convert and clear arrays, most of all for the kernel's gradient.
_LEAST_FOR_CUDNN = {"forward": 1 << 28, "input_gradient": 1 << 28, "kernel_gradient": 1 << 30}

# Below so many elements the bias is added in one plain pass.
_SMALL = 1 << 13
# Elements from which on all threads take part in the rectifier's gradient.
_THREADED = 1 << 19


@kernel
def convolve(x, weights, windows, bias=None, is_rectified=False):
    """y = columns(x) · weights + bias, for each group of channels with filters of its own.

    Of y only the positive part is kept where `is_rectified`.
    """
    groups = x.shape[-1] // weights.shape[-2]
    y = blas.matmul(_whole_columns(x, windows, groups), matrices_of(weights, groups))
    y = y.transpose(1, 0, 2).reshape(x.shape[0], *windows.grid, weights.shape[-1])
    return finish.reference(y, bias, is_rectified)


@convolve.cpu
def convolve(x, weights, windows, bias=None, is_rectified=False):
    groups = x.shape[-1] // weights.shape[-2]
    if windows.is_pointwise and groups == 1:
        y = blas.matmul(x.reshape(-1, x.shape[-1]), weights.reshape(weights.shape[-2:]))
        y = y.reshape(*x.shape[:-1], weights.shape[-1])
    elif groups == 1 and columns.has_few_filters(weights, windows):
        return columns.scatter(x, mirrored(weights, 1), windows.mirrored, 1, bias, is_rectified)
    else:
        y = np.empty((len(x), *windows.grid, weights.shape[-1]), x.dtype)
        columns.gather(x, windows, groups, y, weights, bias, is_rectified)
        return y
    return finish(y, bias, is_rectified)


@convolve.cuda(strided=("weights",))
def convolve(x, weights, windows, bias=None, is_rectified=False):
    is_for_cudnn = _is_for_cudnn("forward", x, weights.size, windows)
    if is_for_cudnn and (y := cudnn.convolve(x, weights, windows)) is not None:
        return finish_on_gpu(y, bias, is_rectified)
    if not _is_for_gpu(x, windows):
        return NotImplemented
    filters, groups = weights.shape[-1], x.shape[-1] // weights.shape[-2]
    y = devices.array_module(x).empty((x.shape[0], *windows.grid, filters), x.dtype)
    for images in _parts_on_gpu(x, windows):
        made, part = _columns_on_gpu(x[images], windows, groups), y[images]
        if groups == 1:
            product = made[0], weights.reshape(-1, filters)
            rows = part.reshape(-1, filters)
            if bias is not None:
                epilogue = "relu_bias" if is_rectified else "bias"
                if blas.finished_matmul(*product, epilogue, bias, rows) is not None:
                    continue
            blas.matmul(*product, out=rows)
        else:
            split(part, groups)[...] = blas.matmul(made, matrices_of(weights, groups))
        finish_on_gpu(part, bias, is_rectified)
    return y


@convolve.samples
def convolve(random, dtype):
    for x, weights, windows in _samples(random, dtype):
        yield x, weights, windows
        yield x, weights, windows, random(weights.shape[-1:], dtype)
        yield x, weights, windows, random(weights.shape[-1:], dtype) * 0.1, True


@kernel
def convolve_input_gradient(dy, weights, windows, groups, bias=None, is_rectified=False):
    """dx = Σ over the places of a window of dy · weights[place]ᵀ, put where the place is.

    For transposed convolutions + bias, and only the positive part of it where `is_rectified`.
    """
    channels = weights.shape[-2]
    dx = devices.array_module(dy).zeros((dy.shape[0], *windows.space, groups, channels), dy.dtype)
    rows, places = split(dy, groups), places_of(weights, windows, groups)
    for i, (out, into) in enumerate(windows.taps):
        share = blas.matmul(rows, places[:, i]).transpose(1, 0, 2)
        dx[into] += share.reshape(*dy.shape[:-1], groups, channels)[out]
    return finish.reference(dx.reshape(*dx.shape[:-2], groups * channels), bias, is_rectified)


@convolve_input_gradient.cpu
def convolve_input_gradient(dy, weights, windows, groups, bias=None, is_rectified=False):
    dy = as_array(dy)
    if windows.is_pointwise and groups == 1:
        dx = blas.matmul(dy.reshape(-1, dy.shape[-1]), weights.reshape(weights.shape[-2:]).T)
        return finish(dx.reshape(*dy.shape[:-1], dx.shape[-1]), bias, is_rectified)
    if not columns.goes_back_by_columns(weights, windows, groups):
        return columns.scatter(dy, weights, windows, groups, bias, is_rectified)
    if windows.mirrored is None:
        return columns.interleave(dy, weights, windows, groups, bias, is_rectified)
    dx = np.empty((len(dy), *windows.space, groups * weights.shape[-2]), dy.dtype)
    columns.gather(dy, windows.mirrored, groups, dx, mirrored(weights, groups), bias, is_rectified)
    return dx


@convolve_input_gradient.cuda(strided=("dy", "weights"))
def convolve_input_gradient(dy, weights, windows, groups, bias=None, is_rectified=False):
    is_for_cudnn = _is_for_cudnn("input_gradient", dy, weights.size, windows)
    if is_for_cudnn and (dx := cudnn.input_gradient(dy, weights, windows, groups)) is not None:
        return finish_on_gpu(dx, bias, is_rectified)
    channels = groups * weights.shape[-2]
    dx = devices.array_module(dy).empty((dy.shape[0], *windows.space, channels), dy.dtype)
    if not _is_for_gpu(dx, windows):
        return NotImplemented
    transposed = matrices_of(weights, groups).swapaxes(1, 2)
    for images in _parts_on_gpu(dx, windows):
        made = _product(split(dy[images], groups), transposed).astype(dy.dtype, copy=False)
        _CUDA.places("sum_of_columns", dx[images], channels, windows, groups, made, dx[images])
    return finish_on_gpu(dx, bias, is_rectified)


@convolve_input_gradient.samples
def convolve_input_gradient(random, dtype):
    for x, weights, windows in _samples(random, dtype):
        dy, groups = _small_dy(random, dtype, x, weights, windows), x.shape[-1] // weights.shape[-2]
        yield dy, weights, windows, groups
        yield dy, weights, windows, groups, random(x.shape[-1:], dtype) * 0.001, True


@kernel
def convolve_kernel_gradient(x, dy, windows, groups, out=None):
    """dweights = columns(x)ᵀ · dy, for each group.

    Args:
        out: Array of their shape to write them to and return, of float32 beside 16 bits; None for a new one.
    """
    d = blas.matmul(_whole_columns(x, windows, groups).swapaxes(1, 2), split(dy, groups))
    return _placed(join_matrices(d, windows), out)


def _placed(result, out):
    """The result, in `out` where there is one."""
    if out is None:
        return result
    out[...] = result
    return out


@convolve_kernel_gradient.cpu
def convolve_kernel_gradient(x, dy, windows, groups, out=None):
    if windows.is_pointwise and groups == 1:
        d = blas.matmul(x.reshape(-1, x.shape[-1]).T, as_array(dy).reshape(-1, dy.shape[-1]))
        return _placed(d.reshape(*windows.size, *d.shape), out)
    return _placed(columns.gather(x, windows, groups, dy=dy), out)


@convolve_kernel_gradient.cuda(strided=("dy",), wide=("out",))
def convolve_kernel_gradient(x, dy, windows, groups, out=None):
    size = windows.count * x.shape[-1] // groups * dy.shape[-1]
    is_for_cudnn = _is_for_cudnn("kernel_gradient", x, size, windows)
    if is_for_cudnn and (d := cudnn.kernel_gradient(x, dy, windows, groups, out)) is not None:
        return d
    if not x.size or not _is_for_gpu(x, windows):
        return NotImplemented
    filters = dy.shape[-1]
    if out is not None and groups == 1:
        d = out.reshape(1, -1, filters)
    else:  # with several groups, their matrices lie side by side in the result
        size = groups, windows.count * x.shape[-1] // groups, filters // groups
        d = devices.array_module(x).empty(size, cuda.wide_dtype(x.dtype))
    for i, images in enumerate(_parts_on_gpu(x, windows)):
        made = _columns_on_gpu(x[images], windows, groups).swapaxes(1, 2)
        parts_of_dy = split(dy[images], groups)
        for group in range(groups):
            blas.scaled_matmul(made[group], parts_of_dy[group], d[group], beta=0.0 if i == 0 else 1.0)
    if out is None:
        return join_matrices(d, windows).astype(x.dtype, copy=False)
    return out if groups == 1 else _placed(join_matrices(d, windows), out)


@convolve_kernel_gradient.samples
def convolve_kernel_gradient(random, dtype):
    for x, weights, windows in _samples(random, dtype):
        settings = windows, x.shape[-1] // weights.shape[-2]
        yield x, _small_dy(random, dtype, x, weights, windows), *settings
        yield x, _small_dy(random, dtype, x, weights, windows), *settings, random(weights.shape, dtype)


@kernel
def convolve_gradients(x, dy, weights, windows, groups, out=None):
    """Both `convolve_input_gradient` and `convolve_kernel_gradient`."""
    return (
        convolve_input_gradient.reference(dy, weights, windows, groups),
        convolve_kernel_gradient.reference(x, dy, windows, groups, out),
    )


@convolve_gradients.cpu
def convolve_gradients(x, dy, weights, windows, groups, out=None):
    if windows.mirrored is None or windows.is_pointwise or not columns.goes_back_by_columns(weights, windows, groups):
        dy = as_array(dy)
        dx = convolve_input_gradient(dy, weights, windows, groups)
        return dx, convolve_kernel_gradient(x, dy, windows, groups, out)
    # Columns of dy serve both: dx is their product with the weights, the weights' gradient that with x.
    dx, d = convolve_and_kernel_gradient(dy, mirrored(weights, groups), x, windows.mirrored, groups)
    return dx, _placed(mirrored(d, groups), out)


@convolve_gradients.cuda(strided=("dy", "weights"), wide=("out",))
def convolve_gradients(x, dy, weights, windows, groups, out=None):
    join = graphs.aside(lambda: convolve_kernel_gradient(x, dy, windows, groups, out))
    dx = convolve_input_gradient(dy, weights, windows, groups)
    return dx, join()


@convolve_gradients.samples
def convolve_gradients(random, dtype):
    for x, weights, windows in _samples(random, dtype):
        settings = weights, windows, x.shape[-1] // weights.shape[-2]
        yield x, _small_dy(random, dtype, x, weights, windows), *settings
        yield x, _small_dy(random, dtype, x, weights, windows), *settings, random(weights.shape, dtype)


@kernel
def convolve_and_kernel_gradient(x, weights, dy, windows, groups, out=None):
    """Both `convolve` of x and its `convolve_kernel_gradient` with dy."""
    return convolve.reference(x, weights, windows), convolve_kernel_gradient.reference(x, dy, windows, groups, out)


@convolve_and_kernel_gradient.cpu
def convolve_and_kernel_gradient(x, weights, dy, windows, groups, out=None):
    if windows.is_pointwise:
        x, dy = as_array(x), as_array(dy)
        return convolve(x, weights, windows), convolve_kernel_gradient(x, dy, windows, groups, out)
    y = np.empty((x.shape[0], *windows.grid, weights.shape[-1]), x.dtype)
    return y, _placed(columns.gather(x, windows, groups, y, weights, dy=dy), out)


@convolve_and_kernel_gradient.cuda(strided=("weights", "dy"), wide=("out",))
def convolve_and_kernel_gradient(x, weights, dy, windows, groups, out=None):
    join = graphs.aside(lambda: convolve_kernel_gradient(x, dy, windows, groups, out))
    y = convolve(x, weights, windows)
    return y, join()


@convolve_and_kernel_gradient.samples
def convolve_and_kernel_gradient(random, dtype):
    for x, weights, windows in _samples(random, dtype):
        settings = windows, x.shape[-1] // weights.shape[-2]
        yield x, weights, _small_dy(random, dtype, x, weights, windows), *settings, random(weights.shape, dtype)


@kernel
def finish(y, bias, is_rectified):
    """y += bias, and its positive part where `is_rectified`. In place."""
    if bias is not None:
        y += bias
    if is_rectified:
        devices.array_module(y).maximum(y, 0, out=y)
    return y


@finish.cpu
def finish(y, bias, is_rectified):
    if y.size < _SMALL:
        return finish.reference(y, bias, is_rectified)
    columns.finish(y, None if bias is None else np.tile(bias, y.shape[-2]), is_rectified)
    return y


@finish.cuda
def finish(y, bias, is_rectified):
    return finish_on_gpu(y, bias, is_rectified)


@finish.samples
def finish(random, dtype):
    yield random((2, 5, 6, 3), dtype), random((3,), dtype), False
    yield random((4, 40, 50, 8), dtype), random((8,), dtype), True
    yield random((4, 40, 50, 8), dtype), None, True
    yield random((0, 4, 3), dtype), random((3,), dtype), False


@kernel
def bias_gradient(dy, out=None):
    """dbias = Σ dy over all axes but the filters'; `out` as for `convolve_kernel_gradient`."""
    return _placed(dy.reshape(-1, dy.shape[-1]).sum(axis=0), out)


@bias_gradient.cpu
def bias_gradient(dy, out=None):
    filters = dy.shape[-1]
    # The lines' sum first: longer inner loops, and shorter sums, which keeps more digits.
    lines = dy.reshape(-1, dy.shape[-2] * filters).sum(axis=0)
    return _placed(lines.reshape(-1, filters).sum(axis=0), out)


@bias_gradient.cuda(wide=("out",))
def bias_gradient(dy, out=None):
    filters = dy.shape[-1]
    place = None if out is None else out[None]
    sums = _CUDA.columns("bias_gradient", dy, dy.size // filters, filters, 1, dy, out=place)
    return sums[0].astype(dy.dtype, copy=False) if out is None else out


@bias_gradient.samples
def bias_gradient(random, dtype):
    yield (random((2, 5, 6, 3), dtype),)
    yield (random((4, 9, 8), dtype),)
    yield (random((0, 4, 3), dtype),)
    yield random((3, 300, 8), dtype), random((8,), dtype)


@kernel
def rectifier_gradient(dy, y, needs_sum, out=None):
    """dy where y > 0, else 0; and its `bias_gradient`, or None."""
    dy = dy * (y > 0)
    return dy, bias_gradient.reference(dy, out) if needs_sum else None


@rectifier_gradient.cpu
def rectifier_gradient(dy, y, needs_sum, out=None):
    if isinstance(dy, Deferred):
        deferred = dy.after_rectifier(y)
        if deferred is not None:
            return deferred, _placed(deferred.sum_of_rows(), out) if needs_sum else None
        dy = dy.array()
    drows = np.empty(y.shape, dy.dtype)
    filters = y.shape[-1]
    count = max(min(-(-y.size // blocks.THREAD_BLOCK), len(y)), 1)
    cuts = [slice(len(y) * i // count, len(y) * (i + 1) // count) for i in range(count)]
    sums = np.empty((count, filters), dy.dtype) if needs_sum else None
    boolean = np.dtype(bool)

    def compute(i):
        with memory.scratch((cuts[i].stop - cuts[i].start, *y.shape[1:]), boolean) as is_positive:
            np.greater(y[cuts[i]], 0, out=is_positive)
            np.multiply(dy[cuts[i]], is_positive, out=drows[cuts[i]])
        if sums is not None:
            sums[i] = sum_of_rows(drows[cuts[i]].reshape(-1, filters))

    if y.size >= _THREADED:
        threads.run(compute, range(count), uses_blas=True)
    else:
        for i in range(count):
            compute(i)
    return drows, None if sums is None else _placed(sums.sum(axis=0), out)


@rectifier_gradient.cuda(strided=("dy",), wide=("out",))
def rectifier_gradient(dy, y, needs_sum, out=None):
    if not needs_sum:
        return relu_backward(dy, y), None
    dy = devices.array_module(dy).ascontiguousarray(dy)
    if not cuda.is_plain(dy, y):
        return NotImplemented
    dx = devices.array_module(dy).empty_like(dy)
    rows, filters = math.prod(y.shape[:-1]), y.shape[-1]
    place = None if out is None else out[None]
    sums = _CUDA.columns("rectifier_gradient", dy, rows, filters, 1, dy, y, dx, out=place)
    return dx, sums[0].astype(dy.dtype, copy=False) if out is None else out


@rectifier_gradient.samples
def rectifier_gradient(random, dtype):
    for shape in ((2, 5, 6, 3), (4, 9, 8), (0, 4, 3), (40, 30, 40, 16)):
        yield random(shape, dtype) * 0.001, abs(random(shape, dtype)).round(), True
        yield random(shape, dtype) * 0.001, abs(random(shape, dtype)).round(), True, random(shape[-1:], dtype)
    for needs_sum in (False, True):
        yield random((2, 3, 5, 6), dtype).swapaxes(1, 3), abs(random((2, 6, 5, 3), dtype)).round(), needs_sum


def _whole_columns(x, windows, groups):
    """What every window sees: (groups, batch · grid, places · channels of a group)."""
    if windows.is_pointwise:
        return split(x, groups)
    xp = devices.array_module(x)
    make = xp.zeros if windows.is_padded else xp.empty
    channels = x.shape[-1] // groups
    made = make((x.shape[0], *windows.grid, groups, windows.count, channels), x.dtype)
    x = x.reshape(*x.shape[:-1], groups, channels)
    for i, (out, into) in enumerate(windows.taps):
        made[(*out, ..., i, slice(None))] = x[into]
    return made.reshape(-1, groups, windows.count * channels).transpose(1, 0, 2)


def _product(a, b):
    """a · b for each group; one group's matrices need no product in batches."""
    return blas.matmul(a[0], b[0])[None] if len(a) == 1 else blas.matmul(a, b)


def _is_for_cudnn(kind, x, size, windows):
    """Whether a convolution of a batch x or dy with so many weights is no plain product, and large enough for cuDNN."""
    return not windows.is_pointwise and len(x) * math.prod(windows.grid) * size >= _LEAST_FOR_CUDNN[kind]


def _is_for_gpu(x, windows):
    """Whether CUDA kernels can number the elements of x (batch, *space, channels) and of one image's columns."""
    size = math.prod(windows.grid) * windows.count * x.shape[-1]
    return cuda.has_places(windows, x) and size <= cuda.MAX_INDEX


def _columns_on_gpu(x, windows, groups):
    """`_whole_columns` by one CUDA kernel, in one piece of memory."""
    if windows.is_pointwise:
        return split(x, groups)
    rows, width = x.shape[0] * math.prod(windows.grid), windows.count * x.shape[-1] // groups
    made = devices.array_module(x).empty((groups, rows, width), x.dtype)
    _CUDA.places("columns", made, x.shape[-1], windows, groups, x, made)
    return made


def _parts_on_gpu(x, windows):
    """Slices of images, those of x (batch, *space, channels), whose columns are no more than a GPU shall make at once.

    A function of the shapes alone; a kernel numbers a part's elements in 32 bits.
    """
    size = math.prod(windows.grid) * windows.count * x.shape[-1]
    most = min(_MOST_COLUMNS // x.dtype.itemsize, cuda.MAX_INDEX)
    step = max(1, most // max(size, 1))
    return [slice(start, start + step) for start in range(0, x.shape[0], step)]


def _small_dy(random, dtype, x, weights, windows):
    return random((x.shape[0], *windows.grid, weights.shape[-1]), dtype) * 0.01


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
