"""Casts between 16 bits and the type that kernels compute in."""

import numpy as np

from gpukeras.backend import cuda, devices
from gpukeras.kernels.kernel import kernel

__all__ = ["cast", "cast_into", "narrow", "widen"]

_CUDA = cuda.Source("casts")
_SHAPES = (5,), (3, 7), (64,), (4099,), (0,)


@kernel
def narrow(out, x):
    """out ← x, rounded to the nearest number of its type."""
    out[...] = x


@narrow.cuda(wide=("x",))
def narrow(out, x):
    _CUDA.elementwise("narrow_all", out, x, out)


@narrow.samples
def narrow(random, dtype):
    for shape in _SHAPES:
        yield random(shape, dtype), random(shape, dtype)


@kernel
def widen(x, out):
    """out ← x, of a wider type."""
    out[...] = x


@widen.cuda(wide=("out",))
def widen(x, out):
    _CUDA.launch("widen_all", x, (cuda.grid_of(out),), (cuda.THREADS,), x.size, x, out)


@widen.samples
def widen(random, dtype):
    for shape in _SHAPES:
        yield random(shape, dtype), random(shape, dtype)


def cast_into(out, x):
    """out ← x for arrays of any two types and one shape."""
    if _are_short_and_wide(out, x):
        narrow(out, x)
    elif _are_short_and_wide(x, out):
        widen(x, out)
    else:
        out[...] = x


def cast(x, dtype):
    """x in another dtype."""
    if x.dtype == dtype or not x.ndim or not cuda.runs_on(x):
        return x.astype(dtype, copy=False)
    out = devices.array_module(x).empty(x.shape, dtype)
    cast_into(out, x)
    return out


def _are_short_and_wide(short, wide):
    return short.dtype.name in _SHORT and wide.dtype == np.float32


_SHORT = ("bfloat16", "float16")
