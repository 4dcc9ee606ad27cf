import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.testing import check_gradients
from tests.helpers import assert_close
from tests.strict_device import forbid_host_reads

X = np.random.default_rng(0).standard_normal((2, 3, 4))


def test_diag(device):
    for x in (X[0], X[0, 0]):
        for k in (-1, 0, 2):
            assert_close(ops.diag(x, k), np.diag(x, k))
            check_gradients(ops.diag, x, k=k)


CALLS = [
    ("tril",),
    ("tril", 1),
    ("triu", -1),
    ("diagonal",),
    ("diagonal", 1, 0, 2),
    ("diagonal", -1, 2, 1),
    ("trace",),
]


@pytest.mark.parametrize("call", CALLS, ids=[f"{i}-{call[0]}" for i, call in enumerate(CALLS)])
def test_diagonals_and_triangles(call, device):
    name, *args = call
    with forbid_host_reads():
        y = getattr(ops, name)(Tensor(devices.to_device(X)), *args)
    assert_close(y, getattr(np, name)(X, *args))
    check_gradients(lambda x: getattr(ops, name)(x, *args), X)
    assert getattr(ops, name)(KerasTensor(X.shape), *args).shape == getattr(np, name)(X, *args).shape


def test_dtype_is_kept(float_dtype, device):
    for name, *args in CALLS:
        assert getattr(ops, name)(X.astype(float_dtype), *args).dtype == float_dtype


def test_a_diagonal_is_a_copy():
    x = ops.convert_to_tensor(X)
    assert not np.shares_memory(ops.diagonal(x).array, x.array)


def test_errors():
    with pytest.raises(ValueError, match="diagonal needs at least two axes"):
        ops.diagonal(np.ones(3))
    with pytest.raises(ValueError, match="diag needs a vector or a matrix"):
        ops.diag(X)
