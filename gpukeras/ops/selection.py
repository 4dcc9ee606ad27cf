"""Ops that order, pick and count: sorting, ranking, segments, quantiles, bins."""

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import devices, dtypes
from gpukeras.ops import comparison, elementwise, indexing, reduction, shaping
from gpukeras.ops.elementwise import as_array, as_float
from gpukeras.ops.indexing import _along, add_rows, multiplied_at
from gpukeras.ops.shaping import _axis

__all__ = [
    "argsort",
    "bincount",
    "diff",
    "digitize",
    "in_top_k",
    "isin",
    "median",
    "quantile",
    "searchsorted",
    "segment_max",
    "segment_min",
    "segment_prod",
    "segment_sum",
    "sort",
    "top_k",
]


@op
def argsort(x, /, axis=-1):
    """The indices that sort an axis, equal elements in their order.

    Args:
        axis: One axis; None for the flat array.

    Example:
        >>> argsort(np.array([3, 1, 2])).numpy()
        array([1, 2, 0], dtype=int32)
    """
    return _order(as_array(x), axis).astype(dtypes.as_dtype("int32")), None


def _order(x, axis):
    if axis is None:
        x, axis = x.reshape(-1), -1
    return x.argsort(axis=axis, kind="stable") if isinstance(x, np.ndarray) else x.argsort(axis=axis)


@op
def sort(x, /, axis=-1):
    """The elements of every line along an axis from the smallest to the largest.

    dx = dy put back where its elements came from.

    Args:
        axis: One axis; None for the flat array.

    Example:
        >>> sort(np.array([3, 1, 2])).numpy()
        array([1, 2, 3])
    """
    x = as_array(x)
    flat = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else _axis(axis, x.ndim, "sort")
    index = _along(_order(flat, along), flat.shape, along)

    def backward(dy, needs):
        dx = devices.array_module(x).empty(flat.shape, x.dtype)
        dx[index] = dy
        return (dx.reshape(x.shape),)

    return flat[index], backward


def top_k(x, k, sorted=True):
    """The k largest elements of every line along the last axis, and their indices.

    dx = the values' gradient put back where they came from.

    Args:
        x: The values.
        k: How many.
        sorted: Whether the largest comes first; the result is sorted in any case.

    Example:
        >>> values, indices = top_k(np.array([1.0, 3.0, 2.0]), k=2)
        >>> values.numpy(), indices.numpy()
        (array([3., 2.]), array([1, 2], dtype=int32))
    """
    return _top_k(x, k)


@op
def _top_k(x, /, k):
    x = as_array(x)
    if x.ndim == 0 or not 0 <= k <= x.shape[-1]:
        raise ValueError(f"top_k cannot find {k} elements on the last axis of shape {x.shape}.")
    xp = devices.array_module(x)
    # The largest first, and of equals the first: sorted from the end, then turned around.
    order = x.shape[-1] - 1 - _order(xp.flip(x, -1), -1)
    places = xp.flip(order, -1)[..., :k]
    index = _along(places, x.shape, x.ndim - 1)

    def backward(dy, needs):
        if dy[0] is None:
            return (None,)
        dx = xp.zeros_like(x)
        dx[index] = dy[0]
        return (dx,)

    return (x[index], places.astype(dtypes.as_dtype("int32"))), backward


@op
def in_top_k(targets, predictions, /, k):
    """Whether the prediction for the target class is among the k largest of its row.

    Args:
        targets: Integer classes (batch,).
        predictions: Scores (batch, classes).
        k: How many count.

    Example:
        >>> in_top_k(np.array([1]), np.array([[0.1, 0.7, 0.2]]), k=1).numpy()
        array([ True])
    """
    targets, predictions = as_array(targets), as_array(predictions)
    if predictions.ndim != targets.ndim + 1:
        raise ValueError(
            f"in_top_k needs targets (batch,) and predictions (batch, classes), but got shapes "
            f"{targets.shape} and {predictions.shape}."
        )
    xp = devices.array_module(predictions)
    classes = predictions.shape[-1]
    is_class = (targets >= 0) & (targets < classes)
    places = xp.where(is_class, targets, 0)[..., None]
    own = predictions[_along(places, predictions.shape, predictions.ndim - 1)]
    rank = (predictions > own).sum(axis=-1)
    return (rank < k) & is_class & xp.isfinite(own[..., 0]), None


def _segments(data, segment_ids, num_segments, name):
    """Segment ids in their array form, and how many segments there are."""
    ids = as_array(segment_ids)
    if ids.ndim != 1 or data.ndim == 0 or ids.shape[0] != data.shape[0]:
        raise ValueError(
            f"{name} needs one segment id for each of the rows of data, but got ids of shape "
            f"{ids.shape} and data of shape {data.shape}."
        )
    if num_segments is None:
        num_segments = int(ids.max()) + 1 if ids.size else 0
    return ids, num_segments


@op
def segment_sum(data, segment_ids, /, num_segments=None, sorted=False):
    """Sums of the rows with one segment id.

    ddata = dy of its segment.

    Args:
        segment_ids: Integers (rows,); rows with ids outside the segments are left out.
        num_segments: How many there are; None reads the largest id, which waits for the device.
        sorted: Whether the ids never fall; makes no difference here.

    Example:
        >>> segment_sum(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1])).numpy()
        array([3., 3.])
    """
    data = as_array(data)
    ids, count = _segments(data, segment_ids, num_segments, "segment_sum")
    xp = devices.array_module(data)
    # One further row takes what belongs to no segment.
    places = xp.where((ids >= 0) & (ids < count), ids, count)
    y = add_rows(count + 1, places, data)[:count]

    def backward(dy, needs):
        wide = xp.concatenate([dy, xp.zeros((1, *dy.shape[1:]), dy.dtype)])
        return wide[places], None

    return y, backward


def _segment_extreme(data, segment_ids, num_segments, name):
    data = as_array(data)
    ids, count = _segments(data, segment_ids, num_segments, name)
    xp = devices.array_module(data)
    places = xp.where((ids >= 0) & (ids < count), ids, count)
    if data.dtype.kind == "f":
        start = float("-inf") if name == "segment_max" else float("inf")
    elif data.dtype.kind == "b":
        start = name == "segment_min"
    else:
        limits = np.iinfo(data.dtype)
        start = limits.min if name == "segment_max" else limits.max
    wide = xp.full((count + 1, *data.shape[1:]), start, data.dtype)
    (xp.maximum if name == "segment_max" else xp.minimum).at(wide, places, data)

    def backward(dy, needs):
        # Equal elements share the gradient.
        chosen = (data == wide[places]).astype(dy.dtype)
        number = add_rows(count + 1, places, chosen)
        spread = xp.concatenate([dy, xp.zeros((1, *dy.shape[1:]), dy.dtype)])
        return chosen * (spread[places] / number[places]), None

    return wide[:count], backward


@op
def segment_max(data, segment_ids, /, num_segments=None, sorted=False):
    """The largest of the rows with one segment id, element by element.

    dy goes to the largest element; equal ones share it.

    Args:
        segment_ids, num_segments, sorted: As in `segment_sum`.

    Example:
        >>> segment_max(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1])).numpy()
        array([2., 3.])
    """
    return _segment_extreme(data, segment_ids, num_segments, "segment_max")


@op
def segment_min(data, segment_ids, /, num_segments=None, sorted=False):
    """The smallest of the rows with one segment id, element by element.

    dy goes to the smallest element; equal ones share it.

    Args:
        segment_ids, num_segments, sorted: As in `segment_sum`.

    Example:
        >>> segment_min(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1])).numpy()
        array([1., 3.])
    """
    return _segment_extreme(data, segment_ids, num_segments, "segment_min")


@op
def segment_prod(data, segment_ids, /, num_segments=None, sorted=False):
    """Products of the rows with one segment id; no derivative.

    Args:
        segment_ids, num_segments, sorted: As in `segment_sum`.

    Example:
        >>> segment_prod(np.array([2.0, 3.0, 4.0]), np.array([0, 0, 1])).numpy()
        array([6., 4.])
    """
    data = as_array(data)
    ids, count = _segments(data, segment_ids, num_segments, "segment_prod")
    xp = devices.array_module(data)
    places = xp.where((ids >= 0) & (ids < count), ids, count)
    wide = xp.ones((count + 1, *data.shape[1:]), data.dtype)
    return multiplied_at(wide, places, data)[:count], None


@op
def searchsorted(sorted_sequence, values, /, side="left"):
    """Where each value would be put into a sorted vector so that it stays sorted.

    Args:
        values: What is to be put in.
        side: ``"left"`` before equal elements, ``"right"`` behind them.

    Example:
        >>> searchsorted(np.array([1, 3, 5]), np.array([0, 3, 9])).numpy()
        array([0, 1, 3], dtype=int32)
    """
    if side not in ("left", "right"):
        raise ValueError(f"searchsorted: side must be 'left' or 'right', but got {side!r}.")
    sequence, values = as_array(sorted_sequence), as_array(values)
    if sequence.ndim != 1:
        raise ValueError(f"searchsorted needs a sorted vector, but got shape {sequence.shape}.")
    places = devices.array_module(sequence).searchsorted(sequence, values, side=side)
    xp = devices.array_module(sequence)
    return xp.asarray(places).astype(dtypes.as_dtype("int32")), None


@op
def digitize(x, bins, /):
    """The number of the bin that each element falls into: 0 below the first edge.

    Args:
        bins: The edges, rising.

    Example:
        >>> digitize(np.array([0.5, 1.0, 7.0]), np.array([1.0, 2.0])).numpy()
        array([0, 1, 2], dtype=int32)
    """
    return searchsorted.function(bins, x, side="right")


@op
def bincount(x, weights=None, /, minlength=0, sparse=False):
    """How often each integer from 0 occurs, or the sum of its weights; row by row for matrices.

    Args:
        weights: Of the shape of x; None for 1 each.
        minlength: The least length of the result; a larger x makes it longer (read on the host).
        sparse: Not supported.

    Example:
        >>> bincount(np.array([0, 2, 2])).numpy()
        array([1, 0, 2], dtype=int32)
    """
    if sparse:
        raise NotImplementedError("bincount: sparse=True is not supported; use the dense result.")
    x = as_array(x)
    xp = devices.array_module(x)
    if x.ndim not in (1, 2):
        raise ValueError(f"bincount takes a vector or a matrix of integers, but got shape {x.shape}.")
    length = max(int(x.max()) + 1 if x.size else 0, int(minlength))
    rows = x.reshape(-1, x.shape[-1])
    places = xp.arange(rows.shape[0])[:, None] * length + rows
    if weights is None:
        flat = xp.ones(places.size, dtypes.as_dtype("int32"))
    else:
        flat = weights.reshape(-1)
    y = add_rows(rows.shape[0] * length, places.reshape(-1), flat)
    return y.reshape((*x.shape[:-1], length)), None


@op
def isin(x1, x2, /, assume_unique=False, invert=False):
    """Whether each element of x1 is among those of x2.

    Args:
        assume_unique: Accepted; makes no difference here.
        invert: Whether to ask the opposite.

    Example:
        >>> isin(np.array([1, 2, 3]), np.array([2, 5])).numpy()
        array([False,  True, False])
    """
    a, b = elementwise.promote(as_array(x1), as_array(x2))
    found = (a[..., None] == b.reshape(-1)).any(axis=-1)
    return ~found if invert else found, None


def diff(a, n=1, axis=-1):
    """Differences of neighbours along an axis, n times over.

    Example:
        >>> diff(np.array([1, 4, 9])).numpy()
        array([3, 5])
    """
    ndim = len(a.shape) if hasattr(a, "shape") else np.ndim(a)
    before = (slice(None),) * _axis(axis, ndim, "diff")
    a = a if hasattr(a, "shape") and not isinstance(a, np.ndarray) else shaping._as_is(a)
    difference = comparison.not_equal if dtypes.name_of(a.dtype) == "bool" else elementwise.subtract
    for _ in range(n):
        a = difference(
            indexing.get_item(a, (*before, slice(1, None))),
            indexing.get_item(a, (*before, slice(None, -1))),
        )
    return a


def quantile(x, q, axis=None, method="linear", keepdims=False):
    """The value below which a share q of the elements lies.

    Args:
        x: The values.
        q: A share from 0 to 1, or a vector of them, which becomes the result's first axis.
        axis: An axis, a tuple of axes, or None for all.
        method: Between two elements: ``"linear"``, ``"lower"``, ``"higher"``, ``"midpoint"`` or
            ``"nearest"``.
        keepdims: Whether the axes stay, with size 1.

    Example:
        >>> quantile(np.array([1.0, 2.0, 3.0]), 0.5).numpy()
        array(2.)
    """
    if method not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise ValueError(
            f"quantile: method must be 'linear', 'lower', 'higher', 'midpoint' or 'nearest', but got {method!r}."
        )
    shares = np.asarray(q.numpy() if hasattr(q, "numpy") else q, np.float64)
    return _quantile(x, q=shares, axis=axis, method=method, keepdims=keepdims)


@op
def _quantile(x, /, q, axis, method, keepdims):
    x = as_float(x)
    xp = devices.array_module(x)
    axes = reduction._axes(axis, x.ndim, "quantile")
    order = [a for a in range(x.ndim) if a not in axes] + list(axes)
    lines = x.transpose(order).reshape(*[x.shape[a] for a in order[: x.ndim - len(axes)]], -1)
    size = lines.shape[-1]
    if not size:
        raise ValueError(f"quantile over axes {axes} of shape {x.shape} has no elements.")
    places = q.reshape(-1) * (size - 1)
    low, high = np.floor(places).astype(int), np.ceil(places).astype(int)
    part = {
        "linear": places - low,
        "lower": 0 * places,
        "higher": np.ones_like(places) * (high > low),
        "midpoint": 0.5 * (high > low),
        "nearest": np.round(places) - low,
    }[method]
    part = xp.asarray(part, x.dtype)
    by_rank = _order(lines, -1)
    first = _along(by_rank[..., xp.asarray(low)], lines.shape, lines.ndim - 1)
    second = _along(by_rank[..., xp.asarray(high)], lines.shape, lines.ndim - 1)
    y = lines[first] * (1 - part) + lines[second] * part
    y = xp.moveaxis(y, -1, 0)
    kept = y.shape[1:] if not keepdims else reduction._kept(x.shape, axes)
    is_single = q.ndim == 0

    def backward(dy, needs):
        dy = xp.moveaxis(dy.reshape(y.shape), 0, -1)
        dx = xp.zeros(lines.shape, x.dtype)
        indexing.scatter_add(dx, first, dy * (1 - part))
        indexing.scatter_add(dx, second, dy * part)
        dx = dx.reshape([x.shape[a] for a in order])
        return (dx.transpose(_undone(order)),)

    return y.reshape(kept if is_single else (*q.shape, *kept)), backward


def _undone(order):
    """The order that undoes an order of axes."""
    return [order.index(i) for i in range(len(order))]


def median(x, axis=None, keepdims=False):
    """The middle element, or the mean of the two in the middle.

    Args:
        x: The values.
        axis: An axis, a tuple of axes, or None for all.
        keepdims: Whether the axes stay, with size 1.

    Example:
        >>> median(np.array([1.0, 5.0, 2.0])).numpy()
        array(2.)
    """
    return quantile(x, 0.5, axis=axis, keepdims=keepdims)
