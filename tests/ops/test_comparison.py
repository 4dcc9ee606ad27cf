import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values
from tests.strict_device import forbid_host_reads

X = np.random.default_rng(0).integers(-2, 3, (3, 4)).astype("float64")


@pytest.mark.parametrize(
    "name",
    "equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor".split(),
)
def test_comparisons(name, device):
    with forbid_host_reads():
        y = getattr(ops, name)(Tensor(devices.to_device(X)), Tensor(devices.to_device(X[:1])))
    assert_close(y, getattr(np, name)(X, X[:1]))


@pytest.mark.parametrize("name", "bitwise_and bitwise_or bitwise_xor left_shift right_shift".split())
def test_bits(name, device):
    x = np.arange(12, dtype="int32").reshape(3, 4)
    assert_close(getattr(ops, name)(x, x[:1]), getattr(np, name)(x, x[:1]))
    assert_close(ops.bitwise_not(x), ~x)


@pytest.mark.parametrize("name", "isfinite isinf isnan logical_not".split())
def test_questions(name, device):
    x = np.array([0.0, 1.0, np.inf, -np.inf, np.nan])
    assert_close(getattr(ops, name)(x), getattr(np, name)(x))


def test_isclose(device):
    a = np.array([1.0, 1.0, np.nan, np.inf, np.inf, 0.0])
    b = np.array([1.0 + 1e-6, 1.1, np.nan, np.inf, -np.inf, 1e-9])
    with np.errstate(invalid="ignore"):
        for equal_nan in (False, True):
            expected = np.isclose(a, b, equal_nan=equal_nan)
            assert_close(ops.isclose(a, b, equal_nan=equal_nan), expected)
        assert not bool(ops.allclose(a, b))
    assert bool(ops.allclose(a[:1], b[:1]))


def test_where(float_dtype, device):
    x = X.astype(float_dtype)
    with forbid_host_reads():
        y = ops.where(Tensor(devices.to_device(x > 0)), Tensor(devices.to_device(x)), 0.5)
    assert y.dtype == float_dtype
    assert_close(y, np.where(X > 0, X, 0.5), dtype=float_dtype)


def test_where_has_derivatives(device):
    check_gradients(ops.where, X > 0, X, X[:1] + 1)
    check_gradients(lambda x: ops.where(X > 0, x, 0.0), X)
    check_gradients(lambda x: ops.where(X > 0, 1.0, x), X)
    check_gradients(ops.where, X[0] > 0, X[:, :1], np.array(2.0))


def test_where_of_a_condition_gives_places(device):
    places = ops.where(X > 0)
    for ours, theirs in zip(places, np.where(X > 0), strict=True):
        assert values(ours).tolist() == theirs.tolist()
    with pytest.raises(ValueError, match="both x1 and x2"):
        ops.where(X > 0, X)


def test_nan_to_num(float_dtype, device):
    x = np.array([1.0, np.nan, np.inf, -np.inf], float_dtype)
    y = ops.nan_to_num(x)
    assert y.dtype == float_dtype
    assert_close(y, np.nan_to_num(x), dtype=float_dtype)
    assert_close(ops.nan_to_num(x, 1.0, 2.0, 3.0), np.nan_to_num(x, nan=1.0, posinf=2.0, neginf=3.0))
    check_gradients(ops.nan_to_num, X)
