"""What the windows of a few images see, laid out as matrices: one row per window, a column per place and channel."""

import contextlib
import math
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpukeras.backend import memory
from gpukeras.kernels.deferred import Deferred

__all__ = ["Block", "FEW_CHANNELS", "columns_of", "goes_by_rows"]

# Up to so many channels, matrices are laid out with one row for each place and channel: then runs of
# neighbouring windows are copied, not single windows' few channels. Measured: 1 channel 0.6 ms
# instead of 1.4, 3 channels 1.9 instead of 2.4.
FEW_CHANNELS = 4


def goes_by_rows(windows, channels):
    """Whether to make a matrix for each row of the kernel: where these share their memory, and not one for all."""
    return windows.strides[0] == 1 < windows.size[0] and len(windows.size) > 1 and channels > FEW_CHANNELS


class Block(NamedTuple):
    """Windows of some images: slices of the batch and of the grid's first axis."""

    images: slice
    rows: slice

    @property
    def kind(self):
        """What blocks have in common that differ only in their images."""
        return self.images.stop - self.images.start, self.rows.start, self.rows.stop


@contextlib.contextmanager
def columns_of(x, windows, groups, block, is_by_rows):
    """Memory for the columns of a block and others of its kind, and a function of a block's images that fills it.

    Views are made once, and padding set to zero once: what is done in Python for each block keeps other threads
    waiting.

    The columns are (pieces, groups, windows of the block, places · channels of a group). One piece holds all that the
    windows see. By rows, for windows at stride 1 on the first axis, there is one piece for each row of the kernel, and
    the windows are in the order (rows, batch, ...): a row of x is copied once for all rows of the kernel that it is
    seen through, and pieces are overlapping slices of one array.
    """
    batch, start, stop = block.kind
    first = start * windows.strides[0] - windows.lows[0]
    count = (stop - start - 1) * windows.strides[0] + (windows.size[0] - 1) * windows.dilation[0] + 1
    rows = count if is_by_rows else stop - start
    inner = batch * math.prod(windows.grid[1:])
    size = rows * inner * windows.count // (windows.size[0] if is_by_rows else 1) * x.shape[-1]
    whole = None if isinstance(x, Deferred) else x
    is_direct = whole is not None and not windows.is_padded and whole.strides[-1] == whole.itemsize
    with (
        memory.scratch((0,) if is_direct else (batch, count, *windows.span[1:], x.shape[-1]), x.dtype) as padded,
        memory.scratch((size,), x.dtype) as held,
    ):
        seen = padded if whole is None or not is_direct else whole[:, first : first + count]
        view, axis = _view(seen, windows, groups, stop - start, is_by_rows)
        target = held.reshape(*view.shape[:axis], batch, *view.shape[axis + 1 :])
        if is_direct:
            before = (slice(None),) * axis

            def fill(images):
                np.copyto(target, view[(*before, images)])

        else:
            into, source = _overlap((-first, *windows.lows[1:]), x.shape[1:-1], padded.shape[1:-1])
            inside = padded[into]
            _clear_around(padded, into)

            def fill(images):
                if whole is None:
                    x.write(images, inside)
                else:
                    np.copyto(inside, whole[(images, *source)])
                np.copyto(target, view)

        yield _columns(held, windows, groups, inner, stop - start, is_by_rows), fill


def _overlap(lows, space, seen):
    """Where images lie within what is seen of them and the padding around them, and what of their axes lies there."""
    inside, source = [slice(None)], []
    for low, n, size in zip(lows, space, seen, strict=True):
        start = max(low, 0)
        stop = max(min(low + n, size), start)
        inside.append(slice(start, stop))
        source.append(slice(start - low, stop - low))
    return tuple(inside), tuple(source)


def _clear_around(padded, inside):
    """Set to zero what lies around a part: of all axes but the first, what is before it and after it."""
    for axis, (part, n) in enumerate(zip(inside[1:], padded.shape[1:-1], strict=True), start=1):
        before = (slice(None),) * axis
        if part.start:
            padded[(*before, slice(part.start))] = 0
        if part.stop < n:
            padded[(*before, slice(part.stop, n))] = 0


def _view(x, windows, groups, rows, is_by_rows):
    """What the windows see of x, without a copy, the axes in the columns' order, and which of them are the images."""
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
    return as_strided(x, shape, strides, writeable=False), axes.index(images)


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
