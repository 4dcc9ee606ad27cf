"""Large matrix products on a GPU whose lines do not begin at multiples of 16 bytes, such as those of 50257 columns.

cuBLASLt's fast algorithms want sizes whose lines are multiples of 16 bytes: on an H200 other products took four to six
times as long. Copies with zeros at the ends of the lines cost a tenth of what they spare where all three sides are
long.
"""

from typing import Any

from gpukeras.backend import blas, cuda, devices
from gpukeras.kernels.kernel import kernel

__all__ = ["fit_lines", "matmul"]

_CUDA = cuda.Source("lines")

_LONG = 256  # the least of each side: a copied number must serve many products
_MANY = 1 << 31  # multiply-adds


@kernel
def fit_lines(out, x):
    """out[i, j] ← x[i, j] for the rows and columns that both have, 0 for those that x does not have."""
    rows, columns = min(len(x), len(out)), min(x.shape[1], out.shape[1])
    out[rows:] = 0
    out[:rows, columns:] = 0
    out[:rows, :columns] = x[:rows, :columns]


@fit_lines.cuda
def fit_lines(out, x):
    _CUDA.rows("fit_lines", out, *out.shape, *x.shape, x, out)


@fit_lines.samples
def fit_lines(random, dtype):
    for shape, x_shape in (
        ((5, 40), (5, 37)),
        ((5, 37), (5, 40)),
        ((8, 1104), (3, 1100)),
        ((3, 1101), (8, 1104)),
        ((4, 8), (4, 5)),
        ((2, 16), (2, 16)),
        ((3, 3), (2, 1)),
        ((3, 8), (0, 8)),
        ((0, 8), (3, 8)),
    ):
        yield random(shape, dtype), random(x_shape, dtype)


def matmul(a, b, out=None, epilogue=None, vector=None) -> Any:
    """a · b, in `out` where that is given, with an `epilogue` and its vector as `gemm.matmul` has them.

    None where there is no such product with that epilogue; then nothing was computed.
    """
    if _pays(a, b):
        return None if epilogue is not None else _matmul_of_copies(a, b, out)
    if epilogue is not None:
        return blas.finished_matmul(a, b, epilogue, vector, out)
    if out is None:
        return blas.matmul(a, b)
    blas.scaled_matmul(a, b, out)
    return out


def _pays(a, b):
    """Whether lines of a, of b or of their product end within 16 bytes, and copies are worth it."""
    rows, inner, columns = *a.shape, b.shape[1]
    if min(rows, inner, columns) < _LONG or rows * inner * columns < _MANY or a.dtype.itemsize > 4:
        return False
    return any(size % cuda.lanes(a.dtype) for size in (_line(a), _line(b), columns))


def _line(x):
    """The length of a matrix's lines, which are its rows or its columns."""
    return x.shape[0] if _is_by_columns(x) else x.shape[1]


def _is_by_columns(x):
    return x.strides[0] < x.strides[1]


def _matmul_of_copies(a, b, out):
    xp, dtype = devices.array_module(a), a.dtype if out is None else out.dtype
    rows, inner, columns = [_rounded_up(size, a.dtype) for size in (*a.shape, b.shape[1])]
    # Only lines must be longer: rows of a that is by rows are as many as they are.
    rows = rows if _is_by_columns(a) else a.shape[0]
    made = xp.empty((rows, columns), dtype)
    blas.scaled_matmul(_fitted(a, rows, inner), _fitted(b, inner, columns), made)
    if made.shape == (len(a), b.shape[1]) and out is None:
        return made
    out = xp.empty((len(a), b.shape[1]), dtype) if out is None else out
    fit_lines(out, made)
    return out


def _rounded_up(size, dtype):
    lanes = cuda.lanes(dtype)
    return -(-size // lanes) * lanes


def _fitted(x, rows, columns):
    """A matrix with zeros in more rows or columns, laid out alike."""
    if x.shape == (rows, columns):
        return x
    if _is_by_columns(x):
        return _fitted(x.T, columns, rows).T
    xp = devices.array_module(x)
    made = xp.empty((rows, columns), x.dtype)
    fit_lines(made, xp.ascontiguousarray(x))
    return made
