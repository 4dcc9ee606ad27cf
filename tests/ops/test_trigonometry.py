import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.testing import check_gradients
from tests.helpers import assert_close
from tests.strict_device import forbid_host_reads

X = np.random.default_rng(0).uniform(-0.9, 0.9, (3, 4))
NAMES = "arccos arccosh arcsin arcsinh arctan arctanh cos cosh deg2rad rad2deg sin sinh tan tanh".split()


def inputs(name):
    return X + 2.5 if name == "arccosh" else X


@pytest.mark.parametrize("name", NAMES)
def test_value_and_dtype(name, float_dtype, device):
    x = inputs(name).astype(float_dtype)
    with forbid_host_reads():
        y = getattr(ops, name)(Tensor(devices.to_device(x)))
    assert y.dtype == float_dtype
    assert_close(y, getattr(np, name)(x.astype("float64")), dtype=float_dtype)


@pytest.mark.parametrize("name", NAMES)
def test_derivative(name, device):
    check_gradients(getattr(ops, name), inputs(name))


def test_arctan2(device):
    assert_close(ops.arctan2(X, X[::-1]), np.arctan2(X, X[::-1]))
    check_gradients(ops.arctan2, X + 2, X[:1])
    check_gradients(lambda x: ops.arctan2(x, 0.5), X)
