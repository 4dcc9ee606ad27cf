"""Reading and writing elements by their places: slices, gathers, scatters, one-hot codes."""

import builtins
import math
import operator
from typing import Any

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.autograd.scope import gradient_place
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.backend import devices, dtypes
from gpukeras.kernels import indexing as kernels
from gpukeras.ops.elementwise import as_array
from gpukeras.ops.shaping import _axis, _sizes

__all__ = [
    "get_item",
    "multi_hot",
    "nonzero",
    "one_hot",
    "scatter",
    "scatter_update",
    "slice",
    "slice_update",
    "take",
    "take_along_axis",
]

_BASIC = frozenset({int, type(None), type(Ellipsis), builtins.slice})  # give views
_SHORT = 1 << 16  # NumPy sorts numbers of 16 bits by radix, seven times as fast as longer ones


def scatter_add(target, index, values):
    """target[index] += values, in place, where equal indices add up, always in the same order.

    CuPy's ``add.at`` adds atomically, in any order. So elsewhere than on NumPy the elements, or the rows that an index
    of integers chooses, are numbered, and added by a kernel that sorts the numbers.
    """
    xp = devices.array_module(target)
    if xp is np:
        np.add.at(target, index, values)
        return
    parts = index if type(index) is tuple else (index,)
    names_rows = all(type(part) is int or (devices.is_array(part) and part.dtype.kind in "iu") for part in parts)
    axes = len(parts) if names_rows else target.ndim
    numbers = xp.arange(math.prod(target.shape[:axes])).reshape(target.shape[:axes])[index]
    rest = target.shape[axes:]
    values = xp.broadcast_to(values, (*numbers.shape, *rest)).astype(target.dtype, copy=False)
    values = xp.ascontiguousarray(values).reshape(numbers.size, *rest)
    rows = target.reshape(-1, *rest)
    kernels.add_rows(values, numbers.reshape(-1), rows)
    if not target.flags.c_contiguous:  # then the rows are a copy
        target[...] = rows.reshape(target.shape)


def multiplied_at(x, index, values):
    """x with x[index] multiplied by values, where equal indices multiply up; on the host, as CuPy has none."""
    product = np.array(devices.to_numpy(x))
    parts = index if type(index) is tuple else (index,)
    np.multiply.at(product, tuple([devices.to_numpy(part) for part in parts]), devices.to_numpy(values))
    return devices.to_device(product)


def add_rows(count, index, values, out=None):
    """Sum the rows of `values` into `count` rows, each where `index` says: the gradient of a gather.

    The sums are written to `out`, where it is given.

    On NumPy the rows that are summed up into are kept together, those of most terms first: then the second terms of
    all of them are added to the first ones by one `+=`, then the third ones, and so on, always in the same order. Those
    that need many more such rounds than the others end in one sum each. 6400 tokens of 10000 x 128 take 0.8 ms,
    `np.add.at` 9.8.
    """
    xp = devices.array_module(values)
    if out is None:
        total = xp.zeros((count, *values.shape[1:]), values.dtype)
    else:
        total = out
        total[...] = 0
    if xp is not np or values.dtype.kind == "V":
        kernels.add_rows(values, index, total)
        return total
    if not index.size:
        return total
    if count <= _SHORT:
        index = index.astype(np.uint16)
    order = index.argsort(kind="stable")
    rows = index[order]
    is_first = np.empty(rows.shape, bool)
    is_first[0] = True
    np.not_equal(rows[1:], rows[:-1], out=is_first[1:])
    starts = np.flatnonzero(is_first)
    lengths = np.diff(starts, append=len(rows))
    longest_first = (-lengths).argsort(kind="stable")
    starts, lengths = starts[longest_first], lengths[longest_first]
    sums = values.take(order[starts], axis=0)
    # A round and a sum take about equally long: the fewest of both together.
    rounds = np.append(lengths, 1)
    left = int((rounds + np.arange(len(rounds))).argmin())
    terms = int(rounds[left])
    for term in range(1, terms):
        longer = int(np.count_nonzero(lengths > term))
        sums[:longer] += values.take(order[starts[:longer] + term], axis=0)
    for place in range(left):
        run = order[starts[place] + terms : starts[place] + lengths[place]]
        sums[place] += values.take(run, axis=0).sum(axis=0)
    total[rows[starts]] = sums
    return total


def get_item(x, key):
    """x[key]: integers, slices, None, Ellipsis, arrays of integers, boolean masks.

    dx = dy added where it came from, 0 elsewhere.

    Args:
        x: The values.
        key: What stands between the brackets.

    Example:
        >>> get_item(np.array([[1, 2], [3, 4]]), (0, -1)).numpy()
        array(2)
    """
    return _get_item(x, key)


@op
def _get_item(x, /, key):
    if type(key) in _BASIC or (type(key) is tuple and all(type(k) in _BASIC for k in key)):
        is_view = True
    else:
        key = tuple([_index(k) for k in key]) if type(key) is tuple else _index(key)
        parts = key if type(key) is tuple else (key,)
        is_view = not any(devices.is_array(k) for k in parts)
    places: Any = key  # of rows, where the index is one array of integers
    names_rows = not is_view and type(key) is not tuple and places.dtype.kind in "iu"
    x = as_array(x)
    xp = devices.array_module(x)
    try:
        y = x[key]
    except IndexError as error:
        raise IndexError(f"x[{_shown(key)}] of a Tensor of shape {x.shape}: {error}.") from error

    def backward(dy, needs):
        if names_rows:
            flat = _from_zero(places, x.shape[0]).reshape(-1)
            return (add_rows(x.shape[0], flat, _rows(dy, places.ndim)),)
        dx = xp.zeros_like(x)
        if is_view:
            dx[key] = dy
        else:
            scatter_add(dx, key, dy)
        return (dx,)

    return y, backward


def _shown(key):
    parts = key if type(key) is tuple else (key,)
    return ", ".join(f"array of shape {k.shape}" if hasattr(k, "shape") else str(k) for k in parts)


def _index(key):
    """One part of an index with Tensors made arrays, or integers where slices need them."""
    if type(key) in (int, type(None), type(Ellipsis)):
        return key
    if isinstance(key, builtins.slice):
        return builtins.slice(*[_integer(v) for v in (key.start, key.stop, key.step)])
    if isinstance(key, (bool, np.bool_)):
        return convert_to_array(bool(key))
    if isinstance(key, np.integer):
        return int(key)
    array = convert_to_array(key)
    if array.dtype.kind not in "biu":
        if array.size:
            raise IndexError(
                f"A Tensor is indexed by integers, slices and masks, but got an array of "
                f"{array.dtype}. Convert it with .astype('int32')."
            )
        array = array.astype(np.int32)
    return array


def _integer(value):
    return value if value is None else operator.index(value)


def _from_zero(index, size):
    """Indices counted from the start: negative ones count from the end."""
    xp = devices.array_module(index)
    index = index.astype(np.int64)
    return xp.where(index < 0, index + size, index)


def _rows(dy, index_ndim):
    """A gradient (index axes..., rest...) as (n, rest...)."""
    return dy.reshape((math.prod(dy.shape[:index_ndim]), *dy.shape[index_ndim:]))


@op
def take(x, indices, /, axis=None):
    """The elements along an axis at the places that `indices` names.

    dx = dy summed where it came from, 0 elsewhere.

    Args:
        indices: Integers of any shape, which takes the axis's place in the result's shape.
        axis: One axis; None for the flat array.

    Example:
        >>> take(np.array([[1, 2], [3, 4]]), [1, 0], axis=0).numpy()
        array([[3, 4],
               [1, 2]])
    """
    x = as_array(x)
    xp = devices.array_module(x)
    indices = as_array(indices)
    if indices.dtype.kind not in "iu":
        indices = indices.astype(dtypes.as_dtype("int32"))
    flat = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else _axis(axis, x.ndim, "take")
    try:
        y = xp.take(flat, indices, axis=along) if along or axis is None else kernels.take_rows(flat, indices)
    except IndexError as error:
        raise IndexError(
            f"take needs indices below {flat.shape[along]}, the size of axis {along} of shape "
            f"{flat.shape}, but got indices from {indices.min()} to {indices.max()}."
        ) from error

    def backward(dy, needs):
        if along:
            dy = xp.moveaxis(dy, range(along, along + indices.ndim), range(indices.ndim))
        places = _from_zero(indices, flat.shape[along])
        if places.ndim == 2 and dy.strides[0] < dy.strides[1]:  # time before batch, as recurrent layers leave it
            dy, places = dy.swapaxes(0, 1), places.T
        rows = _rows(dy, places.ndim)
        if along or axis is None:
            dx = add_rows(flat.shape[along], places.reshape(-1), rows)
            return xp.moveaxis(dx, 0, along).reshape(x.shape), None
        place = gradient_place(x, rows, takes_wider=True)
        if place is not None:
            rows = rows.astype(place.dtype, copy=False)  # a batch's rows, where else the whole table would be cast
        return add_rows(len(x), places.reshape(-1), rows, place), None

    return y, backward


@op
def take_along_axis(x, indices, /, axis=None):
    """The elements along an axis at the places that `indices` names, line by line.

    dx = dy summed where it came from, 0 elsewhere.

    Args:
        indices: Integers with as many axes as x, such as `argsort` gives.
        axis: One axis; None for the flat array.

    Example:
        >>> take_along_axis(np.array([[3, 1], [2, 4]]), np.array([[1], [0]]), axis=1).numpy()
        array([[1],
               [2]])
    """
    x, indices = as_array(x), as_array(indices)
    flat = x.reshape(-1) if axis is None else x
    places = indices.reshape(-1) if axis is None else indices
    along = 0 if axis is None else _axis(axis, x.ndim, "take_along_axis")
    if places.ndim != flat.ndim:
        raise ValueError(
            f"take_along_axis needs indices with as many axes as x, but got indices of shape "
            f"{indices.shape} and x of shape {x.shape}."
        )
    index = _along(places, flat.shape, along)

    def backward(dy, needs):
        dx = devices.array_module(x).zeros(flat.shape, x.dtype)
        scatter_add(dx, index, dy)
        return dx.reshape(x.shape), None

    return flat[index], backward


def _along(indices, shape, axis):
    """The full index for one index per line: counted places along the other axes."""
    xp = devices.array_module(indices)
    index = []
    for a, size in enumerate(shape):
        if a == axis:
            index.append(indices)
        else:
            places = xp.arange(size).reshape([-1 if i == a else 1 for i in range(len(shape))])
            index.append(places)
    return tuple(index)


def slice(inputs, start_indices, shape):
    """The block of a shape that begins at some place.

    Args:
        inputs: The values.
        start_indices: Where the block begins along each axis.
        shape: Its sizes; -1 for all that is left.

    Example:
        >>> slice(np.arange(5), [1], [3]).numpy()
        array([1, 2, 3])
    """
    return _get_item(inputs, _block(inputs, start_indices, shape, "slice"))


def _block(inputs, start_indices, shape, name):
    starts, sizes = _sizes(start_indices), _sizes(shape)
    whole = tuple(inputs.shape) if hasattr(inputs, "shape") else np.shape(inputs)
    if len(starts) != len(whole) or len(sizes) != len(whole):
        raise ValueError(
            f"{name} needs a start and a size for each axis of shape {whole}, but got "
            f"start_indices={starts} and sizes {sizes}."
        )
    block = []
    for start, size, there in zip(starts, sizes, whole, strict=True):
        if there is not None:
            start = start + there if start < 0 else start
            if size == -1:
                size = there - start
            if size > there:
                raise ValueError(f"{name}: a block of {sizes} does not fit into shape {whole}.")
            start = max(0, min(start, there - size))  # as Keras does: moved until it fits
        block.append(builtins.slice(start, None if size == -1 else start + size))
    return tuple(block)


def slice_update(inputs, start_indices, updates):
    """inputs with the block that begins at some place replaced by `updates`.

    dupdates = dy in the block; dinputs = dy with the block set to 0.

    Args:
        inputs: The values.
        start_indices: Where the block begins along each axis.
        updates: What stands there afterwards.

    Example:
        >>> slice_update(np.zeros(4), [1], np.ones(2)).numpy()
        array([0., 1., 1., 0.])
    """
    if not hasattr(updates, "shape"):
        updates = Tensor(convert_to_array(updates))
    return _set_block(inputs, updates, _sizes(start_indices))


@op
def _set_block(inputs, updates, /, start_indices):
    block = _block(inputs, start_indices, updates.shape, "slice_update")
    y = inputs.copy()
    y[block] = updates

    def backward(dy, needs):
        dinputs = None
        if needs.inputs:
            dinputs = dy.copy()
            dinputs[block] = 0
        dupdates = dy[block].astype(updates.dtype) if needs.updates else None
        return dinputs, dupdates

    return y, backward


def scatter(indices, values, shape):
    """Zeros with `values` added at the places that `indices` names.

    dvalues = dy read at those places.

    Args:
        indices: Integers (n, depth), the first `depth` coordinates of each place.
        values: What is added there (n, rest of the shape...).
        shape: The result's.

    Example:
        >>> scatter(np.array([[0], [2], [2]]), np.ones(3), (4,)).numpy()
        array([1., 0., 2., 0.])
    """
    return _scatter_values(values, indices, shape=_sizes(shape))


@op
def _scatter_values(values, indices, /, shape):
    xp = devices.array_module(values)
    index = tuple([indices[..., i] for i in range(indices.shape[-1])])
    y = xp.zeros(shape, values.dtype)
    scatter_add(y, index, values)
    return y, lambda dy, needs: (dy[index], None)


def scatter_update(inputs, indices, updates, reduction=None):
    """inputs with the places that `indices` names replaced by `updates`, or joined with them.

    Args:
        inputs: The values.
        indices: Integers (n, depth), the first `depth` coordinates of each place.
        updates: What stands there afterwards (n, rest of the shape...).
        reduction: None to replace; ``"add"``, ``"mul"``, ``"max"`` or ``"min"`` to join.

    Example:
        >>> scatter_update(np.zeros(3), np.array([[1]]), np.ones(1)).numpy()
        array([0., 1., 0.])
    """
    if reduction not in (None, "add", "mul", "max", "min"):
        raise ValueError(
            f"scatter_update: reduction must be None, 'add', 'mul', 'max' or 'min', but got {reduction!r}."
        )
    if not isinstance(inputs, KerasTensor):
        inputs = inputs if isinstance(inputs, Tensor) else Tensor(convert_to_array(inputs))
    return _scatter_update(inputs, indices, updates, reduction=reduction)


@op
def _scatter_update(inputs, indices, updates, /, reduction):
    xp = devices.array_module(inputs)
    index = tuple([indices[..., i] for i in range(indices.shape[-1])])
    updates = as_array(updates)
    y = inputs.copy()
    if reduction is None:
        y[index] = updates
    elif reduction == "add":
        scatter_add(y, index, updates.astype(y.dtype))
    elif reduction == "mul":
        y = multiplied_at(y, index, updates.astype(y.dtype))
    else:
        ufunc = {"max": xp.maximum, "min": xp.minimum}[reduction]
        ufunc.at(y, index, updates.astype(y.dtype))

    def backward(dy, needs):
        dinputs = dy
        if reduction is None:
            dinputs = dy.copy()
            dinputs[index] = 0
        return dinputs, None, dy[index].astype(updates.dtype)

    return y, backward if reduction in (None, "add") else None


@op
def one_hot(x, /, num_classes, axis=-1, dtype=None, sparse=False):
    """For every integer a line of zeros with a 1 at its place; all zeros where it has none.

    Args:
        num_classes: Length of the new axis.
        axis: Where in the result the new axis stands.
        dtype: None for floatx.
        sparse: Not supported.

    Example:
        >>> one_hot(np.array([2, 0]), 3).numpy()
        array([[0., 0., 1.],
               [1., 0., 0.]], dtype=float32)
    """
    if sparse:
        raise NotImplementedError("one_hot: sparse=True is not supported; use the dense result.")
    x = as_array(x)
    xp = devices.array_module(x)
    axis = _axis(axis, x.ndim + 1, "one_hot")
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    classes = xp.arange(num_classes).reshape((-1,) + (1,) * (x.ndim - axis))
    return (x.reshape(shape) == classes).astype(dtypes.as_dtype(dtype)), None


def multi_hot(inputs, num_classes=None, axis=-1, dtype=None, sparse=False, **kwargs):
    """For every set of integers a line of zeros with a 1 at each of their places.

    Args:
        inputs: Integers (batch, set) or (set,).
        num_classes: Length of the new axis.
        axis: Where in the result the new axis stands.
        dtype: None for floatx.
        sparse: Not supported.
        kwargs: ``num_tokens``, an older name of `num_classes`.

    Example:
        >>> multi_hot(np.array([2, 0]), 3).numpy()
        array([1., 0., 1.], dtype=float32)
    """
    num_classes = kwargs.pop("num_tokens", num_classes)
    if kwargs:
        raise TypeError(f"multi_hot got unknown arguments {sorted(kwargs)}.")
    if num_classes is None:
        raise ValueError("multi_hot needs num_classes, the length of the new axis.")
    from gpukeras.ops.reduction import max as max_

    ndim = len(inputs.shape) if hasattr(inputs, "shape") else np.ndim(inputs)
    codes = one_hot(inputs, num_classes, axis=axis, dtype=dtype, sparse=sparse)
    return max_(codes, axis=1 if ndim > 1 else 0)


def nonzero(x):
    """The places of the elements that are not zero: one array of indices for each axis.

    Example:
        >>> [i.numpy() for i in nonzero(np.array([0, 5, 6]))]
        [array([1, 2], dtype=int32)]
    """
    from gpukeras.ops.comparison import where

    return where(x)
