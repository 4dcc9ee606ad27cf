"""Regularizers against the installed Keras: configs, values, derivatives."""

import numpy as np
import pytest

from gpukeras import regularizers
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from tests.helpers import assert_close
from tests.oracle import jax, jnp
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

CASES = [
    ("L1", {}),
    ("L1", {"l1": 0.3}),
    ("L2", {}),
    ("L2", {"l2": 0.3}),
    ("L1L2", {}),
    ("L1L2", {"l1": 0.3, "l2": 0.7}),
    ("OrthogonalRegularizer", {}),
    ("OrthogonalRegularizer", {"factor": 0.3, "mode": "columns"}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_config_values_and_derivatives(name, settings, rng):
    ours = getattr(regularizers, name)(**settings)
    theirs = getattr(oracle_keras.regularizers, name)(**settings)
    assert ours.get_config() == theirs.get_config()
    assert regularizers.serialize(ours) == oracle_keras.regularizers.serialize(theirs)
    array = rng.normal(size=(5, 4)).astype("float32")
    x = Tensor(array)
    with Tape() as tape:
        tape.watch(x)
        y = ours(x)
    expected, gradient = jax.value_and_grad(theirs)(jnp.asarray(array))
    assert_close(y, np.asarray(expected))
    if name != "L1L2" or settings:
        (dx,) = tape.gradients([(y, np.ones_like(y.array))], [x])
        assert_close(dx, np.asarray(gradient))


def test_names():
    from keras.src.regularizers import ALL_OBJECTS_DICT

    for name, cls in ALL_OBJECTS_DICT.items():
        assert type(regularizers.get(name)).__name__ == cls.__name__
    public = {name for name in dir(oracle_keras.regularizers) if not name.startswith("_")}
    assert public <= set(regularizers.__all__)
