"""Arrays joined into one, and one cut into several."""

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.backend import devices, dtypes
from gpukeras.ops.shaping import _as_is, _axis, _sizes, expand_dims, ravel

__all__ = [
    "append",
    "array_split",
    "concatenate",
    "dstack",
    "hstack",
    "split",
    "stack",
    "unstack",
    "vstack",
]


def _in_one_dtype(xs):
    """Arrays in the dtype that Keras gives what they are joined into."""
    dtype = xs[0].dtype
    if all([x.dtype is dtype or x.dtype == dtype for x in xs]):
        return xs
    dtype = dtypes.result_type(*[x.dtype for x in xs])
    return [x if x.dtype == dtype else x.astype(dtype) for x in xs]


@op
def _concatenate(*xs, axis):
    axis = _axis(axis, xs[0].ndim, "concatenate")
    try:
        y = devices.array_module(xs[0]).concatenate(_in_one_dtype(xs), axis=axis)
    except ValueError as error:
        raise ValueError(
            f"concatenate along axis {axis} needs arrays whose other axes agree, but got shapes "
            f"{[x.shape for x in xs]}."
        ) from error

    def backward(dy, needs):
        before = (slice(None),) * axis
        found, start = [], 0
        for x, needed in zip(xs, needs, strict=True):
            stop = start + x.shape[axis]
            part = dy[(*before, slice(start, stop))] if needed else None
            found.append(part if part is None or part.dtype == x.dtype else part.astype(x.dtype))
            start = stop
        return found

    return y, backward


def concatenate(xs, axis=0):
    """Arrays joined along an axis that they have.

    dx = its part of dy.

    Args:
        xs: List of arrays.
        axis: Along which; the other axes must agree.

    Example:
        >>> concatenate([np.ones((2, 3)), np.ones((2, 1))], axis=1).shape
        (2, 4)
    """
    return _concatenate(_listed(xs, "concatenate"), axis=axis)


def _listed(xs, name):
    if isinstance(xs, KerasTensor):
        raise TypeError(f"{name} takes a list of tensors, but got {xs!r}. Put it in a list.")
    xs = list(xs)
    if not xs:
        raise ValueError(f"{name} needs at least one tensor, but got an empty list.")
    return xs


@op
def _stack(*xs, axis):
    if any([x.shape != xs[0].shape for x in xs]):
        raise ValueError(f"stack needs arrays of one shape, but got {[x.shape for x in xs]}.")
    axis = _axis(axis, xs[0].ndim + 1, "stack")
    y = devices.array_module(xs[0]).stack(_in_one_dtype(xs), axis=axis)

    def backward(dy, needs):
        before = (slice(None),) * axis
        parts = [dy[(*before, i)] if needed else None for i, needed in enumerate(needs)]
        return [
            part if part is None or part.dtype == x.dtype else part.astype(x.dtype)
            for part, x in zip(parts, xs, strict=True)
        ]

    return y, backward


def stack(x, axis=0):
    """Arrays of one shape joined along a new axis.

    dx = its part of dy.

    Args:
        x: List of arrays.
        axis: Where the new axis stands.

    Example:
        >>> stack([np.ones(3), np.ones(3)], axis=1).shape
        (3, 2)
    """
    return _stack(_listed(x, "stack"), axis=axis)


def hstack(xs):
    """Arrays joined side by side: along axis 1, or 0 where there is one axis.

    Example:
        >>> hstack([np.ones((2, 3)), np.ones((2, 1))]).shape
        (2, 4)
    """
    xs = [_at_least(x, 1) for x in _listed(xs, "hstack")]
    return _concatenate(xs, axis=0 if len(xs[0].shape) == 1 else 1)


def vstack(xs):
    """Arrays joined one below the other: along axis 0, vectors as rows.

    Example:
        >>> vstack([np.ones(3), np.ones((2, 3))]).shape
        (3, 3)
    """
    return _concatenate([_at_least(x, 2) for x in _listed(xs, "vstack")], axis=0)


def dstack(xs):
    """Arrays joined in depth: along axis 2, matrices as layers.

    Example:
        >>> dstack([np.ones((2, 3)), np.ones((2, 3))]).shape
        (2, 3, 2)
    """
    return _concatenate([_at_least(x, 3) for x in _listed(xs, "dstack")], axis=2)


def _at_least(x, ndim):
    """x with axes of size 1 put where NumPy's stacks put them."""
    have = len(np.shape(x)) if not hasattr(x, "shape") else len(x.shape)
    if have == 0:
        return expand_dims(x, tuple(range(ndim)))
    if have == 1 and ndim > 1:
        return expand_dims(x, 0 if ndim == 2 else (0, 2))
    return expand_dims(x, 2) if have == 2 and ndim == 3 else _as_is(x)


def append(x1, x2, axis=None):
    """x2 joined to the end of x1: along an axis, or both flat where axis is None.

    Example:
        >>> append(np.ones(2), np.ones((2, 2))).shape
        (6,)
    """
    return concatenate([ravel(x1), ravel(x2)] if axis is None else [x1, x2], axis=axis or 0)


@op
def _split(x, /, places, axis):
    bounds = [0, *places, x.shape[axis]]
    before = (slice(None),) * axis
    xp = devices.array_module(x)
    parts = tuple([x[(*before, slice(a, b))] for a, b in zip(bounds, bounds[1:], strict=False)])

    def backward(dy, needs):
        filled = [xp.zeros_like(part) if d is None else d for part, d in zip(parts, dy, strict=True)]
        if all(a <= b for a, b in zip(bounds, bounds[1:], strict=False)):
            return (xp.concatenate(filled, axis=axis),)
        dx = xp.zeros_like(x)
        for a, b, d in zip(bounds, bounds[1:], filled, strict=False):
            dx[(*before, slice(a, b))] += d
        return (dx,)

    return parts, backward


def split(x, indices_or_sections, axis=0):
    """A list of pieces along an axis.

    dx = the pieces' gradients joined again.

    Args:
        x: The values.
        indices_or_sections: Number of equal pieces, or the places where to cut.
        axis: Along which.

    Example:
        >>> [part.shape for part in split(np.ones((2, 6)), 3, axis=1)]
        [(2, 2), (2, 2), (2, 2)]
    """
    return _cut(x, indices_or_sections, axis, "split")


def array_split(x, indices_or_sections, axis=0):
    """A list of pieces along an axis, the first ones longer by one where they cannot be equal.

    Args:
        x: The values.
        indices_or_sections: Number of pieces, or the places where to cut.
        axis: Along which.

    Example:
        >>> [part.shape for part in array_split(np.ones(5), 2)]
        [(3,), (2,)]
    """
    return _cut(x, indices_or_sections, axis, "array_split")


def _cut(x, indices_or_sections, axis, name):
    x = x if isinstance(x, KerasTensor) else _as_is(x)
    axis = _axis(axis, len(x.shape), name)
    if isinstance(indices_or_sections, (int, np.integer)):
        size, count = x.shape[axis], int(indices_or_sections)
        if count < 1:
            raise ValueError(f"{name} needs at least one piece, but got {count}.")
        if size is None:
            parts = list(_split_unknown(x, count, axis))
            for part in parts:
                part.shape = (*part.shape[:axis], None, *part.shape[axis + 1 :])
            return parts
        if name == "split" and size % count:
            raise ValueError(
                f"split cannot make {count} equal pieces of axis {axis} of shape {tuple(x.shape)}. "
                f"Pass the places where to cut, or use array_split."
            )
        long = size % count
        lengths = [size // count + (i < long) for i in range(count)]
        places = [sum(lengths[: i + 1]) for i in range(count - 1)]
    else:
        places = list(_sizes(indices_or_sections))
    return list(_split(x, tuple(places), axis))


@op
def _split_unknown(x, /, count, axis):
    """Equal pieces of an axis whose size is known only when the op runs."""
    size = x.shape[axis] // count
    return _split.function(x, [size * i for i in range(1, count)], axis)


def unstack(x, num=None, axis=0):
    """A list of the slices along an axis, without that axis.

    dx = the slices' gradients stacked again.

    Args:
        x: The values.
        num: The size of the axis, where x does not know it.
        axis: Along which.

    Example:
        >>> [part.shape for part in unstack(np.ones((2, 3)), axis=1)]
        [(2,), (2,), (2,)]
    """
    x = x if isinstance(x, KerasTensor) else _as_is(x)
    axis = _axis(axis, len(x.shape), "unstack")
    if x.shape[axis] is None:
        raise ValueError(
            f"unstack needs to know the size of axis {axis}, but x has shape {x.shape}. "
            f"Give the input a fixed size there."
        )
    if num is not None and num != x.shape[axis]:
        raise ValueError(f"unstack got num={num}, but axis {axis} of shape {x.shape} has another size.")
    return list(_unstack(x, axis=axis))


@op
def _unstack(x, /, axis):
    before = (slice(None),) * axis
    parts = tuple([x[(*before, i)] for i in range(x.shape[axis])])
    xp = devices.array_module(x)

    def backward(dy, needs):
        filled = [xp.zeros_like(part) if d is None else d for part, d in zip(parts, dy, strict=True)]
        return (xp.stack(filled, axis=axis),)

    return parts, backward
