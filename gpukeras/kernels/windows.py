"""Where windows lie on an input: the geometry that convolution and pooling share."""

import functools
import itertools
import math
from typing import NamedTuple

__all__ = ["Residue", "Windows", "window_count", "windows_of"]


class Residue(NamedTuple):
    """Places of an axis a multiple of the stride apart: a window sees them as the next one sees their neighbours."""

    places: slice  # of the axis
    taps: slice  # the places of a window that they are
    size: int  # number of those, and of the windows that see a place
    start: int  # the first window that sees the first place
    count: int  # number of places


class Windows:
    """A grid of equal windows over the spatial axes of an input.

    Window o of an axis begins at ``o * stride - low`` and looks at `size` places, `dilation` apart; what
    lies outside the input is padding. The input may end before or after the last window.

    Args:
        space: Sizes of the input's spatial axes.
        size: Places a window looks at, per axis.
        strides: Steps from window to window.
        dilation: Steps from place to place within a window.
        lows: Places of padding before the input.
        grid: Number of windows per axis.

    Attributes:
        taps: One ``(out, in)`` pair of index tuples per place of the window, in row-major order:
            ``x[in]`` is what that place sees of an input (batch, *space, ...) in the windows ``y[out]``
            of a grid (batch, *grid, ...). Windows whose place is padding are left out.
        is_padded: Whether any window sees padding.
        sees_all: Whether every place lies between the first and the last that a window sees.
        is_pointwise: Whether every window is one place of the input, and every place a window.
        is_disjoint: Whether no place is seen by two windows.
        is_tiling: Whether every place is seen by exactly one window, and no window sees padding.
    """

    def __init__(self, space, size, strides, dilation, lows, grid):
        self.space, self.size, self.strides, self.dilation = space, size, strides, dilation
        self.lows, self.grid = lows, grid
        self.count = math.prod(size)
        self.span = tuple(
            (n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(grid, strides, size, dilation, strict=True)
        )
        axes = [
            [_tap(k * self.dilation[i] - lows[i], strides[i], space[i], grid[i]) for k in range(size[i])]
            for i in range(len(space))
        ]
        batch = slice(None)
        self.taps = [
            ((batch, *(out for out, _ in tap)), (batch, *(into for _, into in tap))) for tap in itertools.product(*axes)
        ]
        self.is_padded = any(low or span - low > n for low, span, n in zip(lows, self.span, space, strict=True))
        self.sees_all = all(0 <= low and span - low >= n for low, span, n in zip(lows, self.span, space, strict=True))
        self.is_pointwise = self.count == 1 and space == grid and not self.is_padded and max(strides) == 1
        self.is_disjoint = all(s >= (k - 1) * d + 1 for s, k, d in zip(strides, size, dilation, strict=True))
        self.is_tiling = strides == size and self.span == space and not self.is_padded and self.is_disjoint

    @functools.cached_property
    def mirrored(self):
        """The windows of the way back: what each place of the input gives to the windows that see it.

        Place p of the input meets place k of window ``p + low - k * dilation``, so that at stride 1 these are windows
        over the grid, with their places in reverse order. None with larger strides.
        """
        if max(self.strides) > 1:
            return None
        lows = tuple((k - 1) * d - low for k, d, low in zip(self.size, self.dilation, self.lows, strict=True))
        return Windows(self.grid, self.size, self.strides, self.dilation, lows, self.space)

    @functools.cached_property
    def residues(self):
        """The places of the input that lie a multiple of the stride apart, a list per axis; without dilation."""
        axes = []
        for n, size, stride, low in zip(self.space, self.size, self.strides, self.lows, strict=True):
            axes.append([])
            for place in range(min(stride, n)):
                tap = (place + low) % stride
                count = len(range(tap, size, stride))
                start = (place + low - tap) // stride - count + 1
                axes[-1].append(
                    Residue(slice(place, n, stride), slice(tap, size, stride), count, start, -(-(n - place) // stride))
                )
        return axes

    def places_inside(self):
        """How many places of each window lie inside the input, one list per axis; a window has their product."""
        return [
            [sum(0 <= o * s - low + k * d < n for k in range(size)) for o in range(grid)]
            for n, size, s, d, low, grid in zip(
                self.space,
                self.size,
                self.strides,
                self.dilation,
                self.lows,
                self.grid,
                strict=True,
            )
        ]


def _tap(offset, stride, size, count):
    """The windows whose place at `offset` is inside the input, and the places they see there."""
    first = max(0, -(offset // stride))
    last = min(count, (size - 1 - offset) // stride + 1)
    if last <= first:
        return slice(0, 0), slice(0, 0)
    start = first * stride + offset
    return slice(first, last), slice(start, (last - 1) * stride + offset + 1, stride)


def window_count(n, size, stride, padding, dilation=1):
    """Number of windows along an axis of size `n`; see `windows_of`."""
    if padding == "valid":
        return max((n - (size - 1) * dilation - 1) // stride + 1, 0)
    return -(-n // stride)


@functools.lru_cache(maxsize=1024)
def windows_of(space, size, strides, padding, dilation):
    """The windows of a convolution or pooling with padding "valid", "same" or "causal".

    "valid" keeps to windows inside the input. The others have ``ceil(space / stride)`` windows per
    axis: "same" pads half of what they need before the input and the larger half after it,
    "causal" all of it before, so that no window sees places after its own.
    """
    lows, grid = [], []
    for n, k, stride, step in zip(space, size, strides, dilation, strict=True):
        count = window_count(n, k, stride, padding, step)
        reach = (k - 1) * step + 1
        grid.append(count)
        if padding == "same":
            lows.append(max((count - 1) * stride + reach - n, 0) // 2)
        else:
            lows.append(reach - 1 if padding == "causal" else 0)
    return Windows(space, size, strides, dilation, tuple(lows), tuple(grid))
