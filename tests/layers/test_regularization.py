"""Regularization layers: noise in training only, states, masks, dtypes, configs, errors."""

import math

import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.scope import setting
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.backend import devices, random
from gpukeras.layers import regularization as layers
from gpukeras.testing import check_gradients
from tests.helpers import assert_close
from tests.strict_device import forbid_host_reads

NOISE = [
    (layers.Dropout, (0.4,), (6, 5)),
    (layers.SpatialDropout1D, (0.4,), (6, 5, 4)),
    (layers.SpatialDropout2D, (0.4,), (6, 3, 3, 4)),
    (layers.SpatialDropout3D, (0.4,), (6, 2, 3, 3, 4)),
    (layers.GaussianNoise, (0.4,), (6, 5)),
    (layers.GaussianDropout, (0.4,), (6, 5)),
    (layers.AlphaDropout, (0.4,), (6, 5)),
]


def state_of(layer):
    return layer.seed_generator.state.numpy().tolist()


@pytest.mark.parametrize(("cls", "arguments", "shape"), NOISE)
def test_noise_in_training_only(cls, arguments, shape, device):
    layer = cls(*arguments, seed=3)
    x = ops.convert_to_tensor(np.ones(shape, "float32"))
    assert (layer(x).numpy() == 1).all()
    assert (layer(x, training=False).numpy() == 1).all()
    assert state_of(layer) == [3, 0]
    first, second = layer(x, training=True).numpy(), layer(x, training=True).numpy()
    assert first.shape == shape
    assert first.dtype == "float32"
    assert (first != second).any()
    assert state_of(layer) == [3, 2]
    assert (cls(*arguments, seed=3)(x, training=True).numpy() == first).all()
    with setting(training=True):
        assert (cls(*arguments, seed=3)(x).numpy() == first).all()


@pytest.mark.parametrize(("cls", "arguments", "shape"), NOISE)
def test_no_rate_no_noise_no_generator(cls, arguments, shape):
    layer = cls(0.0)
    assert layer.variables == []
    assert (layer(np.ones(shape, "float32"), training=True).numpy() == 1).all()


@pytest.mark.parametrize(("cls", "arguments", "shape"), NOISE)
def test_state_is_tracked_but_no_weight(cls, arguments, shape):
    layer = cls(*arguments, seed=3)
    assert layer.variables == [layer.seed_generator.state]
    assert layer.non_trainable_variables == [layer.seed_generator.state]
    assert layer.weights == [] and layer.get_weights() == []
    assert layer.count_params() == 0


@pytest.mark.parametrize(("cls", "arguments", "shape"), NOISE)
def test_set_random_seed_fixes_unseeded_layers(cls, arguments, shape):
    def output():
        random.set_seed(4)
        return cls(*arguments)(np.ones(shape, "float32"), training=True).numpy()

    assert (output() == output()).all()


@pytest.mark.parametrize(("cls", "arguments", "shape"), NOISE)
def test_derivatives(cls, arguments, shape, device, rng):
    layer = cls(*arguments, seed=3, dtype="float64")

    def noisy(x):
        layer.seed_generator.state.assign(np.uint32([3, 0]))
        return layer(x, training=True)

    check_gradients(noisy, rng.normal(size=shape), subsets=False)


@pytest.mark.parametrize(("cls", "arguments", "shape"), NOISE)
def test_nothing_is_read_on_the_host(cls, arguments, shape):
    with devices.use_device("strict"):
        layer = cls(*arguments)
        x = ops.convert_to_tensor(np.ones(shape, "float32"))
        with forbid_host_reads():
            y = layer(x, training=True)
        assert y.shape == shape


@pytest.mark.parametrize(("cls", "arguments", "shape"), NOISE)
def test_policies(cls, arguments, shape):
    for policy, dtype in (("mixed_float16", "float16"), ("float64", "float64")):
        y = cls(*arguments, dtype=policy)(np.ones(shape, "float32"), training=True)
        assert y.dtype == dtype


@pytest.mark.parametrize(("cls", "arguments", "shape"), NOISE)
def test_symbolic_call_and_shapes(cls, arguments, shape):
    layer = cls(*arguments, seed=3)
    assert layer(KerasTensor((None, *shape[1:])), training=True).shape == (None, *shape[1:])
    assert layer.compute_output_shape((None, *shape[1:])) == (None, *shape[1:])
    assert state_of(layer) == [3, 0]


@pytest.mark.parametrize(("cls", "arguments", "shape"), NOISE)
def test_config_round_trip(cls, arguments, shape):
    layer = cls(*arguments, seed=3, name="mine")
    again = cls.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    x = np.ones(shape, "float32")
    assert (again(x, training=True).numpy() == layer(x, training=True).numpy()).all()


@pytest.mark.parametrize(("cls", "arguments", "shape"), NOISE)
def test_masks_pass(cls, arguments, shape):
    x = ops.convert_to_tensor(np.ones(shape, "float32"))
    x._keras_mask = ops.convert_to_tensor(np.ones(shape[:1], bool))
    assert cls(*arguments)(x, training=True)._keras_mask is x._keras_mask


def test_dropout_values():
    y = layers.Dropout(0.25, seed=1)(np.ones((100, 100), "float32"), training=True).numpy()
    assert_close(np.unique(y), np.float32([0, 1 / 0.75]))
    assert abs((y == 0).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / y.size)
    assert (layers.Dropout(1.0)(np.ones((2, 3), "float32"), training=True).numpy() == 0).all()


def test_noise_shape():
    x = np.ones((4, 5, 30), "float32")
    for noise_shape in ((None, 1, None), [4, 1, 30]):
        y = layers.Dropout(0.5, noise_shape)(x, training=True).numpy()
        assert (y == y[:, :1]).all()
        assert (y[0] != y[1]).any()
    y = layers.AlphaDropout(0.5, (None, 1, None))(x, training=True).numpy()
    assert (y == y[:, :1]).all()


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_spatial_dropout_drops_channels(rank, data_format):
    if rank == 1:
        layer = layers.SpatialDropout1D(0.5, seed=1)
        data_format = "channels_last"
    else:
        cls = layers.SpatialDropout2D if rank == 2 else layers.SpatialDropout3D
        layer = cls(0.5, data_format, seed=1)
    x = np.ones((4, 20, *(3,) * rank), "float32")
    y = layer(x if data_format == "channels_first" else np.moveaxis(x, 1, -1), training=True)
    y = y.numpy() if data_format == "channels_first" else np.moveaxis(y.numpy(), -1, 1)
    channels = y.reshape(4, 20, -1)
    assert (channels == channels[:, :, :1]).all()
    assert 20 < (channels[:, :, 0] == 0).sum() < 60


def test_gaussian_layers_have_their_moments():
    x = np.full((300, 300), 2.0, "float32")
    noise = layers.GaussianNoise(0.3, seed=1)(x, training=True).numpy() - x
    assert abs(noise.mean()) < 0.005 and abs(noise.std() - 0.3) < 0.005
    factor = layers.GaussianDropout(0.2, seed=1)(x, training=True).numpy() / x
    assert abs(factor.mean() - 1) < 0.01 and abs(factor.std() - 0.5) < 0.01


def test_activity_regularization(device):
    layer = layers.ActivityRegularization(l1=0.5, l2=0.25)
    x = ops.convert_to_tensor(np.float32([[1, -2], [3, 0]]))
    assert_close(layer(x), np.float32([[1, -2], [3, 0]]))
    assert_close(layer.losses[0], np.float32((0.5 * 6 + 0.25 * 14) / 2))
    assert layer.compute_output_shape((None, 2)) == (None, 2)
    again = layers.ActivityRegularization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("cls", [case[0] for case in NOISE])
@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_bad_strength(cls, strength):
    with pytest.raises(ValueError, match=f"must lie between 0 and 1, but got {strength}"):
        cls(strength)


@pytest.mark.parametrize("noise_shape", ["ab", 3, (1.5, 1), (0, 1), (-1,)])
def test_bad_noise_shape(noise_shape):
    with pytest.raises(ValueError, match="noise_shape must be a tuple of positive integers"):
        layers.Dropout(0.5, noise_shape=noise_shape)


def test_other_errors():
    with pytest.raises(ValueError, match="does not broadcast"):
        layers.Dropout(0.5, noise_shape=(7, 1))(np.ones((2, 3), "float32"), training=True)
    with pytest.raises(ValueError, match="noise of infinite"):
        layers.GaussianDropout(1.0)(np.ones((2, 3), "float32"), training=True)
    with pytest.raises(ValueError, match="ndim=3|3 axes|rank 3|three axes"):
        layers.SpatialDropout1D(0.5)(np.ones((2, 3), "float32"))
    with pytest.raises(ValueError, match="data_format must be"):
        layers.SpatialDropout2D(0.5, data_format="channels_middle")
    with pytest.raises(ValueError, match="integer seed"):
        layers.Dropout(0.5, seed="7")
