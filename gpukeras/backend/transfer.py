"""The way of rows from the host to the device: at once where they fit, else batch by batch beside the work."""

import math
from typing import Any

import numpy as np

from gpukeras.backend import devices, memory

__all__ = ["BatchStream", "Epoch", "Rows"]

RESIDENT_SHARE = 0.5  # of the device's free memory, that rows may take for good; the rest is for the model's steps
_GATHERED = 16 << 20  # bytes of batches that one kernel gathers
_ALIGNMENT = 256  # bytes
_SLOTS = 3  # one is computed with, one copied, one gathered
_CHUNK = 64 << 20  # bytes; CuPy copies through pinned memory of the array's size, which it rounds up and keeps


class Rows:
    """Arrays with one row per sample, of which batches are gathered on the default device.

    An array on the device stays there. What is on the host is uploaded once if it fits, with the first batch; else, and
    if it is mapped from a file, its batches are gathered on the host and uploaded while the device computes.

    Args:
        arrays: Arrays of NumPy's or the default device's, with a first axis of one length.
        dtypes: The dtype in which each is to arrive.
        batch_size: Rows of the largest batch.
    """

    def __init__(self, arrays, dtypes, batch_size):
        self.batch_size = batch_size
        self._arrays = list(arrays)  # an element is replaced by its copy on the device
        self._dtypes = list(dtypes)
        self._streamed: list[int] = []  # positions of the arrays that are uploaded batch by batch
        self._is_settled = False
        self._stream: Any = None

    def epoch(self, order=None):
        """One epoch of rows that are all on the device, whose order is made there, too; None where some are not."""
        if not self._is_settled:
            self._settle()
        if self._streamed:
            return None
        made = None if order is None else order(devices.default_module())
        return Epoch(self._arrays, self._dtypes, self.batch_size, made)

    def batches(self, order=None, epoch=None):
        """One epoch: lists of device arrays, one per array.

        What is yielded may be kept. One epoch runs at a time.

        Args:
            order: Function of an array module that gives the order of the rows, indices, as an array of that module; or
                None for the rows as they stand.
            epoch: What the method of that name has returned for it, if it was asked.
        """
        epoch = self.epoch(order) if epoch is None else epoch
        staying = [i for i in range(len(self._arrays)) if i not in self._streamed]
        indices: Any = None  # on the host, where what is streamed is gathered
        if epoch is None:
            indices = None if order is None else order(np)
            arrays, dtypes = [self._arrays[i] for i in staying], [self._dtypes[i] for i in staying]
            on_device = devices.to_device(indices) if indices is not None and staying else None
            epoch = Epoch(arrays, dtypes, self.batch_size, on_device)
        size = len(self._arrays[0])
        try:
            for start in range(0, size, self.batch_size):
                stop = min(start + self.batch_size, size)
                rows = slice(start, stop) if indices is None else indices[start:stop]
                # The streamed first: their copies then run beside the gathering on the device.
                batch: dict = {}
                if self._streamed:
                    batch.update(zip(self._streamed, self._upload_batch(rows, stop - start), strict=True))
                batch.update(zip(staying, epoch.gather(start, stop), strict=True))
                yield [batch[i] for i in range(len(batch))]
        finally:
            if self._stream is not None:
                self._stream.finish()

    def _upload_batch(self, rows, count):
        sources = [self._arrays[i] for i in self._streamed]

        def gather(hosts):
            for source, host in zip(sources, hosts, strict=True):
                _gather(source, rows, host)

        if self._stream is not None:
            return self._stream.send(gather, count)
        hosts = [np.empty((count, *self._arrays[i].shape[1:]), self._dtypes[i]) for i in self._streamed]
        gather(hosts)
        return [devices.to_device(host) for host in hosts]

    def _settle(self):
        """Decide which arrays live on the device, and bring them there."""
        mapped = [i for i, array in enumerate(self._arrays) if isinstance(array, np.memmap) and array.nbytes]
        whole = [i for i in range(len(self._arrays)) if i not in mapped]
        needed = sum(self._bytes_of_copy(i) for i in whole)
        free = memory.free_memory()
        uploaded = None
        if free is None or needed <= RESIDENT_SHARE * free:
            try:
                uploaded = {i: _upload(self._arrays[i], self._dtypes[i]) for i in whole}
            except MemoryError:  # free, but in pieces; what was uploaded is given up here
                uploaded = None
        for i, array in (uploaded or {}).items():
            self._arrays[i] = array
        self._streamed = [i for i, array in enumerate(self._arrays) if isinstance(array, np.ndarray)]
        cuda = _cuda() if self._streamed else None
        if cuda is not None:
            shapes = [(min(self.batch_size, len(self._arrays[i])), *self._arrays[i].shape[1:]) for i in self._streamed]
            self._stream = BatchStream(shapes, [self._dtypes[i] for i in self._streamed], cuda)
        self._is_settled = True

    def _bytes_of_copy(self, i):
        array, dtype = self._arrays[i], self._dtypes[i]
        return 0 if _is_ready(array, dtype) else array.size * dtype.itemsize


class Epoch:
    """One pass through arrays on the device, of which batches are gathered as they are asked for.

    Args:
        arrays, dtypes, batch_size: As in `Rows`.
        order: Indices on the device, or None.

    Attributes:
        arrays, order: Those.
        size: The number of rows.
    """

    def __init__(self, arrays, dtypes, batch_size, order):
        self.arrays = arrays
        self.order = order
        self.size = len(arrays[0]) if arrays else 0
        self._takers = [self._taker(array, dtype, batch_size) for array, dtype in zip(arrays, dtypes, strict=True)]

    def gather(self, start, stop):
        """The rows `start` to `stop` of the order, of every array."""
        return [take(start, stop, self.order) for take in self._takers]

    def _taker(self, array, dtype, batch_size):
        """A function that gathers rows ``start`` to ``stop`` of the order, or has done so with those of a batch before.

        To launch a kernel takes the host several times as long as to make a view. So small batches are gathered many at
        a time, where each then starts at an address that suits all kernels.
        """
        size = batch_size * math.prod(array.shape[1:]) * dtype.itemsize
        rows = batch_size * (max(_GATHERED // size, 1) if size and size % _ALIGNMENT == 0 else 1)
        first, gathered = 0, array[:0]

        def take(start, stop, order):
            nonlocal first, gathered
            if order is None:
                return _in_dtype(array[start:stop], dtype)
            if start < first or stop > first + len(gathered):
                first, gathered = start, _in_dtype(array.take(order[start : start + rows], axis=0), dtype)
            return gathered[start - first : stop - first]

        return take


class BatchStream:
    """Batches from host memory to the device, copied while the device computes with those before.

    There are a few slots, each of pinned host memory and device memory, which are allocated once. A batch is gathered
    into a slot's host memory, copied to its device memory on a stream for copies, and from there, on the stream that
    computes, to an array of the taker's: he may keep it, and the slot is free again although he does. That copy runs at
    the speed of the device's memory, not of the bus.

    Two events per slot keep the order. `arrived`: the upload is done; the host waits for it before it writes into the
    slot again, the computing stream before it reads. `emptied`: the computing stream has read the slot; the stream for
    copies waits for it before it writes.

    Args:
        shapes, dtypes: Those of the largest batch, for each of the arrays of which a batch consists.
        cuda: What streams, events and memory are made by: CuPy, or in tests something that records the order of work.
    """

    def __init__(self, shapes, dtypes, cuda=None):
        self.cuda: Any = _cuda() if cuda is None else cuda
        self.copies = self.cuda.stream()
        self.slots = [_Slot(shapes, dtypes, self.cuda) for _ in range(_SLOTS)]
        self.sent = 0

    def send(self, gather, count):
        """Upload a batch of `count` rows; returns its device arrays, for use on the current stream.

        `gather` is called with the host arrays to be filled. The host waits only if all slots hold batches that have
        not been copied yet.
        """
        slot = self.slots[self.sent % len(self.slots)]
        slot.arrived.synchronize()
        gather([host[:count] for host in slot.host])
        self.copies.wait_event(slot.emptied)
        for device, host in zip(slot.device, slot.host, strict=True):
            self.cuda.upload(device[:count], host[:count], self.copies)
        slot.arrived.record(self.copies)
        computing = self.cuda.current_stream()
        computing.wait_event(slot.arrived)
        batch = [self.cuda.copy(device[:count]) for device in slot.device]
        slot.emptied.record(computing)
        self.sent += 1
        return batch

    def finish(self):
        """Wait for the copies under way, after which the slots may go: also after an error in the midst of `send`."""
        self.copies.synchronize()


class _Slot:
    def __init__(self, shapes, dtypes, cuda):
        self.host = [cuda.pinned(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        self.device = [cuda.empty(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        self.arrived = cuda.event()
        self.emptied = cuda.event()
        # The memory may have been someone's whose work on the computing stream is not done yet.
        self.emptied.record(cuda.current_stream())


class _Cuda:
    """What `BatchStream` needs of CuPy."""

    def __init__(self):
        import cupy
        import cupyx

        self.pinned = cupyx.empty_pinned
        self.empty = cupy.empty
        self.current_stream = cupy.cuda.get_current_stream
        self._cuda: Any = cupy.cuda

    def stream(self):
        """A stream that waits for no other but where it is told to."""
        return self._cuda.Stream(non_blocking=True)

    def event(self):
        """An event; one that was never recorded counts as passed."""
        return self._cuda.Event(disable_timing=True)

    def upload(self, device, host, stream):
        """Copy pinned host memory to the device on a stream, without waiting."""
        device.set(host, stream=stream)

    def copy(self, device):
        """A copy in new memory, on the current stream."""
        return device.copy()


def _cuda():
    """The default device's streams and events; None if it has none."""
    return _Cuda() if devices.default_device() == "cupy" else None


def _is_ready(array, dtype):
    return not isinstance(array, np.ndarray) and array.dtype == dtype and array.flags.c_contiguous


def _in_dtype(array, dtype):
    return array if array.dtype == dtype else array.astype(dtype)


def _upload(array, dtype):
    """The array on the device, with its rows in one piece each."""
    if _is_ready(array, dtype):
        return array
    if not isinstance(array, np.ndarray):
        return devices.default_module().ascontiguousarray(array, dtype=dtype)
    rows = max(_CHUNK // max(math.prod(array.shape[1:]) * dtype.itemsize, 1), 1)
    if rows >= len(array):
        return devices.to_device(np.ascontiguousarray(array, dtype))
    whole = devices.default_module().empty(array.shape, dtype)
    for start in range(0, len(array), rows):
        whole[start : start + rows] = devices.to_device(np.ascontiguousarray(array[start : start + rows], dtype))
    return whole


def _gather(array, rows, target):
    """Write rows of a host array, chosen by a slice or by indices, into another."""
    if not isinstance(rows, slice) and array.flags.c_contiguous and array.dtype == target.dtype:
        # A mode spares NumPy a buffer; the rows are in range.
        np.asarray(array).take(rows, axis=0, out=target, mode="clip")
    else:
        np.copyto(target, array[rows], casting="same_kind")
