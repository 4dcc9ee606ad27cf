"""Products of long matrices in tiles, each small enough to be multiplied as it lies in memory.

OpenBLAS copies operands into an order of its own before it multiplies. Products of up to a million multiply-adds it
computes without, where the processor has AVX-512; for matrices with thousands of rows and few columns the copies take
as long as the sums. Measured in one thread of such a processor, 10^9 operations a second, in one piece and in tiles:
rows x 96 times 96 x 32 91 and 113, 288 x 64 83 and 107, 384 x 128 79 and 103; the first's transpose times
rows x columns, summed over the rows, 53 and 109, 60 and 87, 73 and 90. Other processors lose by tiles 5 to 30 %.

What is multiplied again and again has its views made once: `multiplier` and `transposed_multiplier` return functions.
Tiles follow from shapes alone.
"""

import functools

import numpy as np

from gpukeras.backend import blas, memory

__all__ = ["in_chunks", "multiplier", "transposed_multiplier"]

_UNPACKED = 10**6  # multiply-adds of a tile
_LEAST_ROWS = 32  # a tile with fewer is not worth it: the whole is faster, or one with half of the columns
_LEAST_COLUMNS = 32  # of one that has not all of them
_LEAST_SUMMED = 64  # rows where each tile has a result of its own, which are summed afterwards
_MOST_SUMMED = 48, 64  # columns of both factors of such a tile: few, so that it has many rows
_VECTOR = 16  # what columns of such a tile are a multiple of


def in_chunks(b):
    """A right factor (..., n, m) as `multiplier` wants it: (..., chunks, n, m / chunks), each in one piece of memory.

    Products in one piece have one chunk.
    """
    n, m = b.shape[-2:]
    width = m
    while n * width * _LEAST_ROWS > _UNPACKED and width % (2 * _LEAST_COLUMNS) == 0:
        width //= 2
    if width == m or n * width * _LEAST_ROWS > _UNPACKED or not blas.multiplies_unpacked():
        return b[..., None, :, :]
    return np.ascontiguousarray(b.reshape(*b.shape[:-1], m // width, width).swapaxes(-2, -3))


def multiplier(a, chunks, in_tiles):
    """A function of out, which writes there a · b for each of many pairs of matrices.

    `in_tiles` is for one thread of many: BLAS's threads are not worth waking for a tile, only for the whole.

    Shapes:
        a (..., rows, n), b (..., n, m) as `in_chunks` gives it  ->  out (..., rows, m)
        a and b are broadcast to the pairs of out
    """
    *others, rows, n = a.shape
    count_of_chunks, _, m = chunks.shape[-3:]
    step = _rows_of_tile(rows, n * m, _LEAST_ROWS) if in_tiles else 0
    step = step or rows
    count = rows // step
    head = count * step
    if count == count_of_chunks == 1 and head == rows:
        whole = chunks[..., 0, :, :]
        return lambda out: _matmul(a, whole, out)
    tiles = a[..., :head, :].reshape(*others, count, 1, step, n)
    rest = a[..., None, head:, :]
    of_tiles = chunks[..., None, :, :, :]

    def multiply(out):
        out = out.reshape(*out.shape[:-1], count_of_chunks, m)
        into = out[..., :head, :, :].reshape(*out.shape[:-3], count, step, count_of_chunks, m)
        np.matmul(tiles, of_tiles, out=into.swapaxes(-2, -3))
        if head < rows:
            np.matmul(rest, chunks, out=out[..., head:, :, :].swapaxes(-2, -3))

    return multiply


def transposed_multiplier(a, m, in_tiles):
    """A function of b, out and is_added, which writes aᵀ · b for each of many pairs of matrices, or adds it to out.

    Shapes:
        a (..., rows, n), b (..., rows, m), broadcast to the pairs of a  ->  out (..., n, m)
    """
    *others, rows, n = a.shape
    height, width = _size_of_summed(n, m) if in_tiles else (n, m)
    step = _rows_of_tile(rows, height * width, _LEAST_SUMMED) if in_tiles else 0
    if not step and rows * height * width > _UNPACKED:
        height, width = n, m
    step = step or rows
    count = -(-rows // step)
    if count == 1 and height == n and width == m:
        whole = a.swapaxes(-1, -2)

        def into(b, shares):
            _matmul(whole, b, shares[..., 0, :, :])

    else:
        into = _summed_tiles(a, step, height, width)

    def multiply(b, out, is_added):
        if count == 1 and not is_added:
            into(b, out[..., None, :, :])
            return
        with memory.scratch((*others, count, n, m), out.dtype) as shares:
            into(b, shares)
            if not is_added:
                np.add.reduce(shares, axis=-3, out=out)
            elif count == 1:
                out += shares[..., 0, :, :]
            else:
                out += np.add.reduce(shares, axis=-3)

    return multiply


def _summed_tiles(a, step, height, width):
    """A function of b and shares (..., tiles, n, m), which writes there aᵀ · b for every `step` rows."""
    *others, rows, n = a.shape
    count = rows // step
    head = count * step
    a = a.reshape(*others, rows, n // height, 1, height)
    tiles = _move_rows(a[..., :head, :, :, :].reshape(*others, count, step, *a.shape[-3:])).swapaxes(-1, -2)
    rest = _move_rows(a[..., head:, :, :, :]).swapaxes(-1, -2)

    def into(b, shares):
        m = b.shape[-1]
        b = b.reshape(*b.shape[:-1], 1, m // width, width)
        shares = shares.reshape(*shares.shape[:-2], n // height, height, m // width, width).swapaxes(-2, -3)
        of_tiles = b[..., :head, :, :, :].reshape(*b.shape[:-4], count, step, *b.shape[-3:])
        np.matmul(tiles, _move_rows(of_tiles), out=shares[..., :count, :, :, :, :])
        if head < rows:
            np.matmul(rest, _move_rows(b[..., head:, :, :, :]), out=shares[..., -1, :, :, :, :])

    return into


def _move_rows(a):
    """(..., rows, x, y, columns) as (..., x, y, rows, columns)."""
    return a.swapaxes(-4, -3).swapaxes(-3, -2)


def _size_of_summed(n, m):
    """Columns of both factors of a tile that is summed: as many as divide theirs evenly, or all."""
    if not blas.multiplies_unpacked():
        return n, m
    sizes = []
    for columns, most in zip((n, m), _MOST_SUMMED, strict=True):
        sizes.append(max((size for size in range(_VECTOR, most + 1, _VECTOR) if columns % size == 0), default=columns))
    return sizes


def _rows_of_tile(rows, size, least):
    """The rows of a tile, 0 for all of them; `size` are the multiply-adds of a row."""
    most = _UNPACKED // max(size, 1)
    if not least <= most < rows or not blas.multiplies_unpacked():
        return 0
    return _near_divisor(rows, most, max(most // 2, least))


@functools.lru_cache(maxsize=256)
def _near_divisor(n, most, least):
    """The largest divisor of n between two limits, or where there is none about the upper limit."""
    for divisor in range(most, least - 1, -1):
        if n % divisor == 0:
            return divisor
    return most // 16 * 16


def _matmul(a, b, out):
    if out.ndim > 2 and out.shape[:-2] == (1,) * (out.ndim - 2):
        zeros = (0,) * (out.ndim - 2)
        blas.matmul(a[zeros], b[zeros], out=out[zeros])
    else:
        np.matmul(a, b, out=out)
