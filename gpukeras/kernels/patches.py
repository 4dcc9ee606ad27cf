"""What the windows of a few images see, laid out as matrices: one row per window, a column per place and channel."""

import itertools
import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpukeras.backend import memory

__all__ = ["FEW_CHANNELS", "for_blocks", "goes_by_rows"]

# Up to so many channels, matrices are laid out with one row for each place and channel: then runs of
# neighbouring windows are copied, not single windows' few channels. Measured: 1 channel 0.6 ms
# instead of 1.4, 3 channels 1.9 instead of 2.4.
FEW_CHANNELS = 4


def goes_by_rows(windows, channels):
    """Whether to make a matrix for each row of the kernel: where these share their memory, and not one for all."""
    return windows.strides[0] == 1 < windows.size[0] and len(windows.size) > 1 and channels > FEW_CHANNELS


def for_blocks(x, windows, groups, blocks, is_by_rows, use):
    """Call ``use(block, columns)`` for each block, a pair of slices into (batch, grid[0]).

    The columns are (pieces, groups, windows of the block, places · channels of a group). One piece holds all that the
    windows see. By rows, for windows at stride 1 on the first axis, there is one piece for each row of the kernel, and
    the windows are in the order (rows, batch, ...): a row of x is copied once for all rows of the kernel that it is
    seen through, and pieces are overlapping slices of one array.
    """
    for _, alike in itertools.groupby(blocks, key=_kind):
        _for_alike(x, windows, groups, list(alike), is_by_rows, use)


def _kind(block):
    images, rows = block
    return images.stop - images.start, rows.start, rows.stop


def _for_alike(x, windows, groups, blocks, is_by_rows, use):
    """`for_blocks` where they differ only in their images: views are made once, and padding is set to zero once."""
    batch, start, stop = _kind(blocks[0])
    first = start * windows.strides[0] - windows.lows[0]
    count = (stop - start - 1) * windows.strides[0] + (windows.size[0] - 1) * windows.dilation[0] + 1
    is_direct = not windows.is_padded and x.strides[-1] == x.itemsize
    with memory.scratch((0,) if is_direct else (batch, count, *windows.span[1:], x.shape[-1]), x.dtype) as padded:
        inside: Any = None
        source: Any = None
        view: Any = None
        if not is_direct:
            into, source = _overlap((-first, *windows.lows[1:]), x.shape[1:-1], padded.shape[1:-1])
            inside = padded[into]
            if inside.size < padded.size:
                padded.fill(0)
            view = _view(padded, windows, groups, stop - start, is_by_rows)
        width = windows.count // (windows.size[0] if is_by_rows else 1) * x.shape[-1]
        rows = count if is_by_rows else stop - start
        with memory.scratch((batch * rows * math.prod(windows.grid[1:]) * width,), x.dtype) as held:
            columns = _columns(held, windows, groups, batch * math.prod(windows.grid[1:]), stop - start, is_by_rows)
            for block in blocks:
                if is_direct:
                    view = _view(x[block[0], first : first + count], windows, groups, stop - start, is_by_rows)
                else:
                    np.copyto(inside, x[block[0]][source])
                np.copyto(held.reshape(view.shape), view)
                use(block, columns)


def _overlap(lows, space, seen):
    """Where an input lies within what is seen of it and of the padding before and after it, and the part that lies."""
    inside, source = [slice(None)], [slice(None)]
    for low, n, size in zip(lows, space, seen, strict=True):
        start = max(low, 0)
        stop = max(min(low + n, size), start)
        inside.append(slice(start, stop))
        source.append(slice(start - low, stop - low))
    return tuple(inside), tuple(source)


def _view(x, windows, groups, rows, is_by_rows):
    """What the windows see of x, without a copy, the axes in the columns' order."""
    batch, row, *steps, last = x.strides
    channels = x.shape[-1] // groups
    inner = [(n, step * s) for n, step, s in zip(windows.grid[1:], steps, windows.strides[1:], strict=True)]
    places = [(k, step * d) for k, step, d in zip(windows.size[1:], steps, windows.dilation[1:], strict=True)]
    group, images, channel = (groups, channels * last), (len(x), batch), (channels, last)
    if is_by_rows:
        axes = [group, (x.shape[1], row), images, *inner, *places, channel]
    else:
        grid = [images, (rows, row * windows.strides[0]), *inner]
        places = [(windows.size[0], row * windows.dilation[0]), *places, channel]
        axes = [group, *places, *grid] if channels <= FEW_CHANNELS else [group, *grid, *places]
    shape, strides = zip(*axes, strict=True)
    return as_strided(x, shape, strides, writeable=False)


def _columns(held, windows, groups, inner, rows, is_by_rows):
    """The memory of columns as matrices; `inner` windows lie in a row of all images."""
    if not is_by_rows:
        width = held.size // (groups * rows * inner)
        if width // windows.count <= FEW_CHANNELS:
            return held.reshape(1, groups, width, rows * inner).swapaxes(2, 3)
        return held.reshape(1, groups, rows * inner, width)
    lines = held.reshape(groups, inner * (rows + (windows.size[0] - 1) * windows.dilation[0]), -1)
    group, window, last = lines.strides
    return as_strided(
        lines,
        (windows.size[0], groups, rows * inner, lines.shape[2]),
        (windows.dilation[0] * inner * window, group, window, last),
        writeable=False,
    )
