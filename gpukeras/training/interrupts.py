"""Ctrl-C during training: at once where a step can be undone, at the step's end where it cannot."""

import contextlib
import signal
import threading

from gpukeras.autograd.scope import current

__all__ = ["between_steps"]


@contextlib.contextmanager
def between_steps():
    """Within the block, Ctrl-C leaves the weights as after a whole number of steps.

    Before a step has written any weight, KeyboardInterrupt is raised where the program is, and the step's
    transaction restores the rest. While weights are being written, it waits for the end of the step.
    Does nothing outside the main thread, or where the program has a handler of its own.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, _handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _handle(number, frame):
    if current.is_committed or current.interrupt is not None:
        if current.interrupt is None:
            current.interrupt = KeyboardInterrupt()
        return
    if current.undo is not None:
        current.interrupt = "raised"  # a second Ctrl-C must not break the undoing
    raise KeyboardInterrupt
