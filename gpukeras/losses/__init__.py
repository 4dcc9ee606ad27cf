"""Losses: how far predictions are from what they should be."""

from gpukeras import registry
from gpukeras.configurable import serialize as _serialize
from gpukeras.losses.base import Loss, function_config
from gpukeras.losses.hinge import CategoricalHinge, Hinge, SquaredHinge
from gpukeras.losses.overlap import CTC, Circle, Dice, Tversky, circle, ctc, dice, tversky
from gpukeras.losses.probabilistic import (
    BinaryCrossentropy,
    BinaryFocalCrossentropy,
    CategoricalCrossentropy,
    CategoricalFocalCrossentropy,
    CategoricalGeneralizedCrossEntropy,
    KLDivergence,
    Poisson,
    SparseCategoricalCrossentropy,
    categorical_generalized_cross_entropy,
)
from gpukeras.losses.regression import (
    CosineSimilarity,
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
)
from gpukeras.ops.crossentropy import (
    binary_crossentropy,
    binary_focal_crossentropy,
    categorical_crossentropy,
    categorical_focal_crossentropy,
    sparse_categorical_crossentropy,
)
from gpukeras.ops.objective import (
    categorical_hinge,
    cosine_similarity,
    hinge,
    huber,
    kl_divergence,
    log_cosh,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
    poisson,
    squared_hinge,
)

__all__ = [
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CTC",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedCrossEntropy",
    "CategoricalHinge",
    "Circle",
    "CosineSimilarity",
    "Dice",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
    "Tversky",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_generalized_cross_entropy",
    "categorical_hinge",
    "circle",
    "cosine_similarity",
    "ctc",
    "deserialize",
    "dice",
    "get",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "poisson",
    "serialize",
    "sparse_categorical_crossentropy",
    "squared_hinge",
    "tversky",
]


def get(identifier):
    """A loss from a name, a config dictionary, a class, an instance, a function, or None.

    Example:
        >>> get("mse").__name__
        'mean_squared_error'
    """
    return registry.resolve("loss", identifier)


def serialize(loss):
    """The config dictionary of a loss or loss function.

    Example:
        >>> serialize(MeanSquaredError())["class_name"]
        'MeanSquaredError'
    """
    return _serialize(loss) if isinstance(loss, (Loss, str)) else function_config(loss)


def deserialize(name, custom_objects=None):
    """A loss or loss function from what `serialize` gave.

    Example:
        >>> deserialize(serialize(Huber())).name
        'huber_loss'
    """
    with registry.custom_object_scope(custom_objects):
        return registry.resolve("loss", name)
