"""What the user is told when a step runs out of memory: what is large in it, and which batch would fit.

Nothing is counted while steps succeed. After one has failed, the step's forward pass runs for two batches of a few
samples, every op of which is noted with the layer that called it. Sizes grow with the batch along straight lines.
"""

import math
import sys
from typing import Any, NamedTuple

import numpy as np

from gpukeras.autograd.scope import current, setting, transaction
from gpukeras.autograd.symbolic import flatten, map_structure
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices, memory
from gpukeras.layers.layer import Layer

__all__ = ["OutOfMemoryError", "error_of"]

_LISTED = 5  # tensors
_SHARE = 0.9  # of the free memory that an estimate may fill: allocators round sizes up and leave gaps
# What the way back of one op takes beside what is kept: the gradients of its outputs and inputs, and as much again for
# what it computes with.
_WORKING_SETS = 2
_UNBUILT = 4  # gradients, two slots and the flat copy, for weights whose optimizer has not made them yet


class OutOfMemoryError(MemoryError):
    """A step ran out of memory, and nothing of it is left: it may be tried again."""

    def without_arrays(self):
        """The same error, without the frames that hold the arrays of the failed step."""
        return OutOfMemoryError(str(self))


class _Made(NamedTuple):
    """An array that an op made: who called the op, and what the array is."""

    maker: str
    shape: tuple
    dtype: np.dtype

    @property
    def nbytes(self):
        return math.prod(self.shape) * self.dtype.itemsize

    def at(self, other, batch, small, larger):
        """This one of a batch of `small` samples and `other` of `larger` ones, for a `batch`."""
        share = (batch - small) / (larger - small)
        return self._replace(
            shape=tuple(round(a + (b - a) * share) for a, b in zip(self.shape, other.shape, strict=True))
        )


class _Account:
    """Takes the place of a trace (`autograd.program.Trace`), and notes what ops make and what they keep."""

    def __init__(self, given):
        self.made = []
        self.largest = 0  # bytes of inputs and outputs of one op
        self.seen = {}  # id of an array that owns memory -> the array, which must not go before the id
        for array in given:
            self._is_new(array)

    def add(self, function, values, rest, settings, outputs, backward, needs_type):
        """An op was called."""
        maker = _caller()
        produced = [part.array for part in (outputs if type(outputs) is tuple else (outputs,))]
        used = [value.array for value in values if type(value) is Tensor]
        self.largest = max(self.largest, sum(array.nbytes for array in (*produced, *used)))
        for array in (*produced, *_kept_by(backward)):
            if self._is_new(array):
                self.made.append(_Made(maker, array.shape, array.dtype))

    def add_to(self, variable, value):
        """A metric's sum was added to."""

    def _is_new(self, array):
        while getattr(array, "base", None) is not None and devices.is_array(array.base):
            array = array.base
        if id(array) in self.seen:
            return False
        self.seen[id(array)] = array
        return True


def error_of(kind, model, reason, forward, batch):
    """The MemoryError for a step that has failed for want of memory, and of which nothing is left.

    Args:
        kind: The step's name: train, test or predict.
        model: The model.
        reason: What the allocator said.
        forward: Function of a batch's x, y and sample_weight that runs the step's forward pass.
        batch: The batch that was too large.
    """
    size = flatten(batch)[0].array.shape[0]
    lines = [
        f"{type(model).__name__} {model.name!r}: a {kind} step of {size} samples ran out of memory. "
        f"{(reason or 'The system did not say for how much.').rstrip('.')}.{_room()}"
    ]
    weights, others, fixed = _of_the_model(kind, model)
    small = min(2, size - 1) or 1
    larger = small + 1 if size > 1 else 1
    try:
        accounts = [_account_of(model, forward, batch, rows, kind) for rows in (small, larger)]
    except Exception as error:
        accounts = None
        lines.append(f"Its tensors are not known, as a step of {small} samples fails too ({type(error).__name__}).")
    estimate = None if accounts is None else _Estimate(accounts, small, larger, kind, fixed)
    if estimate is not None:
        lines.append("Its largest tensors, and the layers that make them:")
        for made in sorted(estimate.made(size), key=lambda made: -made.nbytes)[:_LISTED]:
            lines.append(f"  {made.maker}: {made.shape} {made.dtype.name}, {_megabytes(made.nbytes)}")
    held = f"Weights take {_megabytes(weights)}"
    lines.append(held + (f", gradients and optimizer {_megabytes(others)}." if kind == "train" else "."))
    if estimate is not None:
        lines.append(estimate.advice(size))
    return MemoryError("\n".join(lines))


class _Estimate:
    """A step's memory as a straight line over the number of samples."""

    def __init__(self, accounts, small, larger, kind, fixed):
        self.accounts = accounts
        self.sizes = small, larger
        self.is_alike = small != larger and [len(m.shape) for m in accounts[0].made] == [
            len(m.shape) for m in accounts[1].made
        ]
        peaks = [_peak(account, kind) for account in accounts]
        self.per_sample = (peaks[1] - peaks[0]) / (larger - small) if small != larger else peaks[0]
        self.fixed = fixed + max(peaks[0] - small * self.per_sample, 0)

    def made(self, size):
        """What the ops of a batch of `size` make."""
        first, second = (account.made for account in self.accounts)
        if not self.is_alike:
            return second
        return [a.at(b, size, *self.sizes) for a, b in zip(first, second, strict=True)]

    def advice(self, size):
        """Which batch would fit, and how that was found."""
        how = (
            f"estimated from steps of {self.sizes[0]} and {self.sizes[1]} samples: {_megabytes(self.fixed)} for any "
            f"batch, {_megabytes(self.per_sample)} for each sample"
        )
        free = memory.available()
        if free is None:
            return f"How large a batch would fit is not known, as this system does not tell what is free ({how})."
        fitting = int((_SHARE * free - self.fixed) / max(self.per_sample, 1))
        if fitting >= size:  # there is room enough, but in pieces, or others took it
            fitting = size // 2
        if fitting < 1:
            return f"Not even one sample would fit into {_megabytes(free)} ({how}). Make the model smaller."
        return f"A batch_size of {fitting} would fit into the {_megabytes(free)} that are free ({how})."


def _account_of(model, forward, batch, rows, kind):
    """What the forward pass makes of the first rows of a batch; of what it writes nothing is left."""
    few = map_structure(lambda leaf: None if leaf is None else Tensor(leaf.array[:rows]), batch)
    owned = [variable.array for variable in model.variables]
    account = _Account([*owned, *(leaf.array for leaf in flatten(few) if leaf is not None)])
    is_training = kind == "train"  # some ops keep more where there will be a way back
    with transaction(), setting(trace=account, tapes=(Tape(),) if is_training else (), training=is_training):
        before = len(current.undo)
        try:
            forward(*few)
        finally:
            for array, values in reversed(current.undo[before:]):
                array[...] = values
            del current.undo[before:]
    return account


def _peak(account, kind):
    """Bytes of a step at its worst."""
    working = _WORKING_SETS * account.largest
    return working if kind != "train" else working + sum(made.nbytes for made in account.made)


def _of_the_model(kind, model):
    """Bytes of the weights, of what the optimizer holds, and of what a step needs for any batch."""
    weights = sum(variable.array.nbytes for variable in model.variables)
    optimizer = model.optimizer
    if kind != "train" or optimizer is None:
        return weights, 0, 0
    trainable = sum(variable.array.nbytes for variable in model.trainable_variables)
    held = sum(variable.array.nbytes for variable in optimizer.variables)
    held += sum(group.grad.array.nbytes for group in optimizer._groups)
    return weights, held, trainable if optimizer.built else _UNBUILT * trainable


def _kept_by(function):
    """The arrays that a function's closure holds."""
    found, waiting, known = [], [function], set()
    while waiting:
        value: Any = waiting.pop()
        if value is None or id(value) in known:
            continue
        known.add(id(value))
        if devices.is_array(value):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            waiting.extend(value)
        else:
            waiting.extend(cell.cell_contents for cell in getattr(value, "__closure__", None) or () if _is_filled(cell))
    return found


def _is_filled(cell):
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _caller():
    """The innermost layer that is being called; the loss is called by none."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code is Layer.__call__.__code__:
            layer = frame.f_locals["self"]
            return f"{type(layer).__name__} {layer.name!r}"
        frame = frame.f_back
    return "the loss"


def _room():
    """What is free, where the device tells."""
    known = devices.gpu_memory() if devices.default_module() is not np else None
    return "" if known is None else f" Of the GPU's {_megabytes(known[1])}, {_megabytes(known[0])} are free now."


def _megabytes(size):
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e6:,.4f} MB"
