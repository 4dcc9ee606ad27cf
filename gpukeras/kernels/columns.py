"""Convolution's products on the CPU: walks over columns and back from them, block by block.

The columns of x (batch, *space, channels) are one row per window, with everything that the window sees. A block is
a few images, or a band of rows of a large image: one thread makes its columns and multiplies them while they are in its
cache. Blocks follow from shapes alone, and what several of them add to is added in a fixed order, so that
the bits do not depend on the number of threads.

Three walks, of which the shapes choose one:

- `gather`: columns times weights; also the columns' transpose times the gradient of their product.
- `interleave`: the transpose of a `gather` with strides, one gather for each set of places a stride apart.
- `scatter`: the transpose of any `gather`, by adding up what each place of each window gets.
"""

import functools
import itertools
import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpukeras.backend import blas, memory, threads
from gpukeras.kernels.windows import Windows

__all__ = [
    "gather",
    "goes_back_by_columns",
    "has_few_filters",
    "interleave",
    "join_matrices",
    "matrices_of",
    "mirrored",
    "places_of",
    "scatter",
    "split",
]

# What a block's columns and results take at most. Measured on two threads with 3x3 kernels, 64x5x5x64 to 32x32x32x32:
# 1 to 4 MB do equally well; smaller blocks make calls so short that the threads wait for the interpreter's lock.
_BLOCK_BYTES = 2 << 20
# A weights' gradient is summed in so many parts at most, side by side, that together take no more than so many bytes.
_PARTS = 8
_PARTS_BYTES = 16 << 20
# Up to so many channels, columns are laid out with one row for each place and channel: then runs of
# neighbouring windows are copied, not single windows' few channels. Measured: 1 channel 0.6 ms
# instead of 1.4, 3 channels 1.9 instead of 2.4.
_FEW_CHANNELS = 4
# Copying an element of the columns takes as long as so many multiply-adds, adding one up twice as long.
_COPY = 12


# --- Which walk --------------------------------------------------------------------------------------------------


def has_few_filters(weights, windows):
    """Whether `scatter` through mirrored windows makes y faster than `gather`: few filters for many channels."""
    channels, filters = weights.shape[-2:]
    return windows.mirrored is not None and filters <= _FEW_CHANNELS and channels > 2 * filters


def goes_back_by_columns(weights, windows, groups):
    """Whether x's gradient comes from columns of dy, and not from `scatter`.

    All ways compute the same products, at stride 1 in one case for every place of x, in the other for every place of y.
    Beside them the first copies columns of dy, at stride 1 once for both gradients; the second copies columns of x for
    the weights' gradient, and adds up as many elements. Measured with strides of 2, 3x3 kernels and twice as many
    filters as channels: 4.9 instead of 6.4 ms for 32x32x32x32, 3.4 instead of 4.7 for 64x14x14x64.
    """
    channels, filters = groups * weights.shape[-2], weights.shape[-1]
    if windows.is_disjoint:
        return windows.is_pointwise
    if windows.mirrored is None:
        return max(windows.dilation) == 1 and filters <= 4 * channels
    by_columns = math.prod(windows.space) * filters * (2 * channels // groups + _COPY)
    return by_columns <= math.prod(windows.grid) * channels * (2 * filters // groups + 3 * _COPY)


# --- Columns times weights ---------------------------------------------------------------------------------------


def gather(x, windows, groups, y: Any = None, weights=None, bias=None, dy: Any = None):
    """One walk over the columns of x: y ← columns · weights + bias, and Σ columnsᵀ · dy is returned.

    Either is left out where its arrays are None.
    """
    filters = (y if dy is None else dy).shape[-1]
    cuts = _cuts(len(x), windows.grid, windows.count * x.shape[-1] + filters, x.dtype)
    matrices = None if y is None else matrices_of(weights, groups)
    line = None if bias is None else np.tile(bias, windows.grid[-1])
    parts = [[cut] for cut in cuts]
    sums: Any = None
    if dy is not None:
        shape = (groups, windows.count * x.shape[-1] // groups, filters // groups)
        parts = _parts(cuts, math.prod(shape) * x.dtype.itemsize)
        sums = np.empty((len(parts), *shape), x.dtype)

    def compute(part):
        for i, cut in enumerate(parts[part]):
            _with_columns(x, windows, groups, cut, functools.partial(multiply, part, i == 0, cut))

    def multiply(part, is_first, cut, columns):
        if y is not None:
            out = y[cut]
            _matmul(columns, matrices, split(out, groups))
            if line is not None:
                lines = out.reshape(-1, out.shape[-2] * filters)
                lines += line[: lines.shape[1]]
        if dy is not None:
            rows, columns = split(dy[cut], groups), columns.swapaxes(1, 2)
            if is_first:
                _matmul(columns, rows, sums[part])
            else:
                with memory.scratch(sums.shape[1:], sums.dtype) as share:
                    sums[part] += _matmul(columns, rows, share)

    _run(compute, range(len(parts)))
    return None if dy is None else join_matrices(sums.sum(axis=0), windows)


def _with_columns(x, windows, groups, cut, use):
    """Call ``use(columns)`` with what the windows of a block see: (groups, windows, places · channels of a group)."""
    images, rows = cut
    x = x[images]
    first = rows.start * windows.strides[0] - windows.lows[0]
    count = (rows.stop - rows.start - 1) * windows.strides[0] + (windows.size[0] - 1) * windows.dilation[0] + 1
    if not windows.is_padded and x.strides[-1] == x.itemsize:
        _copy_columns(x[:, first : first + count], windows, groups, rows.stop - rows.start, use)
        return
    with memory.scratch((len(x), count, *windows.span[1:], x.shape[-1]), x.dtype) as seen:
        if windows.is_padded:
            seen.fill(0)
        inside, source = [slice(None)], [slice(None)]
        for low, n, size in zip((-first, *windows.lows[1:]), x.shape[1:-1], seen.shape[1:-1], strict=True):
            start = max(low, 0)
            stop = max(min(low + n, size), start)
            inside.append(slice(start, stop))
            source.append(slice(start - low, stop - low))
        seen[tuple(inside)] = x[tuple(source)]
        _copy_columns(seen, windows, groups, rows.stop - rows.start, use)


def _copy_columns(x, windows, groups, rows, use):
    rank, channels = len(windows.grid), x.shape[-1] // groups
    view = _window_view(x, windows, groups, channels, (rows, *windows.grid[1:]))
    batch, places = [*range(1 + rank)], [*range(1 + rank, 1 + 2 * rank)]
    group, channel = 1 + 2 * rank, 2 + 2 * rank
    is_transposed = channels <= _FEW_CHANNELS
    view = view.transpose(group, *([*places, channel, *batch] if is_transposed else [*batch, *places, channel]))
    with memory.scratch(view.shape, x.dtype) as columns:
        np.copyto(columns, view)
        if is_transposed:
            use(columns.reshape(groups, windows.count * channels, -1).swapaxes(1, 2))
        else:
            use(columns.reshape(groups, -1, windows.count * channels))


def _window_view(x, windows, groups, channels, grid):
    """What every window sees, without a copy: (batch, *grid, *size, groups, channels of a group)."""
    batch, *steps, last = x.strides
    return as_strided(
        x,
        (len(x), *grid, *windows.size, groups, channels),
        (
            batch,
            *(step * s for step, s in zip(steps, windows.strides, strict=True)),
            *(step * d for step, d in zip(steps, windows.dilation, strict=True)),
            channels * last,
            last,
        ),
        writeable=False,
    )


# --- The way back with strides -----------------------------------------------------------------------------------


def interleave(dy, weights, windows, groups):
    """dx = Σ over the places of a window of dy · weights[place]ᵀ, for windows without dilation.

    Places of x that are a multiple of the strides apart see dy through the same places of the weights: their gradient
    is a convolution of dy at stride 1 with these. All that differ only on the first axis share columns.
    """
    dx = np.empty((len(dy), *windows.space, groups * weights.shape[-2]), dy.dtype)
    walks = _walks(weights, windows, groups, dx)

    def compute(cut):
        for walk, targets in walks:
            _with_columns(dy, walk, groups, cut, functools.partial(multiply, cut, walk.grid, targets))

    def multiply(cut, grid, targets, columns):
        images, rows = cut
        for (places_first, *places), of_columns, matrices in targets:
            into = dx[(images, places_first, *places)][:, rows]
            with memory.scratch((groups, columns.shape[1], matrices.shape[2]), dx.dtype) as share:
                _matmul(columns[:, :, of_columns], matrices, share)
                share = share.transpose(1, 0, 2).reshape(len(into), -1, *grid[1:], dx.shape[-1])
                into[...] = share[:, : into.shape[1]]

    if walks:
        grid = [max(sizes) for sizes in zip(*(walk.grid for walk, _ in walks), strict=True)]
        width = max(walk.count for walk, _ in walks) * dy.shape[-1] + 2 * dx.shape[-1]
        _run(compute, _cuts(len(dy), grid, width, dy.dtype))
    return dx


def _walks(weights, windows, groups, dx):
    """The convolutions of dy that `interleave` makes dx of; what no window sees is set to zero.

    Returns pairs of windows over dy and a list of what is made of their columns: places of dx, the part of the columns
    that they see, and matrices.
    """
    first, *others = windows.residues
    seen = [residue for residue in first if residue.size]
    for axis, residues in enumerate(windows.residues, start=1):
        for residue in residues:
            if not residue.size:
                dx[(*(slice(None),) * axis, residue.places)] = 0
    start = min((residue.start for residue in seen), default=0)
    stop = max((residue.start + residue.size for residue in seen), default=0)
    walks = []
    for inner in itertools.product(*([residue for residue in axis if residue.size] for axis in others)):
        if not seen:
            continue
        size = (stop - start, *(residue.size for residue in inner))
        lows = (-start, *(-residue.start for residue in inner))
        grid = (max(residue.count for residue in seen), *(residue.count for residue in inner))
        ones = (1,) * len(size)
        width = math.prod(size[1:]) * weights.shape[-1] // groups
        targets = []
        for residue in seen:
            low = (residue.start - start) * width
            taps = (residue.taps, *(r.taps for r in inner))
            targets.append(
                (
                    (residue.places, *(r.places for r in inner)),
                    slice(low, low + residue.size * width),
                    matrices_of(mirrored(weights[taps], groups), groups),
                )
            )
        walks.append((Windows(windows.grid, size, ones, ones, lows, grid), targets))
    return walks


# --- The way back by sums ----------------------------------------------------------------------------------------


def scatter(dy, weights, windows, groups):
    """dx = Σ over the places of a window of dy · weights[place]ᵀ, each place's share added where it belongs."""
    channels = weights.shape[-2]
    dx = np.empty((len(dy), *windows.space, groups * channels), dy.dtype)
    places = places_of(weights, windows, groups)
    add = _add_few if groups == 1 and channels <= _FEW_CHANNELS else _add

    def compute(images):
        dx[images].fill(0)
        for rows in bands:
            add(dx[images], dy[images, rows], places, windows, rows)

    cuts = _cuts(len(dy), windows.grid, windows.count * dx.shape[-1] + dy.shape[-1], dy.dtype)
    bands = [rows for images, rows in cuts if images.start == 0]  # neighbouring bands add to the same places
    if cuts:
        _run(compute, [images for images, rows in cuts if rows.start == 0])
    else:
        dx.fill(0)
    return dx


def _add(dx, dy, places, windows, rows):
    groups, count, _, channels = places.shape
    with memory.scratch((groups, count, math.prod(dy.shape[:-1]), channels), dy.dtype) as shares:
        _matmul(split(dy, groups)[:, None], places, shares)
        shares = shares.reshape(groups, count, *dy.shape[:-1], channels)
        shares = shares.transpose(1, *range(2, shares.ndim - 1), 0, shares.ndim - 1)
        dx = dx.reshape(*dx.shape[:-1], groups, channels)
        for share, (out, into) in zip(shares, _taps(windows, rows), strict=True):
            if windows.is_disjoint:
                dx[into] = share[out]
            else:
                dx[into] += share[out]


def _add_few(dx, dy, places, windows, rows):
    """`_add` for few channels, one image per channel: runs of places are added, not single places' channels."""
    _, count, filters, channels = places.shape
    taps = _taps(windows, rows)
    seen = [into[1] for out, into in taps if into[1].stop]
    low, high = min((rows.start for rows in seen), default=0), max((rows.stop for rows in seen), default=0)
    dx = dx[:, low:high].transpose(dx.ndim - 1, *range(dx.ndim - 1))
    with (
        memory.scratch((count * channels, math.prod(dy.shape[:-1])), dy.dtype) as shares,
        memory.scratch(dx.shape, dy.dtype) as total,
    ):
        blas.matmul(places.swapaxes(2, 3).reshape(-1, filters), dy.reshape(-1, filters).T, out=shares)
        total.fill(0)
        for share, (out, into) in zip(shares.reshape(count, channels, *dy.shape[:-1]), taps, strict=True):
            if into[1].stop:
                into_rows = slice(into[1].start - low, into[1].stop - low, into[1].step)
                total[(slice(None), into[0], into_rows, *into[2:])] += share[(slice(None), *out)]
        dx += total


def _taps(windows, rows):
    """`windows.taps` for a band of rows of the grid: what they see, the grid's rows counted from the band's first."""
    stride = windows.strides[0]
    taps = []
    for (images, out, *others), (_, into, *others_into) in windows.taps:
        start, stop = max(out.start, rows.start), min(out.stop, rows.stop)
        here = there = slice(0, 0)
        if stop > start:
            here = slice(start - rows.start, stop - rows.start)
            first = into.start + (start - out.start) * stride
            there = slice(first, first + (stop - start - 1) * stride + 1, stride)
        taps.append(((images, here, *others), (images, there, *others_into)))
    return taps


# --- Blocks ------------------------------------------------------------------------------------------------------


def _cuts(batch, grid, width, dtype):
    """Equal blocks of windows, each window with `width` elements: pairs of slices into (batch, grid[0])."""
    rows = grid[0]
    size = batch * math.prod(grid) * width * dtype.itemsize
    if not size:
        return []
    count = -(-size // _BLOCK_BYTES)
    if count > 1:
        count = -(-count // 4) * 4  # the same number for each of two or four threads
    if count <= batch:
        return [(images, slice(0, rows)) for images in _split_evenly(batch, count)]
    bands = _split_evenly(rows, min(-(-count // batch), rows))
    return [(slice(i, i + 1), band) for i in range(batch) for band in bands]


def _parts(cuts, nbytes):
    """The blocks in runs, each of which is summed on its own in memory of `nbytes`."""
    count = min(len(cuts), _PARTS, max(_PARTS_BYTES // nbytes, 1))
    return [cuts[part] for part in _split_evenly(len(cuts), count)] if cuts else []


def _split_evenly(n, count):
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


def _run(compute, items):
    """Call ``compute(item)`` for each item, on all threads; a single item has BLAS's own threads to itself."""
    if len(items) == 1:
        compute(items[0])
    else:
        threads.run(compute, items, uses_blas=True)


# --- Matrices ----------------------------------------------------------------------------------------------------


def _matmul(a, b, out):
    """out ← a · b for each group."""
    if len(out) == 1:
        blas.matmul(a[0], b[0], out=out[0])
    else:
        blas.matmul(a, b, out=out)
    return out


def matrices_of(weights, groups):
    """The weights as one matrix per group: (groups, places · channels, filters of a group)."""
    return weights.reshape(-1, groups, weights.shape[-1] // groups).transpose(1, 0, 2)


def join_matrices(d, windows):
    """The way back of `matrices_of`."""
    groups, _, filters = d.shape
    return d.transpose(1, 0, 2).reshape(*windows.size, -1, groups * filters)


def places_of(weights, windows, groups):
    """The weights' transpose for every place: (groups, places, filters of a group, channels of a group)."""
    return matrices_of(weights, groups).reshape(groups, windows.count, weights.shape[-2], -1).swapaxes(2, 3)


def mirrored(weights, groups):
    """The weights for mirrored windows: places in reverse order, channels for filters within each group."""
    rank = weights.ndim - 2
    filters = weights.shape[-1] // groups
    parts = weights[(slice(None, None, -1),) * rank].reshape(*weights.shape[:-1], groups, filters)
    return parts.swapaxes(rank, rank + 2).reshape(*weights.shape[:-2], filters, -1)


def split(y, groups):
    """(batch, *grid, filters) as (groups, batch · grid, filters of a group)."""
    return y.reshape(-1, groups, y.shape[-1] // groups).transpose(1, 0, 2)
