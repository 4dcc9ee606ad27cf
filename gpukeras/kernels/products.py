"""Products of long matrices in pieces of their rows, each small enough to be multiplied as it lies in memory.

OpenBLAS copies operands into an order of its own before it multiplies; products of up to a million multiply-adds it
computes without, where the processor has AVX-512. For matrices with thousands of rows and few columns the copies take
as long as the sums. Measured in one thread, 10^9 operations a second: rows x 288 times 288 x 32 in one piece 179, in
pieces of 96 rows 224; the transpose of the first times rows x 32 156 and 229; with 192 and 64 in place of 288 and 32
209 and 228, 180 and 234.

Pieces follow from shapes alone.
"""

import numpy as np

from gpukeras.backend import blas, memory

__all__ = ["multiply", "multiply_transposed"]

_UNPACKED = 10**6  # multiply-adds of a piece
_LEAST_ROWS = 32  # with fewer rows in a piece the whole is faster
_LEAST_SUMMED = 64  # the same where each piece has a result of its own, which are summed afterwards


def multiply(a, b, out, in_pieces):
    """out ← a · b for each of many pairs of matrices.

    `in_pieces` is for one thread of many: BLAS's threads are not worth waking for a piece, only for the whole.

    Shapes:
        a (..., rows, n), b (..., n, m)  ->  out (..., rows, m); a and b are broadcast to the pairs of out
    """
    rows, n = a.shape[-2:]
    m = b.shape[-1]
    step = _rows_of_piece(rows, n * m, _LEAST_ROWS) if in_pieces else 0
    if not step:
        _matmul(a, b, out)
        return
    count = rows // step
    head = count * step
    pieces = a[..., :head, :].reshape(*a.shape[:-2], count, step, n)
    np.matmul(pieces, b[..., None, :, :], out=out[..., :head, :].reshape(*out.shape[:-2], count, step, m))
    if head < rows:
        np.matmul(a[..., head:, :], b, out=out[..., head:, :])


def multiply_transposed(a, b, out, is_added, in_pieces):
    """out ← aᵀ · b for each of many pairs of matrices, or out += aᵀ · b where `is_added`; `in_pieces` as in `multiply`.

    Shapes:
        a (..., rows, n), b (..., rows, m), broadcast to the pairs of a  ->  out (..., n, m)
    """
    *others, rows, n = a.shape
    m = b.shape[-1]
    step = _rows_of_piece(rows, n * m, _LEAST_SUMMED) if in_pieces else 0
    if not step and not is_added:
        _matmul(a.swapaxes(-1, -2), b, out)
        return
    step = step or rows
    count = rows // step
    head = count * step
    with memory.scratch((*others, count + (head < rows), n, m), out.dtype) as shares:
        pieces = a[..., :head, :].reshape(*others, count, step, n).swapaxes(-1, -2)
        np.matmul(pieces, b[..., :head, :].reshape(*b.shape[:-2], count, step, m), out=shares[..., :count, :, :])
        if head < rows:
            np.matmul(a[..., head:, :].swapaxes(-1, -2), b[..., head:, :], out=shares[..., count, :, :])
        if not is_added:
            np.add.reduce(shares, axis=-3, out=out)
        elif shares.shape[-3] == 1:
            out += shares[..., 0, :, :]
        else:
            out += np.add.reduce(shares, axis=-3)


def _rows_of_piece(rows, size, least):
    """The rows of a piece, 0 for all of them; `size` are the multiply-adds of a row."""
    most = _UNPACKED // max(size, 1)
    if not least <= most < rows:
        return 0
    for step in range(most, max(most // 2, least) - 1, -1):
        if rows % step == 0:
            return step
    return most // 16 * 16


def _matmul(a, b, out):
    if out.ndim > 2 and out.shape[:-2] == (1,) * (out.ndim - 2):
        zeros = (0,) * (out.ndim - 2)
        blas.matmul(a[zeros], b[zeros], out=out[zeros])
    else:
        np.matmul(a, b, out=out)
