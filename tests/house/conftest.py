"""Hands each house test the modules of the package by name, found without importing them."""

import pkgutil
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "gpukeras"


def module_names(folder=PACKAGE, name="gpukeras"):
    """Every module of the package, the package itself first."""
    found = [name]
    for module in pkgutil.iter_modules([str(folder)]):
        full_name = f"{name}.{module.name}"
        if module.ispkg:
            found += module_names(folder / module.name, full_name)
        else:
            found.append(full_name)
    return found


def is_public(name):
    """Whether no part of a dotted name begins with an underscore."""
    return not any(part.startswith("_") for part in name.split("."))


def pytest_generate_tests(metafunc):
    """Run a test for all modules (`module_name`) or the public ones (`public_module_name`)."""
    if "module_name" in metafunc.fixturenames:
        metafunc.parametrize("module_name", module_names())
    if "public_module_name" in metafunc.fixturenames:
        metafunc.parametrize("public_module_name", [*filter(is_public, module_names())])
