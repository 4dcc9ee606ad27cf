"""Work on NumPy arrays in blocks that stay in the cache, on several threads where that pays."""

from gpukeras.backend import threads

__all__ = ["BLOCK", "THREADED", "THREAD_BLOCK", "elementwise", "for_rows", "is_plain"]

BLOCK = 1 << 15  # elements: 128 KB of float32, so that three or four arrays' blocks fit a second-level cache of 512 KB

# A NumPy call lets go of Python's lock and takes it again, and where two threads want it at once, one of them sleeps:
# 7 microseconds a call on the average, in which 60000 elements could be added. GELU of 2 million numbers (25 calls a
# block) on two threads took 18 ms in blocks of 2^15, 12 in blocks of 2^16, 9.4 and 8.9 in blocks of 2^17 and 2^18.
THREAD_BLOCK = 1 << 17
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
    step = BLOCK if size < threaded else THREAD_BLOCK

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
    step = max(1, (THREAD_BLOCK if is_threaded else BLOCK) // max(width, 1))
    blocks = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if is_threaded:
        threads.run(function, blocks, uses_blas)
    else:
        for part in blocks:
            function(part)
