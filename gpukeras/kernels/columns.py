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

import collections
import contextlib
import itertools
import math
from typing import Any

import numpy as np

from gpukeras.backend import memory, threads
from gpukeras.kernels import products
from gpukeras.kernels.deferred import Deferred, as_array
from gpukeras.kernels.patches import FEW_CHANNELS, Block, columns_of, goes_by_rows
from gpukeras.kernels.windows import Windows

__all__ = [
    "finish",
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

# What a block's columns and results take at most. Measured on two threads within training steps: a residual network
# 61.4, 58.6, 58.1, 59.2 ms with 1, 2, 3, 4 MB, an autoencoder 22.0, 20.4, 19.6, 19.8. With smaller blocks, calls are so
# short that the threads wait for the interpreter's lock.
_BLOCK_BYTES = 3 << 20
# A weights' gradient is summed in so many parts at most, side by side, that together take no more than so many bytes.
_PARTS = 8
_PARTS_BYTES = 16 << 20
# Copying an element of the columns takes as long as so many multiply-adds, adding one up twice as long.
_COPY = 12


# --- Which walk --------------------------------------------------------------------------------------------------


def has_few_filters(weights, windows):
    """Whether `scatter` through mirrored windows makes y faster than `gather`: few filters for many channels."""
    channels, filters = weights.shape[-2:]
    return windows.mirrored is not None and filters <= FEW_CHANNELS and channels > 2 * filters


def goes_back_by_columns(weights, windows, groups):
    """Whether x's gradient comes from columns of dy, and not from `scatter`.

    All ways compute the same products, at stride 1 in one case for every place of x, in the other for every place of y.
    Beside them the first copies columns of dy, at stride 1 once for both gradients and for all rows of the kernel; the
    second copies columns of x for the weights' gradient, and adds up as many elements. Measured with strides of 2, 3x3
    kernels and twice as many filters as channels: 4.9 instead of 6.4 ms for 32x32x32x32, 3.4 instead of 4.7 for
    64x14x14x64.
    """
    channels, filters = groups * weights.shape[-2], weights.shape[-1]
    if windows.is_disjoint:
        return windows.is_pointwise
    if windows.mirrored is None:
        return max(windows.dilation) == 1 and filters <= 4 * channels
    copy = _COPY // windows.size[0] if goes_by_rows(windows.mirrored, filters // groups) else _COPY
    by_columns = math.prod(windows.space) * filters * (2 * channels // groups + copy)
    return by_columns <= math.prod(windows.grid) * channels * (2 * filters // groups + 3 * _COPY)


# --- Columns times weights ---------------------------------------------------------------------------------------


def gather(x, windows, groups, y: Any = None, weights=None, bias=None, is_rectified=False, dy: Any = None):
    """One walk over the columns of x: y ← columns · weights + bias, and Σ columnsᵀ · dy is returned.

    Either is left out where its arrays are None. Of y only the positive part is kept where `is_rectified`. X and dy may
    be deferred.
    """
    channels, filters = x.shape[-1], (y if dy is None else dy).shape[-1]
    has_few = channels // groups <= FEW_CHANNELS  # little work for many results, hence larger blocks
    cuts = _cuts(x.shape[0], windows.grid, windows.count * channels + filters, x.dtype, 2 if has_few else 1)
    is_by_rows = len(cuts) > 1 and goes_by_rows(windows, channels // groups)
    pieces = windows.size[0] if is_by_rows else 1
    if is_by_rows:
        cuts = _cuts(x.shape[0], windows.grid, windows.count // pieces * channels + pieces * filters, x.dtype)
    if any(block.rows != slice(0, windows.grid[0]) for block in cuts):
        x, dy = as_array(x), as_array(dy)
    elif not windows.sees_all:
        x = as_array(x)
    shape = (pieces, groups, windows.count * channels // groups // pieces, filters // groups)
    parts = _parts(cuts, 0 if dy is None else math.prod(shape) * x.dtype.itemsize)
    chunks = None if y is None else _pieces_of(matrices_of(weights, groups), pieces, len(parts) > 1)
    line = None if bias is None else np.tile(bias, windows.grid[-1])
    sums: Any = None if dy is None else np.empty((len(parts), *shape), x.dtype)

    @contextlib.contextmanager
    def open_for(block):
        batch, start, stop = block.kind
        size = batch * (stop - start) * math.prod(windows.grid[1:]) * filters if is_by_rows else 0  # out of y's order
        with (
            columns_of(x, windows, groups, block, is_by_rows) as (columns, fill),
            memory.scratch((0 if y is None else pieces * size,), x.dtype) as shares,
            memory.scratch((0 if dy is None else size,), x.dtype) as moved,
            _blocks_of(dy, block) as rows_of,
        ):
            multiply: Any = None if y is None else _multiplying(columns, chunks, shares, len(parts) > 1)
            add: Any = None if dy is None else _summing(columns, filters, moved, len(parts) > 1)

            def compute(part, block):
                fill(block.images)
                if y is not None:
                    out = y[block]
                    multiply(out.swapaxes(0, 1) if is_by_rows else out)
                    finish(out, line, is_rectified)
                if dy is not None:
                    rows = rows_of(block)
                    add(rows.swapaxes(0, 1) if is_by_rows else rows, sums[part], block is not parts[part][0])

            yield compute

    _run(open_for, parts)
    if dy is None:
        return None
    return join_matrices(sums.sum(axis=0).swapaxes(0, 1).reshape(groups, pieces * shape[2], shape[3]), windows)


@contextlib.contextmanager
def _blocks_of(dy, block):
    """A function of blocks like this one: the part of dy that belongs to it; deferred ones come into memory for one."""
    if not isinstance(dy, Deferred):
        yield lambda block: dy[block]
        return
    with memory.scratch((block.kind[0], *dy.shape[1:]), dy.dtype) as held:

        def write(block):
            dy.write(block.images, held)
            return held

        yield write


def _pieces_of(matrices, pieces, in_tiles):
    groups, width, filters = matrices.shape
    matrices = matrices.reshape(groups, pieces, width // pieces, filters).swapaxes(0, 1)
    return products.in_chunks(matrices) if in_tiles else matrices[..., None, :, :]


def _multiplying(columns, chunks, shares, in_tiles):
    """A function of out: out ← Σ over pieces of columns · matrices.

    Out has the windows in the order of the columns, and filters. Where it does not lie in one piece of memory, products
    go to `shares`, flat memory for them, first.
    """
    pieces, groups, rows, _ = columns.shape
    multiply = products.multiplier(columns, chunks, in_tiles)
    filters = chunks.shape[-1] * chunks.shape[-3]

    def directly(out):
        multiply(split(out, groups)[None])

    def by_shares(out):
        out = out.reshape(*out.shape[:-1], groups, filters)
        out = out.transpose(out.ndim - 2, *range(out.ndim - 2), out.ndim - 1)
        multiply(held)
        total, *others = held.reshape(pieces, *out.shape)
        for share in others[:-1]:
            total += share
        if others:
            np.add(total, others[-1], out=out)  # with both sums at once; np.add.reduce takes twice the time
        else:
            np.copyto(out, total)

    if not shares.size:
        return directly
    held = shares[: pieces * groups * rows * filters].reshape(pieces, groups, rows, filters)
    return by_shares


def _summing(columns, filters, moved, in_tiles):
    """A function of dy, out and is_added: out ← columnsᵀ · dy for each piece, or out += columnsᵀ · dy.

    Dy has the windows in the order of the columns. Where it does not lie in one piece of memory, it goes to `moved`,
    flat memory for it, first.
    """
    groups = columns.shape[1]
    multiply = products.transposed_multiplier(columns, filters // groups, in_tiles)

    def add(dy, out, is_added):
        if moved.size:
            copy = moved.reshape(dy.shape)
            np.copyto(copy, dy)
            dy = copy
        multiply(split(dy, groups)[None], out, is_added)

    return add


def finish(y, line, is_rectified):
    """y ← y + bias, given for a whole line of places, and its positive part where `is_rectified`."""
    if line is None and not is_rectified:
        return
    lines = y.reshape(-1, y.shape[-2] * y.shape[-1])  # NumPy's inner loop is as long as a line, not as the filters
    if line is not None:
        lines += line[: lines.shape[1]]  # a block may hold a part of the only axis
    if is_rectified:
        np.maximum(lines, np.zeros(lines.shape[1], y.dtype), out=lines)  # with a number it takes three times as long


# --- The way back with strides -----------------------------------------------------------------------------------


def interleave(dy, weights, windows, groups, bias=None, is_rectified=False):
    """dx = Σ over the places of a window of dy · weights[place]ᵀ, for windows without dilation.

    Places of x that are a multiple of the strides apart see dy through the same places of the weights: their gradient
    is a convolution of dy at stride 1 with these. All that differ only on the first axis share columns. A bias is
    added, and only the positive part kept where `is_rectified`, as in transposed convolutions.
    """
    line = None if bias is None else np.tile(bias, windows.space[-1])
    dx = np.empty((len(dy), *windows.space, groups * weights.shape[-2]), dy.dtype)
    walks = _walks(weights, windows, groups, dx)
    if not walks:
        finish(dx, line, is_rectified)
        return dx
    grid = [max(sizes) for sizes in zip(*(walk.grid for walk, _ in walks), strict=True)]
    width = max(walk.count // walk.size[0] for walk, _ in walks) * dy.shape[-1] + 2 * dx.shape[-1]
    cuts = _cuts(len(dy), grid, width, dy.dtype)
    has_whole_images = all(block.rows == slice(0, grid[0]) for block in cuts)
    parts = _parts(cuts, 0)
    in_tiles = len(parts) > 1
    most = max(pieces for _, targets in walks for *_, (_, pieces) in targets)
    walks = [(walk, [(*where, _pieces_of(*pieces, in_tiles)) for *where, pieces in targets]) for walk, targets in walks]

    @contextlib.contextmanager
    def open_for(block):
        with contextlib.ExitStack() as stack:
            batch, start, stop = block.kind
            size = most * batch * (stop - start) * math.prod(grid[1:]) * dx.shape[-1]
            shares = stack.enter_context(memory.scratch((size,), dy.dtype))  # for one product after the other
            made = []
            for walk, targets in walks:
                columns, fill = stack.enter_context(columns_of(dy, walk, groups, block, True))
                inner = columns.shape[2] // (stop - start)  # windows in a row of all images
                multiplied = []
                for places, of_kernel, chunks in targets:
                    rows = len(range(*places[0].indices(dx.shape[1]))[block.rows])  # not all have as many
                    if rows:
                        seen = columns[of_kernel, :, : rows * inner]
                        multiplied.append((places, _multiplying(seen, chunks, shares, in_tiles)))
                made.append((fill, multiplied))

            def compute(_, block):
                for fill, multiplied in made:
                    fill(block.images)
                    for places, multiply in multiplied:
                        multiply(dx[(block.images, *places)][:, block.rows].swapaxes(0, 1))
                if has_whole_images:
                    finish(dx[block.images], line, is_rectified)

            yield compute

    _run(open_for, parts)
    if not has_whole_images:
        finish(dx, line, is_rectified)
    return dx


def _walks(weights, windows, groups, dx):
    """The convolutions of dy that `interleave` makes dx of; what no window sees is set to zero.

    Returns pairs of windows over dy and a list of what is made of their columns: places of dx, the rows of the windows
    that these see, and matrices with the number of their pieces.
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
        targets = []
        for residue in seen:
            low = residue.start - start
            taps = (residue.taps, *(r.taps for r in inner))
            targets.append(
                (
                    (residue.places, *(r.places for r in inner)),
                    slice(low, low + residue.size),
                    (matrices_of(mirrored(weights[taps], groups), groups), residue.size),
                )
            )
        walks.append((Windows(windows.grid, size, ones, ones, lows, grid), targets))
    return walks


# --- The way back by sums ----------------------------------------------------------------------------------------


def scatter(dy, weights, windows, groups, bias=None, is_rectified=False):
    """dx = Σ over the places of a window of dy · weights[place]ᵀ, each place's share added where it belongs.

    Bias and rectifier are those of a transposed convolution.
    """
    line = None if bias is None else np.tile(bias, windows.space[-1])
    channels = weights.shape[-2]
    dx = np.empty((len(dy), *windows.space, groups * channels), dy.dtype)
    places = places_of(weights, windows, groups)
    add = _add_few if groups == 1 and channels <= FEW_CHANNELS else _add

    def compute(images):
        dx[images].fill(0)
        for rows, taps in bands:
            add(dx[images], dy[images, rows], places, windows, taps, len(images_of) > 1)
        finish(dx[images], line, is_rectified)

    cuts = _cuts(len(dy), windows.grid, windows.count * dx.shape[-1] + dy.shape[-1], dy.dtype)
    images_of = [block.images for block in cuts if block.rows.start == 0]
    # Neighbouring bands add to the same places.
    bands = [(rows, _taps(windows, rows)) for images, rows in cuts if images.start == 0]
    if len(images_of) > 1:
        places = np.ascontiguousarray(places)  # as small products want them
        threads.run(compute, images_of, uses_blas=True)
    elif images_of:
        compute(*images_of)  # with BLAS's own threads
    else:
        dx.fill(0)
        finish(dx, line, is_rectified)
    return dx


def _add(dx, dy, places, windows, taps, in_tiles):
    groups, count, _, channels = places.shape
    with memory.scratch((groups, count, math.prod(dy.shape[:-1]), channels), dy.dtype) as shares:
        products.multiplier(split(dy, groups)[:, None], products.in_chunks(places), in_tiles)(shares)
        shares = shares.reshape(groups, count, *dy.shape[:-1], channels)
        shares = shares.transpose(1, *range(2, shares.ndim - 1), 0, shares.ndim - 1)
        dx = dx.reshape(*dx.shape[:-1], groups, channels)
        for share, (out, into) in zip(shares, taps, strict=True):
            if windows.is_disjoint:
                dx[into] = share[out]
            else:
                target = dx[into]
                target += share[out]  # dx[into] += ... would also copy the sum to where it is


def _add_few(dx, dy, places, windows, taps, in_tiles):
    """`_add` for few channels, one image per channel: runs of places are added, not single places' channels."""
    _, count, filters, channels = places.shape
    seen = [into[1] for out, into in taps if into[1].stop]
    low, high = min((rows.start for rows in seen), default=0), max((rows.stop for rows in seen), default=0)
    dx = dx[:, low:high].transpose(dx.ndim - 1, *range(dx.ndim - 1))
    count_of_windows = math.prod(dy.shape[:-1])
    with (
        memory.scratch((1, count_of_windows, count * channels), dy.dtype) as by_windows,
        memory.scratch((count * channels, count_of_windows), dy.dtype) as shares,
        memory.scratch(dx.shape, dy.dtype) as total,
    ):
        matrix = places[0].transpose(1, 0, 2).reshape(1, filters, -1)
        products.multiplier(dy.reshape(1, -1, filters), products.in_chunks(matrix), in_tiles)(by_windows)
        np.copyto(shares, by_windows[0].T)  # takes less time than the product in that order
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


def _cuts(batch, grid, width, dtype, most=1):
    """Equal blocks of windows, each window with `width` elements.

    Blocks take `most` times _BLOCK_BYTES at most.
    """
    rows = grid[0]
    size = batch * math.prod(grid) * width * dtype.itemsize
    if not size:
        return []
    count = -(-size // (most * _BLOCK_BYTES))
    if count > 1:
        count = max(1 << (count - 1).bit_length(), 4)  # the same number for each of two or four threads, and equal ones
    if count <= batch:
        return [Block(images, slice(0, rows)) for images in _split_evenly(batch, count)]
    bands = _split_evenly(rows, min(-(-count // batch), rows))
    return [Block(slice(i, i + 1), band) for i in range(batch) for band in bands]


def _parts(cuts, nbytes):
    """The blocks in runs, each of which is summed on its own in memory of `nbytes`."""
    count = min(len(cuts), _PARTS, max(_PARTS_BYTES // max(nbytes, 1), 1))
    return [cuts[part] for part in _split_evenly(len(cuts), count)] if cuts else []


def _split_evenly(n, count):
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


def _run(open_for, parts):
    """Call ``compute(part, block)`` for all blocks of all parts, those of a part in their order and in one thread.

    ``open_for(block)`` gives a context with `compute` for blocks of one kind: what a thread makes once for all that it
    gets. All threads take part after part; one that is alone has BLAS's own threads to itself.
    """
    waiting = collections.deque(enumerate(parts))

    def take():
        while waiting:
            try:
                part, blocks = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            for block in blocks:
                yield part, block

    def work(_):
        kind: Any = None
        compute: Any = None
        try:
            with contextlib.ExitStack() as stack:
                for part, block in take():
                    if block.kind != kind:
                        stack.close()
                        kind, compute = block.kind, stack.enter_context(open_for(block))
                    compute(part, block)
        except BaseException:
            waiting.clear()
            raise

    if len(parts) == 1:
        work(None)
    else:
        threads.run(work, range(min(threads.count(), len(parts))), uses_blas=True)


# --- Matrices ----------------------------------------------------------------------------------------------------


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
