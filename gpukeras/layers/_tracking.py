"""How a layer learns of the variables, layers, metrics and seed generators assigned to its attributes."""

import functools

from gpukeras.autograd.tensor import Variable

__all__ = ["TrackedDict", "TrackedList", "TrackedSet", "Tracker", "last_set", "remembered", "stamp_of", "wrap"]

CATEGORIES = ("variable", "layer", "metric", "seed_generator")

_changes = 0  # how often any layer has got or lost state
_settings = 0  # how often a public attribute of any layer has been set


def stamp_of(layer):
    """Two numbers: one differs from an earlier one where the layer or one within it has got or lost state since, the
    other where a public attribute of one has been set."""
    known = layer.__dict__.get("_remembered_stamp")
    now = _changes, _settings
    if known is None or known[0] != now:
        trackers = [inner._tracker for inner in layer._all_layers()]
        stamp = max(tracker.changed for tracker in trackers), max(tracker.set for tracker in trackers)
        known = layer.__dict__["_remembered_stamp"] = now, stamp
    return known[1]


def last_set(layer):
    """The layer, it or one within it, of which a public attribute was set last, and the attribute's name."""
    latest = max((inner._tracker for inner in layer._all_layers()), key=lambda tracker: tracker.set)
    return latest.owner, latest.name_set


def remembered(walk):
    """Make a method that walks a layer's tree walk again only where a layer, any one, has got or lost state since.

    The result is shared: nobody may change it.
    """
    name = f"_remembered{walk.__name__}"

    @functools.wraps(walk)
    def read(layer):
        known = layer.__dict__.get(name)
        if known is None or known[0] != _changes:
            known = layer.__dict__[name] = _changes, walk(layer)
        return known[1]

    return read


class Tracker:
    """The tracked objects of one layer, by category, in the order in which they were first seen.

    Classes say what they are by an attribute ``_tracking_category``. After the layer is built the
    tracker is locked: state that appears later would be missing from saved files.

    Attributes:
        changed: When state came or went last, by a clock that all layers share.
        set: When a public attribute of the layer was set last, by another such clock; ``name_set`` is its name.
    """

    def __init__(self, owner):
        self.owner = owner
        self.is_locked = False
        self.stores = {category: [] for category in CATEGORIES}
        self.changed = self.set = 0
        self.name_set = None

    def count_setting(self, name):
        """A public attribute of the layer has been set."""
        global _settings
        _settings += 1
        self.set = _settings
        self.name_set = name

    def add(self, value):
        """Track `value` if it is of a tracked category and not known yet."""
        category = category_of(value)
        if category is None:
            return
        store = self.stores[category]
        if any(value is known for known in store):
            return
        if self.is_locked and category in ("variable", "layer"):
            raise ValueError(
                f"{self.owner.name!r} is built, so no {category} can be added to it any more. "
                f"Create all state in __init__() or build()."
            )
        store.append(value)
        self._count_change()

    def remove(self, value):
        """Forget `value`."""
        category = category_of(value)
        if category is not None:
            store = self.stores[category]
            store[:] = [known for known in store if known is not value]
            self._count_change()

    def _count_change(self):
        global _changes
        _changes += 1
        self.changed = _changes


def category_of(value):
    """The tracked category of a value, or None."""
    if isinstance(value, Variable):
        return "variable"
    return getattr(type(value), "_tracking_category", None)


def wrap(tracker, value):
    """Track `value`; lists, dictionaries and sets come back as ones that track what is put into them."""
    kind = type(value)
    if kind is list:
        return TrackedList(tracker, [wrap(tracker, item) for item in value])
    if kind is dict:
        return TrackedDict(tracker, {key: wrap(tracker, item) for key, item in value.items()})
    if kind is set:
        return TrackedSet(tracker, {wrap(tracker, item) for item in value})
    if kind is tuple:
        wrapped = tuple(wrap(tracker, item) for item in value)
        return wrapped if any(a is not b for a, b in zip(wrapped, value, strict=True)) else value
    tracker.add(value)
    return value


class TrackedList(list):
    """A list that tells a layer's tracker what enters and leaves it."""

    def __init__(self, tracker, items=()):
        super().__init__(items)
        self.tracker = tracker

    def __reduce__(self):
        return list, (list(self),)

    def append(self, item):
        """As list.append."""
        super().append(wrap(self.tracker, item))

    def insert(self, index, item):
        """As list.insert."""
        super().insert(index, wrap(self.tracker, item))

    def extend(self, items):
        """As list.extend."""
        super().extend([wrap(self.tracker, item) for item in items])

    def __iadd__(self, items):
        self.extend(items)
        return self

    def __setitem__(self, index, item):
        super().__setitem__(index, wrap(self.tracker, list(item) if isinstance(index, slice) else item))

    def __delitem__(self, index):
        gone = self[index]
        super().__delitem__(index)
        for item in gone if isinstance(index, slice) else [gone]:
            self.tracker.remove(item)

    def pop(self, index=-1):
        """As list.pop."""
        item = super().pop(index)
        self.tracker.remove(item)
        return item

    def remove(self, item):
        """As list.remove."""
        super().remove(item)
        self.tracker.remove(item)

    def clear(self):
        """As list.clear."""
        for item in self:
            self.tracker.remove(item)
        super().clear()


class TrackedDict(dict):
    """A dictionary that tells a layer's tracker what enters and leaves it."""

    def __init__(self, tracker, items=()):
        super().__init__(items)
        self.tracker = tracker

    def __reduce__(self):
        return dict, (dict(self),)

    def __setitem__(self, key, item):
        super().__setitem__(key, wrap(self.tracker, item))

    def update(self, *args, **kwargs):
        """As dict.update."""
        for key, item in dict(*args, **kwargs).items():
            self[key] = item

    def setdefault(self, key, default=None):
        """As dict.setdefault."""
        if key not in self:
            self[key] = default
        return self[key]

    def __delitem__(self, key):
        self.pop(key)

    def pop(self, key, *default):
        """As dict.pop."""
        item = super().pop(key, *default)
        self.tracker.remove(item)
        return item

    def popitem(self):
        """As dict.popitem."""
        key, item = super().popitem()
        self.tracker.remove(item)
        return key, item

    def clear(self):
        """As dict.clear."""
        for item in self.values():
            self.tracker.remove(item)
        super().clear()


class TrackedSet(set):
    """A set that tells a layer's tracker what enters and leaves it."""

    def __init__(self, tracker, items=()):
        super().__init__(items)
        self.tracker = tracker

    def __reduce__(self):
        return set, (list(self),)

    def add(self, item):
        """As set.add."""
        super().add(wrap(self.tracker, item))

    def update(self, items):
        """As set.update."""
        for item in items:
            self.add(item)

    def discard(self, item):
        """As set.discard."""
        super().discard(item)
        self.tracker.remove(item)

    def remove(self, item):
        """As set.remove."""
        super().remove(item)
        self.tracker.remove(item)
