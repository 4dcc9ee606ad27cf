"""Docstrings are there, have the house's form, and their examples run."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import gpukeras

ROOT = Path(__file__).parents[2]

# Floors that users do not import. Their classes need an example only where `gpukeras` offers them,
# such as Variable.
INTERIOR = {"registry", "configurable", "backend", "kernels", "autograd", "training"}

# "One sentence.  Two blanks before this one." Formulas and shapes may align with blanks.
DOUBLE_BLANK = re.compile(r"[a-z)`][.!?]  +[A-Z]")


def own_objects(module):
    """Name and object of each class and function in `__all__` that the module itself defines."""
    for name in getattr(module, "__all__", ()):  # that it exists is test_public_names's business
        value = getattr(module, name)
        if callable(value) and getattr(value, "__module__", None) == module.__name__:
            yield name, value


def needs_example(module, name, value):
    """Whether it is a class or an op, and for users; an exception needs none."""
    floor = module.__name__.removeprefix("gpukeras.").partition(".")[0]
    if floor in INTERIOR and name not in getattr(gpukeras, "__all__", ()):
        return False
    if inspect.isclass(value):
        return not issubclass(value, BaseException)
    return floor == "ops"


def docstring_faults(name, doc, has_example):
    if not doc:
        yield f"{name} has no docstring"
        return
    first, _, rest = doc.partition("\n")
    if not first.strip():
        yield f"{name}: the docstring does not begin on its first line"
    elif not first.rstrip().endswith((".", "?", "!")):
        yield f"{name}: the first line is not a sentence: {first.strip()!r}"
    if rest.strip() and rest.partition("\n")[0].strip():
        yield f"{name}: no blank line after the first line"
    if has_example and not re.search(r"^\s*Examples?:\s*\n(?:.*\n)*?\s*>>> ", doc, re.MULTILINE):
        yield f"{name}: no 'Example:' with a line that runs ('>>> ')"
    for line in doc.splitlines():
        if DOUBLE_BLANK.search(line) and ">>>" not in line:
            yield f"{name}: two blanks after a sentence: {line.strip()!r}"


def test_public_names_have_docstrings(public_module_name):
    module = importlib.import_module(public_module_name)
    faults = []
    for name, value in own_objects(module):
        # A class's docstring is its own: __doc__ would also find a base's.
        doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        faults += docstring_faults(name, doc, needs_example(module, name, value))
    assert not faults, f"\n{public_module_name}\n  " + "\n  ".join(faults)


def test_no_constructor_has_a_docstring():
    faults = []
    for path in sorted((ROOT / "gpukeras").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                if ast.get_docstring(node):
                    faults.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not faults, "the docstring belongs on the class: " + ", ".join(faults)


class Finder(doctest.DocTestFinder):
    """Finds what a decorator wrapped, too: it goes by `__module__`, not by globals."""

    def _from_module(self, module, object):
        if getattr(object, "__module__", None) == module.__name__:
            return True
        return super()._from_module(module, object)


def test_examples_run(module_name, tmp_path, monkeypatch):
    module = importlib.import_module(module_name)
    monkeypatch.chdir(tmp_path)  # an example may write a file
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report = []
    for example in Finder().find(module, extraglobs={"np": np, "gpukeras": gpukeras, "keras": gpukeras}):
        runner.run(example, out=report.append)
    if runner.failures:
        pytest.fail(
            f"{runner.failures} of {runner.tries} lines of examples in {module_name}:\n{''.join(report)}",
            pytrace=False,
        )


# The checks themselves, on docstrings made up here.


def test_a_good_docstring_passes():
    doc = "Affine map.\n\n    y = x · kernel;  z  ->  w\n\nExample:\n    >>> 1\n    1\n"
    assert not list(docstring_faults("f", doc, has_example=True))


@pytest.mark.parametrize(
    "doc",
    [
        None,
        "",
        "\n    Begins late.\n",
        "no end",
        "One.\nTwo.",
        "One.\n\nExample:\n    see the guide",
        "One.\n\nA sentence.  Another.\n\nExample:\n    >>> 1\n    1",
    ],
)
def test_a_bad_docstring_is_found(doc):
    assert list(docstring_faults("f", doc, has_example=True))
