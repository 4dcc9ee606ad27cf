import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, away_from
from tests.strict_device import forbid_host_reads

X = away_from(np.random.default_rng(0).uniform(-2, 2, (3, 4)), [0.0])
POSITIVE = np.abs(X) + 0.1

# name, inputs, the float64 formula, whether there is a derivative
UNARY = [
    ("erf", X, None, True),
    ("erfc", X, None, True),
    ("erfinv", X / 2.5, None, True),
    ("exp", X, np.exp, True),
    ("expm1", X, np.expm1, True),
    ("log", POSITIVE, np.log, True),
    ("log10", POSITIVE, np.log10, True),
    ("log1p", POSITIVE, np.log1p, True),
    ("log2", POSITIVE, np.log2, True),
    ("rsqrt", POSITIVE, lambda x: x**-0.5, True),
    ("sqrt", POSITIVE, np.sqrt, True),
]


@pytest.mark.parametrize(("name", "x", "formula", "_"), UNARY, ids=[row[0] for row in UNARY])
def test_value_and_dtype_of_one_array(name, x, formula, _, float_dtype, device):
    x = x.astype(float_dtype)
    with forbid_host_reads():
        y = getattr(ops, name)(Tensor(devices.to_device(x)))
    assert y.dtype == float_dtype
    if formula is not None:
        assert_close(y, formula(x.astype("float64")), dtype=float_dtype)


@pytest.mark.parametrize("name", [row[0] for row in UNARY if row[3]])
def test_derivative_of_one_array(name, device):
    x = next(row[1] for row in UNARY if row[0] == name)
    check_gradients(getattr(ops, name), x)
    check_gradients(getattr(ops, name), np.array(x[0, 0]))


def test_logaddexp(float_dtype, device):
    x1, x2 = X.astype(float_dtype), X[::-1].astype(float_dtype)
    y = ops.logaddexp(x1, x2)
    assert y.dtype == float_dtype
    assert_close(y, np.logaddexp(x1.astype("float64"), x2.astype("float64")), dtype=float_dtype, scale=4)
    check_gradients(ops.logaddexp, X, X[::-1, :1])
    check_gradients(lambda x: ops.logaddexp(x, 1.5), X)
    check_gradients(lambda x: ops.logaddexp(1.5, x), X)
    assert float(ops.logaddexp(1e4, 1e4)) == pytest.approx(1e4 + np.log(2))


def test_error_function(device):
    import math

    assert_close(ops.erf(X), np.vectorize(math.erf)(X))
    assert_close(ops.erfc(3 * POSITIVE), np.vectorize(math.erfc)(3 * POSITIVE))
    assert_close(ops.erf(ops.erfinv(X / 2.5)), X / 2.5)
