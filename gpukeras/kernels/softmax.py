"""Softmax and its logarithm over some axes, with their derivatives, in few passes over memory."""

import math

import numpy as np

from gpukeras.backend import cuda, devices, memory
from gpukeras.kernels import blocks
from gpukeras.kernels.kernel import kernel

__all__ = ["log_softmax", "log_softmax_backward", "softmax", "softmax_backward"]

_CUDA = cuda.Source("softmax")


@kernel
def softmax(x, y, axis=-1):
    """y ← exp(x - max x) / Σ exp(x - max x), maximum and sum over `axis`; y may be x itself."""
    xp = devices.array_module(x)
    xp.subtract(x, x.max(axis=axis, keepdims=True), out=y)
    xp.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


# Columns up to which rows are turned first: 128 rows of 10 took 7 us so, 16 otherwise; of 64 about the same.
_SHORT = 32


@softmax.cpu
def softmax(x, y, axis=-1):
    if not _is_for_blas(x, y):
        return softmax.reference(x, y, axis)
    if axis in (-1, x.ndim - 1):
        size = x.shape[-1]
        x_rows, y_rows = (x, y) if x.ndim == 2 else (x.reshape(-1, size), y.reshape(-1, size))
        if size <= _SHORT and x.size <= blocks.BLOCK:
            turned = x_rows.T.copy()
            turned -= np.maximum.reduce(turned, 0)
            np.exp(turned, out=turned)
            np.divide(turned, np.add.reduce(turned, 0), out=y_rows.T)
            return y
        ones = np.ones(size, x.dtype)

        def rows(block):
            part, out = x_rows[block], y_rows[block]
            np.subtract(part, np.maximum.reduce(part, 1, keepdims=True), out=out)
            np.exp(out, out=out)
            total = np.dot(out, ones)  # a sum by BLAS, twice as fast as add.reduce
            np.reciprocal(total, out=total)
            out *= total[:, None]

        blocks.for_rows(rows, len(x_rows), size, uses_blas=True)
        return y
    view = _columns_view(axis, x.shape)
    if view is None:
        return softmax.reference(x, y, axis)
    outer, size, inner = view
    x_columns, y_columns, ones = x.reshape(view), y.reshape(view), np.ones((1, size), x.dtype)

    def columns(block):
        part, out = x_columns[block], y_columns[block]
        np.subtract(part, np.maximum.reduce(part, 1, keepdims=True), out=out)
        np.exp(out, out=out)
        total = np.matmul(ones, out)
        np.reciprocal(total, out=total)
        out *= total

    blocks.for_rows(columns, outer, size * inner, uses_blas=True)
    return y


@softmax.cuda
def softmax(x, y, axis=-1):
    rows = _rows_view(axis, x.shape)
    if rows is None or not cuda.is_plain(x, y):
        return NotImplemented
    _CUDA.rows("softmax", x, *rows, x, y, held=1)
    return y


@softmax.samples
def softmax(random, dtype):
    for shape, axis in _SOFTMAX_SAMPLES:
        x = random(shape, dtype)
        yield x, x.copy(), axis
    x = random((0, 3), dtype)
    yield x, x.copy(), 1


_SOFTMAX_SAMPLES = (
    ((7, 3), -1),
    ((7, 33), -1),
    ((700, 129), -1),
    ((2100, 129), -1),
    ((2, 3, 4, 5), (1, 3)),
    ((2, 3, 4, 5), (3, 2)),
    ((2, 3, 4, 5), (1, 2)),
    ((40, 30, 50), 1),
    ((5, 300, 200), 1),
    ((6, 5), 0),
)


@kernel
def softmax_backward(y, dy, dx, axis=-1):
    """dx ← y · (dy - Σ y · dy), the sum over `axis`; dx may be dy itself."""
    product = y * dy
    total = product.sum(axis=axis, keepdims=True)
    total = y * total
    devices.array_module(y).subtract(product, total, out=dx)
    return dx


@softmax_backward.cpu
def softmax_backward(y, dy, dx, axis=-1):
    if not _is_for_blas(y, dy, dx):
        return softmax_backward.reference(y, dy, dx, axis)
    is_last = axis in (-1, y.ndim - 1)
    view = (-1, y.shape[-1]) if is_last else _columns_view(axis, y.shape)
    if view is None:
        return softmax_backward.reference(y, dy, dx, axis)
    y_view, dy_view, dx_view = y.reshape(view), dy.reshape(view), dx.reshape(view)
    ones = np.ones(view[1], y.dtype)

    def block(rows):
        part, dpart, out = y_view[rows], dy_view[rows], dx_view[rows]
        # BLAS sums up rows in a half to two thirds of the time that einsum takes for up to 64 columns.
        total = np.dot(part * dpart, ones) if is_last else np.einsum("ijk,ijk->ik", part, dpart)
        np.subtract(dpart, total[:, None], out=out)
        out *= part

    blocks.for_rows(block, len(y_view), y.size // len(y_view), uses_blas=is_last)
    return dx


@softmax_backward.cuda
def softmax_backward(y, dy, dx, axis=-1):
    rows = _rows_view(axis, y.shape)
    if rows is None or not cuda.is_plain(y, dy, dx):
        return NotImplemented
    _CUDA.rows("softmax_backward", y, *rows, y, dy, dx, held=2)
    return dx


@softmax_backward.samples
def softmax_backward(random, dtype):
    for shape, axis in _SOFTMAX_SAMPLES:
        y = abs(random(shape, dtype))
        y /= y.sum(axis=axis, keepdims=True)
        yield y, random(shape, dtype), y.copy(), axis


@kernel
def log_softmax(x, y, axis=-1):
    """y ← x - max x - log Σ exp(x - max x), maximum and sum over `axis`; y may be x itself."""
    xp = devices.array_module(x)
    xp.subtract(x, x.max(axis=axis, keepdims=True), out=y)
    y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))
    return y


@log_softmax.cpu
def log_softmax(x, y, axis=-1):
    if not _is_for_blas(x, y) or axis not in (-1, x.ndim - 1):
        return log_softmax.reference(x, y, axis)
    size = x.shape[-1]
    x_rows, y_rows, ones = x.reshape(-1, size), y.reshape(-1, size), np.ones(size, x.dtype)

    def block(rows):
        part, out = x_rows[rows], y_rows[rows]
        np.subtract(part, np.maximum.reduce(part, 1, keepdims=True), out=out)
        with memory.scratch(out.shape, out.dtype) as e:
            total = np.dot(np.exp(out, out=e), ones)
        out -= np.log(total, out=total)[:, None]

    blocks.for_rows(block, len(x_rows), size, uses_blas=True)
    return y


@log_softmax.cuda
def log_softmax(x, y, axis=-1):
    rows = _rows_view(axis, x.shape)
    if rows is None or not cuda.is_plain(x, y):
        return NotImplemented
    _CUDA.rows("log_softmax", x, *rows, x, y, held=1)
    return y


@log_softmax.samples
def log_softmax(random, dtype):
    yield from softmax.sample_function(random, dtype)


@kernel
def log_softmax_backward(y, dy, dx, axis=-1):
    """dx ← dy - exp(y) · Σ dy, the sum over `axis`; dx may be dy itself."""
    xp = devices.array_module(y)
    share = xp.exp(y)
    share *= dy.sum(axis=axis, keepdims=True)
    return xp.subtract(dy, share, out=dx)


@log_softmax_backward.cpu
def log_softmax_backward(y, dy, dx, axis=-1):
    if not _is_for_blas(y, dy, dx) or axis not in (-1, y.ndim - 1):
        return log_softmax_backward.reference(y, dy, dx, axis)
    size = y.shape[-1]
    y_rows, dy_rows, dx_rows = (a.reshape(-1, size) for a in (y, dy, dx))
    ones = np.ones(size, y.dtype)

    def block(rows):
        dpart = dy_rows[rows]
        with memory.scratch(dpart.shape, dpart.dtype) as share:
            np.exp(y_rows[rows], out=share)
            share *= np.dot(dpart, ones)[:, None]
            np.subtract(dpart, share, out=dx_rows[rows])

    blocks.for_rows(block, len(y_rows), size, uses_blas=True)
    return dx


@log_softmax_backward.cuda
def log_softmax_backward(y, dy, dx, axis=-1):
    rows = _rows_view(axis, y.shape)
    if rows is None or not cuda.is_plain(y, dy, dx):
        return NotImplemented
    _CUDA.rows("log_softmax_backward", y, *rows, y, dy, dx, held=2)
    return dx


@log_softmax_backward.samples
def log_softmax_backward(random, dtype):
    for shape, axis in _SOFTMAX_SAMPLES:
        y = random(shape, dtype) - 4.0  # nothing needs to add up to 1
        yield y, random(shape, dtype), y.copy(), axis


def _is_for_blas(*arrays):
    """Whether all arrays are plain matrices to BLAS, and hold something."""
    return all([a.size and a.flags.c_contiguous and a.dtype.char in "fd" for a in arrays])


def _columns_view(axis, shape):
    """The shape (outer, size, inner), size that of `axis`; None where the axes are not neighbours."""
    axes = sorted(a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,)))
    first, last = axes[0], axes[-1] + 1
    if last - first != len(axes) or len(set(axes)) != len(axes):
        return None
    return math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:])


def _rows_view(axis, shape):
    """The shape (rows, columns) where the axes are the last ones, else None."""
    view = _columns_view(axis, shape) if shape else None
    return view[:2] if view is not None and view[2] == 1 else None
