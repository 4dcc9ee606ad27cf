"""Pooling layers: shapes, values, configs, names, masks, errors."""

import numpy as np
import pytest

from gpukeras import registry
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.layers import pooling
from gpukeras.layers.pooling import (
    AveragePooling1D,
    AveragePooling2D,
    GlobalAveragePooling1D,
    GlobalMaxPooling2D,
    MaxPooling1D,
    MaxPooling2D,
)
from tests.helpers import assert_close

WINDOWED = [name for name in pooling.__all__ if not name.startswith("Global")]
GLOBAL = [name for name in pooling.__all__ if name.startswith("Global")]


def rank_of(name):
    return next(int(c) for c in name if c.isdigit())


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("name", WINDOWED)
def test_shapes_before_and_after_a_call(device, name, data_format, padding):
    space = (7, 6, 5)[: rank_of(name)]
    shape = (2, *space, 3) if data_format == "channels_last" else (2, 3, *space)
    layer = getattr(pooling, name)(2, padding=padding, data_format=data_format)
    y = layer(np.ones(shape, "float32"))
    assert layer.compute_output_shape(shape) == y.shape
    assert layer(KerasTensor((None, *shape[1:]))).shape == (None, *y.shape[1:])
    assert y.dtype == "float32" and layer.weights == []
    assert_close(y, np.ones(y.shape, "float32"))


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("name", GLOBAL)
def test_global_pooling(device, rng, name, data_format, keepdims):
    space = (7, 6, 5)[: rank_of(name)]
    is_last = data_format == "channels_last"
    x = rng.standard_normal((2, *space, 3) if is_last else (2, 3, *space)).astype("float32")
    axes = tuple(range(1, 1 + len(space)) if is_last else range(2, 2 + len(space)))
    layer = getattr(pooling, name)(data_format=data_format, keepdims=keepdims)
    y = layer(x)
    reduce = np.mean if "Av" in name else np.max
    assert_close(y, reduce(x, axis=axes, keepdims=keepdims))
    assert layer.compute_output_shape(x.shape) == y.shape
    assert layer(KerasTensor((None, *x.shape[1:]))).shape == (None, *y.shape[1:])


def test_values(device):
    x = np.arange(16.0, dtype="float32").reshape(1, 4, 4, 1)
    assert_close(MaxPooling2D()(x), np.array([[5, 7], [13, 15]], "float32").reshape(1, 2, 2, 1))
    assert_close(AveragePooling2D(2)(x), np.array([[2.5, 4.5], [10.5, 12.5]], "float32").reshape(1, 2, 2, 1))
    assert_close(MaxPooling2D(3, 2, "same")(x), np.array([[10, 11], [14, 15]], "float32").reshape(1, 2, 2, 1))


def test_masked_steps_are_left_out_of_the_average(device):
    x = np.array([[1.0, 3.0, 100.0], [2.0, 4.0, 6.0]], "float32")[..., None]
    mask = np.array([[True, True, False], [True, True, True]])
    layer = GlobalAveragePooling1D()
    assert layer.supports_masking
    assert_close(layer(x, mask=mask), np.array([[2.0], [4.0]], "float32"))
    assert_close(layer(x), x.mean(axis=1))
    first = GlobalAveragePooling1D(data_format="channels_first", keepdims=True)
    assert_close(first(np.swapaxes(x, 1, 2), mask=mask), np.array([[[2.0]], [[4.0]]], "float32"))


def test_strides_default_to_the_window():
    assert MaxPooling2D((2, 3)).strides == (2, 3)
    assert MaxPooling2D((2, 3)).get_config()["strides"] == (2, 3)
    assert MaxPooling1D().get_config()["pool_size"] == (2,)


@pytest.mark.parametrize("name", WINDOWED)
def test_config_makes_the_same_layer_again(name):
    layer = getattr(pooling, name)(3, strides=1, padding="SAME", name="mine")
    config = layer.get_config()
    assert config["pool_size"] == (3,) * rank_of(name) and config["padding"] == "same"
    assert type(layer).from_config(config).get_config() == config


@pytest.mark.parametrize("name", pooling.__all__)
def test_every_name_is_registered(name):
    assert registry.find(name, ["layer"]) is getattr(pooling, name)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pool_size": 0}, "MaxPooling2D expects pool_size"),
        ({"pool_size": (2, 2, 2)}, "2 ints"),
        ({"strides": 0}, "strides"),
        ({"padding": "causal"}, "'valid' or 'same', but got 'causal'"),
        ({"data_format": "last"}, "channels_last"),
    ],
)
def test_wrong_arguments_are_refused_at_once(settings, words):
    with pytest.raises(ValueError, match=words):
        MaxPooling2D(**settings)


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (MaxPooling2D(name="mine"), (2, 8, 3), "expected 4 axes"),
        (GlobalMaxPooling2D(name="mine"), (2, 8, 3), "expected 4 axes"),
        (AveragePooling1D(9, name="mine"), (2, 8, 3), "'mine'|empty output"),
    ],
)
def test_wrong_inputs_are_refused(layer, shape, words):
    with pytest.raises(ValueError, match=words):
        layer(np.ones(shape, "float32"))


def test_a_window_that_does_not_fit_is_refused_for_placeholders():
    with pytest.raises(ValueError, match=r"'mine': windows of pool_size=\(9, 9\) do not fit"):
        MaxPooling2D(9, name="mine")(KerasTensor((None, 8, 8, 3)))
