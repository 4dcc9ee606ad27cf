"""Affine maps, with bias and rectifier in the same pass over many rows; their gradients, and sums over many rows."""

import functools

import numpy as np

from gpukeras.backend import blas, cuda, devices, threads
from gpukeras.kernels import blocks, lines
from gpukeras.kernels.kernel import kernel

__all__ = [
    "MANY_ROWS",
    "finish_on_gpu",
    "linear",
    "linear_gradients",
    "linear_input_gradient",
    "ones",
    "sum_of_rows",
]

_CUDA = cuda.Source("linear")

# OpenBLAS's own threads meet several times within a product. Blocks of rows, each multiplied by one thread alone, meet
# once, and the bias is added while the block is in the cache. Measured on two cores with 4096 rows and a bias: 128 ->
# 128 2.2 ms by OpenBLAS's threads, 1.8 in blocks; 128 -> 512 6.2 and 5.3; 512 -> 128 4.8 and 4.8. With 2048 rows of
# 128 -> 128 blocks take longer. Products that sum over the rows, as gradients of kernels do, gain nothing.
MANY_ROWS = 2048
_PRODUCTS = 1 << 26
_BLOCK = 512  # rows; 256 and 1024 took the same time

# On a GPU the library's products with few outputs take 4 to 8 microseconds however few numbers they multiply: they have
# too few blocks. Up to these limits (rows, outputs, numbers of a kernel, multiplications), which are estimates, kernels
# of ours multiply; they never round float32 to TF32.
_FEW_ROWS, _FEW_OUTPUTS, _FEW_NUMBERS, _FEW_PRODUCTS = 1024, 32, 1 << 16, 1 << 23
_ROWS_OF_EACH = 256  # up to which a block has one row of y; from there on four, as linear.cu has it
_ACROSS, _DOWN, _TWO = 8, 32, 2  # packs and rows of a block's part of dx, packs of x that a block makes dkernel of


@functools.lru_cache(maxsize=32)
def ones(size, dtype):
    """A vector of ones, not to be written: a product with it sums rows or columns by BLAS."""
    vector = np.ones(size, dtype)
    vector.flags.writeable = False
    return vector


@kernel
def linear(x, kernel, bias=None, is_rectified=False):
    """x · kernel + bias, and the positive part of it where `is_rectified`.

    Shapes:
        x (rows, n), kernel (n, m), bias (m,) or None  ->  y (rows, m)
    """
    return _finish(blas.matmul(x, kernel), bias, is_rectified)


def _finish(y, bias, is_rectified):
    if bias is not None:
        y += bias
    if is_rectified:
        devices.array_module(y).maximum(y, 0, out=y)
    return y


def _finish_on_numpy(y, bias, is_rectified):
    if bias is not None:
        y += bias
    if is_rectified:
        blocks.with_number(np.maximum, y, 0.0, y)
    return y


@linear.cpu
def linear(x, kernel, bias=None, is_rectified=False):
    rows = len(x)
    if rows < MANY_ROWS or rows * kernel.size < _PRODUCTS or x.dtype != kernel.dtype or x.dtype.char not in "fd":
        return _finish_on_numpy(blas.matmul(x, kernel), bias, is_rectified)
    y = np.empty((rows, kernel.shape[1]), x.dtype)

    def block(start):
        part = y[start : start + _BLOCK]
        np.dot(x[start : start + _BLOCK], kernel, out=part)
        _finish_on_numpy(part, bias, is_rectified)

    threads.run(block, range(0, rows, _BLOCK), uses_blas=True)
    return y


@linear.cuda(strided=("x", "kernel"))
def linear(x, kernel, bias=None, is_rectified=False):
    y = _few_outputs(x, kernel, bias, is_rectified)
    if y is not None:
        return y
    if bias is not None:
        y = lines.matmul(x, kernel, epilogue="relu_bias" if is_rectified else "bias", vector=bias)
    return finish_on_gpu(lines.matmul(x, kernel), bias, is_rectified) if y is None else y


def _few_outputs(x, kernel, bias, is_rectified):
    """`linear` by a kernel for few outputs; None where there are more."""
    (rows, n), m = x.shape, kernel.shape[1]
    held = cuda.lanes(x.dtype) * cuda.THREADS  # numbers of x that a block takes, for each of four rows
    if not _has_few_outputs(rows, n, m, x, kernel, bias) or n > 4 * held or not (bias is None or bias.dtype == x.dtype):
        return None
    has_many = rows > _ROWS_OF_EACH and n <= held
    blocks = -(-rows // 4) if has_many else rows
    y = devices.array_module(x).empty((rows, m), x.dtype)
    settings = rows, n, m, has_many, x, kernel, bias, is_rectified, y
    _CUDA.launch("linear_of_few", x, (blocks,), (cuda.THREADS,), *settings)
    return y


def _has_few_outputs(rows, n, m, *arrays):
    """Whether the product (rows, n) · (n, m), or one of its gradients, is one that our own kernels are for."""
    return (
        0 < rows <= _FEW_ROWS
        and 0 < m <= _FEW_OUTPUTS
        and 0 < n * m <= _FEW_NUMBERS
        and rows * n * m <= _FEW_PRODUCTS
        and all(a is None or a.flags.c_contiguous for a in arrays)
    )


def finish_on_gpu(y, bias, is_rectified):
    """Add the bias of the last axis and rectify, in place and in one pass."""
    if y.size > cuda.MAX_INDEX or (bias is not None and bias.dtype != y.dtype):
        return _finish(y, bias, is_rectified)
    if bias is not None or is_rectified:
        _CUDA.elementwise("finish", y, y.shape[-1], bias, is_rectified, y)
    return y


@linear.samples
def linear(random, dtype):
    for rows in (3, 5003):
        x, kernel, bias = random((rows, 128), dtype), random((128, 110), dtype) * 0.1, random((110,), dtype)
        yield x, kernel, bias
        yield x, kernel, None, True
        yield x.T.copy().T, kernel.T.copy().T, bias, True
    for rows, n, m in _FEW_SAMPLES:
        x, kernel, bias = random((rows, n), dtype), random((n, m), dtype) * n**-0.5, random((m,), dtype)
        yield x, kernel, bias
        yield x, kernel, None, True


# Rows, n and m for few outputs: not all of them by 16 bytes, and more rows than have a block each.
_FEW_SAMPLES = (1, 1, 1), (5, 512, 10), (7, 131, 3), (33, 40, 16), (2, 1030, 32), (259, 36, 10)


@kernel
def linear_input_gradient(dy, kernel):
    """dx = dy · kernelᵀ: the gradient of what `linear` multiplies with a kernel.

    Shapes:
        dy (rows, m), kernel (n, m)  ->  dx (rows, n)
    """
    return blas.matmul(dy, kernel.T)


@linear_input_gradient.cpu
def linear_input_gradient(dy, kernel):
    return linear.on_numpy(dy, kernel.T)


@linear_input_gradient.cuda(strided=("dy", "kernel"))
def linear_input_gradient(dy, kernel):
    rows, (n, m) = len(dy), kernel.shape
    if not _has_few_outputs(rows, n, m, dy, kernel):
        return lines.matmul(dy, kernel.T)
    dx = devices.array_module(dy).empty((rows, n), dy.dtype)
    grid = -(-n // (_ACROSS * cuda.lanes(dy.dtype))), -(-rows // _DOWN)
    _CUDA.launch("input_gradient_of_few", dy, grid, (_ACROSS, _DOWN), rows, n, m, dy, kernel, dx)
    return dx


@linear_input_gradient.samples
def linear_input_gradient(random, dtype):
    for rows in (3, 5003):
        dy, kernel = random((rows, 110), dtype), random((128, 110), dtype) * 0.1
        yield dy, kernel
        yield dy.T.copy().T, kernel.T.copy().T
    for rows, n, m in _FEW_SAMPLES:
        yield random((rows, m), dtype), random((n, m), dtype)


@kernel
def sum_of_rows(x):
    """Σ x over the rows of x (rows, n)."""
    return x.sum(axis=0)


@sum_of_rows.cpu
def sum_of_rows(x):
    if x.dtype.char not in "fd":
        return sum_of_rows.reference(x)
    return np.dot(ones(len(x), x.dtype), x)  # by BLAS, in half the time and with a quarter of the error


@sum_of_rows.cuda
def sum_of_rows(x):
    return _CUDA.columns("sum_of_rows", x, *x.shape, 1, x)[0].astype(x.dtype, copy=False)


@sum_of_rows.samples
def sum_of_rows(random, dtype):
    for rows in (3, 5000):
        yield (random((rows, 80), dtype) * rows**-0.5,)


@kernel
def linear_gradients(x, dy, places=(None, None), has_bias=True):
    """xᵀ · dy and Σ dy over the rows: the gradients of a kernel and a bias, given that of what `linear` makes of them.

    Args:
        x: Array (rows, n).
        dy: Array (rows, m).
        places: Arrays (n, m) and (m,) that the results may be written to, of the type of x or a wider one; None for new
            ones. A form may return others.
        has_bias: Whether there is a bias; without, its gradient is None.
    """
    dkernel, dbias = places
    if dkernel is None:
        dkernel = blas.matmul(x.T, dy)
    else:
        blas.scaled_matmul(x.T, dy, dkernel)
    if not has_bias:
        return dkernel, None
    if dbias is None:
        return dkernel, dy.sum(axis=0)
    dbias[...] = dy.sum(axis=0, dtype=dbias.dtype)
    return dkernel, dbias


@linear_gradients.cpu
def linear_gradients(x, dy, places=(None, None), has_bias=True):
    dkernel, dbias = places
    dtype = dy.dtype
    if (
        dtype.char not in "fd"
        or x.dtype != dtype
        or not (dkernel is None or dkernel.dtype == dtype)
        or not (dbias is None or dbias.dtype == dtype)
    ):
        return linear_gradients.reference(x, dy, places, has_bias)
    dkernel = blas.matmul(x.T, dy, dkernel)
    return dkernel, np.dot(ones(len(dy), dtype), dy, dbias) if has_bias else None


@linear_gradients.cuda(strided=("x", "dy"))
def linear_gradients(x, dy, places=(None, None), has_bias=True):
    dkernel, dbias = places
    dtype = x.dtype if dkernel is None else dkernel.dtype
    if not has_bias:
        dbias = None
    elif dbias is None or dbias.dtype != dtype:
        dbias = devices.array_module(x).empty(dy.shape[1], dtype)
    made = _gradients_of_few(x, dy, dkernel, dbias)
    if made is not None:
        return made, dbias
    if dbias is not None:
        made = lines.matmul(x.T, dy, dkernel, "sum_of_b", dbias)
        if made is not None:
            return made, dbias
    dkernel = lines.matmul(x.T, dy, dkernel)
    if dbias is None:
        return dkernel, None
    dbias[...] = sum_of_rows(devices.array_module(dy).ascontiguousarray(dy))
    return dkernel, dbias


def _gradients_of_few(x, dy, dkernel, dbias):
    """dkernel, and dbias where it is not None, by a kernel for few outputs; None where there are more."""
    (rows, n), m = x.shape, dy.shape[1]
    if not _has_few_outputs(rows, n, m, x, dy, dkernel, dbias):
        return None
    if dkernel is None:
        dkernel = devices.array_module(x).empty((n, m), x.dtype)
    if dkernel.dtype == x.dtype:
        places = dkernel, dbias, None, None
    elif dkernel.dtype == cuda.wide_dtype(x.dtype):
        places = None, None, dkernel, dbias
    else:
        return None
    blocks = -(-n // (_TWO * cuda.lanes(x.dtype))) + (dbias is not None)
    _CUDA.launch("gradients_of_few", x, (blocks,), (cuda.THREADS,), rows, n, m, x, dy, *places)
    return dkernel


@linear_gradients.samples
def linear_gradients(random, dtype):
    for rows in (3, 700):
        x, dy = random((rows, 40), dtype), random((rows, 30), dtype) * rows**-0.5
        yield x, dy
        yield x, dy, (random((40, 30), dtype), random((30,), dtype))
        yield x.T.copy().T, dy.T.copy().T, (None, random((30,), dtype))
        yield x, dy, (random((40, 30), dtype), None), False
    for rows, n, m in _FEW_SAMPLES:
        x, dy = random((rows, n), dtype), random((rows, m), dtype) * rows**-0.5
        yield x, dy
        yield x, dy, (random((n, m), dtype), random((m,), dtype))
        yield x, dy, (random((n, m), dtype), None), False
