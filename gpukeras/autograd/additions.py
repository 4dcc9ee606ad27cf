"""What a step adds to metrics and counters on a GPU: kept until its end, where one kernel adds it all."""

import contextlib

import numpy as np

from gpukeras.autograd.scope import current
from gpukeras.autograd.tensor import increase
from gpukeras.backend import devices
from gpukeras.kernels import sums

__all__ = ["add", "gathered"]

_FLOATS = np.dtype("float32"), np.dtype("float64")


def add(array, value, factor=1):
    """array += value · factor, in place: at the end of the `gathered` block, if one runs.

    Args:
        array: Array of a variable that nobody reads before.
        value: Number, or array that fits.
        factor: Number.
    """
    waiting = current.additions
    if waiting is None or not waiting.takes(array, value, factor):
        increase(array, value if factor == 1 else value * factor)


def gathered():
    """A `with` block whose additions to numbers on a GPU are made together at its end, unless it fails."""
    return _AT_ONCE if devices.default_module() is np else _Gathered()


_AT_ONCE = contextlib.nullcontext()


class _Gathered:
    def __enter__(self):
        self.before = current.additions
        self.by_dtype, self.known, self.counter = {}, set(), None
        current.additions = self

    def __exit__(self, kind, error, traceback):
        current.additions = self.before
        if kind is None:
            self._add()

    def takes(self, array, value, factor):
        """Keep an addition for later; False where it must be made at once."""
        if array.ndim or type(array) is np.ndarray or id(array) in self.known:
            return False
        is_number = isinstance(value, (int, float))
        if array.dtype == np.int32 and self.counter is None and is_number and value * factor == 1:
            self.counter = array
        elif array.dtype not in _FLOATS or not (is_number or _is_alike(value, array)):
            return False
        else:
            addition = (array, None, value * factor) if is_number else (array, value, factor)
            self.by_dtype.setdefault(array.dtype, []).append(addition)
        self.known.add(id(array))
        return True

    def _add(self):
        counter = self.counter
        for additions in self.by_dtype.values():
            sums.add_all(additions[0][0], tuple(additions), counter)
            counter = None
        if counter is not None:
            increase(counter, 1)


def _is_alike(value, array):
    return devices.is_array(value) and value.shape == () and value.dtype == array.dtype
