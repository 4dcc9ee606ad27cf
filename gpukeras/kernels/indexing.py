"""Rows gathered as an index says, such as an embedding's, and added up where it says: the gradient of that."""

import math

import numpy as np

from gpukeras.backend import cuda, devices
from gpukeras.kernels.kernel import kernel

__all__ = ["add_rows", "take_rows"]

_CUDA = cuda.Source("indexing")
_CHUNK = 32  # sorted numbers that a warp of the CUDA kernel walks over
_MOST = 8 * 65535 * _CHUNK  # rows of a launch: what a grid's second axis can have


@kernel
def take_rows(x, index):
    """x[index] for x (count, ...) and integers of any shape, from the end where they are negative.

    NumPy refuses an index that is out of range. On a GPU, which would have to be waited for, it counts on from the
    other end, as in CuPy.
    """
    return devices.array_module(x).take(x, index, axis=0)


@take_rows.cuda
def take_rows(x, index):
    columns = math.prod(x.shape[1:])
    if not x.size or index.size * columns > cuda.MAX_INDEX or len(x) > cuda.MAX_INDEX:
        return NotImplemented
    y = devices.array_module(x).empty((*index.shape, *x.shape[1:]), x.dtype)
    if y.size:
        _CUDA.elementwise("take_rows", y, columns, len(x), x, index.astype(np.int32, copy=False), y)
    return y


@take_rows.samples
def take_rows(random, dtype):
    for shape, count, width in ((1,), 1, 1), ((7, 10), 9, 5), ((500,), 400, 64), ((3, 2), 5, 8), ((0, 2), 3, 2):
        index = (random(shape, "float32") * 1000.0).astype("int64") % (2 * count) - count
        yield random((count, width), dtype), index
    yield random((6, 2, 4), dtype), abs(random((130,), "float32")).astype("int32")


@kernel
def add_rows(values, index, total):
    """total[index[i]] += values[i] for all i, in place: values (n, ...), index (n,), total (count, ...)."""
    xp = devices.array_module(values)
    if total.dtype.name == "bfloat16":  # which CuPy's `add.at` does not take; and sums keep their digits
        wide = total.astype(np.float32)
        xp.add.at(wide, index, values.astype(np.float32))
        total[...] = wide
    else:
        xp.add.at(total, index, values)


@add_rows.cuda
def add_rows(values, index, total):
    xp = devices.array_module(values)
    n, columns = len(values), math.prod(values.shape[1:])
    if not values.size:
        return None
    if len(total) > cuda.MAX_INDEX:
        return NotImplemented
    for start in range(_MOST, n, _MOST):  # one part after the other: atomics would add them in any order
        add_rows(values[start : start + _MOST], index[start : start + _MOST], total)
    n, values, index = min(n, _MOST), values[:_MOST], index[:_MOST].astype(np.int32, copy=False)
    chunks = -(-n // _CHUNK)
    order = index.argsort(kind="stable")
    part, runs = xp.empty((chunks, 2, columns), cuda.wide_dtype(values.dtype)), index[order]
    width = cuda.lanes(values.dtype) if columns % cuda.lanes(values.dtype) == 0 else 1
    down, block = -(-chunks // 8), (32, 8)
    grid = -(-columns // (32 * width)), down
    _CUDA.launch("add_runs", values, grid, block, n, columns, len(total), runs, order, values, part, total)
    if chunks > 1:
        grid = -(-columns // 32), down
        _CUDA.launch("add_parts", values, grid, block, n, columns, len(total), runs, part, total)
    return None


@add_rows.samples
def add_rows(random, dtype):
    for n, count, width in (1, 1, 1), (70, 9, 5), (1000, 3, 33), (500, 400, 64), (0, 3, 2):
        index = abs(random((n,), "float32") * 1000.0).astype("int64") % count
        yield random((n, width), dtype) * (count / (n + count)) ** 0.5, index, random((count, width), dtype)
    yield random((130, 2, 3), dtype), random((130,), "float32").astype("int32") * 0, random((2, 2, 3), dtype)
