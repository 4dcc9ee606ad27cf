"""Dropout, with a mask at hand or drawn on the way: scale, and clear what is dropped."""

import numpy as np

from gpukeras.backend import cuda, devices, memory
from gpukeras.backend import random as random_bits
from gpukeras.kernels import blocks
from gpukeras.kernels.kernel import kernel

__all__ = ["dropout", "masked"]

_CUDA = cuda.Source("dropout")

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
    return bits.view(y.dtype)  # NumPy makes scalars of arrays of shape (), which `&=` replaces


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


@masked.cuda
def masked(x, mask, scale):
    if mask.shape != x.shape or mask.dtype != np.int8:
        return NotImplemented
    y = devices.array_module(x).empty_like(x)
    _CUDA.elementwise("masked", x, x, mask, scale, y)
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


@kernel
def dropout(x, state, rate):
    """x / (1 - rate), with a share `rate` of the elements set to zero, NaN among them too.

    Which elements those are follows from the generator's `state` (2,) uint32, key and draw, so that the backward pass
    needs no mask: it calls this with dy and the same state.
    """
    keep = random_bits.bernoulli(state[:1], state[1:2], x.size, 1.0 - rate, devices.array_module(x))
    return masked.reference(x, -keep.view(np.int8).reshape(x.shape), _scale(x, rate))


@dropout.cuda
def dropout(x, state, rate):
    if x.size > 2**33:  # more counters than one draw has
        return NotImplemented
    y = devices.array_module(x).empty_like(x)
    by_half_words = 1 / 64 <= 1.0 - rate <= 63 / 64
    threshold = round((1.0 - (1.0 - rate)) * 2 ** (16 if by_half_words else 32))
    _CUDA.elementwise("dropout", x, x, state, threshold, by_half_words, _scale(x, rate), y)
    return y


@dropout.samples
def dropout(random, dtype):
    for shape in (1,), (33, 7), (7, 4999), (0, 4):
        for rate in (0.5, 0.2, 0.001, 0.0, 1.0):
            state = devices.default_module().asarray(np.array([7, len(shape)], np.uint32))
            yield random(shape, dtype), state, rate


def _scale(x, rate):
    return x.dtype.type(0.0 if rate == 1 else 1.0 / (1.0 - rate))
