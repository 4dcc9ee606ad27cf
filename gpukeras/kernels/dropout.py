"""What dropout does with its mask: scale, and clear what is dropped."""

import numpy as np

from gpukeras.backend import memory
from gpukeras.kernels import blocks
from gpukeras.kernels.kernel import kernel

__all__ = ["masked"]

# Elements from which on blocks on threads pay: 500,000 took 0.19 ms plainly and 0.43 in blocks, 2 million 2.1 and 1.3.
_MANY = 1 << 20
_INTEGERS = {2: np.int16, 4: np.int32, 8: np.int64}


@kernel
def masked(x, mask, scale):
    """x · scale, with all bits cleared where the mask is 0.

    NaN becomes 0 there too, which no product does, and NumPy is ten times faster than in `where`.

    Args:
        x: Array of floats.
        mask: Array of int8 that broadcasts to x: -1, which has all bits set, or 0.
        scale: Number of x's dtype.
    """
    y = x * scale
    integer = _INTEGERS[y.dtype.itemsize]
    bits = y.view(integer)
    bits &= mask.astype(integer)
    return y


@masked.cpu
def masked(x, mask, scale):
    if x.size < _MANY or x.dtype.kind != "f" or not blocks.is_plain(x, mask):
        return masked.reference(x, mask, scale)
    y = np.empty(x.shape, x.dtype)
    integer = np.dtype(_INTEGERS[x.dtype.itemsize])

    def block(x_part, mask_part, y_part):
        np.multiply(x_part, scale, out=y_part)
        bits = y_part.view(integer)
        with memory.scratch(bits.shape, integer) as wide:
            wide[...] = mask_part
            bits &= wide

    blocks.elementwise(block, x, mask, y)
    return y


@masked.samples
def masked(random, dtype):
    for shape in (1,), (33, 7), (7, 4999), (530, 2003), (0, 4):
        x = random(shape, dtype)
        keep = -(random(shape, "float32") > 0.5).astype("int8")
        yield x, keep, x.dtype.type(1.25)
        yield x, keep[:1], x.dtype.type(2.0)
    x = random((8, 5), dtype)
    yield x.T, -(random((5, 8), "float32") > 0.5).astype("int8"), x.dtype.type(2.0)
