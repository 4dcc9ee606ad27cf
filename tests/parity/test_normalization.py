"""Normalization layers and ops against the installed Keras: values, gradients, statistics, configs."""

import numpy as np
import pytest

from gpukeras import layers as our_layers
from gpukeras import ops
from gpukeras.layers import normalization as layers
from gpukeras.ops import normalization
from tests.helpers import assert_close
from tests.oracle import keras as oracle_keras
from tests.parity.layer_comparison import compare_layers, same_layers

pytestmark = pytest.mark.oracle

FULL = {
    "beta_initializer": "ones",
    "gamma_initializer": {"class_name": "Constant", "config": {"value": 0.5}},
    "beta_regularizer": "l2",
    "gamma_constraint": "non_neg",
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.8, "epsilon": 0.1},
        {"center": False},
        {"scale": False},
        {"center": False, "scale": False},
        {"axis": 1},
        {"axis": 2},
        {**FULL, "moving_mean_initializer": "ones", "moving_variance_initializer": "ones"},
        {"renorm": True},
        {"renorm": True, "renorm_momentum": 0.8, "center": False, "scale": False},
        {"renorm": True, "renorm_clipping": {"rmin": 0.7, "rmax": 1.2, "dmax": 0.1}},
    ],
)
def test_batch_normalization(rng, settings, training):
    x = (2 * rng.standard_normal((6, 4, 5)) + 1).astype("float32")
    ours, theirs = same_layers(layers, "BatchNormalization", settings)
    compare_layers(ours, theirs, x, rng=rng, training=training, steps=4, scale=4)


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalization_with_a_mask(rng, training):
    x, mask = rng.standard_normal((6, 4, 5)).astype("float32"), rng.random((6, 4)) < 0.6
    ours, theirs = same_layers(layers, "BatchNormalization", {})
    compare_layers(ours, theirs, x, rng=rng, training=training, steps=4, scale=4, mask=mask)


def test_a_frozen_batch_normalization_infers(rng):
    x = rng.standard_normal((6, 5)).astype("float32")
    ours, theirs = same_layers(layers, "BatchNormalization", {"trainable": False})
    compare_layers(ours, theirs, x, rng=rng, training=True)
    assert_close(ours(x, training=True), ours(x, training=False))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("LayerNormalization", {}),
        ("LayerNormalization", {"epsilon": 0.1, "center": False}),
        ("LayerNormalization", {"scale": False}),
        ("LayerNormalization", {"axis": [1, 2]}),
        ("LayerNormalization", {"axis": [-1, 1]}),
        ("LayerNormalization", {"axis": 1, **FULL}),
        ("GroupNormalization", {"groups": 3}),
        ("GroupNormalization", {"groups": -1, "center": False}),
        ("GroupNormalization", {"groups": 2, "axis": 1, "scale": False, "epsilon": 0.1}),
        ("GroupNormalization", {"groups": 1, **FULL}),
        ("RMSNormalization", {}),
        ("RMSNormalization", {"axis": [1, 2], "epsilon": 0.1}),
        ("UnitNormalization", {}),
        ("UnitNormalization", {"axis": [1, 2]}),
    ],
)
def test_others(rng, name, settings):
    x = rng.standard_normal((3, 4, 6)).astype("float32")
    compare_layers(*same_layers(layers, name, settings), x, rng=rng, scale=4)


def test_deprecated_scaling(rng):
    x = rng.standard_normal((3, 4, 6)).astype("float32")
    with pytest.warns(UserWarning):
        pair = same_layers(layers, "LayerNormalization", {"rms_scaling": True})
        compare_layers(*pair, x, rng=rng, scale=4)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float16"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("BatchNormalization", {}),
        ("LayerNormalization", {}),
        ("GroupNormalization", {"groups": 2}),
        ("RMSNormalization", {}),
    ],
)
def test_half_precision(rng, name, settings, dtype):
    x = rng.standard_normal((5, 6)).astype("float32")
    ours, theirs = same_layers(layers, name, {**settings, "dtype": dtype})
    for training in (False, True):
        y, expected = (layer(x, training=training) for layer in (ours, theirs))
        assert y.dtype.name == str(expected.dtype)
        short = "bfloat16" if "bfloat16" in dtype else "float16"
        assert_close(np.asarray(y).astype("float32"), np.asarray(expected).astype("float32"), dtype=short)
    for v, other in zip(ours.weights, theirs.weights, strict=True):
        assert v.dtype == other.dtype
        assert_close(v, np.asarray(other), dtype="float16")


def test_functional_ops(rng):
    x = rng.standard_normal((3, 4, 6)).astype("float32")
    mean, offset, scale = rng.standard_normal((3, 4)).astype("float32")
    variance = rng.uniform(0.5, 1, 4).astype("float32")
    ours, theirs = normalization.batch_normalization, oracle_keras.ops.batch_normalization
    arguments = (x, mean, variance, 1, offset, scale, 0.01)
    assert_close(ours(*arguments), np.asarray(theirs(*arguments)))
    gamma = rng.standard_normal(6).astype("float32")
    assert_close(
        normalization.layer_normalization(x, gamma),
        np.asarray(oracle_keras.ops.layer_normalization(x, gamma)),
    )
    assert_close(
        normalization.rms_normalization(x, gamma),
        np.asarray(oracle_keras.ops.rms_normalization(x, gamma)),
    )


def test_symbolic_calls():
    x = our_layers.Input((None, 6))
    for layer in (
        layers.BatchNormalization(),
        layers.LayerNormalization(),
        layers.GroupNormalization(2),
        layers.RMSNormalization(),
        layers.UnitNormalization(),
    ):
        assert layer(x).shape == (None, None, 6)
    assert ops.softmax(x).shape == (None, None, 6)


@pytest.mark.parametrize(
    ("name", "settings", "shape", "message"),
    [
        ("BatchNormalization", {"axis": 3}, (2, 3), "normalizes along axis 3"),
        ("LayerNormalization", {"axis": 3}, (2, 3), "normalizes along axis 3"),
        ("GroupNormalization", {"groups": 0}, (2, 3), "groups must be a whole number"),
        ("GroupNormalization", {"groups": 2}, (2, 3), "Choose a divisor of 3"),
        ("GroupNormalization", {"groups": 4}, (2, 2), "Choose a divisor of 2"),
        (
            "BatchNormalization",
            {"renorm": True, "renorm_clipping": {"x": 1}},
            (2, 3),
            "has the keys",
        ),
        (
            "BatchNormalization",
            {"renorm": True, "renorm_clipping": {"rmin": 2, "rmax": 1}},
            (2, 3),
            "rmax must not be below rmin",
        ),
        (
            "BatchNormalization",
            {"renorm": True, "renorm_clipping": {"dmax": -1}},
            (2, 3),
            "dmax must not be negative",
        ),
    ],
)
def test_both_refuse(name, settings, shape, message):
    with pytest.raises(ValueError, match=message):
        getattr(layers, name)(**settings)(np.ones(shape, "float32"))
    with pytest.raises((ValueError, IndexError)):
        getattr(oracle_keras.layers, name)(**settings)(np.ones(shape, "float32"))


def test_what_is_wrong_with_the_call():
    layer = layers.BatchNormalization()
    with pytest.raises(ValueError, match="takes a mask with one axis less"):
        layer(np.ones((2, 3, 4), "float32"), mask=np.ones((2, 3, 4), bool))
    with pytest.raises(NotImplementedError, match="synchronized=True"):
        layers.BatchNormalization(synchronized=True)
    for name in ("LayerNormalization", "UnitNormalization"):
        with pytest.raises(TypeError, match="axis must be a whole number or a list"):
            getattr(layers, name)(axis="last")
