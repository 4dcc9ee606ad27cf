"""Sums and products of two arrays: of one shape and type, on a GPU, by 16 bytes at a time."""

from gpukeras.backend import cuda, devices
from gpukeras.kernels.kernel import kernel

__all__ = ["add", "add_to", "multiply"]

_CUDA = cuda.Source("arithmetic")


@kernel
def add(a, b):
    """a + b."""
    return a + b


@add.cuda
def add(a, b):
    return _on_gpu("add", a, b)


@add.samples
def add(random, dtype):
    yield from _samples(random, dtype)


@kernel
def add_to(total, x):
    """total ← total + x."""
    total += x


@add_to.cuda
def add_to(total, x):
    return NotImplemented if _on_gpu("add", total, x, total) is NotImplemented else None


@add_to.samples
def add_to(random, dtype):
    for shape in (3, 5), (4, 4100), (0, 2):
        yield random(shape, dtype), random(shape, dtype)
    yield random((3, 5), dtype), random((5,), dtype)


@kernel
def multiply(a, b):
    """a · b."""
    return a * b


@multiply.cuda
def multiply(a, b):
    return _on_gpu("multiply", a, b)


@multiply.samples
def multiply(random, dtype):
    yield from _samples(random, dtype)


def _on_gpu(name, a, b, out=None):
    """The result for two arrays of one shape; numbers and what must be broadcast are for others."""
    if a.shape != getattr(b, "shape", None) or not a.ndim:
        return NotImplemented
    out = devices.array_module(a).empty_like(a) if out is None else out
    _CUDA.elementwise(name, a, a, b, out)
    return out


def _samples(random, dtype):
    for shape in (3, 5), (4, 4100), (0, 2):
        yield random(shape, dtype), random(shape, dtype)
    yield random((3, 5), dtype), random((5,), dtype)
    yield random((1,), dtype).reshape(()), random((1,), dtype).reshape(())
    x = random((6, 7), dtype)
    yield x, x
