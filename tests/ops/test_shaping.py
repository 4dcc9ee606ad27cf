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

# name, arguments; NumPy's function of the same name takes the same
CALLS = [
    ("reshape", (4, -1)),
    ("reshape", (6, 4)),
    ("reshape", -1),
    ("ravel",),
    ("transpose",),
    ("transpose", (1, 2, 0)),
    ("transpose", (-1, 0, 1)),
    ("swapaxes", 0, -1),
    ("moveaxis", 0, -1),
    ("moveaxis", (0, 1), (-1, 0)),
    ("expand_dims", 1),
    ("expand_dims", (0, -1)),
    ("broadcast_to", (5, 2, 3, 4)),
    ("flip",),
    ("flip", 1),
    ("flip", (0, -1)),
    ("roll", 2),
    ("roll", -1, 1),
    ("roll", (1, 2), (0, 2)),
    ("rot90",),
    ("rot90", 2),
    ("rot90", 3, (2, 1)),
    ("rot90", 4),
    ("repeat", 2),
    ("repeat", 3, 1),
    ("repeat", [2, 0, 1], 1),
    ("repeat", [1, 2, 3, 4] * 6),
    ("tile", 2),
    ("tile", (2, 1)),
    ("tile", (2, 1, 3, 2)),
    ("pad", 1),
    ("pad", ((1, 2), (0, 0), (3, 0))),
    ("pad", ((1, 0), (2, 1), (3, 2)), "reflect"),
    ("pad", ((2, 1), (0, 0), (3, 5)), "symmetric"),
    ("pad", ((2, 1), (0, 3), (0, 0)), "edge"),
]


@pytest.mark.parametrize("call", CALLS, ids=[f"{i}-{call[0]}" for i, call in enumerate(CALLS)])
def test_moves(call, device):
    name, *args = call
    with forbid_host_reads():
        y = getattr(ops, name)(Tensor(devices.to_device(X)), *args)
    assert_close(y, getattr(np, name)(X, *args))
    check_gradients(lambda x: getattr(ops, name)(x, *args), X)


@pytest.mark.parametrize("call", CALLS, ids=[f"{i}-{call[0]}" for i, call in enumerate(CALLS)])
def test_shape_of_a_placeholder(call):
    name, *args = call
    assert getattr(ops, name)(KerasTensor(X.shape), *args).shape == getattr(np, name)(X, *args).shape


def test_dtype_is_kept(float_dtype, device):
    x = X.astype(float_dtype)
    for name, *args in CALLS:
        assert getattr(ops, name)(x, *args).dtype == float_dtype


def test_squeeze(device):
    x = X[:, :1, :1]
    assert_close(ops.squeeze(x), np.squeeze(x))
    assert_close(ops.squeeze(x, 1), np.squeeze(x, 1))
    assert_close(ops.squeeze(x, (1, -1)), np.squeeze(x, (1, -1)))
    check_gradients(ops.squeeze, x, axis=1)


def test_placeholders_with_unknown_axes():
    x = KerasTensor((None, 8))
    assert ops.reshape(x, (-1, 4)).shape == (None, 4)
    assert ops.reshape(x, (ops.shape(x)[0], 2, 4)).shape == (None, 2, 4)
    assert ops.expand_dims(x, 1).shape == (None, 1, 8)
    assert ops.broadcast_to(ops.expand_dims(x, 1), (None, 3, 8)).shape == (None, 3, 8)


def test_errors():
    with pytest.raises(ValueError, match="reshape cannot bring shape .2, 3, 4. .24 elements. into shape .5, -1."):
        ops.reshape(X, (5, -1))
    with pytest.raises(ValueError, match="reshape cannot bring"):
        ops.reshape(X, (-1, -1))
    with pytest.raises(ValueError, match="transpose needs each axis"):
        ops.transpose(X, (0, 1, 1))
    with pytest.raises(ValueError, match="squeeze leaves out axes of size 1"):
        ops.squeeze(X, 1)
    with pytest.raises(ValueError, match="broadcast_to cannot bring shape"):
        ops.broadcast_to(X, (2, 3, 5))
    with pytest.raises(ValueError, match="mode must be 'constant'"):
        ops.pad(X, 1, mode="wrap")
    with pytest.raises(ValueError, match="constant_values=1 has no meaning"):
        ops.pad(X, 1, mode="edge", constant_values=1)
    with pytest.raises(ValueError, match="pair for each of the 3 axes"):
        ops.pad(X, ((1, 1), (1, 1)))
    with pytest.raises(ValueError, match="swapaxes got axis 3, but there are 3 axes"):
        ops.swapaxes(X, 0, 3)
    with pytest.raises(ValueError, match="repeat got 2 numbers"):
        ops.repeat(X, [1, 2], axis=1)
    with pytest.raises(ValueError, match="two different axes"):
        ops.rot90(X, 1, (1, 1))


def test_views_of_a_tensor_do_not_let_it_change():
    x = ops.convert_to_tensor(X)
    y = ops.pad(x, 0, mode="edge")
    assert not np.shares_memory(y.array, x.array)
