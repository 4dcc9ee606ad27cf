"""Optimizers, by name, and learning-rate schedules."""

from gpukeras import registry
from gpukeras.configurable import serialize
from gpukeras.optimizers import schedules
from gpukeras.optimizers.adam_family import Adamax, Lamb, Lion, Nadam
from gpukeras.optimizers.adaptive import Adadelta, Adagrad, Adam, AdamW, RMSprop
from gpukeras.optimizers.base import Optimizer
from gpukeras.optimizers.ftrl import Ftrl
from gpukeras.optimizers.loss_scale import LossScaleOptimizer
from gpukeras.optimizers.sgd import SGD

__all__ = [
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lamb",
    "Lion",
    "LossScaleOptimizer",
    "Nadam",
    "Optimizer",
    "RMSprop",
    "SGD",
    "deserialize",
    "get",
    "schedules",
    "serialize",
]


def get(identifier):
    """An optimizer from a name, a config dictionary, a class or an instance; None for None.

    Example:
        >>> get("adam").beta_1
        0.9
    """
    if isinstance(identifier, Optimizer):  # also of a class that nobody registered
        return identifier
    optimizer = registry.resolve("optimizer", identifier)
    if optimizer is None or isinstance(optimizer, Optimizer):
        return optimizer
    raise ValueError(
        f"Could not interpret optimizer identifier: {identifier!r}. Pass a name such as 'adam', a "
        "config dictionary, or an object of a subclass of keras.optimizers.Optimizer."
    )


def deserialize(config, custom_objects=None):
    """The optimizer that a dictionary from `serialize` describes."""
    with registry.custom_object_scope(custom_objects):
        return get(config)
