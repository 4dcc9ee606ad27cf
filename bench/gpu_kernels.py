"""Kernels that memory limits: time, bandwidth, and its share of what a copy on the device reaches.

The bytes are those that must move: every input read once, every output written once. A kernel that reads twice what
does not stay in its registers shows as a smaller share.
"""

import numpy as np

from bench.gpu_shared import Part, recorded
from gpukeras.backend import cuda, dtypes
from gpukeras.kernels import (
    activation,
    batches,
    casts,
    convolution,
    depthwise,
    dropout,
    indexing,
    linear,
    loss,
    normalization,
    optimizer,
    pooling,
    softmax,
    sums,
    updates,
)
from gpukeras.kernels.windows import windows_of

__all__ = ["AIM", "AIM_OF_ADAM", "KERNELS", "OF_WEIGHTS", "PART", "UNLISTED"]

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


def _plain(kernel, count):
    """A kernel of some arrays of one shape and nothing else."""
    return lambda a: _called(kernel, *a.many(count))


def _of_rows(kernel, count):
    """A kernel of some matrices and nothing else."""
    return lambda a: _called(kernel, *a.matrices(count))


def _called(kernel, *arguments):
    arguments = kernel.typed(arguments, arguments[0].dtype)
    return lambda: kernel(*arguments)


def _optimizer(kernel, slots, *settings):
    """An optimizer's kernel with slots of either sign ("+-"), positive ones ("+"), or left out (" ")."""

    def make(a):
        arrays = a.many(2) + [a.many(1)[0] if s == "+-" else a.positive() if s == "+" else None for s in slots]
        arguments = (a.scalar(1, "int32") if s == "step" else a.scalar(1e-3) if s == "rate" else s for s in settings)
        return _called(kernel, *arrays, *arguments)

    return make


def _nadam(a):
    state = a.scalar(0.9), a.scalar(1, "int32"), a.scalar(1e-3)
    return _called(optimizer.nadam, *a.many(3), a.positive(), *state, 0.9, 0.999, 1e-7)


def _narrow(a):
    return _called(casts.narrow, *a.many(2))


def _widen(a):
    return _called(casts.widen, *a.many(2))


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


def _masked(a):
    (x,) = a.many(1)
    mask = -(a.bench.random(x.shape) > 0).astype(np.int8)
    return lambda: dropout.masked(x, mask, 2.0)


def _sparse_crossentropy(a):
    return _called(loss.sparse_crossentropy, a.positive(a.rows, _COLUMNS), a.labels(), 1e-7)


def _sparse_crossentropy_backward(a):
    (x,), vectors = a.matrices(1), [a.positive(a.rows) for _ in range(3)]
    return _called(loss.sparse_crossentropy_backward, x, *vectors, a.labels(), *a.many(1, a.rows))


def _sparse_crossentropy_of_logits(a):
    return _called(loss.sparse_crossentropy_of_logits, *a.matrices(1), a.labels())


def _sparse_crossentropy_of_logits_backward(a):
    e, total, dy = a.positive(a.rows, _COLUMNS), a.positive(a.rows), a.many(1, a.rows)[0]
    return _called(loss.sparse_crossentropy_of_logits_backward, e, total, a.labels(), dy)


def _crossentropy_of_logits_backward(a):
    e, total, share = a.positive(a.rows, _COLUMNS), a.positive(a.rows), a.positive(a.rows)
    return _called(loss.crossentropy_of_logits_backward, e, total, share, *a.matrices(1), *a.many(1, a.rows))


def _binary_crossentropy_backward(a):
    both = a.bench.random((2, a.size), a.dtype)
    return _called(loss.binary_crossentropy_backward, *a.many(2), both, a.scalar(1.0, a.dtype))


def _count_matches(a):
    label = a.bench.xp.asarray(np.random.default_rng(24).integers(0, _COLUMNS, a.rows))
    return _called(sums.count_matches, *a.matrices(1), label)


def _index(a):
    return a.bench.xp.asarray(np.random.default_rng(25).permutation(a.rows))


def _take_rows(a):
    return _called(indexing.take_rows, *a.matrices(1), _index(a))


def _add_rows(a):
    values, total = a.matrices(2)
    return _called(indexing.add_rows, values, _index(a), total)


def _gather_rows(a):
    (source, out), (like,) = a.matrices(2), a.many(1, 1)
    position, order = a.bench.xp.asarray(np.array([0])), _index(a)

    def call():
        position[...] = 0
        batches.gather_rows(like, position, order, (source,), (out,))

    return call


def _finish(a):
    (y,), (bias,) = a.many(1, *a.images), a.many(1, _CHANNELS)
    return _called(convolution.finish, y, bias, True)


def _bias_gradient(a):
    return _called(convolution.bias_gradient, *a.many(1, *a.images))


def _rectifier_gradient(a):
    return _called(convolution.rectifier_gradient, *a.many(2, *a.images), True)


def _depthwise(a):
    return _called(depthwise.depthwise, *a.many(1, *a.images), *a.many(1, 3, 3, _CHANNELS, 1), _of_depthwise(a))


def _depthwise_input_gradient(a):
    (dy,), (weights,) = a.many(1, *a.images), a.many(1, 3, 3, _CHANNELS, 1)
    return _called(depthwise.depthwise_input_gradient, dy, weights, _of_depthwise(a))


def _depthwise_kernel_gradient(a):
    return _called(depthwise.depthwise_kernel_gradient, *a.many(2, *a.images), _of_depthwise(a))


def _of_depthwise(a):
    return windows_of(a.images[1:3], (3, 3), (1, 1), "same", (1, 1))


def _windows(a):
    return windows_of(a.images[1:3], (2, 2), (2, 2), "valid", (1, 1))


def _pool(kernel):
    return lambda a: _called(kernel, *a.many(1, *a.images), _windows(a))


def _average_pool_gradient(a):
    n, height, width, channels = a.images
    return _called(pooling.average_pool_gradient, *a.many(1, n, height // 2, width // 2, channels), _windows(a))


def _max_pool_gradient(a):
    (x,), windows = a.many(1, *a.images), _windows(a)
    y = pooling.max_pool(x, windows)
    return _called(pooling.max_pool_gradient, *a.many(1, *y.shape), x, y, windows)


def _copy_all(a):
    targets, sources = (tuple(a.many(4, a.size // 4)) for _ in range(2))
    return _called(updates.copy_all, sources[0], targets, sources)


def _copy_where(a):
    return _called(updates.copy_where, *a.many(2), a.scalar(True, bool))


def _of_wide(short, wide):
    """Passes of a kernel over arrays of `dtype` and over some of the type that is computed in."""
    return lambda dtype: short + wide * cuda.wide_dtype(dtype).itemsize / dtype.itemsize


_ADAM = "step", "rate", 0.9, 0.999, 1e-7
OF_WEIGHTS = {  # what is float32 under every policy: name -> passes over an array of the size, and what makes the call
    "adadelta": (7, _optimizer(optimizer.adadelta, ("+", "+"), "rate", 0.95, 1e-7)),
    "adagrad": (5, _optimizer(optimizer.adagrad, ("+",), "rate", 1e-7)),
    "adam": (7, _optimizer(optimizer.adam, ("+-", "+", " "), *_ADAM)),
    "adamax": (7, _optimizer(optimizer.adamax, ("+-", "+"), *_ADAM)),
    "ftrl": (7, _optimizer(optimizer.ftrl, ("+", "+-"), "rate", -0.5, 0.01, 0.01, 0.0, 0.0)),
    "lamb": (7, _optimizer(optimizer.lamb, ("+-", "+"), *_ADAM)),
    "lion": (5, _optimizer(optimizer.lion, ("+-",), "rate", 0.9, 0.99)),
    "nadam": (7, _nadam),
    "rmsprop": (5, _optimizer(optimizer.rmsprop, ("+", " ", " "), "rate", 0.9, 0.0, 1e-7)),
    "sgd": (3, _optimizer(optimizer.sgd, (), "rate")),
    "sgd_momentum": (5, _optimizer(optimizer.sgd_momentum, ("+-",), "rate", 0.9, False)),
    "decay": (2, lambda a: _called(updates.decay, *a.many(1), a.scalar(1e-3))),
    "moving_average": (3, lambda a: _called(updates.moving_average, *a.many(2), a.scalar(0.99))),
    "scale_by_norm": (3, lambda a: _called(updates.scale_by_norm, *a.many(1), 1.0)),
    "sum_of_squares": (1, _plain(updates.sum_of_squares, 1)),
    "unscale": (2, lambda a: _called(updates.unscale, *a.many(1), a.scalar(1.0))),
}
KERNELS = {  # the same for both types; passes may be a function of the dtype
    "relu": (2, _plain(activation.relu, 1)),
    "relu_backward": (3, _plain(activation.relu_backward, 2)),
    "gelu": (3, _plain(activation.gelu, 3)),
    "gelu_by_tanh": (3, _plain(activation.gelu_by_tanh, 3)),
    "silu": (3, _plain(activation.silu, 3)),
    "logistic": (2, _plain(activation.logistic, 2)),
    "narrow": (_of_wide(1, 1), _narrow),
    "widen": (_of_wide(1, 1), _widen),
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
    "masked": (lambda dtype: 2 + 1 / dtype.itemsize, _masked),
    "sparse_crossentropy": (1, _sparse_crossentropy),
    "sparse_crossentropy_backward": (1, _sparse_crossentropy_backward),
    "sparse_crossentropy_of_logits": (2, _sparse_crossentropy_of_logits),
    "sparse_crossentropy_of_logits_backward": (2, _sparse_crossentropy_of_logits_backward),
    "crossentropy_of_logits": (3, _of_rows(loss.crossentropy_of_logits, 2)),
    "crossentropy_of_logits_backward": (3, _crossentropy_of_logits_backward),
    "binary_crossentropy": (4, lambda a: _called(loss.binary_crossentropy, *a.many(2), 1e-7)),
    "binary_crossentropy_backward": (5, _binary_crossentropy_backward),
    "squared_error": (3, _plain(loss.squared_error, 2)),
    "count_matches": (1, _count_matches),
    "sum_times": (1, lambda a: _called(sums.sum_times, *a.many(1), 0.5)),
    "take_rows": (2, _take_rows),
    "add_rows": (3, _add_rows),
    "gather_rows": (2, _gather_rows),
    "sum_of_rows": (1, _of_rows(linear.sum_of_rows, 1)),
    "finish": (2, _finish),
    "bias_gradient": (1, _bias_gradient),
    "rectifier_gradient": (3, _rectifier_gradient),
    "depthwise": (2, _depthwise),
    "depthwise_input_gradient": (2, _depthwise_input_gradient),
    "depthwise_kernel_gradient": (2, _depthwise_kernel_gradient),
    "average_pool": (1.25, _pool(pooling.average_pool)),
    "average_pool_gradient": (1.25, _average_pool_gradient),
    "max_pool": (1.25, _pool(pooling.max_pool)),
    "max_pool_gradient": (2.5, _max_pool_gradient),
    "copy_all": (_of_wide(1, 1), _copy_all),
    "copy_where": (2, _copy_where),
}

_PRODUCTS = "matrix products, which have a part of the report, and kernels that are listed"
_STEPS = "one short launch a time step and matrix products: the LSTM's step is timed"
UNLISTED = {  # kernels with a form in CUDA C that memory does not limit, and why
    **dict.fromkeys(("attention", "attention_backward", "linear", "linear_gradients", "convolve"), _PRODUCTS),
    **dict.fromkeys(("convolve_gradients", "convolve_input_gradient", "convolve_kernel_gradient"), _PRODUCTS),
    "convolve_and_kernel_gradient": _PRODUCTS,
    **dict.fromkeys(("gru_after_backward", "gru_after_forward", "gru_before_backward", "gru_before_forward"), _STEPS),
    **dict.fromkeys(("lstm_backward", "lstm_forward", "simple_rnn_backward", "simple_rnn_forward"), _STEPS),
    **dict.fromkeys(("adapt_scale", "add_all"), "some numbers: the time of a launch"),
}


def run(bench):
    """The rows; the copy's first, by which the others are judged."""
    size = (1 << 13) if bench.is_tiny else 1 << 26
    copied = {}
    yield bench.row({"kernel": "copy", "dtype": "float32"}, lambda: _copy(bench, size, copied))
    for dtype in ("float32", "bfloat16"):
        kernels = OF_WEIGHTS | KERNELS if dtype == "float32" else KERNELS
        for name, (passes, make) in kernels.items():

            def measure(name=name, passes=passes, make=make, dtype=dtype):
                arrays, launches = Arrays(bench, size, dtype), []
                call = make(arrays)
                with recorded(launches):
                    call()
                if not launches:
                    raise RuntimeError("no CUDA kernel was launched, the reference ran instead")
                count = passes(arrays.dtype) if callable(passes) else passes
                return _cells(bench, call, count * size * arrays.dtype.itemsize, name, copied)

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
        ("kernel", "kernel", "{:<38}"),
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
