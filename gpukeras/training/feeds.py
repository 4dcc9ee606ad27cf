"""Data on the device as the input of a step's graph, which gathers the rows of its batch itself.

The graph reads where the data, their order and the position in it are from a table on the device (`kernels.batches`),
which the host writes when an epoch begins, and the graph moves on: a step is one launch.
"""

import weakref
from typing import Any

import numpy as np

from gpukeras.autograd.symbolic import map_structure
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import cuda, devices
from gpukeras.kernels import batches

__all__ = ["Feed", "can_feed", "layout_of", "places_for"]


def can_feed(epoch):
    """Whether graphs can be recorded that gather the rows of an epoch: all are bytes in one piece on such a device."""
    return bool(epoch.arrays) and all(
        devices.can_record(array) and cuda.runs_on(array) and array.nbytes for array in epoch.arrays
    )


def layout_of(epoch, structure):
    """Types and shapes of an epoch's rows and how they are nested: what a graph and its table depend on."""
    return str(map_structure(_mark, structure)), *[(array.dtype, array.shape[1:]) for array in epoch.arrays]


def _mark(leaf):
    return "-" if leaf is None else "+"


def places_for(batch):
    """Empty Tensors for a batch, nested alike, and their arrays."""
    rows = batch.stop - batch.start
    arrays = [devices.array_module(a).empty((rows, *a.shape[1:]), a.dtype) for a in batch.epoch.arrays]
    rest = iter(arrays)
    return [
        map_structure(lambda leaf: None if leaf is None else Tensor(next(rest)), part) for part in batch.structure
    ], arrays


class Feed:
    """The table that graphs of one kind of step read, for epochs of one layout; and what the host knows of it."""

    def __init__(self, epoch):
        xp = devices.array_module(epoch.arrays[0])
        self.table: Any = xp.zeros(len(epoch.arrays) + 3, np.int64)
        self.like = xp.zeros(1, np.float32)  # whose device and dtype the kernel is compiled for
        self._epoch: Any = None  # a weak reference: data go when nobody trains with them any more
        self._position = -1

    def aim(self, batch):
        """Let the table point to a batch; it does already where the step before had the one before it."""
        if self._epoch is None or self._epoch() is not batch.epoch or self._position != batch.start:
            self.table.set(batches.table_of(batch.epoch.arrays, batch.epoch.order, batch.start))
            self._epoch = weakref.ref(batch.epoch)
        self._position = -1  # unknown, should the step fail

    def gather(self, arrays):
        """Fill arrays with the next rows: device work alone, which may be recorded."""
        batches.gather_from(self.table, self.like, arrays)

    def has_gathered(self, batch):
        """The step of a batch is launched: the table points to the batch behind it."""
        self._position = batch.stop
