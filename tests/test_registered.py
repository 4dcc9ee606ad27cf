"""Every registered class: it says what it is, builds from its config again, and is public."""

import inspect

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import registry

KINDS = {
    "activation": keras.activations,
    "constraint": keras.constraints,
    "initializer": keras.initializers,
    "layer": keras.layers,
    "loss": keras.losses,
    "metric": keras.metrics,
    "optimizer": keras.optimizers,
    "regularizer": keras.regularizers,
    "schedule": keras.optimizers.schedules,
}
# Constructor arguments of those that need some.
ARGUMENTS = {
    "AveragePooling": {"pool_size": 2},
    "Bidirectional": {"layer": keras.layers.LSTM(2)},
    "Concatenate": {},
    "CosineDecay": {"initial_learning_rate": 0.1, "decay_steps": 10},
    "CosineDecayRestarts": {"initial_learning_rate": 0.1, "first_decay_steps": 10},
    "Dot": {"axes": 1},
    "EinsumDense": {"equation": "ab,bc->ac", "output_shape": 3},
    "Embedding": {"input_dim": 4, "output_dim": 2},
    "ExponentialDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    "GroupNormalization": {"groups": 2},
    "InputLayer": {"shape": (3,)},
    "InverseTimeDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    "IoU": {"num_classes": 2, "target_class_ids": [0]},
    "OneHotIoU": {"num_classes": 2, "target_class_ids": [0]},
    "MeanIoU": {"num_classes": 2},
    "OneHotMeanIoU": {"num_classes": 2},
    "LossScaleOptimizer": {"inner_optimizer": keras.optimizers.SGD()},
    "Lambda": {"function": keras.activations.relu},
    "Permute": {"dims": (2, 1)},
    "PiecewiseConstantDecay": {"boundaries": [1], "values": [0.1, 0.2]},
    "PolynomialDecay": {"initial_learning_rate": 0.1, "decay_steps": 10},
    "RNN": {"cell": keras.layers.LSTMCell(2)},
    "RepeatVector": {"n": 2},
    "Rescaling": {"scale": 2.0},
    "Reshape": {"target_shape": (2, 3)},
    "StackedRNNCells": {"cells": [keras.layers.LSTMCell(2)]},
    "TimeDistributed": {"layer": keras.layers.Dense(2)},
    "Wrapper": {"layer": keras.layers.Dense(2)},
    "MeanMetricWrapper": {"fn": keras.losses.mean_squared_error},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
}
BY_NAME = {
    "units": 3,
    "filters": 4,
    "kernel_size": 2,
    "rate": 0.5,
    "stddev": 0.5,
    "num_heads": 2,
    "key_dim": 2,
    "head_dim": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "activation": "relu",
    "pool_size": 2,
}


def classes():
    for kind in KINDS:
        for name, target in registry.registered(kind).items():
            if inspect.isclass(target) and name != "CTC":  # which says that it is not supported
                yield pytest.param(kind, name, target, id=f"{kind}-{name}")


def make(name, cls):
    arguments = ARGUMENTS.get(name)
    if arguments is None:
        parameters = inspect.signature(cls.__init__).parameters.values()
        required = [p.name for p in list(parameters)[1:] if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        arguments = {key: BY_NAME[key] for key in required}
    return cls(**arguments)


@pytest.mark.parametrize(("kind", "name", "cls"), list(classes()))
def test_config_round_trip_and_public_name(kind, name, cls):
    made = make(name, cls)
    config = made.get_config()
    again = cls.from_config(config)
    assert again.get_config() == config
    assert getattr(KINDS[kind], name) is cls, f"{name} is registered but not public"
    assert registry.find(name, [kind]) is cls
    resolved = registry.resolve(kind, {"class_name": name, "config": config})
    assert type(resolved) is cls


@pytest.mark.parametrize("name", sorted(set(registry.registered("activation")) - {"threshold"}))
def test_activations_keep_shape_and_dtype(name):
    function = getattr(keras.activations, name)
    for dtype in ("float16", "float32", "float64"):
        x = np.linspace(-3, 3, 12, dtype=dtype).reshape(2, 6)
        y = keras.activations.get(name)(x)
        assert y.dtype == dtype and y.shape[0] == 2
        assert np.isfinite(np.asarray(y)).all()
    assert registry.resolve("activation", name) is function


@pytest.mark.oracle
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_how_much_of_keras_is_there(kind):
    """Nothing is registered that Keras does not have: a typo in a name would be a new API."""
    from tests.oracle import keras as oracle_keras

    theirs = {
        "schedule": oracle_keras.optimizers.schedules,
    }.get(kind) or getattr(oracle_keras, KINDS[kind].__name__.split(".")[-1])
    renamed = {"GroupedQueryAttention"}  # keras.layers.GroupQueryAttention's class name in files
    unknown = [name for name in registry.registered(kind) if not hasattr(theirs, name) and name not in renamed]
    assert unknown == []
