"""ReLU, GELU, SiLU and the logistic function with their derivatives, in few passes over memory."""

import math

import numpy as np

from gpukeras.backend import cuda, devices, memory, threads
from gpukeras.kernels import blocks, special
from gpukeras.kernels.kernel import kernel

__all__ = ["gelu", "gelu_by_tanh", "logistic", "relu", "relu_backward", "silu"]

_CUDA = cuda.Source("activation")


def _elementwise(name, *arrays):
    """Run a CUDA kernel on arrays of one shape, of which the last may be None."""
    if not cuda.is_plain(*arrays):
        return NotImplemented
    _CUDA.elementwise(name, arrays[0], *arrays)
    return None


# --- ReLU ------------------------------------------------------------------------------------------------------

# Elements from which on all threads take part, forward and backward, and those of a block. Measured on two threads
# instead of one: forward 1.4 million 0.48 and 0.40 ms, 5.5 million 2.1 and 2.9; backward 0.75 and 0.95, 3.6 and 5.1.
_RELU_THREADED = 1 << 22
_RELU_BACKWARD_THREADED = 1 << 20
_RELU_BLOCK = 1 << 18


@kernel
def relu(x):
    """max(x, 0)."""
    return devices.array_module(x).maximum(x, 0)


@relu.cpu
def relu(x):
    if getattr(x, "dtype", None) not in (np.float32, np.float64) or not x.flags.c_contiguous:
        return relu.reference(x)
    y = np.empty_like(x)
    if x.size < _RELU_THREADED:
        blocks.with_number(np.maximum, x, 0.0, y)
    else:
        _in_blocks(lambda part, out: blocks.with_number(np.maximum, part, 0.0, out), x, y)
    return y


@relu.cuda
def relu(x):
    y = devices.array_module(x).empty_like(x)
    _CUDA.elementwise("relu", x, x, y)
    return y


@relu.samples
def relu(random, dtype):
    for shape in (*_ELEMENTWISE_SAMPLES, (3, 1_400_000)):
        yield (random(shape, dtype),)
    yield (random((5, 8), dtype).T,)


@kernel
def relu_backward(dy, y):
    """dx = dy where y > 0, else 0."""
    return dy * (y > 0)


@relu_backward.cpu
def relu_backward(dy, y):
    if y.size < _RELU_BACKWARD_THREADED or not blocks.is_plain(dy, y):
        return relu_backward.reference(dy, y)
    dx = np.empty_like(dy)
    _in_blocks(lambda dpart, part, out: np.multiply(dpart, part > 0, out=out), dy, y, dx)
    return dx


@relu_backward.cuda
def relu_backward(dy, y):
    if not cuda.is_plain(dy, y):
        return NotImplemented
    dx = devices.array_module(dy).empty_like(dy)
    _CUDA.elementwise("relu_backward", dy, dy, y, dx)
    return dx


@relu_backward.samples
def relu_backward(random, dtype):
    for shape in (*_ELEMENTWISE_SAMPLES, (3, 400_000)):
        yield random(shape, dtype), abs(random(shape, dtype)).round()
    yield random((5, 8), dtype).T, random((8, 5), dtype)


def _in_blocks(function, *arrays):
    """Call ``function(*parts)`` for flat blocks of plain arrays, on all threads."""
    flat = [a.reshape(-1) for a in arrays]

    def block(start):
        function(*[a[start : start + _RELU_BLOCK] for a in flat])

    threads.run(block, range(0, flat[0].size, _RELU_BLOCK))


# --- GELU ------------------------------------------------------------------------------------------------------

_DENSITY = 1.0 / math.sqrt(2.0 * math.pi)  # of the normal distribution at 0


@kernel
def gelu(x, y, slope=None):
    """y ← x · Φ(x); slope, where it is not None, ← dy/dx = Φ(x) + x · exp(-x² / 2) / sqrt(2π)."""
    below = special.normal_cdf(x)
    y[...] = x * below
    if slope is not None:
        xp = devices.array_module(x)
        xp.exp(-0.5 * (x * x), out=slope)
        slope *= x
        slope *= _DENSITY
        slope += below


# Φ(x) = ½ + ½ tanh(x R(s)) with s = κ x² and R = β + s + γ / (s + δ + ε / (s + ζ)): the rational function of its kind
# whose error in x · Φ(x) is smallest up to abs(x) = 6.2, there 1.3e-7. It has no poles, and tanh is ±1 beyond. In
# float32 Φ is off by 2.1e-7 at most, y by that times abs(x), slope by 2.8e-7. Compared with a form by exp(-x² / 2)
# without tanh it takes two thirds of the passes.
_KAPPA = 0.01745677231513225
_ZETA, _EPSILON, _DELTA = 0.584020661354812, 0.19983202380635356, -0.1768259395444329
_GAMMA, _BETA = -0.07136212211880184, 1.2294941800923345


@gelu.cpu
def gelu(x, y, slope=None):
    arrays = [x, y] if slope is None else [x, y, slope]
    if x.dtype != np.float32 or not blocks.is_plain(*arrays):
        return gelu.reference(x, y, slope)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        blocks.elementwise(_gelu_block, x, y, slope)


def _gelu_block(x, y, slope):
    with memory.scratch((2, x.size), x.dtype) as (s, below):
        np.multiply(x, _KAPPA, out=s)
        s *= x
        np.add(s, _ZETA, out=below)
        np.divide(_EPSILON, below, out=below)
        below += s
        below += _DELTA
        np.divide(_GAMMA, below, out=below)
        below += s
        below += _BETA
        below *= x
        np.tanh(below, out=below)
        below *= 0.5
        below += 0.5
        np.multiply(x, below, out=y)
        if slope is not None:
            s *= -0.5 / _KAPPA
            np.exp(s, out=slope)
            slope *= x
            slope *= _DENSITY
            slope += below


@gelu.cuda
def gelu(x, y, slope=None):
    return _elementwise("gelu", x, y, slope)


@gelu.samples
def gelu(random, dtype):
    for shape in _ELEMENTWISE_SAMPLES:
        x = 2.0 * random(shape, dtype)
        yield x, x.copy(), x.copy()
        yield x, x.copy(), None
    yield 2.0 * random((5, 8), dtype).T, random((8, 5), dtype), random((8, 5), dtype)
    far = 10.0 * random((3000,), dtype)
    far[:4] = (math.inf, 1e30, -1e30, 0.0)
    yield far, far.copy(), None


_ELEMENTWISE_SAMPLES = (1,), (33, 7), (7, 4999), (53, 5003), (0, 4)


@kernel
def gelu_by_tanh(x, y, slope=None):
    """y ← x · (1 + tanh u) / 2, u = sqrt(2 / π) · (x + 0.044715 x³), and slope ← dy/dx where it is not None."""
    c = math.sqrt(2.0 / math.pi)
    square = x * x
    u = square * (c * 0.044715)
    u += c
    u *= x
    t = devices.array_module(x).tanh(u)
    y[...] = 0.5 * x * (1.0 + t)
    if slope is not None:
        slope[...] = (0.5 * c) * x * (1.0 + (3.0 * 0.044715) * square) * (1.0 - t * t) + 0.5 * (1.0 + t)


@gelu_by_tanh.cpu
def gelu_by_tanh(x, y, slope=None):
    arrays = [x, y] if slope is None else [x, y, slope]
    if not blocks.is_plain(*arrays):
        return gelu_by_tanh.reference(x, y, slope)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        blocks.elementwise(_gelu_by_tanh_block, x, y, slope)


def _gelu_by_tanh_block(x, y, slope):
    # (1 + tanh u) / 2 = s = 1 / (1 + exp(-2u)): exp takes half of tanh's time.
    c = 2.0 * math.sqrt(2.0 / math.pi)
    with memory.scratch((2, x.size), x.dtype) as (square, s):
        np.multiply(x, x, out=square)
        np.multiply(square, -c * 0.044715, out=s)
        s -= c
        s *= x
        np.exp(s, out=s)
        s += 1.0
        np.reciprocal(s, out=s)
        np.multiply(x, s, out=y)
        if slope is not None:  # s + y (1 - s) (2u)'
            square *= c * 3.0 * 0.044715
            square += c
            np.subtract(1.0, s, out=slope)
            slope *= y
            slope *= square
            slope += s


@gelu_by_tanh.cuda
def gelu_by_tanh(x, y, slope=None):
    return _elementwise("gelu_by_tanh", x, y, slope)


@gelu_by_tanh.samples
def gelu_by_tanh(random, dtype):
    for shape in _ELEMENTWISE_SAMPLES:
        x = 2.0 * random(shape, dtype)
        yield x, x.copy(), x.copy()
        yield x, x.copy(), None
    yield random((5, 8), dtype).T, random((8, 5), dtype), random((8, 5), dtype)


# --- The logistic function -------------------------------------------------------------------------------------

# exp(-x) is finite for x above these; what is no type of NumPy's, bfloat16, has the range of float32.
_SMALLEST_EXPONENT = {np.dtype("float16"): -11.0, np.dtype("float32"): -87.0, np.dtype("float64"): -708.0}


def _smallest_exponent(x):
    return _SMALLEST_EXPONENT.get(x.dtype, -87.0)


@kernel
def logistic(x, y):
    """y ← 1 / (1 + exp(-x)), precise for large negative x as well."""
    xp = devices.array_module(x)
    xp.negative(xp.maximum(x, _smallest_exponent(x)), out=y)
    xp.exp(y, out=y)
    y += 1.0
    xp.divide(1.0, y, out=y)


@logistic.cpu
def logistic(x, y):
    if x.size < 4096 or not blocks.is_plain(x, y):  # for few numbers one more pass takes less than `errstate`
        return logistic.reference(x, y)
    with np.errstate(over="ignore", under="ignore"):
        blocks.elementwise(_logistic_block, x, y)


def _logistic_block(x, y):
    np.negative(x, out=y)
    np.exp(y, out=y)
    y += 1.0
    np.reciprocal(y, out=y)


@logistic.cuda
def logistic(x, y):
    return _elementwise("logistic", x, y)


@logistic.samples
def logistic(random, dtype):
    for shape in _ELEMENTWISE_SAMPLES:
        x = 5.0 * random(shape, dtype)
        yield x, x.copy()
    yield random((5, 8), dtype).T, random((8, 5), dtype)


@kernel
def silu(x, y, slope=None):
    """y ← x · s with s = 1 / (1 + exp(-x)); slope, where it is not None, ← s + y · (1 - s)."""
    xp = devices.array_module(x)
    s = xp.empty(x.shape, x.dtype)
    logistic.reference(x, s)
    y[...] = xp.maximum(x, _smallest_exponent(x)) * s  # far out, s stays at its value there
    if slope is not None:
        slope[...] = s + y * (1.0 - s)


@silu.cpu
def silu(x, y, slope=None):
    arrays = [x, y] if slope is None else [x, y, slope]
    if not blocks.is_plain(*arrays):
        return silu.reference(x, y, slope)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        blocks.elementwise(_silu_block, x, y, slope)


def _silu_block(x, y, slope):
    with memory.scratch((x.size,), x.dtype) as s:
        _logistic_block(x, s)
        np.multiply(x, s, out=y)
        if slope is not None:
            np.subtract(1.0, s, out=slope)
            slope *= y
            slope += s


@silu.cuda
def silu(x, y, slope=None):
    return _elementwise("silu", x, y, slope)


@silu.samples
def silu(random, dtype):
    for shape in _ELEMENTWISE_SAMPLES:
        x = 3.0 * random(shape, dtype)
        yield x, x.copy(), x.copy()
        yield x, x.copy(), None
