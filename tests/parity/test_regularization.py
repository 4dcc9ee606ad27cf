"""Regularization layers against the installed Keras: configs, states, values, moments."""

import numpy as np
import pytest

from gpukeras.configurable import serialize
from gpukeras.layers import regularization as layers
from tests.helpers import assert_close
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

CASES = [
    ("Dropout", {"rate": 0.3}, (4, 5)),
    ("Dropout", {"rate": 0.3, "noise_shape": [None, 1], "seed": 3, "trainable": False}, (4, 5)),
    ("SpatialDropout1D", {"rate": 0.3, "seed": 3}, (4, 5, 6)),
    ("SpatialDropout2D", {"rate": 0.3, "dtype": "mixed_float16"}, (4, 3, 3, 6)),
    ("SpatialDropout3D", {"rate": 0.3, "data_format": "channels_first"}, (4, 6, 2, 2, 2)),
    ("GaussianNoise", {"stddev": 0.3, "seed": 3}, (4, 5)),
    ("GaussianDropout", {"rate": 0.3, "seed": 3}, (4, 5)),
    ("AlphaDropout", {"rate": 0.3, "noise_shape": (None, 1), "seed": 3}, (4, 5)),
    ("ActivityRegularization", {"l1": 0.3, "l2": 0.2}, (4, 5)),
]


@pytest.mark.parametrize(("name", "settings", "shape"), CASES)
def test_config(name, settings, shape):
    ours = getattr(layers, name)(**settings, name="mine")
    theirs = getattr(oracle_keras.layers, name)(**settings, name="mine")
    assert ours.get_config() == theirs.get_config()
    expected = oracle_keras.saving.serialize_keras_object(theirs)
    assert serialize(ours) == expected
    assert ours.built == theirs.built
    assert ours.supports_masking == theirs.supports_masking


@pytest.mark.parametrize(("name", "settings", "shape"), CASES)
def test_inference_state_and_losses(name, settings, shape, rng):
    ours = getattr(layers, name)(**settings)
    theirs = getattr(oracle_keras.layers, name)(**settings)
    x = rng.normal(size=shape).astype("float32")
    y, expected = ours(x), np.asarray(theirs(x))
    assert y.dtype == expected.dtype
    assert_close(y, expected)
    assert len(ours.losses) == len(theirs.losses)
    for loss, other in zip(ours.losses, theirs.losses, strict=True):
        assert_close(loss, np.asarray(other))
    assert len(ours.variables) == len(theirs.variables)
    for _ in range(2):
        ours(x, training=True) if name != "ActivityRegularization" else None
        theirs(x, training=True) if name != "ActivityRegularization" else None
    for variable, other in zip(ours.variables, theirs.variables, strict=True):
        assert variable.path.rsplit("/")[-1] == other.path.rsplit("/")[-1]
        assert variable.dtype == other.dtype
        if settings.get("seed") is not None:
            assert variable.numpy().tolist() == np.asarray(other.value).tolist()


@pytest.mark.parametrize("name", ["Dropout", "AlphaDropout"])
def test_the_two_values_that_dropout_makes(name):
    x = np.full((50, 50), 0.5, "float32")
    ours = getattr(layers, name)(0.3)(x, training=True).numpy()
    theirs = np.asarray(getattr(oracle_keras.layers, name)(0.3)(x, training=True))
    assert_close(np.unique(ours.round(5)), np.unique(theirs.round(5)))


@pytest.mark.parametrize(("name", "argument"), [("GaussianNoise", 0.3), ("GaussianDropout", 0.3)])
def test_moments(name, argument):
    x = np.full((200, 200), 0.5, "float32")
    ours = getattr(layers, name)(argument, seed=1)(x, training=True).numpy()
    theirs = np.asarray(getattr(oracle_keras.layers, name)(argument, seed=1)(x, training=True))
    assert abs(ours.mean() - theirs.mean()) < 0.01
    assert abs(ours.std() - theirs.std()) < 0.01
