"""Initializers against the installed Keras: configs, names, fans, moments."""

import numpy as np
import pytest

from gpukeras import initializers
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

CASES = [
    ("Zeros", {}),
    ("Ones", {}),
    ("Constant", {"value": 2.0}),
    ("Identity", {}),  # Keras's config loses the gain, ours keeps it
    ("RandomNormal", {"mean": 1.0, "stddev": 0.1, "seed": 3}),
    ("TruncatedNormal", {"mean": 1.0, "stddev": 0.1, "seed": 3}),
    ("RandomUniform", {"minval": -1.0, "maxval": 3.0, "seed": 3}),
    ("VarianceScaling", {"scale": 2.0, "mode": "fan_out", "distribution": "normal", "seed": 3}),
    ("VarianceScaling", {"distribution": "untruncated_normal", "seed": 3}),
    ("VarianceScaling", {"mode": "fan_avg", "distribution": "uniform", "seed": 3}),
    ("GlorotNormal", {"seed": 3}),
    ("GlorotUniform", {"seed": 3, "input_axes": [0], "output_axes": [1]}),
    ("HeNormal", {"seed": 3}),
    ("HeUniform", {"seed": 3}),
    ("LecunNormal", {"seed": 3}),
    ("LecunUniform", {"seed": 3}),
    ("Orthogonal", {"gain": 2.0, "seed": 3}),
]
NAMES = sorted({name for name, _ in CASES})


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_config_and_serialized_form(name, settings):
    ours = getattr(initializers, name)(**settings)
    theirs = getattr(oracle_keras.initializers, name)(**settings)
    assert ours.get_config() == theirs.get_config()
    assert initializers.serialize(ours) == oracle_keras.initializers.serialize(theirs)


@pytest.mark.parametrize("name", NAMES)
def test_default_config(name):
    ours = getattr(initializers, name)().get_config()
    assert ours == getattr(oracle_keras.initializers, name)().get_config()


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_serialized_forms_are_read_both_ways(name, settings):
    ours = getattr(initializers, name)(**settings)
    theirs = getattr(oracle_keras.initializers, name)(**settings)
    read = initializers.deserialize(oracle_keras.initializers.serialize(theirs))
    assert read.get_config() == ours.get_config()
    read = oracle_keras.initializers.deserialize(initializers.serialize(ours))
    assert read.get_config() == theirs.get_config()


def test_config_with_a_seed_generator():
    from gpukeras import random

    ours = initializers.HeNormal(seed=random.SeedGenerator(3, name="mine"))
    theirs = oracle_keras.initializers.HeNormal(seed=oracle_keras.random.SeedGenerator(3, name="mine"))
    assert ours.get_config() == theirs.get_config()


def test_every_name_that_keras_knows():
    from keras.src.initializers import ALL_OBJECTS_DICT

    missing = {}
    for name, cls in ALL_OBJECTS_DICT.items():
        if cls.__name__ != "STFT":  # for a layer that is not here
            found = initializers.get(name)
            if type(found).__name__ != cls.__name__:
                missing[name] = found
    assert not missing


def test_public_names():
    public = {name for name in dir(oracle_keras.initializers) if not name.startswith("_")}
    assert public - set(initializers.__all__) == {"STFT", "STFTInitializer", "stft"}


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (2, 2, 3, 4)])
def test_fans(shape):
    from keras.src.initializers.random_initializers import compute_fans

    assert initializers.compute_fans(shape) == compute_fans(shape)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_moments(name, settings):
    ours = getattr(initializers, name)(**settings)((250, 200)).numpy().astype("float64")
    theirs = np.asarray(getattr(oracle_keras.initializers, name)(**settings)((250, 200)))
    assert ours.dtype == "float64"
    spread = theirs.std()
    # Five standard errors of each side: sqrt(2 * 25 / 50,000) = 0.03.
    assert abs(ours.mean() - theirs.mean()) <= 0.04 * spread + 1e-12
    assert abs(ours.std() - spread) <= 0.04 * spread
    assert abs(ours.max() - theirs.max()) <= 0.5 * spread
