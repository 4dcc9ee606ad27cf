"""What holds for the call that is running in this thread: recording tapes, training flag, casts, undo log."""

import contextlib
import threading

__all__ = ["commit", "current", "setting", "transaction"]


class _Scope(threading.local):
    tapes = ()  # the tapes that record, outermost first
    training = None  # what a layer's call sees when nobody passed `training`
    autocast = None  # dtype that float variables are read in, None for their own
    symbolic = False  # a layer's call is being traced for shapes: variables must not change
    layer = None  # the outermost layer being called
    undo = None  # list of (array, copy of its values) while a transaction runs
    is_committed = False  # the transaction may only run to its end now
    interrupt = None  # exception that waits for the end of the transaction


current = _Scope()


@contextlib.contextmanager
def setting(**values):
    """Set fields of `current` for the length of a `with` block."""
    fields = vars(current)
    before = {name: getattr(current, name) for name in values}
    fields.update(values)
    try:
        yield current
    finally:
        fields.update(before)


@contextlib.contextmanager
def transaction():
    """All or nothing: variables assigned within the block get their values back if it fails.

    A training step is one. An interrupt or an error in its middle leaves batch-norm statistics, random
    counters and metric sums as they were before the step. From `commit` on (the optimizer writes the
    weights) the step runs to its end, and an interrupt waits until then.
    """
    if current.undo is not None:  # part of the surrounding transaction
        yield
        return
    current.undo = log = []
    try:
        yield
    except BaseException:
        if not current.is_committed or current.interrupt == "raised":
            for array, values in reversed(log):
                array[...] = values
        raise
    finally:
        waiting, current.interrupt = current.interrupt, None
        current.undo, current.is_committed = None, False
    if isinstance(waiting, BaseException):
        raise waiting


def commit():
    """From here on the running transaction will not be undone."""
    if current.undo is not None:
        current.is_committed = True
