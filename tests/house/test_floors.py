"""Imports point down: the floors of the house, read from the source of every file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The one floor table. A module may import modules of lower floors and of its own package, wherever
# the import stands: inside a function or under TYPE_CHECKING counts too. A new top-level module is
# entered here. Halves part two modules of one floor, the lower of which the upper one needs.
FLOORS = {
    "registry": 0,
    "configurable": 0.5,
    "backend": 1,
    "kernels": 2,
    "autograd": 3,
    "testing": 3.5,
    "ops": 4,
    "activations": 5,
    "config": 5,
    "constraints": 5,
    "initializers": 5,
    "random": 4.5,
    "regularizers": 5,
    "layers": 6,
    "losses": 6,
    "metrics": 6,
    "optimizers": 6,
    "callbacks": 7,
    "saving": 7,
    "training": 8,
    "models": 9,
    "applications": 10,
    "datasets": 10,
    "doctor": 10,
    "utils": 10,
}
FREE = {"__init__"}  # gpukeras/__init__.py may import everything

CUPY = {"cupy", "cupyx", "cupy_backends"}
OTHER_FRAMEWORKS = {"jax", "jaxlib", "keras", "tensorflow", "tf_keras", "torch"}


def sources():
    for path in sorted((ROOT / "gpukeras").rglob("*.py")):
        yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def imports(path, source):
    """Line and full dotted name of all that a file imports, by statement or import_module."""
    package = path.parts[:-1]  # also for an __init__.py, whose package is its own folder
    for node in ast.walk(ast.parse(source, filename=str(path))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*start, *filter(None, [node.module])))
            for name in node.names:
                yield node.lineno, f"{base}.{name.name}"
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            first = node.args[0] if node.args else None
            if called in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def own_floor(path):
    """The entry of the floor table that a file belongs to."""
    return path.parts[1].removesuffix(".py")


def floor_faults(path, source):
    own = own_floor(path)
    if own in FREE:
        return
    if own not in FLOORS:
        yield f"{path}: '{own}' is on no floor; enter it in FLOORS"
        return
    for line, name in imports(path, source):
        first, _, rest = name.partition(".")
        if first != "gpukeras":
            continue
        target = rest.partition(".")[0]
        if target == own:
            continue
        if target not in FLOORS:
            yield f"{path}:{line}: imports '{name}', which is a module on no floor"
        elif FLOORS[target] >= FLOORS[own]:
            yield (
                f"{path}:{line}: {own} (floor {FLOORS[own]}) imports "
                f"{target} (floor {FLOORS[target]}); imports may only point down"
            )


def foreign_faults(path, source):
    own = own_floor(path)
    for line, name in imports(path, source):
        first = name.partition(".")[0]
        if first in OTHER_FRAMEWORKS:
            yield f"{path}:{line}: imports {first}; other frameworks are imported in tests only"
        if first in CUPY and own != "backend":
            yield f"{path}:{line}: imports {first}; only gpukeras/backend may"


def all_faults(check):
    return [fault for path, source in sources() for fault in check(path, source)]


def test_imports_point_down():
    faults = all_faults(floor_faults)
    assert not faults, "\n" + "\n".join(faults)


def test_only_the_backend_imports_cupy_and_nobody_another_framework():
    faults = all_faults(foreign_faults)
    assert not faults, "\n" + "\n".join(faults)


# The checks themselves, on files made up here.


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("layers/core.py", "from gpukeras import losses"),
        ("layers/core.py", "from gpukeras.models import Model"),
        ("layers/core.py", "from ..models import Model"),
        ("layers/core.py", "from .. import models"),
        ("layers/core.py", "import gpukeras"),
        ("layers/core.py", "from gpukeras import Model"),
        ("layers/core.py", "def f():\n    from gpukeras import metrics"),
        ("layers/core.py", "importlib.import_module('gpukeras.training.trainer')"),
        ("layers/__init__.py", "from ..optimizers import sgd"),
        ("registry.py", "from . import configurable"),
        ("testing.py", "from gpukeras import ops"),
        ("unheard_of.py", ""),
    ],
)
def test_an_upward_import_is_found(file, source):
    assert list(floor_faults(Path("gpukeras", file), source))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("layers/core.py", "import numpy\nfrom gpukeras import activations, ops"),
        (
            "layers/core.py",
            "from .layer import Layer\nfrom . import pooling\nfrom ..ops import add",
        ),
        ("layers/__init__.py", "from .core import Dense\nfrom gpukeras.layers import core"),
        ("configurable.py", "from gpukeras import registry"),
        ("ops/linalg.py", "from gpukeras.autograd.op import op"),
        ("__init__.py", "from gpukeras import models, utils"),
    ],
)
def test_a_downward_import_is_not(file, source):
    assert not list(floor_faults(Path("gpukeras", file), source))


def test_a_foreign_import_is_found():
    source = "def f():\n    import cupy.cuda"
    assert not list(foreign_faults(Path("gpukeras/backend/blas.py"), source))
    assert list(foreign_faults(Path("gpukeras/kernels/loss.py"), source))
    assert list(foreign_faults(Path("gpukeras/utils/data.py"), "from torch.utils import data"))
