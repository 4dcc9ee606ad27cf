"""The Keras 3 API on CuPy, with NumPy where no GPU is: ``import gpukeras as keras``.

Each part is imported when it is first used, so that importing the package costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING

from gpukeras import registry

if TYPE_CHECKING:
    from gpukeras import (
        activations,
        callbacks,
        config,
        constraints,
        datasets,
        initializers,
        layers,
        losses,
        metrics,
        models,
        ops,
        optimizers,
        random,
        regularizers,
        saving,
        utils,
    )
    from gpukeras.autograd.gradient_tape import GradientTape
    from gpukeras.autograd.symbolic import KerasTensor
    from gpukeras.autograd.tensor import Tensor, Variable
    from gpukeras.backend.dtypes import DTypePolicy
    from gpukeras.initializers import Initializer
    from gpukeras.layers import Input, InputSpec, Layer
    from gpukeras.losses import Loss
    from gpukeras.metrics import Metric
    from gpukeras.models import Functional, Model, Sequential
    from gpukeras.optimizers import Optimizer
    from gpukeras.random import SeedGenerator
    from gpukeras.regularizers import Regularizer

__version__ = "0.1.0"

__all__ = [
    "DTypePolicy",
    "Functional",
    "GradientTape",
    "Initializer",
    "Input",
    "InputSpec",
    "KerasTensor",
    "Layer",
    "Loss",
    "Metric",
    "Model",
    "Optimizer",
    "Regularizer",
    "SeedGenerator",
    "Sequential",
    "Tensor",
    "Variable",
    "__version__",
    "activations",
    "callbacks",
    "config",
    "constraints",
    "datasets",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "optimizers",
    "random",
    "regularizers",
    "saving",
    "utils",
]

# Where each class lives; every other name of __all__ is a module of this package.
_HOMES = {
    "DTypePolicy": "backend.dtypes",
    "Functional": "models",
    "GradientTape": "autograd.gradient_tape",
    "Initializer": "initializers",
    "Input": "layers",
    "InputSpec": "layers",
    "KerasTensor": "autograd.symbolic",
    "Layer": "layers",
    "Loss": "losses",
    "Metric": "metrics",
    "Model": "models",
    "Optimizer": "optimizers",
    "Regularizer": "regularizers",
    "SeedGenerator": "random",
    "Sequential": "models",
    "Tensor": "autograd.tensor",
    "Variable": "autograd.tensor",
}


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module 'gpukeras' has no attribute {name!r}")
    importlib.import_module("gpukeras.ops")  # puts the operators on Tensor, whatever is asked for first
    if name in _HOMES:
        value = getattr(importlib.import_module(f"gpukeras.{_HOMES[name]}"), name)
    else:
        value = importlib.import_module(f"gpukeras.{name}")
    globals()[name] = value
    return value


def _import_all():
    for name in ("activations", "constraints", "initializers", "models", "random", "regularizers"):
        importlib.import_module(f"gpukeras.{name}")


# A saved model may name classes of modules that nobody has imported yet.
registry.fill_from(_import_all)


def __dir__():
    return __all__
