"""Convolution layers: shapes, weights, configs, names, training dtypes, errors."""

import numpy as np
import pytest

from gpukeras import registry
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tape import Tape
from gpukeras.layers import convolution, depthwise
from gpukeras.layers.convolution import Conv1D, Conv2D, Conv2DTranspose, Conv3DTranspose
from gpukeras.layers.depthwise import DepthwiseConv2D, SeparableConv2D
from tests.helpers import assert_close

NAMES = [*convolution.__all__, *depthwise.__all__]


def layer_of(name):
    return getattr(convolution, name, None) or getattr(depthwise, name)


def settings_of(name):
    return {"kernel_size": 2} if name.startswith("Depthwise") else {"filters": 4, "kernel_size": 2}


def rank_of(name):
    return next(int(c) for c in name if c.isdigit())


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_before_and_after_a_call(device, name, data_format):
    space = (6, 5, 4)[: rank_of(name)]
    shape = (2, *space, 3) if data_format == "channels_last" else (2, 3, *space)
    layer = layer_of(name)(**settings_of(name), data_format=data_format)
    symbolic = layer(KerasTensor((None, *shape[1:])))
    y = layer(np.ones(shape, "float32"))
    assert y.dtype == "float32" and layer.built
    assert symbolic.shape == (None, *y.shape[1:])
    assert layer.compute_output_shape(shape) == y.shape
    with Tape() as tape:
        y = layer(np.ones(shape, "float32"))
    gradients = tape.gradients([(y, y.array)], layer.trainable_variables)
    assert [g.shape for g in gradients] == [v.shape for v in layer.trainable_variables]


@pytest.mark.parametrize("name", NAMES)
def test_config_makes_the_same_layer_again(name):
    layer = layer_of(name)(
        **settings_of(name),
        padding="SAME",
        activation="relu",
        bias_initializer="ones",
        activity_regularizer="l2",
        name="mine",
    )
    config = layer.get_config()
    assert config["padding"] == "same" and config["kernel_size"] == (2,) * rank_of(name)
    assert config["name"] == "mine" and config["activation"] == "relu"
    assert type(layer).from_config(config).get_config() == config


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_registered(name):
    assert registry.find(name, ["layer"]) is layer_of(name)


def test_alias_and_class_are_one():
    assert convolution.Convolution2D is Conv2D and Conv2D.__name__ == "Conv2D"


def test_a_convolution_with_known_weights(device):
    layer = Conv2D(1, 2, use_bias=False, kernel_initializer="ones")
    x = np.arange(9.0, dtype="float32").reshape(1, 3, 3, 1)
    assert_close(layer(x), np.array([[8, 12], [20, 24]], "float32").reshape(1, 2, 2, 1))


def test_bias_and_activation(device):
    layer = Conv2D(2, 1, activation="relu", kernel_initializer="ones", bias_initializer="ones")
    x = np.array([-3.0, 1.0], "float32").reshape(1, 2, 1, 1)
    assert_close(layer(x), np.array([[0, 0], [2, 2]], "float32").reshape(1, 2, 1, 2))


@pytest.mark.parametrize(
    "layer", [DepthwiseConv2D(1, data_format="channels_first"), Conv2DTranspose(3, 1, data_format="channels_first")]
)
def test_bias_is_per_channel_with_channels_first(layer):
    layer(np.zeros((1, 3, 2, 2), "float32"))
    layer.bias.assign([1.0, 2.0, 3.0])
    y = layer(np.zeros((1, 3, 2, 2), "float32"))
    assert_close(y, np.broadcast_to(np.array([1, 2, 3], "float32").reshape(1, 3, 1, 1), (1, 3, 2, 2)))


def test_weights_have_kerass_names_and_order():
    layer = SeparableConv2D(4, 3, depth_multiplier=2)
    layer.build((None, 8, 8, 3))
    assert [w.name for w in layer.weights] == ["depthwise_kernel", "pointwise_kernel", "bias"]
    assert [w.shape for w in layer.weights] == [(3, 3, 3, 2), (1, 1, 6, 4), (4,)]
    layer = DepthwiseConv2D(3)
    layer.build((None, 8, 8, 3))
    assert [w.name for w in layer.weights] == ["kernel", "bias"]


def test_mixed_precision_computes_in_float16(device):
    layer = Conv2D(4, 3, dtype="mixed_float16")
    y = layer(np.ones((1, 5, 5, 2), "float32"))
    assert y.dtype == "float16" and layer.kernel.dtype == "float32"
    with Tape() as tape:
        y = layer(np.ones((1, 5, 5, 2), "float32"))
    assert [g.dtype for g in tape.gradients([(y, y.array)], layer.trainable_variables)] == ["float32"] * 2


def test_regularizer_and_constraint_reach_the_weights():
    layer = Conv1D(2, 3, kernel_regularizer="l2", bias_constraint="non_neg")
    layer.build((None, 8, 1))
    assert layer.kernel.regularizer is not None and layer.kernel.constraint is None
    assert layer.bias.constraint is not None and len(layer.losses) == 1


def test_conv3d_transpose_takes_data_format_before_output_padding():
    layer = Conv3DTranspose(2, 2, (2, 2, 2), "same", "channels_first", 1)
    assert layer.data_format == "channels_first" and layer.output_padding == (1, 1, 1)


@pytest.mark.parametrize(
    ("layer", "settings", "words"),
    [
        (Conv2D, {"filters": 4, "groups": 3}, "filters must be a multiple of groups"),
        (Conv2D, {"filters": 0}, "filters must be a whole number above 0"),
        (Conv2D, {"filters": 4, "kernel_size": (3, 3, 3)}, "Conv2D expects kernel_size"),
        (Conv2D, {"filters": 4, "kernel_size": 0}, "at least 1"),
        (Conv2D, {"filters": 4, "strides": 2, "dilation_rate": 2}, "strides > 1 cannot go with"),
        (Conv2D, {"filters": 4, "padding": "causal"}, "'valid' or 'same', but got 'causal'"),
        (Conv1D, {"filters": 4, "padding": "full"}, "'valid' or 'same' or 'causal'"),
        (Conv2D, {"filters": 4, "data_format": "NHWC"}, "channels_last"),
        (Conv2D, {"filters": 4, "activation": "reluu"}, "relu"),
        (Conv2D, {"filters": 4, "wrong": 1}, "unknown arguments"),
        (Conv2DTranspose, {"filters": 4, "strides": 2, "output_padding": 2}, "less than strides"),
        (DepthwiseConv2D, {"depth_multiplier": 0}, "depth_multiplier"),
    ],
)
def test_wrong_arguments_are_refused_at_once(layer, settings, words):
    with pytest.raises(ValueError, match=words):
        layer(**{"kernel_size": 3} | settings)


def test_lora_is_refused_by_name():
    with pytest.raises(NotImplementedError, match="lora_rank=4"):
        Conv2D(4, 3, lora_rank=4)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 8, 3), "expected 4 axes"),
        ((2, 8, 8, 8, 3), "expected 4 axes"),
        ((2, 2, 8, 4), r"kernel_size=\(3, 3\).*spatial shape \(2, 8\)"),
        ((2, 8, 8, 3), "multiple of groups=2, but got 3"),
    ],
)
def test_wrong_inputs_are_refused_with_the_layers_name(shape, words):
    with pytest.raises(ValueError, match=words) as caught:
        Conv2D(4, 3, groups=2, name="mine")(np.ones(shape, "float32"))
    assert "Conv2D 'mine'" in str(caught.value)


def test_other_channels_than_built_for_are_refused():
    layer = Conv2D(4, 3)
    layer(np.ones((1, 8, 8, 3), "float32"))
    with pytest.raises(ValueError, match="3 on the last axis"):
        layer(np.ones((1, 8, 8, 4), "float32"))


def test_unknown_channels_are_refused():
    with pytest.raises(ValueError, match="known number of channels"):
        Conv2D(4, 3).build((None, 8, 8, None))
