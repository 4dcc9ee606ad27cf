"""The names of the layers being built or called in this thread, from which variables get their paths."""

import contextlib
import threading
from typing import Any

__all__ = ["entered", "path_of"]


class _Stack(threading.local):
    entries: tuple[Any, ...] = ()  # pairs (name, layer), outermost first


_stack = _Stack()


@contextlib.contextmanager
def entered(name, layer):
    """Add a layer's name, unless the layer is the innermost one already."""
    before = _stack.entries
    if not before or before[-1][1] is not layer:
        _stack.entries = (*before, (name, layer))
    try:
        yield
    finally:
        _stack.entries = before


def path_of(name=None):
    """The open names and `name`, joined by slashes."""
    names = [entry[0] for entry in _stack.entries]
    return "/".join(names if name is None else [*names, name])
