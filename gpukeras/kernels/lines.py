"""Large matrix products on a GPU whose lines do not begin at multiples of 16 bytes, such as those of 50257 columns.

cuBLASLt's fast algorithms read and write 16 bytes at a time: on an H200 products took four to six times as long without
them. Copies whose lines are a little farther apart cost a tenth of what they spare, where all three sides are long.
"""

from typing import Any

from gpukeras.backend import blas, cuda, devices
from gpukeras.kernels.kernel import kernel

__all__ = ["copy_lines", "matmul"]

_CUDA = cuda.Source("lines")

_LONG = 256  # the least of each side: a copied number must serve many products
_MANY = 1 << 31  # multiply-adds


@kernel
def copy_lines(out, x):
    """out ← x.

    Shapes:
        x (rows, columns), out alike  ->  the lines of both may be any distance apart
    """
    out[...] = x


@copy_lines.cuda(strided=("out", "x"))
def copy_lines(out, x):
    if not (_has_lines(out) and _has_lines(x)):
        return NotImplemented
    steps = [array.strides[0] // array.dtype.itemsize if len(array) > 1 else 0 for array in (x, out)]
    _CUDA.rows("copy_lines", out, *x.shape, steps[0], _from_start(x), steps[1], _from_start(out))
    return None


@copy_lines.samples
def copy_lines(random, dtype):
    for rows, columns, distance in ((5, 37, 40), (3, 1100, 1104), (1, 8, 16), (0, 4, 8), (4, 3, 11), (6, 64, 64)):
        yield random((rows, distance), dtype)[:, :columns], random((rows, columns), dtype)
        yield random((rows, columns), dtype), random((rows, distance), dtype)[:, :columns]
        yield random((rows, distance), dtype)[:, :columns], random((rows, distance + 3), dtype)[:, 3 : columns + 3]


def _has_lines(x):
    """Whether the numbers of each line lie side by side, and lines one after the other."""
    size = x.dtype.itemsize
    return (x.shape[1] < 2 or x.strides[1] == size) and (
        len(x) < 2 or (x.strides[0] >= x.shape[1] * size and x.strides[0] % size == 0)
    )


def _from_start(x):
    """The memory of a matrix from its first number on, as a contiguous array, which is what a pointer stands for."""
    return x[:1, :1].reshape(-1)


def matmul(a, b, out=None, epilogue=None, vector=None) -> Any:
    """a · b, in `out` where that is given, with an `epilogue` and its vector as `gemm.matmul` has them.

    None where there is no product with that epilogue; then nothing was computed.
    """
    if _pays(a, b):
        lines = _with_distance(devices.array_module(a), (len(a), b.shape[1]), a.dtype if out is None else out.dtype)
        a, b = _padded(a), _padded(b)
        if _product(a, b, lines, epilogue, vector) is None:
            return None
        if lines.flags.c_contiguous and out is None:
            return lines
        out = devices.array_module(a).empty(lines.shape, lines.dtype) if out is None else out
        copy_lines(out, lines)
        return out
    return _product(a, b, out, epilogue, vector)


def _product(a, b, out, epilogue, vector):
    if epilogue is not None:
        return blas.finished_matmul(a, b, epilogue, vector, out)
    if out is None:
        return blas.matmul(a, b)
    blas.scaled_matmul(a, b, out)
    return out


def _pays(a, b):
    """Whether copies of a, b or their product are worth it."""
    rows, inner, columns = *a.shape, b.shape[1]
    if min(rows, inner, columns) < _LONG or rows * inner * columns < _MANY or a.dtype.itemsize > 4:
        return False
    return not (_is_aligned(a) and _is_aligned(b) and columns % cuda.lanes(a.dtype) == 0)


def _is_aligned(x):
    """Whether lines, the rows or the columns of x, are a multiple of 16 bytes apart."""
    return max(x.strides) % 16 == 0


def _padded(x):
    """x, or a copy whose lines begin where they can be read by 16 bytes."""
    if _is_aligned(x):
        return x
    if x.strides[0] < x.strides[1]:
        return _padded(x.T).T
    lines = _with_distance(devices.array_module(x), x.shape, x.dtype)
    copy_lines(lines, x)
    return lines


def _with_distance(xp, shape, dtype):
    """An empty matrix whose lines begin at multiples of 16 bytes."""
    lanes = cuda.lanes(dtype)
    return xp.empty((shape[0], -(-shape[1] // lanes) * lanes), dtype)[:, : shape[1]]
