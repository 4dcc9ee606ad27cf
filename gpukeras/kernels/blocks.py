"""Work on NumPy arrays in blocks that stay in the cache, on several threads where that pays."""

import functools

import numpy as np

from gpukeras.backend import memory, threads

__all__ = ["BLOCK", "THREADED", "THREAD_BLOCK", "elementwise", "for_rows", "is_plain", "with_number", "with_scratch"]

BLOCK = 1 << 16  # elements: 256 KB of float32, so that three or four arrays' blocks fit a second-level cache of 1 MB

# A NumPy call lets go of Python's lock and takes it again, and where two threads want it at once, one of them sleeps:
# 7 microseconds a call on the average, in which 60000 elements could be added. Adam (13 calls a block) on 670000
# numbers took 2.9 ms in one thread and blocks of 2^15, on two threads 3.7 in blocks of 2^15, 1.6 of 2^17, 1.3 of 2^18.
THREAD_BLOCK = 1 << 18
THREADED = 1 << 18  # elements from which on a few cheap passes are worth the 0.1 ms that handing out work costs


def is_plain(*arrays):
    """Whether all arrays lie in memory in one piece and of one size, so that flat blocks of them match."""
    return all(a.flags.c_contiguous and a.size == arrays[0].size for a in arrays)


def elementwise(function, *arrays, threaded=THREADED):
    """Call ``function(*parts)`` for matching flat blocks of arrays for which `is_plain` holds.

    Arrays of `threaded` elements or more go to all threads. An array may be None, as are then its parts.
    """
    size = arrays[0].size
    flat = [None if a is None else a.reshape(-1) for a in arrays]
    if size <= BLOCK:
        function(*flat)
        return
    step = BLOCK if size < threaded else _share(size, 1)

    def block(start):
        function(*[None if a is None else a[start : start + step] for a in flat])

    if size < threaded:
        for start in range(0, size, step):
            block(start)
    else:
        threads.run(block, range(0, size, step))


def for_rows(function, rows, width, threaded=THREADED, uses_blas=False):
    """Call ``function(slice)`` for blocks of rows of `width` elements each.

    Like `elementwise`, for kernels that need whole rows.
    """
    is_threaded = rows * width >= threaded
    step = _share(rows, width) if is_threaded else max(1, BLOCK // max(width, 1))
    blocks = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if is_threaded:
        threads.run(function, blocks, uses_blas)
    else:
        for part in blocks:
            function(part)


def _share(rows, width):
    """Rows of a block: so that an even number of blocks of the same size holds at most THREAD_BLOCK elements each."""
    pairs = -(-rows * width // (2 * THREAD_BLOCK))
    return max(1, -(-rows // (2 * pairs)))


# Rows longer than half of NumPy's buffer of 8192 take half the time of shorter ones: 2^20 elements 0.11 ms, in rows of
# 512 0.22. Not a multiple of 1024: where rows of all arrays start at the same place of a page, they may take up to
# eight times as long.
_WIDTH = 4900
_FEW = 1 << 15


def with_number(ufunc, x, number, out):
    """``ufunc(x, number, out)`` for arrays in one piece.

    NumPy's minimum and maximum take four times as long with a number as with an array of it, which few elements get
    from here and many row by row.
    """
    if x.size <= _FEW:
        ufunc(x, _filled(x.shape, number, x.dtype), out=out)
        return
    x, out, row = x.reshape(-1), out.reshape(-1), _filled((_WIDTH,), number, x.dtype)
    rows = x.size - x.size % _WIDTH
    ufunc(x[:rows].reshape(-1, _WIDTH), row, out=out[:rows].reshape(-1, _WIDTH))
    ufunc(x[rows:], row[: x.size - rows], out=out[rows:])


@functools.lru_cache(maxsize=16)
def _filled(shape, number, dtype):
    array = np.full(shape, number, dtype)
    array.flags.writeable = False
    return array


def with_scratch(update, scratch, *arrays):
    """Call ``update(*parts, *rows)`` for matching blocks of flat arrays, with `scratch` rows of working memory."""
    size, dtype = arrays[0].size, arrays[0].dtype
    if size <= BLOCK:
        update(*arrays, *[np.empty(size, dtype) for _ in range(scratch)])
        return

    def block(*parts):
        with memory.scratch((scratch, parts[0].size), dtype) as rows:
            update(*parts, *rows)

    elementwise(block, *arrays)
