"""Ctrl-C during training: at once where a step can be undone, at the step's end where it cannot."""

import contextlib
import signal
import threading

import numpy as np

from gpukeras.autograd.gradient_tape import GradientTape
from gpukeras.autograd.scope import current, raise_waiting, setting, transaction
from gpukeras.autograd.tape import Tape
from gpukeras.backend import blas, threads
from gpukeras.layers.layer import Layer
from gpukeras.optimizers import Optimizer

__all__ = ["between_steps"]


class between_steps:
    """Within the `with` block, Ctrl-C leaves the weights as after a whole number of steps.

    Before a step has written any weight, KeyboardInterrupt is raised where the program is, and the step's
    transaction restores the rest. While weights are being made or written, it waits for the end of the step.
    Does nothing outside the main thread, or where the program has a handler of its own.
    """

    __slots__ = ("is_handling",)

    def __enter__(self):
        is_main = threading.current_thread() is threading.main_thread()
        self.is_handling = is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.is_handling:
            signal.signal(signal.SIGINT, _handle)

    def __exit__(self, kind, error, traceback):
        if not self.is_handling:
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if current.interrupts:
            raise_waiting(error)


# Functions that an interrupt may not leave in their middle: those that enter and leave scopes, that wait
# for other threads, and that make or write weights.
_WHOLE = {
    function.__code__
    for owner, names in (
        (setting, ("__enter__", "__exit__")),
        (transaction, ("__enter__", "__exit__")),
        (between_steps, ("__enter__", "__exit__")),
        (Tape, ("__enter__", "__exit__", "pause")),
        (GradientTape, ("__enter__", "__exit__")),
        (blas.Limit, ("__enter__", "__exit__")),
        (threads.Job, ("close",)),
        (Layer, ("_build_for",)),
        (Optimizer, ("apply", "apply_plan")),
    )
    for function in (getattr(owner, name) for name in names)
}
# The same holds within a step, which ends soon, for scopes of others. What runs outside of steps may take long there.
_WHOLE_IN_STEPS = {
    function.__code__
    for owner in (contextlib._GeneratorContextManager, np.errstate)
    for function in (owner.__enter__, owner.__exit__)
    if hasattr(function, "__code__")
}
_PATIENCE = 3  # the third Ctrl-C in a row is raised wherever the program hangs


def _handle(number, frame):
    must_wait = current.is_committed or _is_within_whole(frame)
    current.interrupts += 1
    if must_wait and current.interrupts < _PATIENCE:
        return
    current.interrupts = 0
    raise KeyboardInterrupt


def _is_within_whole(frame):
    whole = _WHOLE if current.undo is None else _WHOLE | _WHOLE_IN_STEPS
    while frame is not None:
        if frame.f_code in whole or frame.f_code.co_name == "_build_for":
            return True
        frame = frame.f_back
    return False
