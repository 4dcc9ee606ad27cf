"""Smooth activation functions of every element alike (glu: of pairs), with their derivatives."""

import functools
import math

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.autograd.scope import current
from gpukeras.backend import cuda, devices
from gpukeras.kernels import activation as kernels
from gpukeras.kernels import arithmetic
from gpukeras.ops.elementwise import as_float

__all__ = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "log_sigmoid",
    "mish",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "squareplus",
    "swish",
    "tanh_shrink",
]

# Klambauer et al., "Self-Normalizing Neural Networks" (2017).
_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


def in_float32_or_wider(function):
    """Give an op's body x in float32 where it is shorter or no float, and cast the results back.

    The body then neither leaves the range of float16 nor rounds more than once.
    """

    @functools.wraps(function)
    def widened(x, *args, **settings):
        x = as_float(x)
        dtype = x.dtype
        if dtype.itemsize >= 4:
            return function(x, *args, **settings)
        y, backward = function(x.astype("float32"), *args, **settings)

        def narrow(dy, needs):
            dx, *others = backward(dy.astype("float32"), needs)
            return dx.astype(dtype), *others

        return y.astype(dtype), narrow

    return widened


def logistic(x):
    """1 / (1 + exp(-x)) of a float array, precise for large negative x as well."""
    xp = devices.array_module(x)
    y = xp.empty(x.shape, x.dtype)
    kernels.logistic(x, y)
    return y


def _sloped(kernel, x):
    """y and its derivative by a kernel that gives both; without the derivative where no tape will ask for it."""
    x = as_float(x)
    xp, dtype = devices.array_module(x), x.dtype
    # ascontiguousarray gives a number an axis, which the reshape takes back.
    x = xp.ascontiguousarray(x.astype(cuda.dtype_of_work(x, dtype), copy=False)).reshape(x.shape)
    y = xp.empty_like(x)
    slope = xp.empty_like(x) if current.tapes else None
    kernel(x, y, slope)

    def backward(dy, needs):
        dy = dy.astype(x.dtype, copy=False)
        dx = dy * slope if xp is np else arithmetic.multiply(dy, slope)
        return (dx.astype(dtype, copy=False),)

    return y.astype(dtype, copy=False), backward


@op
@in_float32_or_wider
def elu(x, /, alpha=1.0):
    """Exponential linear unit.

        y  = x where x > 0, else alpha · (exp(x) - 1)
        dx = dy where x > 0, else alpha · exp(x) · dy

    Example:
        >>> elu([-1.0, 2.0]).numpy().round(3)
        array([-0.632,  2.   ], dtype=float32)
    """
    return _elu(x, alpha, 1.0, 1.0)


@op
@in_float32_or_wider
def selu(x, /):
    """Scaled exponential linear unit, whose outputs keep mean 0 and variance 1.

        y  = scale · elu(x, alpha), scale ≈ 1.0507, alpha ≈ 1.6733
        dx = scale · dy where x > 0, else scale · alpha · exp(x) · dy

    Example:
        >>> selu([-1.0, 2.0]).numpy().round(3)
        array([-1.111,  2.101], dtype=float32)
    """
    return _elu(x, _SELU_ALPHA, 1.0, _SELU_SCALE)


@op
@in_float32_or_wider
def celu(x, /, alpha=1.0):
    """Continuously differentiable exponential linear unit.

        y  = max(x, 0) + min(alpha · (exp(x / alpha) - 1), 0)
        dx = dy where x > 0, else exp(x / alpha) · dy

    Example:
        >>> celu([-1.0, 2.0], alpha=2.0).numpy().round(3)
        array([-0.787,  2.   ], dtype=float32)
    """
    return _elu(x, alpha, alpha, 1.0)


def _elu(x, alpha, width, scale):
    """scale · x where x > 0, else scale · alpha · (exp(x / width) - 1), and its derivative."""
    xp = devices.array_module(x)
    y = xp.minimum(x, 0)
    if width != 1.0:
        y = y / width
    y = xp.where(x > 0, scale * x, scale * alpha * xp.expm1(y))

    def backward(dy, needs):
        return (xp.where(x > 0, scale * dy, dy * ((y + scale * alpha) / width)),)

    return y, backward


@op
@in_float32_or_wider
def sigmoid(x, /):
    """The logistic function.

        y  = 1 / (1 + exp(-x))
        dx = y · (1 - y) · dy

    Example:
        >>> sigmoid([-100.0, 0.0]).numpy().round(3)
        array([0. , 0.5], dtype=float32)
    """
    y = logistic(x)

    def backward(dy, needs):
        return (dy * (y * (1.0 - y)),)

    return y, backward


@op
@in_float32_or_wider
def log_sigmoid(x, /):
    """Logarithm of the logistic function.

        y  = -log(1 + exp(-x))
        dx = sigmoid(-x) · dy

    Example:
        >>> log_sigmoid([-100.0, 0.0]).numpy().round(3)
        array([-100.   ,   -0.693], dtype=float32)
    """

    def backward(dy, needs):
        return (dy * logistic(-x),)

    return -_softplus(-x), backward


def _softplus(x):
    """log(1 + exp(x)); neither overflows nor loses small results."""
    xp = devices.array_module(x)
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


@op
@in_float32_or_wider
def softplus(x, /):
    """A smooth rectified linear unit.

        y  = log(1 + exp(x))
        dx = sigmoid(x) · dy

    Example:
        >>> softplus([-1.0, 0.0, 100.0]).numpy().round(3)
        array([  0.313,   0.693, 100.   ], dtype=float32)
    """

    def backward(dy, needs):
        return (dy * logistic(x),)

    return _softplus(x), backward


@op
@in_float32_or_wider
def softsign(x, /):
    """A slower sigmoid through zero.

        y  = x / (1 + |x|)
        dx = dy / (1 + |x|)²

    Example:
        >>> softsign([-1.0, 3.0]).numpy()
        array([-0.5 ,  0.75], dtype=float32)
    """
    scale = 1.0 / (1.0 + abs(x))

    def backward(dy, needs):
        return (dy * (scale * scale),)

    return x * scale, backward


@op
def silu(x, /):
    """Sigmoid-weighted linear unit, also called swish.

        y  = x · s                       with s = sigmoid(x)
        dx = (s + y · (1 - s)) · dy

    Reference: Ramachandran et al., "Searching for Activation Functions" (2017).

    Example:
        >>> silu([-1.0, 2.0]).numpy().round(3)
        array([-0.269,  1.762], dtype=float32)
    """
    return _sloped(kernels.silu, x)


swish = silu


@op
@in_float32_or_wider
def mish(x, /):
    """A smooth, non-monotonic unit.

        y  = x · t                                    with t = tanh(softplus(x))
        dx = (t + x · (1 - t²) · sigmoid(x)) · dy

    Reference: Misra, "Mish: A Self Regularized Non-Monotonic Activation Function" (2019).

    Example:
        >>> mish([-1.0, 2.0]).numpy().round(3)
        array([-0.303,  1.944], dtype=float32)
    """
    t = devices.array_module(x).tanh(_softplus(x))

    def backward(dy, needs):
        return (dy * (t + x * (1.0 - t * t) * logistic(x)),)

    return x * t, backward


@op
def gelu(x, /, approximate=True):
    """Gaussian error linear unit: x times the chance that a standard normal variable lies below x.

        y  = x · Φ(x)
        dx = (Φ(x) + x · exp(-x² / 2) / sqrt(2π)) · dy

    or, approximately, with t = tanh(u) and u = sqrt(2/π) · (x + 0.044715 x³):

        y  = x · (1 + t) / 2
        dx = ((1 + t) / 2 + x · (1 - t²) · u' / 2) · dy

    Reference: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016).

    Example:
        >>> gelu([-1.0, 2.0], approximate=False).numpy().round(4)
        array([-0.1587,  1.9545], dtype=float32)
    """
    return _sloped(kernels.gelu_by_tanh if approximate else kernels.gelu, x)


@op
@in_float32_or_wider
def glu(x, /, axis=-1):
    """Gated linear unit: the first half of an axis, let through by the second.

        y   = a · s                             with x = [a, b], s = sigmoid(b)
        dx  = [s · dy, y · (1 - s) · dy]

    Args:
        x: Array with an even size along `axis`.
        axis: The axis that is halved.

    Reference: Dauphin et al., "Language Modeling with Gated Convolutional Networks" (2016).

    Example:
        >>> glu([2.0, 0.0]).numpy()
        array([1.], dtype=float32)
    """
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"glu got axis={axis} for an array of shape {x.shape}. Choose from {-x.ndim} to {x.ndim - 1}.")
    size = x.shape[axis]
    if size % 2:
        raise ValueError(
            f"glu halves axis {axis}, whose size must be even, but got shape {x.shape}. "
            f"Choose another axis, or give the layer before twice as many units."
        )
    xp = devices.array_module(x)
    a, b = xp.split(x, 2, axis=axis)
    s = logistic(b)
    y = a * s

    def backward(dy, needs):
        return (xp.concatenate([dy * s, dy * (y * (1.0 - s))], axis=axis),)

    return y, backward


@op
@in_float32_or_wider
def tanh_shrink(x, /):
    """What tanh leaves over.

        y  = x - tanh(x)
        dx = tanh(x)² · dy

    Example:
        >>> tanh_shrink([0.0, 2.0]).numpy().round(3)
        array([0.   , 1.036], dtype=float32)
    """
    t = devices.array_module(x).tanh(x)

    def backward(dy, needs):
        return (dy * (t * t),)

    return x - t, backward


@op
@in_float32_or_wider
def squareplus(x, /, b=4):
    """A smooth rectified linear unit without exponentials.

        y  = (x + sqrt(x² + b)) / 2
        dx = (1 + x / sqrt(x² + b)) / 2 · dy

    Reference: Barron, "Squareplus: A Softplus-Like Algebraic Rectifier" (2021).

    Example:
        >>> squareplus([0.0, 1.5]).numpy()
        array([1., 2.], dtype=float32)
    """
    root = devices.array_module(x).hypot(x, math.sqrt(b))  # never forms x², which may overflow

    def backward(dy, needs):
        return (dy * (0.5 + 0.5 * (x / root)),)

    return 0.5 * (x + root), backward
