"""What each kernel with CUDA C must move through memory, and arguments to time it with.

Every input is read once, every output written once, unless a norm of all numbers must be known before any is written;
what has one number for a row or a channel is not counted. A kernel that reads twice what does not stay in its registers
shows as a smaller share of a copy's bandwidth. Kernels that other things limit are listed with what that is.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from gpukeras.backend import cuda, devices, dtypes
from gpukeras.kernels import (
    activation,
    arithmetic,
    attention,
    batches,
    casts,
    convolution,
    depthwise,
    dropout,
    indexing,
    linear,
    lines,
    loss,
    normalization,
    optimizer,
    pooling,
    recurrent,
    softmax,
    sums,
    updates,
)
from gpukeras.kernels.windows import windows_of

__all__ = ["Arrays", "REASONS", "ROOFLINES", "Roofline"]

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
        """Arrays of normal numbers, no two of them alike."""
        shape = shape or (self.size,)
        made = [self.bench.random((math.prod(shape) + 8 * i,), self.dtype) for i in range(count)]
        return [array[8 * i :].reshape(shape) for i, array in enumerate(made)]

    def positive(self, *shape):
        """An array of positive numbers."""
        return (abs(self.bench.random(shape or (self.size,))) + 0.1).astype(self.dtype)

    def matrices(self, count):
        return self.many(count, self.rows, _COLUMNS)

    def channels(self, count):
        """Arrays as batch normalization sees them: (places, channels, 1)."""
        return self.many(count, self.size // _CHANNELS, _CHANNELS, 1)

    def pictures(self, count):
        return self.many(count, *self.images)

    def scalar(self, value, dtype="float32"):
        return self.bench.xp.asarray(value, dtype=dtype)

    def integers(self, below, dtype="int32"):
        """One for each row of a matrix."""
        return self.bench.xp.asarray(np.random.default_rng(23).integers(0, below, self.rows).astype(dtype))

    def order(self):
        """The numbers of a matrix's rows, shuffled."""
        return self.bench.xp.asarray(np.random.default_rng(23).permutation(self.rows))

    def labels(self):
        """Labels of a matrix, as `loss.places` gives them."""
        return loss.places(self.integers(_COLUMNS), _COLUMNS)

    def windows(self, size, strides, padding):
        """Square windows on the images."""
        return windows_of(self.images[1:3], (size, size), (strides, strides), padding, (1, 1))


class Roofline(NamedTuple):
    """What a kernel must move, as multiples of a number of elements, and its arguments for so many.

    Args:
        kernel: The kernel.
        passes: Arrays of the size that are read or written, in the dtype that the kernel is called for.
        arguments: Function of `Arrays` that returns the arguments.
        wide: Arrays of the size in the dtype that is computed in, such as float32 beside bfloat16.
        rest: Bytes of other dtypes for each element.
        again: Arrays of the size that any kernel would have to move once more: those that a norm is taken of, and that
            are written when it is known.
        dtypes: What it is timed in: what an optimizer works on is float32 under every policy.
        make: Function of the arguments that returns what is timed, where that is not the kernel's call.
    """

    kernel: Any
    passes: float
    arguments: Any
    wide: float = 0
    rest: float = 0
    again: float = 0
    dtypes: tuple = ("float32", "bfloat16")
    make: Any = None

    def bytes(self, arrays):
        """The number of bytes for the size and dtype of some `Arrays`."""
        wide = cuda.wide_dtype(arrays.dtype).itemsize
        return arrays.size * ((self.passes + self.again) * arrays.dtype.itemsize + self.wide * wide + self.rest)

    def call(self, arrays):
        """A call of the kernel, as a function of nothing."""
        arguments = self.typed_arguments(arrays)
        return self.make(*arguments) if self.make is not None else lambda: self.kernel(*arguments)

    def typed_arguments(self, arrays):
        """The arguments, in the dtypes that the kernel takes."""
        return self.kernel.typed(self.arguments(arrays), arrays.dtype)


def _of_arrays(count):
    return lambda a: a.many(count)


def _of_matrices(count):
    return lambda a: a.matrices(count)


# --- Optimizers ------------------------------------------------------------------------------------------------


def _of_weights(kernel, passes, arguments, again=0):
    return Roofline(kernel, passes, arguments, again=again, dtypes=("float32",))


def _rate(a):
    return a.scalar(1e-3)


def _step(a):
    return a.scalar(1, "int32")


_OPTIMIZERS = (
    _of_weights(optimizer.sgd, 3, lambda a: (*a.many(2), _rate(a))),
    _of_weights(optimizer.sgd_momentum, 5, lambda a: (*a.many(3), _rate(a), 0.9, False)),
    _of_weights(optimizer.adagrad, 5, lambda a: (*a.many(2), a.positive(), _rate(a), 1e-7)),
    _of_weights(optimizer.rmsprop, 5, lambda a: (*a.many(2), a.positive(), None, None, _rate(a), 0.9, 0.0, 1e-7)),
    _of_weights(optimizer.adam, 7, lambda a: (*a.many(3), a.positive(), None, _step(a), _rate(a), 0.9, 0.999, 1e-7)),
    _of_weights(optimizer.adamax, 7, lambda a: (*a.many(3), a.positive(), _step(a), _rate(a), 0.9, 0.999, 1e-7)),
    _of_weights(
        optimizer.nadam,
        7,
        lambda a: (*a.many(3), a.positive(), a.scalar(0.9), _step(a), _rate(a), 0.9, 0.999, 1e-7),
    ),
    _of_weights(optimizer.adadelta, 7, lambda a: (*a.many(2), a.positive(), a.positive(), _rate(a), 0.95, 1e-7)),
    _of_weights(
        optimizer.ftrl, 7, lambda a: (*a.many(2), a.positive(), a.many(3)[2], _rate(a), -0.5, 0.0, 0.0, 0.0, 0.0)
    ),
    _of_weights(optimizer.lion, 5, lambda a: (*a.many(3), _rate(a), 0.9, 0.99)),
    _of_weights(  # again: the step is written and read, the weights are read
        optimizer.lamb,
        7,
        lambda a: (*a.many(3), a.positive(), _step(a), _rate(a), 0.9, 0.999, 1e-7),
        again=3,
    ),
    _of_weights(updates.sum_of_squares, 1, _of_arrays(1)),
    _of_weights(updates.scale_by_norm, 2, lambda a: (*a.many(1), 0.5), again=1),
    _of_weights(updates.decay, 2, lambda a: (*a.many(1), _rate(a))),
    _of_weights(updates.moving_average, 3, lambda a: (*a.many(2), a.scalar(0.99))),
    _of_weights(updates.copy_where, 2, lambda a: (*a.many(2), a.scalar(True, bool))),
    _of_weights(updates.unscale, 2, lambda a: (*a.many(1), a.scalar(1.5))),
)


# --- Activations, losses, normalization ------------------------------------------------------------------------


def _layer_norm(a):
    x, z, y = a.matrices(3)
    return x, *a.many(2, _COLUMNS), z, y, 1e-3


def _layer_norm_backward(a):
    z, dy, dx = a.matrices(3)
    return z, a.positive(a.rows, 1), *a.many(1, _COLUMNS), dy, dx, True, True


def _batch_scale(a):
    x, y = a.channels(2)
    return x, *a.many(3, _CHANNELS), y


def _batch_sums(a):
    x, dy = a.channels(2)
    return x, *a.many(1, _CHANNELS), dy


def _batch_scale_backward(a):
    x, dy, dx = a.channels(3)
    mean, *vectors = a.many(4, _CHANNELS)
    return x, mean, dy, *vectors, dx


def _dropout(a):
    return *a.many(1), a.bench.xp.asarray(np.array([7, 1], np.uint32)), 0.5


def _masked(a):
    (x,), drawn = a.many(1), a.bench.random((a.size,))
    return x, -(drawn > 0).astype("int8"), x.dtype.type(1.25)


def _positive_matrix(a):
    return a.positive(a.rows, _COLUMNS)


def _vectors(a, count):
    """Of a positive number for each row."""
    return [a.positive(a.rows) for _ in range(count)]


def _vectors_alike(a):
    """A positive vector, and one twice: probabilities that were not clipped."""
    total, p = _vectors(a, 2)
    return total, p, p.copy()


def _crossentropy_of_logits_backward(a):
    x, target = a.matrices(2)
    return x, *_vectors(a, 3), target, a.many(1, a.rows)[0]


def _binary_crossentropy(a):
    return a.positive(), *a.many(1), 1e-7


def _binary_crossentropy_backward(a):
    x = a.positive()
    both = a.bench.xp.empty((2, a.size), x.dtype)
    both[...] = x
    return x, *a.many(1), both, a.scalar(1.0)


_OF_LAYERS = (
    Roofline(activation.relu, 2, _of_arrays(1)),
    Roofline(activation.relu_backward, 3, _of_arrays(2)),
    Roofline(activation.gelu, 3, _of_arrays(3)),
    Roofline(activation.gelu_by_tanh, 3, _of_arrays(3)),
    Roofline(activation.silu, 3, _of_arrays(3)),
    Roofline(activation.logistic, 2, _of_arrays(2)),
    Roofline(softmax.softmax, 2, _of_matrices(2)),
    Roofline(softmax.softmax_backward, 3, _of_matrices(3)),
    Roofline(softmax.log_softmax, 2, _of_matrices(2)),
    Roofline(softmax.log_softmax_backward, 3, _of_matrices(3)),
    Roofline(normalization.layer_norm, 3, _layer_norm),
    Roofline(normalization.layer_norm_backward, 3, _layer_norm_backward),
    Roofline(normalization.batch_moments, 1, lambda a: a.channels(1)),
    Roofline(normalization.batch_scale, 2, _batch_scale),
    Roofline(normalization.batch_sums, 2, _batch_sums),
    Roofline(normalization.batch_scale_backward, 3, _batch_scale_backward),
    Roofline(dropout.dropout, 2, _dropout),
    Roofline(dropout.masked, 2, _masked, rest=1),
    Roofline(loss.sparse_crossentropy_of_logits, 1, lambda a: (*a.matrices(1), a.labels())),
    Roofline(
        loss.sparse_crossentropy_of_logits_backward,
        2,
        lambda a: (*a.matrices(1), *_vectors(a, 2), a.labels(), a.many(1, a.rows)[0]),
    ),
    Roofline(loss.sparse_crossentropy, 1, lambda a: (_positive_matrix(a), a.labels(), 1e-7)),
    Roofline(  # of whose first argument nothing but the shape is used
        loss.sparse_crossentropy_backward,
        1,
        lambda a: (_positive_matrix(a), *_vectors(a, 3), a.labels(), a.many(1, a.rows)[0]),
    ),
    Roofline(
        loss.sparse_crossentropy_of_softmax_backward,
        2,
        lambda a: (_positive_matrix(a), *_vectors_alike(a), a.labels(), a.many(1, a.rows)[0]),
    ),
    Roofline(loss.crossentropy_of_logits, 2, lambda a: (*a.matrices(1), _positive_matrix(a))),
    Roofline(loss.crossentropy_of_logits_backward, 3, _crossentropy_of_logits_backward),
    Roofline(loss.binary_crossentropy, 4, _binary_crossentropy),
    Roofline(loss.binary_crossentropy_backward, 5, _binary_crossentropy_backward),
    Roofline(loss.squared_error, 3, _of_arrays(2)),
    Roofline(sums.sum_times, 1, lambda a: (*a.many(1), 0.5)),
    Roofline(sums.count_matches, 1, lambda a: (*a.matrices(1), a.integers(1))),
    Roofline(linear.sum_of_rows, 1, _of_matrices(1)),
)


# --- Images ----------------------------------------------------------------------------------------------------


def _max_pool(a):
    return *a.pictures(1), a.windows(2, 2, "valid")


def _max_pool_gradient(a):
    x, windows = _max_pool(a)
    y = pooling.max_pool(x, windows)
    return *a.many(1, *y.shape), x, y, windows


def _average_pool_gradient(a):
    batch, height, width, channels = a.images
    return *a.many(1, batch, height // 2, width // 2, channels), a.windows(2, 2, "valid")


def _depthwise(a):
    return *a.pictures(1), *a.many(1, 3, 3, _CHANNELS, 1), a.windows(3, 1, "same")


_OF_IMAGES = (
    Roofline(convolution.finish, 2, lambda a: (*a.pictures(1), *a.many(1, _CHANNELS), True)),
    Roofline(convolution.bias_gradient, 1, lambda a: a.pictures(1)),
    Roofline(convolution.rectifier_gradient, 3, lambda a: (*a.pictures(2), True)),
    Roofline(pooling.max_pool, 1.25, _max_pool),
    Roofline(pooling.max_pool_gradient, 2.5, _max_pool_gradient),
    Roofline(pooling.average_pool, 1.25, _max_pool),
    Roofline(pooling.average_pool_gradient, 1.25, _average_pool_gradient),
    Roofline(depthwise.depthwise, 2, _depthwise),
    Roofline(depthwise.depthwise_input_gradient, 2, _depthwise),
    Roofline(depthwise.depthwise_kernel_gradient, 2, lambda a: (*a.pictures(2), a.windows(3, 1, "same"))),
)


# --- Copies ----------------------------------------------------------------------------------------------------


def _copy_all(a):
    source, target = a.many(2)
    return source, (target,), (source,)


def _gather_rows(a):
    source, out = a.matrices(2)
    return *a.many(1, 8), a.bench.xp.zeros(1, "int64"), a.order(), (source,), (out,)


def _gathering(like, position, order, sources, outs):
    """The launch of a step's graph: its table is written when an epoch begins, and here begins one with each call."""
    table = devices.array_module(like).asarray(batches.table_of(sources, order, 0))

    def call():
        table[-2:].fill(0)
        batches.gather_from(table, like, outs)

    call.kept = sources, order  # of which the table has no more than addresses
    return call


def _fit_lines(a):
    """Of rows that all begin and end within 16 bytes."""
    x, out = a.many(2, a.rows, _COLUMNS - 1)
    return out, x


def _add_rows(a):
    values, total = a.matrices(2)
    return values, a.order(), total


_COPIES = (
    Roofline(arithmetic.add, 3, _of_arrays(2)),
    Roofline(arithmetic.add_to, 3, _of_arrays(2)),
    Roofline(arithmetic.subtract, 3, _of_arrays(2)),
    Roofline(arithmetic.multiply, 3, _of_arrays(2)),
    Roofline(casts.narrow, 1, _of_arrays(2), wide=1, dtypes=("bfloat16",)),
    Roofline(casts.widen, 1, _of_arrays(2), wide=1, dtypes=("bfloat16",)),
    Roofline(updates.copy_all, 1, _copy_all, wide=1),
    Roofline(lines.fit_lines, 2 * (_COLUMNS - 1) / _COLUMNS, _fit_lines),
    Roofline(batches.gather_rows, 2, _gather_rows, make=_gathering),
    Roofline(indexing.take_rows, 2, lambda a: (*a.matrices(1), a.order())),
    Roofline(indexing.add_rows, 3, _add_rows),
)

ROOFLINES = {roofline.kernel.__name__: roofline for roofline in (*_OPTIMIZERS, *_OF_LAYERS, *_OF_IMAGES, *_COPIES)}


# --- What memory does not limit --------------------------------------------------------------------------------

_PRODUCTS = "matrix products, which arithmetic limits: see the part products"
_CONVOLUTION = "convolutions, by cuDNN or as matrix products, which arithmetic limits: see the part steps"
_WALK = "a product and a launch for each step of time, one after the other: their latency, see the LSTM's step"
_NUMBERS = "one launch for a few numbers: its latency"

REASONS = {
    kernel.__name__: reason
    for reason, kernels in {
        _PRODUCTS: (
            linear.linear,
            linear.linear_input_gradient,
            linear.linear_gradients,
            attention.attention,
            attention.attention_backward,
        ),
        _CONVOLUTION: (
            convolution.convolve,
            convolution.convolve_input_gradient,
            convolution.convolve_kernel_gradient,
            convolution.convolve_gradients,
            convolution.convolve_and_kernel_gradient,
        ),
        _WALK: (
            recurrent.simple_rnn_forward,
            recurrent.simple_rnn_backward,
            recurrent.lstm_forward,
            recurrent.lstm_backward,
            recurrent.gru_before_forward,
            recurrent.gru_before_backward,
            recurrent.gru_after_forward,
            recurrent.gru_after_backward,
        ),
        _NUMBERS: (sums.add_all, updates.adapt_scale, loss.mean_sparse_crossentropy),
    }.items()
    for kernel in kernels
}
