"""Flat buffers: one array that many variables are views into."""

import math

from gpukeras.backend import devices

__all__ = ["ALIGNMENT", "FlatBuffer"]

ALIGNMENT = 64  # elements; 256 bytes of float32, so that 16-byte accesses are always legal


class FlatBuffer:
    """One zero-filled array with a view for each of several shapes.

    A kernel that runs over `array` updates all views in one pass. Views start at multiples of
    `ALIGNMENT` elements; the gaps between them are zero and stay zero under every update.

    Attributes:
        array: The whole buffer (size,).
        views: One view per shape, in order.
        segments: ``(start, stop)`` of each view in `array`.
    """

    def __init__(self, shapes, dtype):
        self.segments = []
        end = 0
        for shape in shapes:
            size = math.prod(shape)
            self.segments.append((end, end + size))
            end += -(-size // ALIGNMENT) * ALIGNMENT
        self.array = devices.default_module().zeros(end, dtype)
        self.views = [
            self.array[start:stop].reshape(shape) for (start, stop), shape in zip(self.segments, shapes, strict=True)
        ]

    def like(self):
        """Another buffer of the same layout, zero-filled."""
        return FlatBuffer([view.shape for view in self.views], self.array.dtype)
