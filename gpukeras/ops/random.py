"""Ops that draw random numbers: dropout, alpha dropout, shuffling.

Each takes a generator's `state`, two uint32 words (seed, counter), as an array input: a captured
step reads it where it lies.
"""

import math

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import devices, dtypes, random
from gpukeras.kernels import dropout as kernels

__all__ = ["alpha_dropout", "dropout", "shuffle"]


@op
def dropout(x, state, /, rate, noise_shape=None):
    """Sets a share `rate` of the elements to zero and scales the others by 1 / (1 - rate).

        y  = keep · x / (1 - rate)
        dx = keep · dy / (1 - rate)

    Args:
        rate: Share that is dropped, from 0 to 1.
        noise_shape: Shape of the mask, which is broadcast to x; None in it stands for the size of
            x.

    Shapes:
        x (...), state (2,) uint32  ->  y (...)

    Keeps the mask until the backward pass, on a GPU only the state: there the same bits are drawn again.

    Example:
        >>> dropout(np.ones(6, "float32"), np.uint32([7, 0]), rate=0.5).numpy()
        array([0., 0., 2., 2., 2., 2.], dtype=float32)
    """
    if noise_shape is None and devices.array_module(x) is not np:
        return _dropout_without_mask(x, state, rate)
    mask = _mask(x, state, rate, noise_shape, "dropout")
    scale = x.dtype.type(0.0 if rate == 1 else 1.0 / (1.0 - rate))

    def backward(dy, needs):
        return kernels.masked(dy, mask, scale) if needs.x else None, None

    return kernels.masked(x, mask, scale), backward


def _dropout_without_mask(x, state, rate):
    _check(x, rate, "dropout")

    def backward(dy, needs):
        return kernels.dropout(dy, state, rate) if needs.x else None, None

    return kernels.dropout(x, state, rate), backward


# Where SELU saturates: -alpha * scale (Klambauer et al., "Self-Normalizing Neural Networks", 2017).
_SELU_MINIMUM = -1.6732632423543772848170429916717 * 1.0507009873554804934193349852946


@op
def alpha_dropout(x, state, /, rate, noise_shape=None):
    """Dropout for SELU networks: dropped elements take SELU's minimum; mean and variance stay.

        y  = a · (keep ? x : m) + b,   m = -1.7581
        a  = ((1 - rate) (1 + rate m²))^(-1/2),   b = -a m rate
        dx = a · keep · dy

    Args:
        rate: Share that is dropped, from 0 to below 1.
        noise_shape: Shape of the mask, which is broadcast to x; None in it stands for the size of
            x.

    Shapes:
        x (...), state (2,) uint32  ->  y (...)

    Keeps the mask until the backward pass.

    Example:
        >>> alpha_dropout(np.ones(4, "float32"), np.uint32([7, 0]), rate=0.5).shape
        (4,)
    """
    mask = _mask(x, state, rate, noise_shape, "alpha_dropout")
    a = 0.0 if rate == 1 else 1.0 / math.sqrt((1 - rate) * (1 + rate * _SELU_MINIMUM**2))
    scale = x.dtype.type(a)
    # a · (keep ? x : m) + b = (keep ? a · (x - m) : 0) + (a · m + b)
    minimum = x.dtype.type(_SELU_MINIMUM)
    shift = x.dtype.type(a * _SELU_MINIMUM * (1 - rate))

    def backward(dy, needs):
        return kernels.masked(dy, mask, scale) if needs.x else None, None

    return kernels.masked(x - minimum, mask, scale) + shift, backward


@op
def shuffle(x, state, /, axis=0):
    """Moves the elements along an axis to random places, in every line along it to others.

    dx is dy with its elements moved back.

    Shapes:
        x (...), state (2,) uint32  ->  y (...)

    Example:
        >>> sorted(shuffle(np.arange(4), np.uint32([7, 0])).tolist())
        [0, 1, 2, 3]
    """
    xp = devices.array_module(x)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"shuffle: axis {axis} is out of range for shape {x.shape}.")
    keys = random.random_bits(state[:1], state[1:2], 2 * x.size, xp).view("uint64").reshape(x.shape)
    order = xp.argsort(keys, axis=axis, kind="stable")

    def backward(dy, needs):
        if not needs.x:
            return None, None
        return xp.take_along_axis(dy, xp.argsort(order, axis=axis, kind="stable"), axis), None

    return xp.take_along_axis(x, order, axis), backward


def _check(x, rate, name):
    if not 0 <= rate <= 1:
        raise ValueError(f"{name}: rate must lie between 0 and 1, but got {rate}.")
    if not dtypes.is_float(x.dtype):
        raise TypeError(f"{name} needs a float input, but got dtype {x.dtype.name}. Cast it first (ops.cast).")


def _mask(x, state, rate, noise_shape, name):
    """-1 (all bits set) with probability 1 - rate, else 0; int8, of a shape that fits x."""
    _check(x, rate, name)
    shape = x.shape
    if noise_shape is not None:
        shape = _noise_shape(shape, noise_shape, name)
    xp = devices.array_module(x)
    keep = random.bernoulli(state[:1], state[1:2], math.prod(shape), 1.0 - rate, xp)
    return -keep.view(np.int8).reshape(shape)


def _noise_shape(shape, noise_shape, name):
    noise_shape = tuple(noise_shape)
    filled = shape
    if len(noise_shape) <= len(shape):
        sizes = shape[len(shape) - len(noise_shape) :]
        filled = tuple(s if n is None else int(n) for n, s in zip(noise_shape, sizes, strict=True))
        if all(n in (1, s) for n, s in zip(filled, sizes, strict=True)):
            return filled
    raise ValueError(
        f"{name}: noise_shape {noise_shape} does not broadcast to the input's shape {shape}. "
        f"Each entry must be 1, None or the size of its axis."
    )
