"""Every public module says what it offers, in order."""

import ast
import importlib
import inspect


def is_only_a_docstring(module):
    """Whether it is the `__init__.py` of a package that offers its modules and nothing else."""
    body = ast.parse(inspect.getsource(module)).body
    return len(body) == 1 and ast.get_docstring(ast.Module(body, [])) is not None


def test_all_is_sorted_and_true(public_module_name):
    module = importlib.import_module(public_module_name)
    names = getattr(module, "__all__", None)
    if names is None and is_only_a_docstring(module):
        return
    assert names is not None, f"{public_module_name} has no __all__"
    assert list(names) == sorted(set(names)), f"__all__ of {public_module_name} is not sorted"
    private = [name for name in names if name.startswith("_") and not name.endswith("__")]
    assert not private, f"{public_module_name} offers private names: {private}"
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing, f"{public_module_name} promises names it does not have: {missing}"
