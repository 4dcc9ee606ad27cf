"""Softmax and its derivative, each in as few passes over memory as the device allows."""

import numpy as np

from gpukeras.backend import devices
from gpukeras.kernels.kernel import kernel

__all__ = ["softmax", "softmax_backward"]

# Elements of a block of rows: 256 KB of float32, which stay in the second-level cache.
_BLOCK = 65536


@kernel
def softmax(x, y, axis=-1):
    """y ← exp(x - max x) / Σ exp(x - max x), maximum and sum over `axis`; y may be x itself."""
    xp = devices.array_module(x)
    xp.subtract(x, x.max(axis=axis, keepdims=True), out=y)
    xp.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


@softmax.cpu
def softmax(x, y, axis=-1):
    if not _has_rows(axis, x, y):
        return softmax.reference(x, y, axis)
    size = x.shape[-1]
    rows, y_rows = x.reshape(-1, size), y.reshape(-1, size)
    ones = np.ones(size, x.dtype)
    step = max(1, _BLOCK // size)
    for start in range(0, len(rows), step):
        part, out = rows[start : start + step], y_rows[start : start + step]
        np.subtract(part, np.maximum.reduce(part, 1, keepdims=True), out=out)
        np.exp(out, out=out)
        total = np.dot(out, ones)  # a sum by BLAS, twice as fast as add.reduce
        np.reciprocal(total, out=total)
        out *= total[:, None]
    return y


@softmax.samples
def softmax(random, dtype):
    for shape, axis in (((7, 33), -1), ((700, 129), -1), ((2, 3, 4, 5), (1, 3))):
        x = random(shape, dtype)
        yield x, x.copy(), axis


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
    if not _has_rows(axis, y, dy, dx):
        return softmax_backward.reference(y, dy, dx, axis)
    size = y.shape[-1]
    y, dy, rows = y.reshape(-1, size), dy.reshape(-1, size), dx.reshape(-1, size)
    step = max(1, _BLOCK // size)
    for start in range(0, len(y), step):
        part, dpart, out = (
            y[start : start + step],
            dy[start : start + step],
            rows[start : start + step],
        )
        np.subtract(dpart, np.einsum("ij,ij->i", part, dpart)[:, None], out=out)
        out *= part
    return dx


@softmax_backward.samples
def softmax_backward(random, dtype):
    for shape, axis in (((7, 33), -1), ((700, 129), -1), ((2, 3, 4, 5), (1, 3))):
        y = abs(random(shape, dtype))
        y /= y.sum(axis=axis, keepdims=True)
        yield y, random(shape, dtype), y.copy(), axis


def _has_rows(axis, *arrays):
    """Whether the last axis is the one, and all arrays are plain matrices of rows to BLAS."""
    return all(
        axis in (-1, a.ndim - 1) and a.size and a.flags.c_contiguous and a.dtype in (np.float32, np.float64)
        for a in arrays
    )
