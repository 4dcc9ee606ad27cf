"""Ops that move elements without changing them: reshape, transpose, join, split, repeat, pad."""

import math
import operator

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.ops.elementwise import as_array, unbroadcast

__all__ = [
    "broadcast_to",
    "expand_dims",
    "flip",
    "moveaxis",
    "pad",
    "ravel",
    "repeat",
    "reshape",
    "roll",
    "rot90",
    "squeeze",
    "swapaxes",
    "tile",
    "transpose",
]


def _axis(axis, ndim, name):
    """The axis as a number from 0."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"{name} got axis {axis}, but there are {ndim} axes. Pass an axis from {-ndim} to {ndim - 1}.")
    return axis % ndim


def _sizes(shape) -> tuple:
    """A shape given as a number or a sequence of numbers and Tensors, as a tuple of ints."""
    if isinstance(shape, Tensor):
        shape = shape.tolist()
    if isinstance(shape, (list, tuple)):
        return tuple([size if size is None else operator.index(size) for size in shape])
    return (operator.index(shape),)


def reshape(x, newshape):
    """The same elements in another shape.

    dx = dy in the shape of x.

    Args:
        x: The values.
        newshape: Sizes of the axes; one may be -1 and is found from the others.

    Example:
        >>> reshape(np.arange(6), (2, -1)).shape
        (2, 3)
    """
    return _reshape(x, newshape)


@op
def _reshape(x, /, newshape):
    x = as_array(x)
    shape = _sizes(newshape)
    if None in shape:  # ops.shape() of a placeholder: that axis is the one to find
        shape = tuple(-1 if size is None else size for size in shape)
    known = math.prod(size for size in shape if size != -1)
    unknown = shape.count(-1)
    if unknown > 1 or (known != x.size if not unknown else known == 0 or x.size % known):
        raise ValueError(
            f"reshape cannot bring shape {x.shape} ({x.size} elements) into shape {shape}. "
            f"The sizes must multiply to {x.size}, and at most one may be -1."
        )
    return x.reshape(shape), lambda dy, needs: (dy.reshape(x.shape),)


def ravel(x):
    """All elements along one axis.

    dx = dy in the shape of x.

    Example:
        >>> ravel(np.ones((2, 3))).shape
        (6,)
    """
    return _reshape(x, -1)


@op
def transpose(x, /, axes=None):
    """The axes in another order.

    dx = dy with the order undone.

    Args:
        axes: Which axis of x comes where; None turns the order around.

    Example:
        >>> transpose(np.ones((2, 3, 4)), (1, 0, 2)).shape
        (3, 2, 4)
    """
    x = as_array(x)
    if axes is None:
        return x.transpose(), lambda dy, needs: (dy.transpose(),)
    axes = tuple([axis + x.ndim if axis < 0 else axis for axis in axes])
    if sorted(axes) != list(range(x.ndim)):
        raise ValueError(f"transpose needs each axis of x, which has shape {x.shape}, once, but got axes {axes}.")
    back = tuple([axes.index(i) for i in range(x.ndim)])
    return x.transpose(axes), lambda dy, needs: (dy.transpose(back),)


@op
def swapaxes(x, /, axis1, axis2):
    """Two axes in each other's place.

    dx = dy with the two changed back.

    Example:
        >>> swapaxes(np.ones((2, 3, 4)), 0, 2).shape
        (4, 3, 2)
    """
    axis1, axis2 = _axis(axis1, x.ndim, "swapaxes"), _axis(axis2, x.ndim, "swapaxes")
    return x.swapaxes(axis1, axis2), lambda dy, needs: (dy.swapaxes(axis1, axis2),)


@op
def moveaxis(x, /, source, destination):
    """Some axes in new places, the others in their order.

    dx = dy with the axes moved back.

    Args:
        source, destination: An axis or a sequence of axes: from where, to where.

    Example:
        >>> moveaxis(np.ones((2, 3, 4)), 0, -1).shape
        (3, 4, 2)
    """
    xp = devices.array_module(x)
    return (
        xp.moveaxis(x, source, destination),
        lambda dy, needs: (xp.moveaxis(dy, destination, source),),
    )


@op
def expand_dims(x, /, axis):
    """A new axis of size 1, or several.

    dx = dy without the new axes.

    Args:
        axis: Where in the result the new axis stands, or a sequence of places.

    Example:
        >>> expand_dims(np.ones((2, 3)), -1).shape
        (2, 3, 1)
    """
    x = as_array(x)
    axes = tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)
    ndim = x.ndim + len(axes)
    axes = [_axis(a, ndim, "expand_dims") for a in axes]
    if len(set(axes)) != len(axes):
        raise ValueError(f"expand_dims got the same place twice in axis={axis}.")
    sizes = iter(x.shape)
    shape = tuple([1 if a in axes else next(sizes) for a in range(ndim)])
    return x.reshape(shape), lambda dy, needs: (dy.reshape(x.shape),)


@op
def squeeze(x, /, axis=None):
    """x without axes of size 1.

    dx = dy with the axes again.

    Args:
        axis: The axis to leave out, or a sequence of axes; None for all of size 1.

    Example:
        >>> squeeze(np.ones((2, 1, 3, 1)), axis=1).shape
        (2, 3, 1)
    """
    if axis is None:
        axes = [a for a, size in enumerate(x.shape) if size == 1]
    else:
        axes = axis if isinstance(axis, (list, tuple)) else (axis,)
        axes = [_axis(a, x.ndim, "squeeze") for a in axes]
        if any(x.shape[a] != 1 for a in axes):
            raise ValueError(f"squeeze leaves out axes of size 1, but got axis {axis} of shape {x.shape}.")
    shape = tuple([size for a, size in enumerate(x.shape) if a not in axes])
    return x.reshape(shape), lambda dy, needs: (dy.reshape(x.shape),)


@op
def broadcast_to(x, /, shape):
    """x repeated along axes of size 1, and along new ones in front.

    dx = dy summed over those axes.

    Args:
        shape: The shape to reach.

    Example:
        >>> broadcast_to(np.ones(3), (2, 3)).shape
        (2, 3)
    """
    x = as_array(x)
    shape = _sizes(shape)
    if None in shape:  # ops.shape() of a placeholder: that axis keeps its size
        own = (1,) * (len(shape) - x.ndim) + x.shape
        shape = tuple([o if size is None else size for o, size in zip(own, shape, strict=True)])
    xp = devices.array_module(x)
    try:
        y = xp.broadcast_to(x, shape)
    except ValueError as error:
        raise ValueError(
            f"broadcast_to cannot bring shape {x.shape} to {shape}: from the last axis on, sizes must be equal or 1."
        ) from error
    return y, lambda dy, needs: (unbroadcast(dy, x),)


@op
def flip(x, /, axis=None):
    """The elements in opposite order.

    dx = dy turned around likewise.

    Args:
        axis: An axis, a tuple of axes, or None for all.

    Example:
        >>> flip(np.array([1, 2, 3])).numpy()
        array([3, 2, 1])
    """
    xp = devices.array_module(x)
    return xp.flip(x, axis), lambda dy, needs: (xp.flip(dy, axis),)


@op
def roll(x, /, shift, axis=None):
    """The elements moved along, those from the end coming in at the start.

    dx = dy moved back.

    Args:
        shift: By how many places, or one number for each axis.
        axis: An axis, a tuple of axes, or None for the flat array.

    Example:
        >>> roll(np.array([1, 2, 3]), 1).numpy()
        array([3, 1, 2])
    """
    xp = devices.array_module(x)
    back = tuple([-s for s in shift]) if isinstance(shift, (list, tuple)) else -shift
    return xp.roll(x, shift, axis), lambda dy, needs: (xp.roll(dy, back, axis),)


def rot90(array, k=1, axes=(0, 1)):
    """Turned by 90 degrees, k times, in the plane of two axes, from the first towards the second.

    Args:
        array: The values, with two axes or more.
        k: How many times.
        axes: The two axes.

    Example:
        >>> rot90(np.array([[1, 2], [3, 4]])).numpy()
        array([[2, 4],
               [1, 3]])
    """
    if len(axes) != 2 or axes[0] == axes[1]:
        raise ValueError(f"rot90 needs two different axes, but got axes={axes}.")
    k %= 4
    if k == 0:
        return flip(array, ())
    if k == 2:
        return flip(array, tuple(axes))
    if k == 1:
        return swapaxes(flip(array, axes[1]), *axes)
    return flip(swapaxes(array, *axes), axes[1])


@op
def repeat(x, /, repeats, axis=None):
    """Every element several times, one copy after the other.

    dx = sum of dy over the copies.

    Args:
        repeats: How many times, or one number for each element along the axis.
        axis: One axis; None for the flat array.

    Example:
        >>> repeat(np.array([1, 2]), 2).numpy()
        array([1, 1, 2, 2])
    """
    x = as_array(x)
    xp = devices.array_module(x)
    flat = x.reshape(-1) if axis is None else x
    along = _axis(0 if axis is None else axis, flat.ndim, "repeat")
    counts = _sizes(repeats)
    if len(counts) == 1:
        times = counts[0]
        y = xp.repeat(flat, times, axis=along)

        def backward(dy, needs):
            shape = (*flat.shape[: along + 1], times, *flat.shape[along + 1 :])
            return (dy.reshape(shape).sum(axis=along + 1).reshape(x.shape),)

        return y, backward
    if len(counts) != flat.shape[along]:
        raise ValueError(
            f"repeat got {len(counts)} numbers of repeats for the {flat.shape[along]} elements "
            f"along axis {axis} of shape {x.shape}."
        )
    source = np.repeat(np.arange(len(counts)), counts)
    index = xp.asarray(source)

    def backward(dy, needs):
        # Sums of neighbours, as a product with the 0-1 matrix that says which copy is whose.
        matrix = xp.asarray(source[:, None] == np.arange(len(counts)), dy.dtype)
        dx = xp.moveaxis(xp.tensordot(dy, matrix, axes=((along,), (0,))), -1, along)
        return (dx.reshape(x.shape),)

    return xp.take(flat, index, axis=along), backward


@op
def tile(x, /, repeats):
    """The whole array several times, one copy beside the other.

    dx = sum of dy over the copies.

    Args:
        repeats: How many times along each axis; axes missing on either side count as 1.

    Example:
        >>> tile(np.array([1, 2]), 2).numpy()
        array([1, 2, 1, 2])
    """
    x = as_array(x)
    counts = _sizes(repeats)
    ndim = max(len(counts), x.ndim)
    counts = (1,) * (ndim - len(counts)) + counts
    shape = (1,) * (ndim - x.ndim) + x.shape
    y = devices.array_module(x).tile(x, counts)

    def backward(dy, needs):
        pairs = [size for pair in zip(counts, shape, strict=True) for size in pair]
        return (dy.reshape(pairs).sum(axis=tuple(range(0, 2 * ndim, 2))).reshape(x.shape),)

    return y, backward


@op
def _as_is(x, /):
    return as_array(x), lambda dy, needs: (dy,)


@op
def pad(x, /, pad_width, mode="constant", constant_values=None):
    """x with a border along every axis.

    dx = dy without the border; what a border repeats gets its gradient too.

    Args:
        pad_width: ``(before, after)`` for each axis, one pair for all, or one number for all sides.
        mode: ``"constant"``, ``"reflect"`` (without repeating the edge), ``"symmetric"`` (repeating
            it) or ``"edge"``.
        constant_values: What a constant border is filled with; None for 0.

    Example:
        >>> pad(np.array([1, 2]), (1, 2)).numpy()
        array([0, 1, 2, 0, 0])
    """
    x = as_array(x)
    xp = devices.array_module(x)
    widths = _pad_widths(pad_width, x.ndim)
    inside = tuple([slice(a, a + size) for (a, _), size in zip(widths, x.shape, strict=True)])
    if mode == "constant":
        y = xp.full(
            [a + size + b for (a, b), size in zip(widths, x.shape, strict=True)],
            0 if constant_values is None else constant_values,
            x.dtype,
        )
        y[inside] = x
        return y, lambda dy, needs: (dy[inside],)
    if constant_values is not None:
        raise ValueError(f"pad: constant_values={constant_values} has no meaning for mode {mode!r}; leave it out.")
    if mode not in ("edge", "reflect", "symmetric"):
        raise ValueError(f"pad: mode must be 'constant', 'edge', 'reflect' or 'symmetric', but got {mode!r}.")
    # Which element of x stands at each place of y, one axis at a time.
    sources = [np.pad(np.arange(size), width, mode=mode) for width, size in zip(widths, x.shape, strict=True)]
    y = x
    for axis, (source, width) in enumerate(zip(sources, widths, strict=True)):
        if width != (0, 0):
            y = xp.take(y, xp.asarray(source), axis=axis)

    def backward(dy, needs):
        for axis, (source, width) in enumerate(zip(sources, widths, strict=True)):
            if width == (0, 0):
                continue
            before = (slice(None),) * axis
            a, size = width[0], x.shape[axis]
            d = dy[(*before, slice(a, a + size))].copy()
            for place in (*range(a), *range(a + size, len(source))):
                i = int(source[place])
                d[(*before, i)] += dy[(*before, place)]
            dy = d
        return (dy,)

    return (y if y is not x else x.copy()), backward


def _pad_widths(pad_width, ndim):
    if isinstance(pad_width, Tensor):
        pad_width = pad_width.tolist()
    if isinstance(pad_width, (int, np.integer)):
        return [(int(pad_width),) * 2] * ndim
    pairs = np.asarray(pad_width)
    if pairs.shape == (1,):
        return [(int(pairs[0]),) * 2] * ndim
    if pairs.shape in ((2,), (1, 2)):
        return [tuple(int(w) for w in pairs.reshape(2))] * ndim
    if pairs.shape != (ndim, 2):
        raise ValueError(
            f"pad needs a (before, after) pair for each of the {ndim} axes, but got pad_width={pad_width}."
        )
    return [tuple(int(w) for w in pair) for pair in pairs]
