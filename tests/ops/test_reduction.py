import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values
from tests.strict_device import forbid_host_reads

X = np.random.default_rng(0).uniform(0.5, 2, (2, 3, 4))
AXES = [None, 0, -1, (0, 2), (-1, -2), ()]


def formula(name):
    if name == "logsumexp":
        return lambda x, axis, keepdims: np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))
    return getattr(np, name)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", "sum mean var std prod max min logsumexp".split())
def test_reductions(name, axis, keepdims, device):
    x = Tensor(devices.to_device(X))
    with forbid_host_reads():
        y = getattr(ops, name)(x, axis=axis, keepdims=keepdims)
    assert_close(y, formula(name)(X, axis=axis, keepdims=keepdims))
    if name == "std" and axis == ():
        return  # the root of 0 has no derivative
    check_gradients(getattr(ops, name), X, axis=axis, keepdims=keepdims)


@pytest.mark.parametrize("name", "sum mean var std prod max min logsumexp".split())
def test_dtype_is_kept(name, float_dtype, device):
    x = X.astype(float_dtype)
    y = getattr(ops, name)(x, axis=1)
    assert y.dtype == float_dtype
    assert_close(y, formula(name)(x.astype("float64"), axis=1, keepdims=False), dtype=float_dtype, scale=2)


@pytest.mark.parametrize("name", "any all".split())
def test_any_and_all(name, device):
    x = X > 1
    for axis in AXES:
        assert_close(getattr(ops, name)(x, axis=axis), getattr(np, name)(x, axis=axis))


@pytest.mark.parametrize("name", "argmax argmin".split())
def test_places_of_extremes(name, device):
    for axis in (None, 0, -1):
        for keepdims in (False, True):
            y = getattr(ops, name)(X, axis=axis, keepdims=keepdims)
            assert y.dtype == "int32"
            expected = getattr(np, name)(X, axis=axis, keepdims=keepdims)
            np.testing.assert_array_equal(values(y), expected)


def test_half_floats_do_not_overflow(device):
    x = np.full((1000, 100), 300, "float16")
    assert float(ops.mean(x)) == 300
    mean, variance = ops.moments(x, (0, 1))
    assert float(mean) == 300 and float(variance) == 0


def test_moments(device):
    for axes in (0, (0, 2), -1):
        for keepdims in (False, True):
            mean, variance = ops.moments(X, axes, keepdims=keepdims)
            assert_close(mean, X.mean(axis=axes, keepdims=keepdims))
            assert_close(variance, X.var(axis=axes, keepdims=keepdims))
            check_gradients(ops.moments, X, axes=axes, keepdims=keepdims)
    check_gradients(lambda x: ops.moments(x, 0)[1], X)
    with pytest.raises(NotImplementedError, match="synchronized"):
        ops.moments(X, 0, synchronized=True)


def test_equal_extremes_share_the_gradient(device):
    x = Tensor(devices.to_device(np.array([[1.0, 3.0, 3.0], [2.0, 0.0, 2.0]])))
    with Tape() as tape:
        tape.watch(x)
        y = ops.max(x, axis=1)
    (dx,) = tape.gradients([(y, devices.to_device(np.ones(2)))], [x])
    assert values(dx).tolist() == [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]


def test_initial(device):
    assert_close(ops.max(X, axis=1, initial=1.5), np.max(X, axis=1, initial=1.5))
    assert_close(ops.min(X, axis=1, initial=1.5), np.min(X, axis=1, initial=1.5))
    assert_close(ops.max(np.zeros((0, 2)), axis=0, initial=3.0), np.full(2, 3.0))
    check_gradients(ops.max, X, axis=1, initial=1.5)
    check_gradients(ops.min, X, axis=1, initial=1.5)


def test_prod_with_zeros_has_a_derivative(device):
    check_gradients(ops.prod, np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 1.0]]), axis=1)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_running_forms(axis, device):
    assert_close(ops.cumsum(X, axis=axis), np.cumsum(X, axis=axis))
    assert_close(ops.cumprod(X, axis=axis), np.cumprod(X, axis=axis))
    check_gradients(ops.cumsum, X, axis=axis)
    check_gradients(ops.cumprod, X, axis=axis)


def test_average(device):
    weights = np.array([1.0, 2.0, 0.5])
    assert_close(ops.average(X, axis=1, weights=weights), np.average(X, axis=1, weights=weights))
    assert_close(ops.average(X, weights=X), np.average(X, weights=X))
    check_gradients(lambda x, w: ops.average(x, axis=1, weights=w), X, weights)
    check_gradients(lambda x, w: ops.average(x, axis=(0, 1), weights=w), X, X + 1)
    with pytest.raises(ValueError, match="weights of shape .2,."):
        ops.average(X, axis=1, weights=np.ones(2))


def test_count_nonzero(device):
    x = (X > 1).astype("float32")
    assert_close(ops.count_nonzero(x, axis=1), np.count_nonzero(x, axis=1).astype("int32"))


def test_large_numbers_do_not_overflow_logsumexp(device):
    assert_close(ops.logsumexp(np.array([1e4, 1e4])), np.array(1e4 + np.log(2)))
    with np.errstate(divide="ignore"):
        assert float(ops.logsumexp(np.array([-np.inf, -np.inf]))) == -np.inf


def test_a_wrong_axis_is_named():
    with pytest.raises(ValueError, match="sum got axis 3, but x has 3 axes. Pass axes from -3 to 2"):
        ops.sum(X, axis=3)
    with pytest.raises(ValueError, match="max over axes .0,. of shape .0, 2. has no elements"):
        ops.max(np.zeros((0, 2)), axis=0)
    with pytest.raises(ValueError, match="argmax over axes"):
        ops.argmax(np.zeros((0, 2)), axis=0)


def test_narrow_integers_are_summed_in_32_bits(device):
    assert ops.sum(np.full(3, 100, "int8")).dtype == "int32"
    assert int(ops.sum(np.full(3, 200, "uint8"))) == 600
    assert ops.sum(np.full(3, 200, "uint8")).dtype == "uint32"
    assert ops.mean(np.array([1, 2])).dtype == "float32"
