"""How the CPU walks through time: who walks, who fills the gates ahead of it, and who sums up behind it.

Two cores find work:

- Forwards, where a step is long, one thread walks, and another computes the input's part a run of steps before it, in
  long calls that hardly need the interpreter's lock. Measured with an LSTM, 64 sequences of 100 steps, 128 units, with
  the input's part: 8.7 ms; 9.4 when BLAS's threads share the products of a step; 12.2 when two threads walk, each with
  half of the sequences, for between short calls they wait for the lock.
- Where a step is very long, two threads do walk with half of the sequences each: 128 sequences of 50 steps, 128 units
  took 7.1 ms that way and 8.1 the other, 256 units 26.9 and 29.9.
- Backwards, one thread walks, and the others compute the sums a run of steps behind it, and ahead of it what does not
  depend on the running gradient: 12.5 ms for the smaller LSTM with all its gradients, of which 8.7 are the walk's and
  14.4 the sums'. A GRU, 256 sequences of 120 steps, 32 units: 5.9 ms, and 9.5 in one thread.
"""

import threading
from typing import Any

import numpy as np

from gpukeras.backend import blas, threads

__all__ = [
    "backward_product",
    "backwards",
    "by_gate",
    "fill_all",
    "forward_product",
    "forwards",
    "numbers_of",
    "steps_of",
    "whole",
]


def by_gate(matrix, gates):
    """(n, gates · units) seen as (gates, n, units)."""
    return matrix.reshape(matrix.shape[0], gates, matrix.shape[1] // gates).swapaxes(0, 1)


def fill_all(fill, gates):
    """Put the input's part into all steps at once."""
    if fill is not None:
        fill(slice(0, gates.shape[1]))


# Multiply-adds of one step, from which on forwards one thread fills and another walks, and from which on two walk. One
# thread, one ahead of the other, and both walking: LSTM of 128 units, 32 sequences 5.5, 6.3, 8.0 ms; 48 sequences 7.6,
# 6.8, 7.3; 96 sequences (of half the length) 7.1, 6.3, 5.6.
_THREADED = 3 << 20
_HALVED = 6 << 20
_FEW_STEPS = 4  # are not worth the 0.1 ms that handing them out costs
# The gates are filled in so many runs of steps at most, with so many rows at least: the walk waits for the first one.
_FILLED_RUNS = 20
_FILLED_ROWS = 256
# Multiply-adds of a walk backwards, from which on its sums are shared out, in so many runs of steps at most, with so
# many rows at least: for fewer a product would be mostly the copies that BLAS makes of its factors.
_SHARED = 1 << 24
_RUNS = 8
_RUN_ROWS = 256
_ROOMS = 3  # for the factors of so many runs
_FACTORS = 16384  # numbers in each slot of the factors that a walk computes at once: together 400 KB of float32


def forwards(walk, count, gates, fill):
    """Call ``walk(rows, runs)`` for slices of the batch, and `fill` for all steps.

    The runs are ranges that make up all steps; a run may be walked as soon as the iterator has given it.

    Args:
        count: How many matrices the state is multiplied by.
    """
    _, time, batch, units = gates.shape
    size = count * batch * units * units
    is_short = batch < 2 or time < _FEW_STEPS
    if is_short or size < _THREADED or size >= _HALVED or fill is None:
        fill_all(fill, gates)
        if is_short and size >= _THREADED:
            walk(slice(0, batch), [range(time)])
        elif size < _HALVED:
            with blas.one_thread():  # BLAS's own would gain nothing, and lose much where the cores are busy
                walk(slice(0, batch), [range(time)])
        else:
            halves = slice(0, batch // 2), slice(batch // 2, batch)
            threads.run(lambda rows: walk(rows, [range(time)]), halves, uses_blas=True)
        return
    length = max(-(-time // _FILLED_RUNS), -(-_FILLED_ROWS // batch))
    runs = [(range(start, min(start + length, time)), threading.Event()) for start in range(0, time, length)]

    def fill_runs():
        try:
            for steps, is_filled in runs:
                fill(slice(steps.start, steps.stop))
                is_filled.set()
        finally:
            for _, is_filled in runs:
                is_filled.set()  # whatever happens, nobody waits for ever

    def filled():
        for steps, is_filled in runs:
            is_filled.wait()
            yield steps

    # Nobody takes the walk before somebody has taken what it waits for.
    threads.run(lambda do: do(), [fill_runs, lambda: walk(slice(0, batch), filled())], uses_blas=True)


def backwards(walk, dz, units, sums, slots, prepare, split):
    """Call ``walk(runs)`` and the sums' functions.

    The runs make up all steps, last ones first: ``(start, stop, views)``, where views are what `split` makes of the
    room with the run's factors. When the walk asks for the next run, dz must be complete from start on.

    The walk is the first item for the threads, and all others wait for it: nobody takes one of them before somebody
    has taken the walk. Factors are prepared by whoever comes first, the walk or another thread.

    Args:
        slots: How many factors there are per step and unit.
        prepare: Function of a slice of steps and of room for their factors (slots, steps, batch, units), to be filled.
        split: Function of all the room of a run.
    """
    time, batch, columns = dz.shape
    if time * batch * columns * units < _SHARED or not sums:
        length = max(1, min(time, _FACTORS // max(1, batch * units)))
        room = np.empty((slots, length, batch, units), dz.dtype)
        with blas.one_thread():
            walk(_runs_in_turn(time, room, prepare, split(room)))
            return whole(sums, time)
    length = max(-(-time // _RUNS), -(-_RUN_ROWS // batch))
    runs = _SharedRuns(time, np.empty((_ROOMS, slots, length, batch, units), dz.dtype), prepare, split)
    totals = [_Sum() for _ in sums]

    def walk_all():
        try:
            walk(runs)
        finally:
            runs.end()  # whatever happens, nobody waits for ever

    def add(place, total, function):
        def work():
            run = runs.runs[place]
            run.is_complete.wait()
            term = None
            try:
                term = function(run.steps)
            finally:
                total.add(place, term)  # whatever happens: the terms after this one wait for it

        return work

    def prepare_ahead(place):
        return lambda: runs.prepare(place)

    # A run's factors are prepared when its room is free: when the run before the last that used it is complete.
    work = [prepare_ahead(place) for place in range(1, min(_ROOMS, len(runs.runs)))]
    for place in range(len(runs.runs)):
        work += [add(place, total, function) for total, function in zip(totals, sums, strict=True)]
        if place + _ROOMS < len(runs.runs):
            work.append(prepare_ahead(place + _ROOMS))
    threads.run(lambda do: do(), [walk_all, *work], uses_blas=True)
    return tuple(total.value for total in totals)


def _runs_in_turn(time, room, prepare, views):
    """The runs of a walk that prepares its factors itself."""
    length = room.shape[1]
    for stop in range(time, 0, -length):
        start = max(0, stop - length)
        prepare(slice(start, stop), room[:, : stop - start])
        yield start, stop, views


class _SharedRuns:
    """The runs of a walk whose factors others may prepare, and who may use what it has completed."""

    def __init__(self, time, rooms, prepare, split):
        length = rooms.shape[2]
        self.runs = [_Run(slice(max(0, stop - length), stop)) for stop in range(time, 0, -length)]
        self.rooms, self.views = rooms, [split(room) for room in rooms]
        self.function = prepare

    def prepare(self, place):
        """Prepare a run's factors, unless somebody has begun to."""
        run = self.runs[place]
        if not run.claim.acquire(blocking=False):
            return
        try:
            if place >= _ROOMS:
                self.runs[place - _ROOMS].is_complete.wait()
            steps = run.steps
            self.function(steps, self.rooms[place % _ROOMS][:, : steps.stop - steps.start])
        finally:
            run.is_prepared.set()

    def __iter__(self):
        for place, run in enumerate(self.runs):
            self.prepare(place)
            run.is_prepared.wait()
            yield run.steps.start, run.steps.stop, self.views[place % _ROOMS]
            run.is_complete.set()

    def end(self):
        for run in self.runs:
            run.is_complete.set()


class _Run:
    def __init__(self, steps):
        self.steps = steps
        self.claim = threading.Lock()
        self.is_prepared, self.is_complete = threading.Event(), threading.Event()


def whole(sums, time):
    """The sums over all steps at once."""
    return tuple(function(slice(0, time)) for function in sums)


class _Sum:
    """A sum to which several threads add, always in the same order."""

    def __init__(self):
        self.value = None
        self.place = 0
        self.is_changed = threading.Condition()

    def add(self, place, term):
        """Add one term, or None, after those of the places before it."""
        with self.is_changed:
            try:
                self.is_changed.wait_for(lambda: self.place == place)
                if self.value is None:
                    self.value = term
                elif term is not None:
                    self.value += term
            finally:
                self.place = place + 1
                self.is_changed.notify_all()


def steps_of(slots):
    """The views of (slots, time, ...) at each step, made once: within the loop one costs as much as a short pass."""
    return list(slots.swapaxes(0, 1))


def forward_product(kernel, dropout, rows, h) -> tuple[Any, Any]:
    """A function that multiplies a block's state by the kernel, into an array of its own (gates, rows, units)."""
    out = np.empty((len(kernel), *h.shape), h.dtype)
    if dropout is None:
        return out, lambda h: np.matmul(h, kernel, out=out)
    masks, dropped = dropout[:, rows], np.empty_like(out)
    return out, lambda h: np.matmul(np.multiply(h, masks, out=dropped), kernel, out=out)


def backward_product(kernel, dropout, out):
    """A function that makes of the gradient of pre-activations (batch, columns) that of the state, in `out`."""
    if dropout is None:
        transposed = np.ascontiguousarray(kernel.T)  # at every step BLAS would take half of the product's time for it
        return lambda dz: np.dot(dz, transposed, out=out)
    gates = len(dropout)
    matrices = np.ascontiguousarray(by_gate(kernel, gates).swapaxes(1, 2))
    parts = np.empty((gates, *out.shape), out.dtype)

    def gradient(dz):
        np.matmul(by_gate(dz, gates), matrices, out=parts)
        np.multiply(parts, dropout, out=parts)
        np.add.reduce(parts, axis=0, out=out)

    return gradient


def numbers_of(keep, dtype) -> tuple[Any, Any]:
    """1 where a step is kept, and 1 where it is left out; None each without a mask."""
    return (None, None) if keep is None else (keep.astype(dtype), (~keep).astype(dtype))
