"""Kernels that memory limits: time, bandwidth, and its share of what a copy on the device reaches.

The bytes are those that must move: every input read once, every output written once. A kernel that reads twice what
does not stay in its registers shows as a smaller share.
"""

import numpy as np

from bench.gpu_shared import Part, recorded
from gpukeras.backend import dtypes
from gpukeras.kernels import activation, convolution, dropout, loss, normalization, optimizer, pooling, softmax, updates
from gpukeras.kernels.windows import windows_of

__all__ = ["AIM", "AIM_OF_ADAM", "KERNELS", "PART"]

AIM, AIM_OF_ADAM = 0.80, 0.85  # of the copy's bandwidth

_COLUMNS = 1024  # of matrices
_CHANNELS = 64  # of images


class Arrays:
    """Arrays of one number of elements and dtype, for the kernels to be called with."""

    def __init__(self, bench, size, dtype):
        self.bench, self.size, self.dtype = bench, size, dtypes.as_dtype(dtype)
        self.rows = size // _COLUMNS
        side = 8 if bench.is_tiny else 64
        self.images = (size // (side * side * _CHANNELS), side, side, _CHANNELS)

    def many(self, count, *shape):
        """Arrays of normal numbers."""
        return [self.bench.random(shape or (self.size,), self.dtype) for _ in range(count)]

    def positive(self, *shape):
        """An array of positive numbers."""
        return (abs(self.bench.random(shape or (self.size,))) + 0.1).astype(self.dtype)

    def matrices(self, count):
        return self.many(count, self.rows, _COLUMNS)

    def channels(self, count):
        """Arrays as batch normalization sees them: (places, channels, 1)."""
        return self.many(count, self.size // _CHANNELS, _CHANNELS, 1)

    def scalar(self, value, dtype="float32"):
        return self.bench.xp.asarray(value, dtype=dtype)

    def labels(self):
        """Labels of a matrix, as `loss.places` gives them."""
        label = np.random.default_rng(23).integers(0, _COLUMNS, self.rows)
        return loss.places(self.bench.xp.asarray(label), _COLUMNS)


def _adam(a):
    state = *a.many(3), a.positive(), None, a.scalar(1, "int32"), a.scalar(1e-3)
    return lambda: optimizer.adam(*state, 0.9, 0.999, 1e-7)


def _rmsprop(a):
    state = *a.many(2), a.positive(), None, None, a.scalar(1e-3)
    return lambda: optimizer.rmsprop(*state, 0.9, 0.0, 1e-7)


def _sgd_momentum(a):
    state = *a.many(3), a.scalar(1e-3)
    return lambda: optimizer.sgd_momentum(*state, 0.9, False)


def _plain(kernel, count):
    """A kernel of some arrays of one shape and nothing else."""
    return lambda a: _called(kernel, *a.many(count))


def _of_rows(kernel, count):
    """A kernel of some matrices and nothing else."""
    return lambda a: _called(kernel, *a.matrices(count))


def _called(kernel, *arguments):
    arguments = kernel.typed(arguments, arguments[0].dtype)
    return lambda: kernel(*arguments)


def _layer_norm(a):
    x, z, y = a.matrices(3)
    gamma, beta = a.many(2, _COLUMNS)
    return _called(normalization.layer_norm, x, gamma, beta, z, y, 1e-3)


def _layer_norm_backward(a):
    z, dy, dx = a.matrices(3)
    (gamma,), scale = a.many(1, _COLUMNS), a.positive(a.rows, 1)
    return _called(normalization.layer_norm_backward, z, scale, gamma, dy, dx, True, True)


def _batch_scale(a):
    (x, y), vectors = a.channels(2), a.many(3, _CHANNELS)
    return _called(normalization.batch_scale, x, *vectors, y)


def _batch_sums(a):
    (x, dy), (mean,) = a.channels(2), a.many(1, _CHANNELS)
    return _called(normalization.batch_sums, x, mean, dy)


def _batch_scale_backward(a):
    (x, dy, dx), (mean, *vectors) = a.channels(3), a.many(4, _CHANNELS)
    return _called(normalization.batch_scale_backward, x, mean, dy, *vectors, dx)


def _dropout(a):
    state = a.bench.xp.asarray(np.array([7, 1], np.uint32))
    return _called(dropout.dropout, *a.many(1), state, 0.5)


def _crossentropy(a):
    return _called(loss.sparse_crossentropy_of_logits, *a.matrices(1), a.labels())


def _crossentropy_backward(a):
    e, total, dy = a.positive(a.rows, _COLUMNS), a.positive(a.rows), a.many(1, a.rows)[0]
    return _called(loss.sparse_crossentropy_of_logits_backward, e, total, a.labels(), dy)


def _finish(a):
    (y,), (bias,) = a.many(1, *a.images), a.many(1, _CHANNELS)
    return _called(convolution.finish, y, bias, True)


def _bias_gradient(a):
    return _called(convolution.bias_gradient, *a.many(1, *a.images))


def _windows(a):
    return windows_of(a.images[1:3], (2, 2), (2, 2), "valid", (1, 1))


def _max_pool(a):
    return _called(pooling.max_pool, *a.many(1, *a.images), _windows(a))


def _max_pool_gradient(a):
    (x,), windows = a.many(1, *a.images), _windows(a)
    y = pooling.max_pool(x, windows)
    return _called(pooling.max_pool_gradient, *a.many(1, *y.shape), x, y, windows)


KERNELS = {  # name -> passes over an array of the size, and what makes the call
    "adam": (7, _adam),
    "rmsprop": (5, _rmsprop),
    "sgd_momentum": (5, _sgd_momentum),
    "sum_of_squares": (1, _plain(updates.sum_of_squares, 1)),
    "relu": (2, _plain(activation.relu, 1)),
    "relu_backward": (3, _plain(activation.relu_backward, 2)),
    "gelu": (3, _plain(activation.gelu, 3)),
    "silu": (3, _plain(activation.silu, 3)),
    "logistic": (2, _plain(activation.logistic, 2)),
    "softmax": (2, _of_rows(softmax.softmax, 2)),
    "softmax_backward": (3, _of_rows(softmax.softmax_backward, 3)),
    "log_softmax": (2, _of_rows(softmax.log_softmax, 2)),
    "log_softmax_backward": (3, _of_rows(softmax.log_softmax_backward, 3)),
    "layer_norm": (3, _layer_norm),
    "layer_norm_backward": (3, _layer_norm_backward),
    "batch_moments": (1, lambda a: _called(normalization.batch_moments, *a.channels(1))),
    "batch_scale": (2, _batch_scale),
    "batch_sums": (2, _batch_sums),
    "batch_scale_backward": (3, _batch_scale_backward),
    "dropout": (2, _dropout),
    "crossentropy": (2, _crossentropy),
    "crossentropy_backward": (2, _crossentropy_backward),
    "finish": (2, _finish),
    "bias_gradient": (1, _bias_gradient),
    "max_pool": (1.25, _max_pool),
    "max_pool_gradient": (2.5, _max_pool_gradient),
}
OF_WEIGHTS = ("adam", "rmsprop", "sgd_momentum", "sum_of_squares")  # which are float32 under every policy


def run(bench):
    """The rows; the copy's first, by which the others are judged."""
    size = (1 << 13) if bench.is_tiny else 1 << 26
    copied = {}
    yield bench.row({"kernel": "copy", "dtype": "float32"}, lambda: _copy(bench, size, copied))
    for dtype in ("float32", "bfloat16"):
        for name, (passes, make) in KERNELS.items():
            if name in OF_WEIGHTS and dtype != "float32":
                continue

            def measure(name=name, passes=passes, make=make, dtype=dtype):
                arrays, launches = Arrays(bench, size, dtype), []
                call = make(arrays)
                with recorded(launches):
                    call()
                if not launches:
                    raise RuntimeError("no CUDA kernel was launched, the reference ran instead")
                return _cells(bench, call, passes * size * arrays.dtype.itemsize, name, copied)

            yield bench.row({"kernel": name, "dtype": dtype}, measure)


def _copy(bench, size, copied):
    x, y = bench.random((size,)), bench.xp.empty(size, "float32")
    cells = _cells(bench, lambda: bench.xp.copyto(y, x), 2 * y.nbytes, "copy", {})
    copied["gb_per_s"] = cells["gb_per_s"]
    return cells


def _cells(bench, call, moved, name, copied):
    timing = bench.time(call)
    cells = timing.cells() | {"mb": moved / 1e6, "gb_per_s": moved / timing.median / 1e9}
    if copied:
        share, aim = cells["gb_per_s"] / copied["gb_per_s"], AIM_OF_ADAM if name == "adam" else AIM
        cells |= {"share": share, "aim": aim, "reached": "yes" if share >= aim else "no"}
    return cells


PART = Part(
    "Kernels that memory limits: bandwidth, and its share of a copy's on the device",
    (
        ("kernel", "kernel", "{:<22}"),
        ("dtype", "type", "{:<9}"),
        ("ms", "ms", "{:9.4f}"),
        ("low_ms", "quartiles", "{:9.4f}"),
        ("high_ms", "", "{:9.4f}"),
        ("mb", "MB moved", "{:9.1f}"),
        ("gb_per_s", "GB/s", "{:8.1f}"),
        ("share", "share", "{:6.0%}"),
        ("aim", "aim", "{:5.0%}"),
        ("reached", "reached", "{:>7}"),
    ),
    run,
)
