"""Dropout, alpha dropout, shuffling: masks, values, derivatives under a fixed state, errors."""

import math
from collections import namedtuple

import numpy as np
import pytest

from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices, random, threads
from gpukeras.ops import random as ops
from gpukeras.testing import check_gradients
from tests.helpers import assert_close
from tests.strict_device import forbid_host_reads

STATE = np.uint32([7, 3])
NEEDS = namedtuple("Needs", ["x", "state"])(True, False)
MINIMUM = -1.7580993408473766  # of SELU


def on_device(x):
    return Tensor(devices.to_device(x))


def test_dropout_drops_its_share_and_scales_the_rest(device):
    x = np.random.default_rng(0).normal(size=(200, 50)).astype("float32")
    y = ops.dropout(on_device(x), on_device(STATE), rate=0.3).numpy()
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 5 * math.sqrt(0.21 / x.size)
    assert_close(y[kept], x[kept] / 0.7)


def test_dropout_has_the_same_mask_on_every_device():
    x = np.ones((13, 7), "float32")
    with devices.use_device("numpy"):
        expected = ops.dropout(x, STATE, rate=0.5).numpy()
    with devices.use_device("strict"):
        assert (ops.dropout(on_device(x), on_device(STATE), rate=0.5).numpy() == expected).all()


def test_many_elements_are_dropped_by_the_same_mask_on_any_number_of_threads():
    x = np.random.default_rng(0).normal(size=(1025, 1031)).astype("float32")
    found = []
    for number in (1, 2):
        with threads.use_count(number):
            y, backward = ops.dropout.function(x, STATE, rate=0.25)
            found.append((y, backward(x, NEEDS)[0]))
    keep = random.random_bits(*STATE.tolist(), -(-x.size // 2), np).view(np.uint16)[: x.size] >= 2**14
    expected = np.where(keep.reshape(x.shape), x * np.float32(1 / 0.75), 0)
    for y, dx in found:
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(dx, expected)


def test_states_give_different_masks():
    x = np.ones(1000, "float32")
    first = ops.dropout(x, STATE, rate=0.5).numpy()
    for state in ([7, 4], [8, 3]):
        other = ops.dropout(x, np.uint32(state), rate=0.5).numpy()
        assert abs((first == other).mean() - 0.5) < 5 * math.sqrt(0.25 / 1000)


def test_dropout_drops_nan_and_infinity():
    x = np.full(100, np.nan, "float32")
    x[::2] = np.inf
    y = ops.dropout(x, STATE, rate=0.5).numpy()
    assert 20 < (y == 0).sum() < 80


def test_noise_shape_is_broadcast(device):
    x = np.ones((5, 6, 40), "float32")
    y = ops.dropout(on_device(x), on_device(STATE), rate=0.5, noise_shape=(None, 1, 40)).numpy()
    assert (y == y[:, :1]).all()
    assert set(y.ravel().tolist()) == {0.0, 2.0}
    assert len(np.unique(y[:, 0], axis=0)) == 5
    short = ops.dropout(on_device(x), on_device(STATE), rate=0.5, noise_shape=(40,)).numpy()
    assert (short == short[0, 0]).all()


@pytest.mark.parametrize("noise_shape", [None, (None, 1, 4), (1, 3, 1)])
@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", ["dropout", "alpha_dropout"])
def test_derivatives(name, rate, noise_shape, device, rng):
    x = rng.normal(size=(2, 3, 4))
    function = getattr(ops, name)
    check_gradients(lambda x: function(x, on_device(STATE), rate=rate, noise_shape=noise_shape), x)


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout"])
def test_dtype_is_kept(name, float_dtype, device):
    x = on_device(np.ones((4, 5), float_dtype))
    with Tape() as tape:
        tape.watch(x)
        y = getattr(ops, name)(x, on_device(STATE), rate=0.25)
    (dx,) = tape.gradients([(y, y.array)], [x])
    assert y.dtype == dx.dtype == float_dtype


def test_bfloat16_is_kept():
    import ml_dtypes

    x = np.ones(8, ml_dtypes.bfloat16)
    for function in (ops.dropout, ops.alpha_dropout):
        assert function(x, STATE, rate=0.25).dtype == ml_dtypes.bfloat16


def test_alpha_dropout_keeps_mean_and_variance():
    x = np.random.default_rng(0).normal(size=400_000)
    y = ops.alpha_dropout(x, STATE, rate=0.3).numpy()
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.01


def test_alpha_dropout_against_its_formula(device):
    x = np.linspace(-2, 2, 1000)
    rate = 0.2
    y = ops.alpha_dropout(on_device(x), on_device(STATE), rate=rate).numpy()
    a = ((1 - rate) * (1 + rate * MINIMUM**2)) ** -0.5
    b = -a * MINIMUM * rate
    kept = abs(y - (a * x + b)) < 1e-9
    assert abs(kept.mean() - 0.8) < 5 * math.sqrt(0.16 / 1000)
    assert_close(y[~kept], np.full((~kept).sum(), a * MINIMUM + b))


def test_shuffle_permutes_every_line(device):
    x = np.arange(4 * 100).reshape(4, 100)
    y = ops.shuffle(on_device(x), on_device(STATE), axis=1).numpy()
    assert (np.sort(y, axis=1) == x).all()
    assert (y != x).any(axis=1).all()
    assert (y[0] != y[1] - 100).any()
    columns = ops.shuffle(on_device(x), on_device(STATE), axis=-2).numpy()
    assert (np.sort(columns, axis=0) == x).all()


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_shuffle_derivative(axis, device, rng):
    x = rng.normal(size=(4, 3, 5))
    check_gradients(lambda x: ops.shuffle(x, on_device(STATE), axis=axis), x)


def test_nothing_is_read_on_the_host():
    with devices.use_device("strict"):
        x, state = on_device(np.ones((3, 4), "float32")), on_device(STATE)
        dy = devices.to_device(np.ones((3, 4), "float32"))
        with forbid_host_reads(), Tape() as tape:
            tape.watch(x)
            y = ops.shuffle(ops.alpha_dropout(ops.dropout(x, state, rate=0.5), state, rate=0.5), state)
            (dx,) = tape.gradients([(y, dy)], [x])
        assert dx.shape == x.shape


def test_empty_input():
    assert ops.dropout(np.ones((0, 4)), STATE, rate=0.5).shape == (0, 4)
    assert ops.shuffle(np.ones((0, 4)), STATE).shape == (0, 4)


def test_symbolic_shapes():
    x, state = KerasTensor((None, 3)), KerasTensor((2,), "uint32")
    assert ops.dropout(x, state, rate=0.5).shape == (None, 3)
    assert ops.shuffle(x, state, axis=1).shape == (None, 3)


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_bad_rate(rate):
    with pytest.raises(ValueError, match=f"dropout: rate must lie between 0 and 1, but got {rate}"):
        ops.dropout(np.ones(3), STATE, rate=rate)


@pytest.mark.parametrize("noise_shape", [(3,), (2, 2), (1, 1, 1), (2, 1, 4, 4)])
def test_bad_noise_shape(noise_shape):
    with pytest.raises(ValueError, match="does not broadcast to the input's shape"):
        ops.dropout(np.ones((2, 4)), STATE, rate=0.5, noise_shape=noise_shape)


def test_integers_cannot_be_dropped():
    with pytest.raises(TypeError, match="dropout needs a float input, but got dtype int64"):
        ops.dropout(np.arange(3), STATE, rate=0.5)


def test_bad_axis():
    with pytest.raises(ValueError, match="axis 2 is out of range"):
        ops.shuffle(np.ones((2, 4)), STATE, axis=2)
