"""ReLU, softmax, GELU, SiLU and the logistic function with their derivatives, in few passes over memory."""

import math

import numpy as np

from gpukeras.backend import cuda, devices, memory, threads
from gpukeras.kernels import blocks, special
from gpukeras.kernels.kernel import kernel

__all__ = ["gelu", "gelu_by_tanh", "logistic", "relu", "relu_backward", "silu", "softmax", "softmax_backward"]

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


# --- Softmax ---------------------------------------------------------------------------------------------------


@kernel
def softmax(x, y, axis=-1):
    """y ← exp(x - max x) / Σ exp(x - max x), maximum and sum over `axis`; y may be x itself."""
    xp = devices.array_module(x)
    xp.subtract(x, x.max(axis=axis, keepdims=True), out=y)
    xp.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


# Columns up to which rows are turned first: 128 rows of 10 took 7 us so, 16 otherwise; of 64 about the same.
_SHORT = 32


@softmax.cpu
def softmax(x, y, axis=-1):
    if not _is_for_blas(x, y):
        return softmax.reference(x, y, axis)
    if axis in (-1, x.ndim - 1):
        size = x.shape[-1]
        x_rows, y_rows = (x, y) if x.ndim == 2 else (x.reshape(-1, size), y.reshape(-1, size))
        if size <= _SHORT and x.size <= blocks.BLOCK:
            turned = x_rows.T.copy()
            turned -= np.maximum.reduce(turned, 0)
            np.exp(turned, out=turned)
            np.divide(turned, np.add.reduce(turned, 0), out=y_rows.T)
            return y
        ones = np.ones(size, x.dtype)

        def rows(block):
            part, out = x_rows[block], y_rows[block]
            np.subtract(part, np.maximum.reduce(part, 1, keepdims=True), out=out)
            np.exp(out, out=out)
            total = np.dot(out, ones)  # a sum by BLAS, twice as fast as add.reduce
            np.reciprocal(total, out=total)
            out *= total[:, None]

        blocks.for_rows(rows, len(x_rows), size, uses_blas=True)
        return y
    view = _columns_view(axis, x.shape)
    if view is None:
        return softmax.reference(x, y, axis)
    outer, size, inner = view
    x_columns, y_columns, ones = x.reshape(view), y.reshape(view), np.ones((1, size), x.dtype)

    def columns(block):
        part, out = x_columns[block], y_columns[block]
        np.subtract(part, np.maximum.reduce(part, 1, keepdims=True), out=out)
        np.exp(out, out=out)
        total = np.matmul(ones, out)
        np.reciprocal(total, out=total)
        out *= total

    blocks.for_rows(columns, outer, size * inner, uses_blas=True)
    return y


@softmax.cuda
def softmax(x, y, axis=-1):
    rows = _rows_view(axis, x.shape)
    if rows is None or not cuda.is_plain(x, y):
        return NotImplemented
    _CUDA.rows("softmax", x, *rows, x, y, held=1)
    return y


@softmax.samples
def softmax(random, dtype):
    for shape, axis in _SOFTMAX_SAMPLES:
        x = random(shape, dtype)
        yield x, x.copy(), axis
    x = random((0, 3), dtype)
    yield x, x.copy(), 1


_SOFTMAX_SAMPLES = (
    ((7, 3), -1),
    ((7, 33), -1),
    ((700, 129), -1),
    ((2100, 129), -1),
    ((2, 3, 4, 5), (1, 3)),
    ((2, 3, 4, 5), (3, 2)),
    ((2, 3, 4, 5), (1, 2)),
    ((40, 30, 50), 1),
    ((5, 300, 200), 1),
    ((6, 5), 0),
)


@kernel
def softmax_backward(y, dy, dx, axis=-1):
    """dx ← y · (dy - Σ y · dy), the sum over `axis`; dx may be dy itself."""
    product = y * dy
    total = product.sum(axis=axis, keepdims=True)
    total = y * total
    devices.array_module(y).subtract(product, total, out=dx)
    return dx


@softmax_backward.cpu
def softmax_backward(y, dy, dx, axis=-1):
    if not _is_for_blas(y, dy, dx):
        return softmax_backward.reference(y, dy, dx, axis)
    is_last = axis in (-1, y.ndim - 1)
    view = (-1, y.shape[-1]) if is_last else _columns_view(axis, y.shape)
    if view is None:
        return softmax_backward.reference(y, dy, dx, axis)
    y_view, dy_view, dx_view = y.reshape(view), dy.reshape(view), dx.reshape(view)
    ones = np.ones(view[1], y.dtype)

    def block(rows):
        part, dpart, out = y_view[rows], dy_view[rows], dx_view[rows]
        # BLAS sums up rows in a half to two thirds of the time that einsum takes for up to 64 columns.
        total = np.dot(part * dpart, ones) if is_last else np.einsum("ijk,ijk->ik", part, dpart)
        np.subtract(dpart, total[:, None], out=out)
        out *= part

    blocks.for_rows(block, len(y_view), y.size // len(y_view), uses_blas=is_last)
    return dx


@softmax_backward.cuda
def softmax_backward(y, dy, dx, axis=-1):
    rows = _rows_view(axis, y.shape)
    if rows is None or not cuda.is_plain(y, dy, dx):
        return NotImplemented
    _CUDA.rows("softmax_backward", y, *rows, y, dy, dx, held=2)
    return dx


@softmax_backward.samples
def softmax_backward(random, dtype):
    for shape, axis in _SOFTMAX_SAMPLES:
        y = abs(random(shape, dtype))
        y /= y.sum(axis=axis, keepdims=True)
        yield y, random(shape, dtype), y.copy(), axis


def _is_for_blas(*arrays):
    """Whether all arrays are plain matrices to BLAS, and hold something."""
    return all([a.size and a.flags.c_contiguous and a.dtype.char in "fd" for a in arrays])


def _columns_view(axis, shape):
    """The shape (outer, size, inner), size that of `axis`; None where the axes are not neighbours."""
    axes = sorted(a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,)))
    first, last = axes[0], axes[-1] + 1
    if last - first != len(axes) or len(set(axes)) != len(axes):
        return None
    return math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:])


def _rows_view(axis, shape):
    """The shape (rows, columns) where the axes are the last ones, else None."""
    view = _columns_view(axis, shape) if shape else None
    return view[:2] if view is not None and view[2] == 1 else None


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
