"""CuPy on NumPy memory, without a GPU: streams, pools and graphs that are kept account of.

`install` makes it known as the device "cupy". Arrays are the strict device's. A "kernel" is a function given to
`Cuda.kernel`: it runs at once, or, while its stream records, when the graph is launched. Every call that would reach
CUDA is noted in `Cuda.log`, and raises if its name is among `Cuda.failures`.
"""

import contextlib
import types

import numpy as np

from gpukeras.backend import devices
from tests import strict_device


class CUDARuntimeError(RuntimeError):
    pass


class Cuda:
    """What `cupy.cuda` is, and the account of it."""

    def __init__(self):
        self.log = []
        self.failures = {}  # name of a call -> the error that it raises
        self.allocator = None  # set by the program; the common pool's by default
        self.allocators = []  # those entered by `using_allocator`
        self.live_pools = set()  # pools with blocks that have not been given back
        self.null = Stream(self, 0, False)
        self.current = self.null
        self.n_streams = 0

    def note(self, name, *arguments):
        self.log.append((name, *arguments))
        if name in self.failures:
            raise self.failures[name]

    def names(self):
        return [entry[0] for entry in self.log]

    def kernel(self, run):
        """Launch a function as a kernel on the current stream."""
        if self.current.recording is not None:
            self.current.recording.append(run)
        else:
            run()

    def get_device_id(self):
        return 0

    def get_current_stream(self):
        return self.current

    def Stream(self, non_blocking=False):
        self.note("Stream", non_blocking)
        self.n_streams += 1
        return Stream(self, 1000 + self.n_streams, non_blocking)

    def MemoryPool(self, allocator=None):
        return MemoryPool(self, allocator=allocator)

    def set_allocator(self, allocator):
        self.allocator = allocator

    def get_allocator(self):
        return self.allocators[-1] if self.allocators else self.allocator

    @contextlib.contextmanager
    def using_allocator(self, allocator):
        self.allocators.append(allocator)
        try:
            yield
        finally:
            self.allocators.pop()


class Stream:
    def __init__(self, cuda, ptr, non_blocking):
        self.cuda, self.ptr, self.non_blocking = cuda, ptr, non_blocking
        self.recording = None
        self.origin = None  # the stream whose recording this one has joined
        self.before = []

    def use(self):
        self.cuda.current = self

    def __enter__(self):
        self.before.append(self.cuda.current)
        self.cuda.current = self

    def __exit__(self, *error):
        self.cuda.current = self.before.pop()

    def synchronize(self):
        if self.recording is not None:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported")
        self.cuda.note("synchronize", self.ptr)

    def record(self):
        self.cuda.note("record", self.ptr)
        return Event(self)

    def wait_event(self, event):
        """As CUDA has it, a stream takes part in a recording from the first event of it on that it waits for.

        What a branch launches is done as late as may be: when the others wait for it.
        """
        self.cuda.note("wait_event", self.ptr, event)
        if event.is_recorded and self.recording is None:
            self.recording, self.origin = [], event.stream
            event.stream.branches.append(self)
        elif event.stream.origin is self:
            self.recording.extend(event.stream.recording)
            event.stream.recording.clear()

    def begin_capture(self):
        self.cuda.note("begin_capture", self.ptr)
        if not self.non_blocking:
            raise CUDARuntimeError("cudaErrorStreamCaptureImplicit")
        self.recording, self.branches = [], []

    def end_capture(self):
        assert self.recording is not None, "end_capture without begin_capture"
        recorded, self.recording = self.recording, None
        self.cuda.note("end_capture", self.ptr)
        are_joined = not any(branch.recording for branch in self.branches)
        for branch in self.branches:
            branch.recording = branch.origin = None
        if not are_joined:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnjoined")
        return Graph(self.cuda, recorded)


class Event:
    def __init__(self, stream):
        self.stream = stream
        self.is_recorded = stream.recording is not None

    def __eq__(self, other):
        return other == ("event of", self.stream.ptr)

    __hash__ = None


class Graph:
    def __init__(self, cuda, kernels):
        self.cuda, self.kernels = cuda, kernels

    def upload(self, stream):
        self.cuda.note("upload", stream.ptr)

    def launch(self, stream):
        self.cuda.note("launch", stream.ptr)
        with np.errstate(all="ignore"):  # a device has no warnings
            for run in self.kernels:
                run()


class MemoryPool:
    def __init__(self, cuda, name="pool", allocator=None):
        self.cuda, self.name, self.allocator = cuda, name, allocator
        self.blocks = []

    def malloc(self, size):
        self.cuda.note(f"{self.name}.malloc", size)
        self.cuda.live_pools.add(self)
        if self.allocator is not None:
            return self.allocator(size)
        self.blocks.append(np.empty(size, np.uint8))
        return types.SimpleNamespace(ptr=self.blocks[-1].ctypes.data)

    def free_all_blocks(self):
        self.cuda.note(f"{self.name}.free_all_blocks")
        self.cuda.live_pools.discard(self)


_ALLOCATIONS = {"empty", "empty_like"}


def nodes_of(graph):
    """What a recorded graph launches, by name and in order: CUDA C, products, and CuPy's functions of arrays."""
    labels = [getattr(kernel, "label", None) or kernel.func.__name__ for kernel in graph.graph.kernels]
    return [label for label in labels if label not in _ALLOCATIONS]


def install(monkeypatch):
    """Make the fake known as the device "cupy" for the length of a test; returns its module."""
    cupy = strict_device._StrictModule("cupy")
    cuda = Cuda()
    pool = MemoryPool(cuda, "common")
    cuda.allocator = pool.malloc
    vars(cupy).update(cuda=cuda, get_default_memory_pool=lambda: pool)
    array = strict_device.StrictArray

    def write(self, host):
        cuda.note("set")
        self._array[...] = host

    monkeypatch.setattr(array, "set", write, raising=False)
    for table in (devices._modules, devices._module_of_type, devices._to_numpy_of_type):
        monkeypatch.setattr(devices, _name_of(table), dict(table))
    devices.register_device("cupy", cupy, array, strict_device.to_numpy)
    return cupy


def _name_of(table):
    return next(name for name, value in vars(devices).items() if value is table)
