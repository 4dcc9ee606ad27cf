"""Cross entropies and squared errors, forward and backward, row by row or summed up over everything.

Rows of logits go in blocks: maximum, exponentials and sum of a row are taken while its block is in the cache, and the
exponentials are kept, from which the derivative takes one pass.
"""

import functools

import numpy as np

from gpukeras.backend import cuda, devices, memory
from gpukeras.kernels import blocks
from gpukeras.kernels.deferred import Deferred
from gpukeras.kernels.kernel import kernel
from gpukeras.kernels.linear import ones
from gpukeras.kernels.sums import LABELS, labels_of, sum_times

__all__ = [
    "SparseCrossentropyGradient",
    "binary_crossentropy",
    "binary_crossentropy_backward",
    "crossentropy_of_logits",
    "crossentropy_of_logits_backward",
    "mean_sparse_crossentropy",
    "places",
    "sparse_crossentropy",
    "sparse_crossentropy_backward",
    "sparse_crossentropy_of_logits",
    "sparse_crossentropy_of_logits_backward",
    "sparse_crossentropy_of_softmax_backward",
    "squared_error",
]

_CUDA = cuda.Source("loss")


def _with_step(dy, dtype):
    """A gradient for each row, or one for all, and how far apart those of two rows are: what CUDA kernels take."""
    return dy.astype(dtype, copy=False), dy.ndim


def _numbers_of_rows(count, x):
    """Empty vectors with a number for each row of x, in the dtype that kernels compute in."""
    return [devices.array_module(x).empty(len(x), cuda.wide_dtype(x.dtype)) for _ in range(count)]


def _summed(name, like, *args):
    """Run a CUDA kernel that sums up over everything, and return the sum as an array of shape ()."""
    parts = devices.array_module(like).empty((1, cuda.grid_of(like)), cuda.wide_dtype(like.dtype))
    _CUDA.elementwise(name, like, *args, parts)
    return _CUDA.total(parts, like).astype(like.dtype, copy=False).reshape(())


# --- Integer classes ---------------------------------------------------------------------------------------------


def places(label, classes):
    """What the kernels below take for labels (rows,), of any dtype of numbers.

    Returns:
        The labels, where each stands in a flat array (rows, classes), 0 in its row for what is no class, and which are
        classes: None where all are. For arrays on a device the last two are None, since CUDA kernels find places
        themselves.
    """
    if devices.array_module(label) is not np:
        return label, None, None
    label = label.astype(np.int32, copy=False)
    return label, *_found(label, classes)


def _found(label, classes):
    xp = devices.array_module(label)
    positive = label.view(np.uint32)  # negatives become large: one comparison
    if xp is np and label.size and np.maximum.reduce(positive) < classes:
        return _starts(len(label), classes) + label, None
    is_class = positive < classes
    return xp.arange(len(label)) * classes + label * is_class, is_class


def _placed(labels, classes):
    """Places, and which labels are classes, of what `places` gave."""
    label, place, is_class = labels
    return _found(label.astype(np.int32, copy=False), classes) if place is None else (place, is_class)


def _for_cuda(labels):
    label = labels[0]
    return labels_of(label if label.dtype.kind in LABELS else label.astype(np.int32))


@functools.lru_cache(maxsize=16)
def _starts(rows, classes):
    starts = np.arange(0, rows * classes, classes)
    starts.flags.writeable = False
    return starts


@kernel
def sparse_crossentropy_of_logits(x, labels):
    """y ← log Σ exp x - x[label] for every row of x (rows, classes); 0 where the label is no class.

    Args:
        labels: What `places` gives for them.

    Returns:
        y (rows,), and what its derivative is made of: x, max x and the sum of exp(x - max x) over a row (rows,). For
        arrays on the CPU the first of these is exp(x - max x) and the second None. All but x are in the dtype that is
        computed in.
    """
    xp = devices.array_module(x)
    place, is_class = _placed(labels, x.shape[1])
    x = x.astype(cuda.wide_dtype(x.dtype), copy=False)
    largest = x.max(axis=1)
    e = x - largest[:, None]
    chosen = e.reshape(-1)[place]
    xp.exp(e, out=e)
    total = e.sum(axis=1)
    y = xp.log(total) - chosen
    return y if is_class is None else xp.where(is_class, y, 0), x, largest, total


@sparse_crossentropy_of_logits.cpu
def sparse_crossentropy_of_logits(x, labels):
    if not _is_for_blas(x):
        return sparse_crossentropy_of_logits.reference(x, labels)
    rows, classes = x.shape
    place, is_class = _placed(labels, classes)
    y, total = np.empty(rows, x.dtype), np.empty(rows, x.dtype)
    e, vector = np.empty(x.shape, x.dtype), ones(classes, x.dtype)
    flat = e.reshape(-1)

    def block(part):
        x_part, e_part, y_part = x[part], e[part], y[part]
        np.subtract(x_part, np.maximum.reduce(x_part, 1, keepdims=True), out=e_part)
        chosen = flat.take(place[part])
        np.exp(e_part, out=e_part)
        np.log(np.dot(e_part, vector, out=total[part]), out=y_part)
        y_part -= chosen

    blocks.for_rows(block, rows, classes, uses_blas=True)
    return y if is_class is None else np.where(is_class, y, np.zeros_like(y)), e, None, total


@sparse_crossentropy_of_logits.cuda
def sparse_crossentropy_of_logits(x, labels):
    y, largest, total = _numbers_of_rows(3, x)
    _CUDA.rows("sparse_crossentropy_of_logits", x, *x.shape, x, *_for_cuda(labels), y, largest, total, held=1)
    return y, x, largest, total


@sparse_crossentropy_of_logits.meaning
def sparse_crossentropy_of_logits(made):
    y, _, _, total = made
    return y, total


@sparse_crossentropy_of_logits.samples
def sparse_crossentropy_of_logits(random, dtype):
    for shape in _SHAPES:
        yield 3.0 * random(shape, dtype), _labels(random, shape)
        yield 3.0 * random(shape, dtype).T.copy().T, _labels(random, shape, 2)


def _scaled(dy, scale):
    return dy if scale == 1 else dy * scale


@kernel
def sparse_crossentropy_of_logits_backward(x, largest, total, labels, dy, scale=1):
    """dx ← scale · dy · (e / total - 1[label]), 0 for the rows whose label is no class; dy (rows,) or ().

    e is exp(x - largest), or x where `largest` is None.
    """
    xp = devices.array_module(x)
    place, is_class = _placed(labels, x.shape[1])
    dy = _scaled(dy, scale)
    if is_class is not None:
        dy = dy * is_class
    dx = x if largest is None else xp.exp(x - largest[:, None])
    dx = dx * (dy / total)[:, None]
    dx.reshape(-1)[place] -= dy
    return dx.astype(x.dtype, copy=False)


@sparse_crossentropy_of_logits_backward.cpu
def sparse_crossentropy_of_logits_backward(x, largest, total, labels, dy, scale=1):
    if largest is not None or not _is_for_blas(x):
        return sparse_crossentropy_of_logits_backward.reference(x, largest, total, labels, dy, scale)
    place, is_class = _placed(labels, x.shape[1])
    dy = _scaled(dy, scale)
    if is_class is not None:
        dy = dy * is_class
    dx = np.empty(x.shape, x.dtype)
    flat = dx.reshape(-1)
    share = (dy / total)[:, None]

    def block(part):
        np.multiply(x[part], share[part], out=dx[part])
        flat[place[part]] -= dy if dy.ndim == 0 else dy[part]

    blocks.for_rows(block, *x.shape, uses_blas=True)
    return dx


@sparse_crossentropy_of_logits_backward.cuda(wide=("largest", "total", "dy"))
def sparse_crossentropy_of_logits_backward(x, largest, total, labels, dy, scale=1):
    if largest is None:
        return NotImplemented
    dx = devices.array_module(x).empty_like(x)
    name, dy = "sparse_crossentropy_of_logits_backward", _with_step(dy, total.dtype)
    _CUDA.rows(name, x, *x.shape, x, largest, total, *_for_cuda(labels), *dy, scale, dx)
    return dx


@sparse_crossentropy_of_logits_backward.samples
def sparse_crossentropy_of_logits_backward(random, dtype):
    for shape in _SHAPES:
        x, dy = random(shape, dtype), random(shape[:1], dtype)
        largest = x.max(axis=1)
        total = 0.5 * shape[1] + abs(random(shape[:1], dtype))
        for beyond in (0, 2):
            yield x, largest, total, _labels(random, shape, beyond), dy
        yield x, largest, total, _labels(random, shape), random((1,), dtype).reshape(()), 0.25
        yield abs(x), None, total, _labels(random, shape, 2), dy


@kernel
def sparse_crossentropy(x, labels, epsilon):
    """y ← -log q[label], q = x / Σ x clipped to [ε, 1 - ε], for every row; 0 where the label is no class.

    Args:
        labels: What `places` gives for them.

    Returns:
        y, Σ x, and x / Σ x at the label before and after it was clipped, all (rows,), in the dtype that is computed in.
    """
    xp = devices.array_module(x)
    place, is_class = _placed(labels, x.shape[1])
    x = x.astype(cuda.wide_dtype(x.dtype), copy=False)
    total = x.sum(axis=1)
    p = x.reshape(-1)[place] / total
    clipped = xp.minimum(xp.maximum(p, epsilon), 1 - epsilon)
    y = -xp.log(clipped)
    return y if is_class is None else xp.where(is_class, y, 0), total, p, clipped


@sparse_crossentropy.cpu
def sparse_crossentropy(x, labels, epsilon):
    place, is_class = _placed(labels, x.shape[1])
    if not (_is_for_blas(x) and is_class is None and x.flags.c_contiguous):
        return sparse_crossentropy.reference(x, labels, epsilon)
    total = np.dot(x, ones(x.shape[1], x.dtype))
    p = x.take(place)
    p /= total
    clipped = np.maximum(p, epsilon)
    np.minimum(clipped, 1 - epsilon, out=clipped)
    y = np.log(clipped)
    return np.negative(y, out=y), total, p, clipped


@sparse_crossentropy.cuda
def sparse_crossentropy(x, labels, epsilon):
    y, total, p, clipped = _numbers_of_rows(4, x)
    settings = *_for_cuda(labels), epsilon, 1 - epsilon
    _CUDA.rows("sparse_crossentropy", x, *x.shape, x, *settings, y, total, p, clipped, held=1)
    return y, total, p, clipped


@sparse_crossentropy.samples
def sparse_crossentropy(random, dtype):
    for shape in _SHAPES:
        x = abs(random(shape, dtype))
        x[:1] = 0.0
        x[:1, :1] = 1.0  # probabilities of 0 and 1 are clipped
        yield x, _labels(random, shape), 1e-7
        yield x + 0.1, _labels(random, shape, 2), 1e-7
        yield (x + 0.1).T.copy().T, _labels(random, shape), 1e-7


@kernel
def sparse_crossentropy_backward(x, total, p, clipped, labels, dy, scale=1):
    """dx ← scale · dy (1 - 1[label] / p) / total; 0 where p was clipped or the label is no class; dy (rows,) or ()."""
    xp = devices.array_module(x)
    place, is_class = _placed(labels, x.shape[1])
    share = _scaled(dy, scale) / total * (p == clipped)
    if is_class is not None:
        share *= is_class
    dx = xp.empty(x.shape, x.dtype)
    dx[...] = share[:, None]
    dx.reshape(-1)[place] -= share / clipped
    return dx


@sparse_crossentropy_backward.cpu
def sparse_crossentropy_backward(x, total, p, clipped, labels, dy, scale=1):
    place, is_class = _placed(labels, x.shape[1])
    share = _scaled(dy, scale) / total
    share *= np.equal(p, clipped)
    if is_class is not None:
        share *= is_class
    dx = np.empty(x.shape, x.dtype)
    dx[...] = share[:, None]
    dx.reshape(-1)[place] = share - share / clipped
    return dx


@sparse_crossentropy_backward.cuda(wide=("total", "p", "clipped", "dy"))
def sparse_crossentropy_backward(x, total, p, clipped, labels, dy, scale=1):
    dx = devices.array_module(x).empty_like(x)
    name, dy = "sparse_crossentropy_backward", _with_step(dy, total.dtype)
    _CUDA.rows(name, x, *x.shape, total, p, clipped, *_for_cuda(labels), *dy, scale, dx)
    return dx


@sparse_crossentropy_backward.samples
def sparse_crossentropy_backward(random, dtype):
    for shape in _SHAPES:
        total, p = 1.0 + abs(random(shape[:1], dtype)), 0.1 + abs(random(shape[:1], dtype))
        clipped = p.copy()
        clipped[::3] = 0.5
        for beyond in (0, 2):
            labels = _labels(random, shape, beyond)
            yield random(shape, dtype), total, p, clipped, labels, random(shape[:1], dtype)
        labels = _labels(random, shape)
        yield random(shape, dtype), total, p, clipped, labels, random((1,), dtype).reshape(()), 0.25


_FEW, _SHORT = 1024, 32  # rows and classes up to which one block takes no longer than several and the sum after them


@kernel
def mean_sparse_crossentropy(x, labels, epsilon, factor):
    """factor · Σ y of `sparse_crossentropy`, shape (), and the other things that it returns."""
    y, *kept = sparse_crossentropy(x, labels, epsilon)
    return sum_times(y, factor), *kept


@mean_sparse_crossentropy.cuda
def mean_sparse_crossentropy(x, labels, epsilon, factor):
    if not 0 < len(x) <= _FEW or x.shape[1] > _SHORT:
        return NotImplemented
    total, p, clipped = _numbers_of_rows(3, x)
    mean = devices.array_module(x).empty((), total.dtype)
    settings = *_for_cuda(labels), epsilon, 1 - epsilon, factor
    arrays = mean, total, p, clipped
    _CUDA.launch("mean_sparse_crossentropy", x, (1,), (cuda.THREADS,), *x.shape, x, *settings, *arrays)
    return arrays


@mean_sparse_crossentropy.samples
def mean_sparse_crossentropy(random, dtype):
    for shape in (1, 1), (7, 5), (128, 10), (0, 3), (700, 32):
        yield abs(random(shape, dtype)) + 0.1, _labels(random, shape, 2), 1e-7, 1 / max(shape[0], 1)


@kernel
def sparse_crossentropy_of_softmax_backward(x, total, p, clipped, labels, dy, scale=1):
    """dx ← d (x / total - 1[label]), d = scale · dy, 0 where p was clipped or the label is no class; dy (rows,) or ().

    The gradient of what became x by a softmax, from what `sparse_crossentropy` returns for x. In softmax's
    x · (dx - Σ x · dx), dx as in `sparse_crossentropy_backward`, the sum is 0.
    """
    place, is_class = _placed(labels, x.shape[1])
    d = _scaled(dy, scale) * (p == clipped)
    if is_class is not None:
        d = d * is_class
    dx = x * (d / total)[:, None]
    dx.reshape(-1)[place] -= d
    return dx.astype(x.dtype, copy=False)


@sparse_crossentropy_of_softmax_backward.cuda(wide=("total", "p", "clipped", "dy"))
def sparse_crossentropy_of_softmax_backward(x, total, p, clipped, labels, dy, scale=1):
    dx = devices.array_module(x).empty_like(x)
    name, dy = "sparse_crossentropy_of_softmax_backward", _with_step(dy, total.dtype)
    _CUDA.rows(name, x, *x.shape, x, total, p, clipped, *_for_cuda(labels), *dy, scale, dx)
    return dx


@sparse_crossentropy_of_softmax_backward.samples
def sparse_crossentropy_of_softmax_backward(random, dtype):
    yield from sparse_crossentropy_backward.sample_function(random, dtype)


class SparseCrossentropyGradient(Deferred):
    """`sparse_crossentropy_backward` of an array's last axis, or that of what became the array by a softmax.

    Args:
        x: The array.
        kept: What the two kernels take after rows of x.
    """

    taker = "takes_crossentropy"

    def __init__(self, x, *kept):
        super().__init__(x.shape, x.dtype)
        self.x, self.kept = x, kept

    def array(self):
        return self._of(sparse_crossentropy_backward)

    def through_softmax(self, y):
        return self._of(sparse_crossentropy_of_softmax_backward) if y is self.x else None

    def _of(self, backward):
        return backward(self.x.reshape(-1, self.shape[-1]), *self.kept).reshape(self.shape)


# --- Distributions over classes, logits --------------------------------------------------------------------------


@kernel
def crossentropy_of_logits(x, target):
    """y ← Σ target · (log Σ exp x - x) for every row of x and target (rows, classes).

    Returns:
        y (rows,), and what its derivative is made of: x, max x and the sums of exp(x - max x) and of the target over a
        row (rows,). For arrays on the CPU the first of these is exp(x - max x) and the second None. All but x are in
        the dtype that is computed in.
    """
    xp = devices.array_module(x)
    x, target = (v.astype(cuda.wide_dtype(x.dtype), copy=False) for v in (x, target))
    largest = x.max(axis=1)
    e = x - largest[:, None]
    share = target.sum(axis=1)
    y = (target * e).sum(axis=1)
    xp.exp(e, out=e)
    total = e.sum(axis=1)
    return xp.log(total) * share - y, x, largest, total, share


@crossentropy_of_logits.cpu
def crossentropy_of_logits(x, target):
    if not _is_for_blas(x):
        return crossentropy_of_logits.reference(x, target)
    rows, classes = x.shape
    y, total, share = (np.empty(rows, x.dtype) for _ in range(3))
    e, vector = np.empty(x.shape, x.dtype), ones(classes, x.dtype)

    def block(part):
        x_part, t_part, e_part, y_part = x[part], target[part], e[part], y[part]
        np.subtract(x_part, np.maximum.reduce(x_part, 1, keepdims=True), out=e_part)
        chosen = np.vecdot(t_part, e_part)
        np.exp(e_part, out=e_part)
        np.log(np.dot(e_part, vector, out=total[part]), out=y_part)
        y_part *= np.dot(t_part, vector, out=share[part])
        y_part -= chosen

    blocks.for_rows(block, rows, classes, uses_blas=True)
    return y, e, None, total, share


@crossentropy_of_logits.cuda
def crossentropy_of_logits(x, target):
    if not cuda.is_plain(x, target):
        return NotImplemented
    y, largest, total, share = _numbers_of_rows(4, x)
    _CUDA.rows("crossentropy_of_logits", x, *x.shape, x, target, y, largest, total, share, held=1)
    return y, x, largest, total, share


@crossentropy_of_logits.meaning
def crossentropy_of_logits(made):
    y, _, _, total, share = made
    return y, total, share


@crossentropy_of_logits.samples
def crossentropy_of_logits(random, dtype):
    for shape in _SHAPES:
        target = abs(random(shape, dtype)) * (1.0 / shape[1])
        yield 3.0 * random(shape, dtype), target
        yield 3.0 * random(shape, dtype).T.copy().T, target.T.copy().T


@kernel
def crossentropy_of_logits_backward(x, largest, total, share, target, dy):
    """dx ← dy · (e · share / total - target), e = exp(x - largest), or x where `largest` is None; dy (rows,) or ()."""
    e = x if largest is None else devices.array_module(x).exp(x - largest[:, None])
    dx = e * (share * dy / total)[:, None]
    dx -= target * (dy if dy.ndim == 0 else dy[:, None])
    return dx.astype(x.dtype, copy=False)


@crossentropy_of_logits_backward.cpu
def crossentropy_of_logits_backward(x, largest, total, share, target, dy):
    if largest is not None or not _is_for_blas(x) or dy.dtype != x.dtype:
        return crossentropy_of_logits_backward.reference(x, largest, total, share, target, dy)
    dx = np.empty(x.shape, x.dtype)
    factor = (share * dy / total)[:, None]

    def block(part):
        np.multiply(x[part], factor[part], out=dx[part])
        with memory.scratch(dx[part].shape, x.dtype) as product:
            np.multiply(target[part], dy if dy.ndim == 0 else dy[part, None], out=product)
            dx[part] -= product

    blocks.for_rows(block, *x.shape, uses_blas=True)
    return dx


@crossentropy_of_logits_backward.cuda(wide=("largest", "total", "share", "dy"))
def crossentropy_of_logits_backward(x, largest, total, share, target, dy):
    if largest is None or not cuda.is_plain(x, target):
        return NotImplemented
    dx = devices.array_module(x).empty_like(x)
    name, dy = "crossentropy_of_logits_backward", _with_step(dy, total.dtype)
    _CUDA.rows(name, x, *x.shape, x, largest, total, share, target, *dy, dx)
    return dx


@crossentropy_of_logits_backward.samples
def crossentropy_of_logits_backward(random, dtype):
    for shape in _SHAPES:
        x, target = random(shape, dtype), abs(random(shape, dtype))
        largest, share = x.max(axis=1), target.sum(axis=1)
        total = 0.5 * shape[1] + abs(random(shape[:1], dtype))
        for dy in (random(shape[:1], dtype), random((1,), dtype).reshape(())):
            yield x, largest, total, share, target, dy
        yield abs(x), None, total, share, target, random(shape[:1], dtype)


# --- Yes or no ---------------------------------------------------------------------------------------------------


@kernel
def binary_crossentropy(x, target, epsilon):
    """-Σ (target · log p + (1 - target) · log(1 - p)) over everything, p = x clipped to [ε, 1 - ε].

    Returns:
        The sum, a number or an array of shape (), and p and 1 - p (2, size).
    """
    xp = devices.array_module(x)
    p = xp.minimum(xp.maximum(x, epsilon), 1 - epsilon).reshape(-1)
    target = target.reshape(-1)
    return -(target * xp.log(p) + (1 - target) * xp.log(1 - p)).sum(), xp.stack([p, 1 - p])


@binary_crossentropy.cpu
def binary_crossentropy(x, target, epsilon):
    if not _is_for_blas(x):
        return binary_crossentropy.reference(x, target, epsilon)
    both, weights = np.empty((2, x.size), x.dtype), np.empty((2, x.size), x.dtype)
    p, yes = both[0], weights[0]
    np.maximum(x.reshape(-1), epsilon, out=p)
    np.minimum(p, 1 - epsilon, out=p)
    np.subtract(1, p, out=both[1])
    yes[...] = target.reshape(-1)
    np.subtract(1, yes, out=weights[1])
    return -np.vdot(weights, np.log(both)), both


@binary_crossentropy.cuda
def binary_crossentropy(x, target, epsilon):
    if not cuda.is_plain(x, target):
        return NotImplemented
    both = devices.array_module(x).empty((2, x.size), x.dtype)
    return _summed("binary_crossentropy", x, x, target, epsilon, 1 - epsilon, both), both


@binary_crossentropy.samples
def binary_crossentropy(random, dtype):
    for shape in (1,), (7, 1), (50, 3, 2), (0, 2):
        x = abs(random(shape, dtype)) / 4.0
        x.reshape(-1)[-1:] = 2.0
        yield x, abs(random(shape, dtype)) / 4.0, 1e-7
    yield abs(random((5, 6), dtype)).T / 4.0, abs(random((6, 5), dtype)) / 4.0, 1e-7


@kernel
def binary_crossentropy_backward(x, target, both, dy):
    """dx ← dy · (p - target) / (p (1 - p)), 0 where p was clipped; `both` holds p and 1 - p, dy () is one number."""
    xp = devices.array_module(x)
    p, not_p = both.reshape(2, *x.shape)
    return xp.where(p == x, (p - target) / (p * not_p), 0) * dy


@binary_crossentropy_backward.cpu
def binary_crossentropy_backward(x, target, both, dy):
    p, not_p = both.reshape(2, *x.shape)
    dx = np.subtract(p, target)
    dx /= np.multiply(p, not_p)
    dx *= dy
    np.copyto(dx, 0, where=np.not_equal(p, x))
    return dx


@binary_crossentropy_backward.cuda
def binary_crossentropy_backward(x, target, both, dy):
    if not cuda.is_plain(x, target):
        return NotImplemented
    dx = devices.array_module(x).empty_like(x)
    _CUDA.elementwise("binary_crossentropy_backward", x, x, target, both, cuda.scalar(dy, x.dtype), dx)
    return dx


@binary_crossentropy_backward.samples
def binary_crossentropy_backward(random, dtype):
    for shape in (1,), (7, 1), (50, 3, 2), (0, 2):
        x = 0.1 + abs(random(shape, dtype)) / 4.0
        p = x.reshape(-1).copy()
        p[::3] = 0.5
        both = random((2, p.size), dtype)
        both[0], both[1] = p, 2.0 - p
        yield x, random(shape, dtype), both, random((1,), dtype).reshape(())


# --- Numbers -----------------------------------------------------------------------------------------------------


@kernel
def squared_error(prediction, target):
    """Σ (prediction - target)² over everything, a number or an array of shape (); and the errors."""
    error = prediction - target
    return (error * error).sum(), error


@squared_error.cpu
def squared_error(prediction, target):
    error = np.subtract(prediction, target)
    return np.vdot(error, error), error


@squared_error.cuda
def squared_error(prediction, target):
    if not cuda.is_plain(prediction, target) or prediction.shape != target.shape:
        return NotImplemented
    error = devices.array_module(prediction).empty_like(prediction)
    return _summed("squared_error", prediction, prediction, target, error), error


@squared_error.samples
def squared_error(random, dtype):
    for shape in (1,), (7, 1), (50, 3, 2), (0, 2):
        yield random(shape, dtype), random(shape, dtype)
    yield random((5, 6), dtype).T, random((6, 5), dtype)


# --- Rows --------------------------------------------------------------------------------------------------------

_SHAPES = (1, 1), (7, 5), (128, 10), (0, 3), (2100, 130), (4100, 128), (5, 1301), (2, 9003)


def _labels(random, shape, beyond=0):
    """Random classes of rows, with their places and without; up to `beyond` of them are below 0 or too large."""
    count = shape[1] + 2 * beyond
    label = abs(random(shape[:1], "float32") * 1000.0).astype("int32") % count - beyond
    kind = ("int32", "int64", "int16", "float32")[len(label) % 4] if beyond else ("uint8", "uint32")[len(label) % 2]
    return places(label, shape[1]) if len(label) % 3 else (label.astype(kind), None, None)


def _is_for_blas(x):
    return x.size > 0 and x.dtype in (np.float32, np.float64)
