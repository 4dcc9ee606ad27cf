"""Pooling: values against loops in float64, derivatives, ties, dtypes, edges, errors."""

import numpy as np
import pytest

from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.ops import pooling as ops
from gpukeras.testing import check_gradients
from tests.helpers import assert_close

SIZES = [(2, None), (3, 1), ((2, 3), (1, 2)), (2, 3), ((1, 4), None), (5, 2)]
FORMATS = ["channels_last", "channels_first"]


def both(value, rank):
    return (value,) * rank if isinstance(value, int) else value


def pool_by_loops(reduce, x, pool_size, strides=None, padding="valid"):
    """The formula, one window at a time, channels last; padding is left out of the window."""
    rank = x.ndim - 2
    size = both(pool_size, rank)
    strides = size if strides is None else both(strides, rank)
    grid, lows = [], []
    for n, k, s in zip(x.shape[1:-1], size, strides, strict=True):
        count = (n - k) // s + 1 if padding == "valid" else -(-n // s)
        grid.append(count)
        lows.append(0 if padding == "valid" else max((count - 1) * s + k - n, 0) // 2)
    y = np.zeros((x.shape[0], *grid, x.shape[-1]))
    for o in np.ndindex(*grid):
        at = [i * s - low for i, s, low in zip(o, strides, lows, strict=True)]
        window = tuple(slice(max(a, 0), a + k) for a, k in zip(at, size, strict=True))
        y[(slice(None), *o)] = reduce(x[(slice(None), *window)], axis=tuple(range(1, rank + 1)))
    return y


def to(x, data_format):
    return np.moveaxis(x, -1, 1) if data_format == "channels_first" else x


def back(y, data_format):
    y = devices.to_numpy(y.array)
    return np.moveaxis(y, 1, -1) if data_format == "channels_first" else y


def distinct(rng, shape):
    """Numbers that differ by more than a step of the gradient check, so that no maximum changes place."""
    return rng.permutation(np.prod(shape)).reshape(shape) * 0.1


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("pool_size, strides", SIZES)
@pytest.mark.parametrize("op, reduce", [(ops.max_pool, np.max), (ops.average_pool, np.mean)])
def test_pooling_is_the_formula(rng, device, op, reduce, pool_size, strides, padding, data_format):
    x = distinct(rng, (2, 7, 6, 3))
    settings = {"pool_size": pool_size, "strides": strides, "padding": padding}
    y = op(to(x, data_format), data_format=data_format, **settings)
    assert_close(back(y, data_format), pool_by_loops(reduce, x, **settings))
    check_gradients(op, to(x, data_format), data_format=data_format, **settings)


@pytest.mark.parametrize("shape, pool_size", [((2, 9, 3), 2), ((2, 5, 4, 6, 2), (2, 3, 2))])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("op, reduce", [(ops.max_pool, np.max), (ops.average_pool, np.mean)])
def test_one_and_three_axes(rng, device, op, reduce, shape, pool_size, padding):
    x = distinct(rng, shape)
    y = op(x, pool_size, padding=padding)
    assert_close(y, pool_by_loops(reduce, x, pool_size, padding=padding))
    check_gradients(op, x, pool_size=pool_size, padding=padding)


@pytest.mark.parametrize("pool_size, strides", [(2, 2), (3, 2), (2, 1)])
def test_the_first_of_equal_places_takes_the_gradient(device, pool_size, strides):
    x = Tensor(devices.to_device(np.zeros((1, 4, 4, 1))))
    with Tape() as tape:
        tape.watch(x)
        y = ops.max_pool(x, pool_size, strides)
    (dx,) = tape.gradients([(y, devices.to_device(np.ones(y.shape)))], [x])
    expected = np.zeros((4, 4))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            expected[i * strides, j * strides] += 1
    np.testing.assert_array_equal(devices.to_numpy(dx)[0, ..., 0], expected)


def test_padding_never_wins(device):
    x = np.full((1, 3, 3, 1), -7.0)
    np.testing.assert_array_equal(
        back(ops.max_pool(x, 2, padding="same"), "channels_last"), np.full((1, 2, 2, 1), -7.0)
    )
    np.testing.assert_array_equal(
        back(ops.average_pool(x, 2, padding="same"), "channels_last"), np.full((1, 2, 2, 1), -7.0)
    )


def test_nan_wins(device):
    x = np.array([1.0, np.nan, 2.0, 3.0]).reshape(1, 4, 1)
    y = back(ops.max_pool(x, 2), "channels_last").ravel()
    assert np.isnan(y[0]) and y[1] == 3.0


def test_a_large_batch_goes_in_blocks(rng):
    x = distinct(rng, (70, 30, 30, 16))
    for op, reduce in ((ops.max_pool, np.max), (ops.average_pool, np.mean)):
        y = devices.to_numpy(op(x, 3, 2, "same").array)
        assert_close(y[-3:], pool_by_loops(reduce, x[-3:], 3, 2, "same"))


@pytest.mark.parametrize("op", [ops.max_pool, ops.average_pool])
def test_dtype_is_kept(rng, device, op, float_dtype):
    x = rng.standard_normal((2, 6, 6, 3)).astype(float_dtype)
    y = op(x, 2, padding="same")
    assert y.dtype == float_dtype
    reduce = np.max if op is ops.max_pool else np.mean
    assert_close(y, pool_by_loops(reduce, x.astype(np.float64), 2, padding="same"), dtype=float_dtype)


def test_integers(device):
    x = np.arange(-4, 4, dtype="int32").reshape(1, 8, 1)
    y = ops.max_pool(x, 3, 3, "same")
    assert y.dtype == "int32" and back(y, "channels_last").ravel().tolist() == [-2, 1, 3]
    assert ops.average_pool(x, 2).dtype == "float32"


@pytest.mark.parametrize("op", [ops.max_pool, ops.average_pool])
def test_windows_larger_than_the_inputs(rng, device, op):
    x = distinct(rng, (2, 2, 3, 1))
    reduce = np.max if op is ops.max_pool else np.mean
    expected = reduce(x, axis=(1, 2), keepdims=True)
    assert_close(op(x, 5, padding="same"), expected)
    check_gradients(op, x, pool_size=5, padding="same")
    with pytest.raises(ValueError, match="empty output"):
        op(x, 5)


@pytest.mark.parametrize("op", [ops.max_pool, ops.average_pool])
def test_an_empty_batch_gives_an_empty_batch(device, op):
    assert op(np.zeros((0, 4, 4, 2)), 2).shape == (0, 2, 2, 2)
    check_gradients(op, np.zeros((0, 4, 4, 2)), pool_size=2)


def test_shapes_of_placeholders():
    assert ops.max_pool(KerasTensor((None, 31, None, 3)), 2).shape == (None, 15, None, 3)


@pytest.mark.parametrize("op", [ops.max_pool, ops.average_pool])
@pytest.mark.parametrize(
    "shape, settings, words",
    [
        ((2, 5), {"pool_size": 2}, "1 to 3 spatial axes"),
        ((2, 5, 5, 3), {"pool_size": 0}, "pool_size"),
        ((2, 5, 5, 3), {"pool_size": (2, 2, 2)}, "2 ints"),
        ((2, 5, 5, 3), {"pool_size": 2, "strides": 0}, "strides"),
        (
            (2, 5, 5, 3),
            {"pool_size": 2, "padding": "causal"},
            "'valid' or 'same', but got 'causal'",
        ),
        ((2, 5, 5, 3), {"pool_size": 2, "data_format": "first"}, "data_format must be"),
    ],
)
def test_errors_say_what_was_expected_and_came(op, shape, settings, words):
    with pytest.raises(ValueError, match=words):
        op(np.zeros(shape), **settings)
