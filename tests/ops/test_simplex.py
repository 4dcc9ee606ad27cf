"""Softmax, log_softmax and sparsemax: values in float64, derivatives, dtypes, axes, errors."""

import numpy as np
import pytest

from gpukeras.kernels import softmax as kernels
from gpukeras.ops import simplex
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values

AXES = [-1, 0, 1, (0, 2), (-1, -2), (1,)]


def softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("axis", AXES)
def test_softmax(device, rng, float_dtype, axis):
    x = rng.standard_normal((3, 4, 5)).astype(float_dtype)
    y = simplex.softmax(x, axis=axis)
    assert y.dtype == float_dtype
    assert_close(y, softmax(x.astype("float64"), axis), dtype=float_dtype)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_derivative(device, rng, name, axis):
    check_gradients(getattr(simplex, name), rng.standard_normal((3, 4, 5)), axis=axis)


@pytest.mark.parametrize("axis", AXES)
def test_log_softmax(device, rng, float_dtype, axis):
    x = rng.standard_normal((3, 4, 5)).astype(float_dtype)
    y = simplex.log_softmax(x, axis=axis)
    assert y.dtype == float_dtype
    assert_close(y, np.log(softmax(x.astype("float64"), axis)), dtype=float_dtype)


def test_large_logits(device, float_dtype):
    x = np.array([[-60000.0, 0.0, 60000.0]], float_dtype)
    np.testing.assert_array_equal(values(simplex.softmax(x)), [[0, 0, 1]])
    y = values(simplex.log_softmax(np.array([[-1000.0, 0.0]], float_dtype)))
    np.testing.assert_array_equal(y, [[-1000, 0]])


def test_softmax_over_one_element_warns(device):
    with pytest.warns(UserWarning, match="Did you mean sigmoid"):
        simplex.softmax(np.ones((3, 1)))


def test_many_rows_go_block_by_block(rng):
    x = rng.standard_normal((9, 700, 33)).astype("float32")
    y = simplex.softmax(x)
    assert_close(y, softmax(x.astype("float64"), -1), dtype="float32")
    dy = rng.standard_normal(x.shape).astype("float32")
    dx = kernels.softmax_backward(y.array, dy, np.empty_like(dy))
    assert_close(dx, kernels.softmax_backward.reference(y.array, dy, np.empty_like(dy)))


def test_softmax_of_nothing(device):
    assert simplex.softmax(np.ones((0, 4), "float32")).shape == (0, 4)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_sparsemax(device, rng, axis):
    x = rng.standard_normal((4, 5, 6))
    y = values(simplex.sparsemax(x, axis=axis))
    assert_close(y.sum(axis=axis), np.ones_like(y.sum(axis=axis)))
    assert (y >= 0).all() and (y == 0).any()
    # The nearest point of the simplex: x - y is largest, and constant, where y > 0.
    rest = np.where(y > 0, x - y, -np.inf).max(axis=axis, keepdims=True)
    assert_close(np.where(y > 0, x - y, rest), np.broadcast_to(rest, y.shape))
    assert (x <= rest + 1e-12)[y == 0].all()
    check_gradients(simplex.sparsemax, x, axis=axis)


def test_sparsemax_of_logits_far_apart_is_one_hot(device, float_dtype):
    y = simplex.sparsemax(np.array([[1.0, 2.0, 12.0]], float_dtype))
    assert y.dtype == float_dtype
    np.testing.assert_array_equal(values(y), [[0, 0, 1]])


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sparsemax"])
def test_axis_out_of_range(name):
    with pytest.raises(ValueError, match=rf"{name} got axis=3 .* Choose from -3 to 2"):
        getattr(simplex, name)(np.ones((2, 3, 4)), axis=3)


@pytest.mark.parametrize("axis", [-1, 1, (1, 2)])
def test_masked_softmax(device, rng, float_dtype, axis):
    x = rng.standard_normal((3, 4, 5)).astype(float_dtype)
    mask = rng.random((4, 5)) < 0.6
    mask[0] = mask[:, 0] = True
    y = simplex.masked_softmax(x, mask, axis=axis)
    assert y.dtype == float_dtype
    assert_close(y, softmax(np.where(mask, x.astype("float64"), -1e300), axis), dtype=float_dtype)
    assert (values(y)[:, ~mask] == 0).all()
    numbers = simplex.masked_softmax(x, mask.astype("float32"), axis=axis)
    np.testing.assert_array_equal(values(numbers), values(y))


def test_masked_softmax_derivative(device, rng):
    mask = rng.random((3, 1, 5)) < 0.6
    mask[0] = False  # nothing to choose from: all zero, and no gradient
    check_gradients(simplex.masked_softmax, rng.standard_normal((3, 4, 5)), mask)


def test_masked_softmax_refuses_other_shapes():
    for shape in ((3, 4, 5), (3,), (2, 5)):
        with pytest.raises(ValueError, match="must broadcast to its input"):
            simplex.masked_softmax(np.ones((4, 5)), np.ones(shape, bool))
