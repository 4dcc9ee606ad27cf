"""What an optimizer was set to: the numbers that a kept step takes for granted."""

import re
from typing import Any

__all__ = ["Watched", "settings_of"]

_sets = 0  # how often an attribute of any optimizer or schedule has been set


class Watched:
    """Base of what counts when its attributes are set."""

    def __setattr__(self, name, value):
        count_setting()
        object.__setattr__(self, name, value)


def count_setting():
    """An attribute of an optimizer or a schedule has been set."""
    global _sets
    _sets += 1


def settings_of(optimizer) -> Any:
    """By name, what an optimizer was set to, the optimizer that it wraps, and the schedule that it follows.

    The same dictionary again as long as nothing has been set.
    """
    known = optimizer.__dict__.get("_remembered_settings")
    if known is None or known[0] != _sets or any(tuple(values) != before for values, before in known[2]):
        lists = []
        known = optimizer.__dict__["_remembered_settings"] = _sets, _collect(optimizer, lists), lists
    return known[1]


def _collect(thing, lists):
    """The settings; lists, which change without being set, are added to `lists` beside what they hold."""
    found = {}
    for name, value in vars(thing).items():
        if value is None or isinstance(value, _CONSTANTS):
            found[name] = value
        elif isinstance(value, Watched):
            found[name] = value, _collect(value, lists)
        elif isinstance(value, (list, tuple)) and all(isinstance(item, _NUMBERS) for item in value):
            found[name] = tuple(value)
            if isinstance(value, list):
                lists.append((value, found[name]))
    return found


_NUMBERS = int, float
_CONSTANTS = int, float, str, frozenset, re.Pattern
