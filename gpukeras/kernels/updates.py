"""What stands around an update rule, on flat arrays: norms, clipping, decay, averages, conditions, loss scales."""

import numpy as np

from gpukeras.backend import cuda, devices
from gpukeras.kernels import blocks
from gpukeras.kernels.kernel import kernel

__all__ = [
    "adapt_scale",
    "copy_all",
    "copy_where",
    "decay",
    "flat_samples",
    "flat_scalar",
    "moving_average",
    "scale_by_norm",
    "sum_of_squares",
    "unscale",
    "update_where",
]

_CUDA = cuda.Source("updates")

_MOST_COPIED = 8  # arrays that one launch copies; updates.cu has it too

_SIZE = blocks.THREADED + 77  # of the samples: several blocks, on threads


def flat_samples(random, dtype, *slots):
    """Parameters, gradients, and slots of either sign ("any") or positive ("positive")."""
    for size in (5, _SIZE):
        arrays = [random((size,), dtype), random((size,), dtype)]
        for kind in slots:
            slot = random((size,), dtype)
            arrays.append(None if kind is None else slot * slot if kind == "positive" else slot)
        yield arrays


def flat_scalar(value, dtype):
    """A 0-d array on the host or the device, without reading it, as every form takes it."""
    return devices.default_module().asarray(value, dtype=dtype)


@kernel
def sum_of_squares(x):
    """Σ x² of a flat array, shape (); in float32 for shorter types."""
    if x.dtype.itemsize < 4:
        x = x.astype("float32")
    return (x * x).sum()


@sum_of_squares.cpu
def sum_of_squares(x):
    if x.dtype.itemsize < 4:
        x = x.astype("float32")
    return np.dot(x, x)  # one pass; sums in another order than the reference


@sum_of_squares.cuda
def sum_of_squares(x):
    parts = devices.array_module(x).empty((1, cuda.grid_of(x)), cuda.wide_dtype(x.dtype))
    _CUDA.elementwise("squares_of_blocks", x, x, parts)
    return _CUDA.total(parts, x).reshape(())


@sum_of_squares.samples
def sum_of_squares(random, dtype):
    yield (random((5,), dtype),)
    yield (random((_SIZE,), dtype),)


@kernel
def scale_by_norm(x, norm):
    """x ← x · norm / max(‖x‖, norm): no longer than `norm`."""
    xp = devices.array_module(x)
    length = xp.sqrt(sum_of_squares(x))
    x *= (norm / xp.maximum(length, norm)).astype(x.dtype)


@scale_by_norm.cuda
def scale_by_norm(x, norm):
    _CUDA.elementwise("scale_by_norm", x, sum_of_squares(x), norm, x)


@scale_by_norm.samples
def scale_by_norm(random, dtype):
    yield random((5,), dtype), 0.5
    yield random((_SIZE,), dtype), 1e6


@kernel
def copy_all(like, targets, sources):
    """target ← source for every pair of arrays of one shape.

    Args:
        like: One of the sources.
        targets, sources: Tuples of arrays.
    """
    for target, source in zip(targets, sources, strict=True):
        target[...] = source


@copy_all.cuda(wide=("targets",))
def copy_all(like, targets, sources):
    wide, copies = cuda.wide_dtype(like.dtype), list(zip(targets, sources, strict=True))
    for target, source in copies:
        is_alike = source.dtype == like.dtype and target.dtype == wide
        if not (is_alike and source.flags.c_contiguous and target.flags.c_contiguous):
            return NotImplemented
    for first in range(0, len(copies), _MOST_COPIED):
        several = copies[first : first + _MOST_COPIED]
        given = [value for target, source in several for value in (target, source, source.size)]
        given += [None, None, 0] * (_MOST_COPIED - len(several))
        blocks = cuda.blocks_of(max(source.size for _, source in several), wide)
        _CUDA.launch("copy_all", like, (blocks, len(several)), (cuda.THREADS,), *given)
    return None


@copy_all.samples
def copy_all(random, dtype):
    for shapes in ((5,), (3, 2)), ((7,), (1,), (_SIZE,), (0,), (2, 3, 4), (300,), (33,), (64,), (), (12, 1)):
        sources, targets = (tuple(random(shape or (1,), dtype).reshape(shape) for shape in shapes) for _ in range(2))
        yield sources[0], targets, sources
    source = random((4, 6), dtype)
    yield source, (random((6, 4), dtype),), (source.T,)


@kernel
def decay(param, rate):
    """param ← param - rate · param, with a rate that may be too small for ``1 - rate``."""
    param -= param * rate


@decay.cpu
def decay(param, rate):
    rate = float(rate)

    def update(p, s):
        np.multiply(p, rate, s)
        np.subtract(p, s, p)

    blocks.with_scratch(update, 1, param)


@decay.cuda
def decay(param, rate):
    _CUDA.elementwise("decay", param, cuda.scalar(rate, param.dtype), param)


@decay.samples
def decay(random, dtype):
    for param, _ in flat_samples(random, dtype):
        yield param, flat_scalar(1e-3, dtype)


@kernel
def moving_average(average, x, momentum):
    """average ← momentum · average + (1 - momentum) · x."""
    average *= momentum
    average += x * (1 - momentum)


@moving_average.cpu
def moving_average(average, x, momentum):
    rest = 1 - momentum

    def update(a, block, s):
        np.multiply(a, momentum, a)
        np.multiply(block, rest, s)
        np.add(a, s, a)

    blocks.with_scratch(update, 1, average, x)


@moving_average.cuda
def moving_average(average, x, momentum):
    _CUDA.elementwise("moving_average", average, x, cuda.scalar(momentum, average.dtype), average)


@moving_average.samples
def moving_average(random, dtype):
    for average, x in flat_samples(random, dtype):
        yield average, x, flat_scalar(0.99, dtype)


@kernel
def copy_where(target, source, condition):
    """target ← source where the one truth value `condition` says so, else nothing."""
    xp = devices.array_module(target)
    target[...] = xp.where(condition, source, target)


@copy_where.cpu
def copy_where(target, source, condition):
    if condition:
        target[...] = source


@copy_where.cuda
def copy_where(target, source, condition):
    _CUDA.elementwise("copy_where", target, source, condition, target)


@copy_where.samples
def copy_where(random, dtype):
    for condition in (False, True):
        for target, source in flat_samples(random, dtype):
            yield target, source, flat_scalar(condition, bool)


@kernel
def update_where(condition, update, arrays):
    """Call `update()`, which writes into `arrays`, where the one truth value `condition` says so.

    On the device, where the condition may not be read, the update always runs and is undone. What is needed for that is
    copied where it will be, and only there: where the condition holds, no array is read or written but by the update.
    """
    is_undone = ~condition
    before = [devices.array_module(array).empty_like(array) for array in arrays]
    for values, array in zip(before, arrays, strict=True):
        copy_where(values, array, is_undone)
    update()
    for values, array in zip(before, arrays, strict=True):
        copy_where(array, values, is_undone)


@update_where.cpu
def update_where(condition, update, arrays):
    if condition:
        update()


@update_where.samples
def update_where(random, dtype):
    for condition in (False, True):
        param, grad = random((33,), dtype), random((33,), dtype)

        def update(param=param, grad=grad):
            param[...] = param - grad

        yield flat_scalar(condition, bool), update, [param]


# Loss scales.


@kernel
def unscale(grad, scale):
    """grad ← grad / scale, in place; returns whether all of it was finite, as a truth value of shape ()."""
    xp = devices.array_module(grad)
    is_finite = xp.asarray(xp.isfinite(grad).all())
    grad /= scale
    return is_finite


@unscale.cuda
def unscale(grad, scale):
    parts = devices.array_module(grad).empty((1, cuda.grid_of(grad)), cuda.wide_dtype(grad.dtype))
    _CUDA.elementwise("unscale", grad, cuda.scalar(scale, grad.dtype), grad, parts)
    return (_CUDA.total(parts, grad) == 0).reshape(())


@unscale.samples
def unscale(random, dtype):
    for value in (1.0, np.inf, -np.inf, np.nan):
        for grad, _ in flat_samples(random, dtype):
            grad[grad.size // 2] = value
            yield grad, flat_scalar(3.0, dtype)


@kernel
def adapt_scale(scale, counter, is_finite, growth_steps):
    """Halve the scale after a step that was not finite, double it after `growth_steps` finite ones in a row, in place.

    Args:
        scale: Array of shape ().
        counter: Array of shape (), int32: how many finite steps there were since the scale was changed.
        is_finite: Truth value of shape ().
        growth_steps: Number.
    """
    xp = devices.array_module(scale)
    is_full = counter == growth_steps - 1
    scale *= xp.where(is_finite, xp.where(is_full, 2.0, 1.0), 0.5)
    counter[...] = xp.where(is_finite & ~is_full, counter + 1, 0)


@adapt_scale.cuda
def adapt_scale(scale, counter, is_finite, growth_steps):
    _CUDA.launch("adapt_scale", scale, (1,), (1,), is_finite, growth_steps, scale, counter)


@adapt_scale.samples
def adapt_scale(random, dtype):
    for is_finite in (False, True):
        for counter in (0, 4, 5):
            yield flat_scalar(8.0, dtype), flat_scalar(counter, "int32"), flat_scalar(is_finite, bool), 6
