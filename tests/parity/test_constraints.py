"""Constraints against the installed Keras: configs and values."""

import numpy as np
import pytest

from gpukeras import constraints
from tests.helpers import assert_close
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

CASES = [
    ("MaxNorm", {}),
    ("MaxNorm", {"max_value": 1, "axis": 1}),
    ("NonNeg", {}),
    ("UnitNorm", {}),
    ("UnitNorm", {"axis": [0, 1]}),
    ("MinMaxNorm", {}),
    ("MinMaxNorm", {"min_value": 0.5, "max_value": 1.5, "rate": 0.4, "axis": 1}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_config_and_values(name, settings, rng):
    ours = getattr(constraints, name)(**settings)
    theirs = getattr(oracle_keras.constraints, name)(**settings)
    assert ours.get_config() == theirs.get_config()
    assert constraints.serialize(ours) == oracle_keras.constraints.serialize(theirs)
    w = rng.normal(size=(5, 4)).astype("float32")
    assert_close(ours(w), np.asarray(theirs(w)))


def test_names():
    from keras.src.constraints import ALL_OBJECTS_DICT

    for name, cls in ALL_OBJECTS_DICT.items():
        assert type(constraints.get(name)).__name__ == cls.__name__
    public = {name for name in dir(oracle_keras.constraints) if not name.startswith("_")}
    assert public <= set(constraints.__all__)
