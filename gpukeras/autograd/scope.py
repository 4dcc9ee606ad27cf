"""What holds for the call that is running in this thread: recording tapes, training flag, casts, undo log."""

import threading
from typing import Any

__all__ = ["commit", "current", "gradient_place", "setting", "transaction", "variables_change"]


class _Scope(threading.local):
    tapes: Any = ()  # the tapes that record, outermost first
    trace: Any = None  # what writes down the ops of a step
    training: Any = None  # what a layer's call sees when nobody passed `training`
    autocast: Any = None  # dtype that float variables are read in, None for their own
    reading: Any = None  # stands for the values that variables have now, while a tape records; see `variables_change`
    symbolic = False  # a layer's call is being traced for shapes: variables must not change
    layer: Any = None  # the outermost layer being called
    undo: Any = None  # list of (array, copy of its values) while a transaction runs
    is_committed = False  # the transaction may only run to its end now
    # While a tape walks back for an optimizer: id of a variable's array -> array for its gradient; id of its copy in
    # another dtype -> id of its array.
    places: Any = None
    is_recording = False  # a step is being recorded into a graph: nothing is computed, so there is nothing to undo
    additions: Any = None  # what is added to numbers on a GPU at the end of a step (`autograd.additions`)
    interrupts = 0  # how often Ctrl-C was pressed and waits for the end of something


current = _Scope()


def gradient_place(array, *operands, takes_wider=False):
    """Where a backward function may write the gradient of an array, if that is a variable's; else None.

    In a training step that is the optimizer's buffer, which spares it a copy. Asked a second time, for another op that
    uses the variable, there is no place any more; nor is there one where the operands have another type.

    Args:
        array: What the op was given: the variable's array, or its copy in the dtype of a mixed policy.
        operands: The arrays of which the gradient will be made.
        takes_wider: Whether the op can write its gradient, unrounded, into an array of a wider type than `array` has:
            the variable's own in mixed precision.
    """
    places = current.places
    if places is None:
        return None
    key = id(array)
    place = places.get(key)
    if type(place) is int:
        key, place = place, places.get(place)
    if place is None:
        return None
    dtype = array.dtype
    for operand in operands:
        if operand.dtype != dtype:
            return None
    if place.dtype != dtype and not (takes_wider and place.dtype.itemsize > dtype.itemsize):
        return None
    del places[key]
    return place


def variables_change():
    """Variables are written to: where a tape records, copies of them in another dtype are made anew from here on."""
    if current.reading is not None:
        current.reading = object()


# Both are classes, not generators: in these methods an interrupt waits (see training/interrupts.py), so that it
# never leaves a scope half entered.


class setting:
    """Set fields of `current` for the length of a `with` block."""

    __slots__ = ("before", "values")

    def __init__(self, **values):
        self.values = values

    def __enter__(self):
        self.before = {name: getattr(current, name) for name in self.values}
        vars(current).update(self.values)
        return current

    def __exit__(self, kind, error, traceback):
        vars(current).update(self.before)
        if current.interrupts and current.undo is None:
            raise_waiting(error)


class transaction:
    """All or nothing: variables assigned within the `with` block get their values back if it fails.

    A training step is one. An interrupt or an error in its middle leaves batch-norm statistics, random
    counters and metric sums as they were before the step. From `commit` on (the optimizer writes the
    weights) the step runs to its end, and an interrupt waits until then.
    """

    __slots__ = ("before", "has_undone", "log")

    def __enter__(self):
        self.has_undone = False  # whether all is as before, after a failure
        self.log = None  # part of the surrounding transaction, unless there is none
        if current.undo is None and not current.is_recording:
            self.before = vars(current).copy()
            self.log = current.undo = []

    def __exit__(self, kind, error, traceback):
        if self.log is None:
            return
        if kind is not None:
            if not current.is_committed:
                for array, values in reversed(self.log):
                    array[...] = values
                self.has_undone = True
            self._leave_scopes()
        current.undo, current.is_committed = None, False
        if current.interrupts:
            raise_waiting(error)

    def _leave_scopes(self):
        """Put back what a scope may have left behind that was interrupted while it was entered."""
        fields = vars(current)
        for name in fields.keys() - self.before.keys() - {"interrupts"}:
            del fields[name]
        self.before.pop("interrupts", None)
        fields.update(self.before)


def commit():
    """From here on the running transaction will not be undone."""
    if current.undo is not None:
        current.is_committed = True


def raise_waiting(error=None):
    """Raise the KeyboardInterrupt that had to wait; `error` is what else is on its way."""
    current.interrupts = 0
    raise KeyboardInterrupt from error
