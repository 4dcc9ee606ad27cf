"""The rows of a batch, gathered on the device from arrays that are there.

A step's graph knows the addresses of what it reads for good, but the data of the next `fit` lie elsewhere. So they are
read from a table in the device's memory, and so is the position in the epoch, which each launch moves on.
"""

import math

import numpy as np

from gpukeras.backend import cuda, devices
from gpukeras.kernels.kernel import kernel

__all__ = ["gather_from", "gather_rows", "table_of"]

_CUDA = cuda.Source("batches")
_MOST = 4  # arrays of a launch; batches.cu has it too
_AT_LEAST = 4096  # bytes that a block copies, if there are so many: 16 a thread


def table_of(sources, order, position):
    """What a launch reads: addresses of arrays and of their order, or 0, the position, and how many blocks are done.

    Returns:
        A NumPy array of int64.
    """
    arrays = [*sources, order]
    addresses = [0 if array is None else devices.address_of(array) for array in arrays]
    return np.array([*addresses, position, 0], np.int64)


def gather_from(table, like, outs):
    """Fill arrays with the next rows of those whose addresses a device's table holds, and move its position on.

    Args:
        table: What `table_of` gives, on the device.
        like: A float array of that device.
        outs: One array for each of the sources, all with as many rows.
    """
    rows = len(outs[0])
    for first in range(0, len(outs), _MOST):
        several = outs[first : first + _MOST]
        sizes = [math.prod(out.shape[1:]) * out.dtype.itemsize for out in several]
        given = [
            value for out, size in zip(several, sizes, strict=True) for value in (out.reshape(-1).view(np.int8), size)
        ]
        given += [None, 0] * (_MOST - len(several))
        blocks = min(max(-(-rows * max(sizes) // _AT_LEAST), 1), cuda.MAX_BLOCKS)
        advance = rows if first + _MOST >= len(outs) else 0
        grid = blocks, len(several)
        _CUDA.launch("gather_rows", like, grid, (cuda.THREADS,), rows, table, len(outs), first, advance, *given)


@kernel
def gather_rows(like, position, order, sources, outs):
    """outs[k][i] ← sources[k][order[position + i]] for all rows i of outs;  position ← position + their number.

    Args:
        like: A float array of the device.
        position: int64 (1,).
        order: int64 (n,), or None for the rows as they stand.
        sources, outs: Tuples of arrays of any dtype, (n, ...) and (rows, ...).
    """
    xp = devices.array_module(position)
    rows = len(outs[0])
    place = position + xp.arange(rows)
    if order is not None:
        place = order[place]
    for source, out in zip(sources, outs, strict=True):
        out[...] = source[place]
    position += rows


@gather_rows.cuda
def gather_rows(like, position, order, sources, outs):
    table = devices.array_module(like).asarray(table_of(sources, order, 0))
    table[len(sources) + 1 : len(sources) + 2] = position
    gather_from(table, like, outs)
    position[...] = table[len(sources) + 1 : len(sources) + 2]


@gather_rows.samples
def gather_rows(random, dtype):
    like = random((1,), dtype)

    def case(count, rows, start, shuffled, *kinds):
        order = random((count,), "float32").argsort().astype("int64") if shuffled else None
        sources = tuple((random((count, *shape), "float32") * 50.0).astype(kind) for shape, kind in kinds)
        outs = tuple((random((rows, *shape), "float32") * 50.0).astype(kind) for shape, kind in kinds)
        return like, devices.to_device(np.array([start], "int64")), order, sources, outs

    yield case(40, 8, 16, True, ((20,), "float32"), ((), "int64"))
    yield case(40, 8, 32, False, ((4, 4, 3), "uint8"), ((1,), "float64"), ((), "float32"))
    yield case(9, 3, 0, True, ((3,), "int16"))
    yield case(
        300, 130, 130, True, ((40,), "float32"), ((7,), "bool"), ((2, 2), "int32"), ((), "int16"), ((5,), "int64")
    )
    yield case(5, 5, 0, True, ((3000,), "float32"), ((), "uint8"))
