"""What the parts of `bench.gpu` share: the device, its clock, the time that is left, and rows that fail softly."""

import contextlib
import gc
import math
import time
from typing import Any, NamedTuple

import numpy as np

from bench import machine
from gpukeras import config
from gpukeras.backend import cuda, devices, dtypes, memory

__all__ = ["Bench", "Clock", "Part", "Timing", "cupy_clock", "recorded", "tf32", "wall_clock", "with_cudnn"]

_SAMPLES = 9  # of a timing; the middle one is the median


@contextlib.contextmanager
def _with(setting, enabled):
    """Within the block, one of the settings of `config` that are on or off."""
    enable, is_enabled = getattr(config, f"enable_{setting}"), getattr(config, f"is_{setting}_enabled")
    before = is_enabled()
    enable(enabled)
    try:
        yield
    finally:
        enable(before)


def tf32(enabled):
    """Within the block, float32 factors are rounded to TF32, or not."""
    return _with("tf32", enabled)


def with_cudnn(enabled):
    """Within the block, convolutions and attention may go through cuDNN, or not."""
    return _with("cudnn", enabled)


class Part(NamedTuple):
    """A part of the report.

    Args:
        title: Stands above the table.
        columns: ``(key, heading, format)`` each; a row is a dictionary with these keys, or some of them.
        run: Generator function of a `Bench` that yields the rows.
    """

    title: str
    columns: tuple
    run: Any


class Timing(NamedTuple):
    """Seconds of a call: lower quartile, median, upper quartile."""

    low: float
    median: float
    high: float

    def cells(self):
        """What a row says of it, in milliseconds."""
        return {"ms": 1e3 * self.median, "low_ms": 1e3 * self.low, "high_ms": 1e3 * self.high}


class Clock:
    """Times calls, many together where one is short, so that the host's launches overlap with the device's work.

    Args:
        between: Function that calls another and returns the seconds until the device is done with it.
    """

    def __init__(self, between):
        self.between = between

    def measure(self, function, seconds):
        """The `Timing` of a function's call, over about `seconds`; three calls are made before, to warm up."""

        def repeat():
            for _ in range(count):
                function()

        count = 2
        self.between(repeat)
        count = 1
        one = self.between(repeat)
        count = max(1, math.ceil(seconds / _SAMPLES / max(one, 1e-7)))
        samples = _SAMPLES if one < seconds else 3
        return Timing(*machine.quartiles([self.between(repeat) / count for _ in range(samples)]))


def cupy_clock(xp):
    """A clock by CUDA's events on the current stream; by the wall where CUDA has none, as one made of NumPy."""
    cuda = xp.cuda
    if not hasattr(cuda, "Event"):
        return wall_clock(lambda: cuda.get_current_stream().synchronize())

    def between(run):
        start, stop = cuda.Event(), cuda.Event()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return cuda.get_elapsed_time(start, stop) / 1e3

    return Clock(between)


def wall_clock(wait):
    """A clock by the wall; `wait` returns when the device is done."""

    def between(run):
        wait()
        start = time.perf_counter()
        run()
        wait()
        return time.perf_counter() - start

    return Clock(between)


class Bench:
    """The device that is measured, and how.

    Args:
        is_tiny: Sizes at which a CUDA made of NumPy is fast enough for a test.
        seconds: Length of each timing.
        limit: Seconds after which what has not begun is left out.
        models: ``(name, type)`` of the models whose steps are timed, in order, with "" for both types; None for all.
    """

    def __init__(self, is_tiny=False, seconds=0.5, limit=math.inf, models=None):
        self.is_tiny = is_tiny
        self.models = models
        self.seconds = seconds
        self.deadline = time.monotonic() + limit
        self.xp: Any = devices.default_module()
        self.clock = cupy_clock(self.xp)
        self._block = np.random.default_rng(22).standard_normal(1 << 20, np.float32)

    def row(self, cells, function):
        """The cells with those that `function()` returns; a function that fails says why in the cell "failed"."""
        if time.monotonic() > self.deadline:
            return cells | {"failed": "no time was left"}
        try:
            return cells | function()
        except Exception as error:  # whatever is broken, the rest of the report is wanted
            return cells | {"failed": one_line(error)}
        finally:
            gc.collect()
            memory.release()

    def time(self, function, seconds=None):
        """The `Timing` of a function's call on the device, over so many seconds in place of the usual ones."""
        return self.clock.measure(function, self.seconds if seconds is None else seconds)

    def random(self, shape, dtype="float32"):
        """Normal numbers on the device: zeros would cost it less power, and so run faster than real data."""
        size = math.prod(shape)
        block = self.xp.asarray(self._block[: max(min(size, len(self._block)), 1)])
        return self.xp.tile(block, -(-size // len(block)))[:size].reshape(shape).astype(dtypes.as_dtype(dtype))


def one_line(error):
    """An error's kind and first line."""
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0][:300]


@contextlib.contextmanager
def recorded(launches):
    """Within the block, the names of launched kernels are added to a list."""
    launch = cuda.Source.launch

    def recording(self, name, *args, **kwargs):
        launches.append(name)
        launch(self, name, *args, **kwargs)

    cuda.Source.launch = recording
    try:
        yield
    finally:
        cuda.Source.launch = launch
