"""Sums, differences and products of two arrays of one shape, which CuPy reads one number at a time.

NumPy's are fast: what calls these computes with operators where arrays are NumPy's.
"""

from gpukeras.backend import cuda, devices
from gpukeras.kernels.kernel import kernel

__all__ = ["add", "add_to", "multiply", "subtract"]

_CUDA = cuda.Source("arithmetic")


def _of_alike(name, a, b, out=None):
    if a.shape != b.shape or a.dtype != b.dtype:
        return NotImplemented
    out = devices.array_module(a).empty_like(a) if out is None else out
    _CUDA.elementwise(name, a, a, b, out)
    return out


@kernel
def add(a, b):
    """a + b."""
    return a + b


@add.cuda
def add(a, b):
    return _of_alike("add", a, b)


@kernel
def subtract(a, b):
    """a - b."""
    return a - b


@subtract.cuda
def subtract(a, b):
    return _of_alike("subtract", a, b)


@kernel
def multiply(a, b):
    """a · b."""
    return a * b


@multiply.cuda
def multiply(a, b):
    return _of_alike("multiply", a, b)


@kernel
def add_to(total, x):
    """total ← total + x, in place; returns the total."""
    total += x
    return total


@add_to.cuda
def add_to(total, x):
    return _of_alike("add", total, x, total)


def _pairs(random, dtype):
    for shape in (1,), (33, 7), (2, 3, 4), (7, 4999), (530, 1003), (0, 4):
        yield random(shape, dtype), random(shape, dtype)
    yield random((5, 8), dtype), random((8,), dtype)


for _kernel in add, subtract, multiply, add_to:
    _kernel.samples(_pairs)
