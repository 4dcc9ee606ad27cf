"""The one table of names: every class and function that a string or a saved file may mean.

    @register("optimizer")            names: "SGD", "sgd" (class name, lower case, snake case)
    @register("loss", "mse", "MSE")   the same and two aliases

`resolve` is the only reader. The public ``optimizers.get``, ``losses.get``, ... are one-line partials.
"""

import contextlib
import difflib
import inspect
import re
import threading
from collections import Counter
from typing import Any

__all__ = [
    "KERAS_MODULES",
    "custom_object_scope",
    "custom_objects",
    "fill_from",
    "find",
    "kind_of",
    "note_read",
    "note_written",
    "recalled",
    "register",
    "register_custom",
    "registered",
    "registered_name_of",
    "resolve",
    "sharing_scope",
    "snake_case",
    "suggest",
    "without_lonely_marks",
]

# The module under which Keras writes each kind into its files, so that files travel both ways.
KERAS_MODULES = {
    "activation": "keras.activations",
    "constraint": "keras.constraints",
    "functional": "keras.src.models.functional",
    "initializer": "keras.initializers",
    "layer": "keras.layers",
    "loss": "keras.losses",
    "metric": "keras.metrics",
    "model": "keras",
    "optimizer": "keras.optimizers",
    "policy": "keras",
    "random": "keras.random",
    "regularizer": "keras.regularizers",
    "schedule": "keras.optimizers.schedules",
}

_tables = {kind: {} for kind in KERAS_MODULES}  # kind -> every name -> object
_canonical = {kind: {} for kind in KERAS_MODULES}  # kind -> own name -> object
_kinds = {}  # object -> kind
_custom = {}  # "package>name" -> object, from register_custom
_custom_names = {}  # object -> "package>name"
_fillers = []  # modules are imported when first used, so a table may lack names that a file means
_scopes = threading.local()


def snake_case(name):
    """``"MultiHeadAttention"`` -> ``"multi_head_attention"``, by the rule of Keras's own names."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def register(kind, *aliases):
    """Enter a class or function into the table of its kind, under its own name and `aliases`."""

    def enter(target):
        name = target.__name__
        table = _tables[kind]
        for key in {name, name.lower(), snake_case(name), *aliases}:
            # A function keeps its own name when a class's derived name meets it (relu, ReLU).
            if key not in table or key in (name, *aliases):
                table[key] = target
        _canonical[kind][name] = target
        _kinds[target] = kind
        return target

    return enter


def register_custom(target, package, name):
    """Enter a user's class or function under ``"package>name"``."""
    full_name = f"{package}>{name or target.__name__}"
    _custom[full_name] = target
    _custom_names[target] = full_name
    return target


def fill_from(filler):
    """Have `filler` called when a name is missing for the first time: it imports what registers the rest."""
    _fillers.append(filler)


def _fill():
    while _fillers:
        _fillers.pop()()


def registered(kind):
    """Every own name of a kind with its object, sorted by name."""
    _fill()
    return dict(sorted(_canonical[kind].items()))


def kind_of(target):
    """The kind a class or function was registered under, or None."""
    return _kinds.get(target)


def registered_name_of(target):
    """``"package>name"`` of a user's registered object, else None."""
    return _custom_names.get(target)


def custom_objects():
    """The user's objects by name: registered ones, then those of the open scopes."""
    merged = dict(_custom)
    for scope in getattr(_scopes, "stack", ()):
        merged.update(scope)
    return merged


@contextlib.contextmanager
def custom_object_scope(objects):
    """Within the scope, names of `objects` can be resolved and loaded."""
    stack = getattr(_scopes, "stack", ())
    _scopes.stack = (*stack, dict(objects or {}))
    try:
        yield
    finally:
        _scopes.stack = stack


def find(name, kinds=None, registered_name=None) -> Any:
    """The object that `name` means: a custom one first, then one of `kinds` (all of them if None).

    Returns None where nothing has that name.
    """
    custom = custom_objects()
    for key in (registered_name, name):
        if key in custom:
            return custom[key]
    while True:
        for kind in kinds or KERAS_MODULES:
            if name in _tables[kind]:
                return _tables[kind][name]
        if not _fillers:
            return None
        _fill()


def suggest(name, candidates):
    """The end of an error message for an unknown name: the closest known ones, or all of them."""
    candidates = sorted(set(candidates))
    close = difflib.get_close_matches(str(name), candidates, n=4, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known names: {', '.join(candidates)}."


def resolve(kind, identifier) -> Any:
    """Turn what a user wrote into an object of a kind.

    Args:
        kind: A key of `KERAS_MODULES`.
        identifier: A name, a config dictionary, a class, an instance, a callable, or None.

    Returns:
        None for None. A function stays a function; a class, or a name of one, gives an instance.

    Raises:
        ValueError: for a name that nobody registered, with the closest names.
        TypeError: for anything that is neither name, config nor callable.
    """
    if identifier is None:
        return None
    if isinstance(identifier, dict):
        return _from_dictionary(kind, identifier)
    if isinstance(identifier, str):
        target = find(identifier, [kind]) or find(identifier.lower(), [kind])
        if target is None:
            raise ValueError(f"Unknown {kind} {identifier!r}. {suggest(identifier, _tables[kind])}")
        return target() if inspect.isclass(target) else target
    if inspect.isclass(identifier):
        return identifier()
    if callable(identifier) or _kinds.get(type(identifier)) == kind:
        return identifier
    raise TypeError(
        f"Cannot make a {kind} of {identifier!r} ({type(identifier).__name__}). "
        f"Pass a name, a config dictionary, a class, an instance or a function."
    )


def _from_dictionary(kind, config):
    if "class_name" not in config:
        raise ValueError(
            f"A {kind} config needs the keys 'class_name' and 'config', but got the keys "
            f"{sorted(config)}. Use the dictionary that serialize() returned."
        )
    name = config["class_name"]
    if name == "function":  # how Keras writes a function: its name is the config
        return resolve(kind, config["config"])
    made = recalled(config)
    if made is not None:
        return made
    kinds = ["layer", "model", "functional"] if kind == "layer" else [kind]  # models are layers too
    target = find(name, kinds, config.get("registered_name"))
    if target is None:
        raise ValueError(
            f"Unknown {kind} {name!r} in a config. {suggest(name, _canonical[kind])} "
            f"For a class of your own use custom_objects or register_keras_serializable."
        )
    settings = config.get("config") or {}
    made = target.from_config(dict(settings)) if hasattr(target, "from_config") else target(**settings)
    return note_read(config, made)


# --- Objects that occur several times in one model ------------------------------------------------


class _Sharing(threading.local):
    written: dict | None = None  # id -> (object, number), while one model is written
    read: dict | None = None  # shared_object_id -> object, while one model is read


_sharing = _Sharing()


@contextlib.contextmanager
def sharing_scope():
    """One object that occurs several times in a config is one object again after loading."""
    before = _sharing.written, _sharing.read
    _sharing.written, _sharing.read = {}, {}
    try:
        yield
    finally:
        _sharing.written, _sharing.read = before


def note_written(value, config):
    """The config of `value`, marked with a number of the object; see `without_lonely_marks`."""
    if _sharing.written is not None:
        # The object is kept too: were it freed, another could get its id.
        known = _sharing.written.setdefault(id(value), (value, len(_sharing.written) + 1))
        config["shared_object_id"] = known[1]
    return config


def without_lonely_marks(config):
    """A finished config, in which only objects that occur several times keep their numbers."""
    counts = Counter(_marks(config))

    def cleaned(item):
        if isinstance(item, dict):
            return {
                key: cleaned(value) for key, value in item.items() if key != "shared_object_id" or counts[value] > 1
            }
        return [cleaned(value) for value in item] if isinstance(item, (list, tuple)) else item

    return cleaned(config)


def _marks(item):
    if isinstance(item, dict):
        if "shared_object_id" in item:
            yield item["shared_object_id"]
        item = list(item.values())
    if isinstance(item, (list, tuple)):
        for value in item:
            yield from _marks(value)


def note_read(config, made):
    """`made`, remembered for the next config that is marked as the same object."""
    shared_id = config.get("shared_object_id")
    if shared_id is not None and _sharing.read is not None:
        _sharing.read[shared_id] = made
    return made


def recalled(config):
    """The object made of an earlier config that is marked as the same, or None."""
    return (_sharing.read or {}).get(config.get("shared_object_id"))
