"""Work on NumPy arrays in blocks that stay in the cache, on several threads where that pays."""

from gpukeras.backend import threads

__all__ = ["BLOCK", "THREADED", "elementwise", "for_rows", "is_plain"]

BLOCK = 1 << 15  # elements: 128 KB of float32, so that three or four arrays' blocks fit a second-level cache of 1 MB
THREADED = 1 << 18  # elements from which on a few cheap passes are worth the 0.1 ms that handing out work costs


def is_plain(*arrays):
    """Whether all arrays lie in memory in one piece and of one size, so that flat blocks of them match."""
    return all(a.flags.c_contiguous and a.size == arrays[0].size for a in arrays)


def elementwise(function, *arrays, threaded=THREADED):
    """Call ``function(*parts)`` for matching flat blocks of arrays for which `is_plain` holds.

    Arrays of `threaded` elements or more go to all threads; smaller ones are one block.
    """
    size = arrays[0].size
    flat = [a.reshape(-1) for a in arrays]
    if size < threaded:
        function(*flat)
        return

    def block(start):
        function(*[a[start : start + BLOCK] for a in flat])

    threads.run(block, range(0, size, BLOCK))


def for_rows(function, rows, width, threaded=THREADED, uses_blas=False):
    """Call ``function(slice)`` for blocks of rows of `width` elements each.

    Like `elementwise`, for kernels that need whole rows.
    """
    step = max(1, BLOCK // max(width, 1))
    blocks = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if rows * width < threaded:
        for part in blocks:
            function(part)
    else:
        threads.run(function, blocks, uses_blas)
