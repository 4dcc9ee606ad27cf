"""The tree of a model: which objects hold variables, and where files keep them, as in Keras."""

from gpukeras import registry
from gpukeras.layers.layer import Layer
from gpukeras.losses import Loss
from gpukeras.metrics import Metric
from gpukeras.optimizers import Optimizer
from gpukeras.random import SeedGenerator

__all__ = ["walk"]

_SAVEABLE = (Layer, Loss, Metric, Optimizer, SeedGenerator)


def walk(root, skipped=()):
    """``(path, object)`` of all that may hold variables in `root`, each once, in Keras's order."""
    visited = {id(item) for item in skipped}
    stack = [iter([("", root)])]
    # A stack of iterators instead of recursion: models may be nested deeply.
    while stack:
        for path, item in stack[-1]:
            if id(item) not in visited:
                visited.add(id(item))
                yield path, item
                stack.append(_children(path, item))
                break
        else:
            stack.pop()


def _children(path, parent):
    prefix = f"{path}/" if path else ""
    for name, value in _attributes(parent):
        if isinstance(value, _SAVEABLE):
            yield prefix + name, value
        elif isinstance(value, (list, dict, tuple)):
            yield from _contents(prefix + name, value, set())


def _contents(path, container, seen):
    if id(container) in seen:
        return
    seen.add(id(container))
    counts = {}
    for item in list(container.values()) if isinstance(container, dict) else list(container):
        if isinstance(item, _SAVEABLE):
            yield f"{path}/{_numbered(registry.snake_case(type(item).__name__), counts)}", item
        elif isinstance(item, (list, dict, tuple)):
            yield from _contents(f"{path}/{_numbered('container', counts)}", item, seen)


def _numbered(name, counts):
    counts[name] = counts.get(name, -1) + 1
    return f"{name}_{counts[name]}" if counts[name] else name


def _attributes(parent):
    is_functional, is_sequential = (
        isinstance(parent, registry.registered(kind).get(name, ()))
        for kind, name in (("functional", "Functional"), ("model", "Sequential"))
    )
    if is_functional or is_sequential:
        yield "layers", parent.layers
    names = set(dir(parent))
    if isinstance(parent, Layer):
        names -= _names_of_every_layer()
    if is_functional:
        names -= {"operations", "_plan"}
    if is_sequential:
        names -= {"_functional", "_stack"}
    for name in sorted(names, key=lambda name: f"~{name}" if name.startswith("_") else name):
        if name.startswith("__"):
            continue
        try:
            value = getattr(parent, name)
        except Exception:  # a property that is not ready holds no state
            continue
        yield name, value


_own_names = None


def _names_of_every_layer():
    global _own_names
    if _own_names is None:
        _own_names = frozenset(dir(Layer(name="layer")))
    return _own_names
