"""Streams and events without a GPU, in which a missing wait shows as a wrong value.

A stream's work is done as late as it may: when someone waits for it, and then only up to where he waits. So a copy
that nobody waited for has not happened when its values are read, and one that should have waited for others overwrites
what they still need. With a generator of random numbers streams also get ahead by themselves, as a GPU's do.

Memory starts as garbage, and what is taken for a slot is written to once more by its former owner's work.
"""

import collections

import numpy as np

from tests.strict_device import StrictArray

GARBAGE = 99


class Stream:
    """Work in order; `done` counts what has happened of `count`."""

    def __init__(self, cuda, name):
        self.cuda = cuda
        self.name = name
        self.work = collections.deque()
        self.count = self.done = 0

    def add(self, step):
        self.work.append(step)
        self.count += 1
        self.cuda.run_ahead()

    def run_until(self, count):
        while self.done < count:
            step = self.work.popleft()
            self.done += 1
            step()

    def wait_event(self, event):
        """What is added from now on happens after the event as it was recorded last."""
        self.cuda.log.append(f"{self.name} waits")
        position = event.position
        if position is not None and f"{self.name} waits" not in self.cuda.ignored:
            self.add(lambda: position[0].run_until(position[1]))

    def synchronize(self):
        self.cuda.log.append(f"host waits for {self.name}")
        if f"host waits for {self.name}" not in self.cuda.ignored:
            self.run_until(self.count)


class Event:
    def __init__(self, cuda):
        self.cuda = cuda
        self.position = None  # (stream, count of its work) where it was recorded last

    def record(self, stream):
        self.position = stream, stream.count

    def synchronize(self):
        if "host waits for events" not in self.cuda.ignored and self.position is not None:
            self.cuda.log.append("host waits for events")
            self.position[0].run_until(self.position[1])


class FakeCuda:
    """What `BatchStream` needs.

    Args:
        ignored: Waits that are left out: "copies waits", "computing waits", "host waits for events", "host waits for
            copies".
        rng: Lets streams get ahead of who waits for them.
        is_synchronous: Whether the host waits for each batch, so that the strict device can compute with it.

    Attributes:
        log: Names of what happened, in the order in which the host asked for it.
        made: How many pieces of pinned memory and of the device's memory there are.
    """

    def __init__(self, ignored=(), rng=None, is_synchronous=False):
        self.ignored = ignored
        self.rng = rng
        self.is_synchronous = is_synchronous
        self.log = []
        self.made = collections.Counter()
        self.computing = Stream(self, "computing")
        self.streams = [self.computing]

    def stream(self):
        self.streams.append(Stream(self, "copies"))
        return self.streams[-1]

    def event(self):
        return Event(self)

    def current_stream(self):
        return self.computing

    def pinned(self, shape, dtype):
        self.made["pinned"] += 1
        return np.full(shape, GARBAGE, dtype)

    def empty(self, shape, dtype):
        self.made["device"] += 1
        memory = np.full(shape, GARBAGE, dtype)
        self.computing.add(lambda: memory.fill(GARBAGE))
        return StrictArray(memory)

    def upload(self, device, host, stream):
        assert type(host) is np.ndarray and device.shape == host.shape and device.dtype == host.dtype
        self.log.append("upload")
        stream.add(lambda: np.copyto(device._array, host))

    def copy(self, device):
        made = np.full(device.shape, GARBAGE, device.dtype)
        self.computing.add(lambda: np.copyto(made, device._array))
        if self.is_synchronous:
            self.computing.run_until(self.computing.count)
        return StrictArray(made)

    def run_ahead(self):
        if self.rng is not None:
            for stream in self.streams:
                stream.run_until(min(stream.done + int(self.rng.integers(0, 3)), stream.count))

    def read(self, array):
        """The values when all that computes is done."""
        self.computing.run_until(self.computing.count)
        return array._array
