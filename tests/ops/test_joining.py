import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.testing import check_gradients
from tests.helpers import assert_close

X = np.random.default_rng(0).standard_normal((2, 3, 4))


def test_joins(device):
    a, b = X, X[:, :, :2] + 1
    assert_close(ops.concatenate([a, b], axis=-1), np.concatenate([a, b], axis=-1))
    assert_close(ops.stack([a, a], axis=1), np.stack([a, a], axis=1))
    check_gradients(lambda *xs: ops.concatenate(xs, axis=2), a, b)
    check_gradients(lambda *xs: ops.stack(xs, axis=-1), a, a + 1, a - 1)
    check_gradients(lambda *xs: ops.stack(xs), np.array(1.0), np.array(2.0))
    for name in ("hstack", "vstack", "dstack"):
        for x in (a, a[0], a[0, 0]):
            assert_close(getattr(ops, name)([x, x]), getattr(np, name)([x, x]))
            check_gradients(lambda *xs, name=name: getattr(ops, name)(xs), x, x + 1)
    assert_close(ops.append(a, a, axis=1), np.append(a, a, axis=1))
    assert_close(ops.append(a, b), np.append(a, b))


def test_joins_of_mixed_dtypes_have_gradients_of_their_own(device):
    a = Tensor(devices.to_device(np.ones(2, "float32")))
    b = Tensor(devices.to_device(np.ones(3, "float16")))
    with Tape() as tape:
        tape.watch(a)
        tape.watch(b)
        y = ops.concatenate([a, b])
    da, db = tape.gradients([(y, devices.to_device(np.ones(5, "float32")))], [a, b])
    assert (y.dtype, da.dtype, db.dtype) == ("float32", "float32", "float16")


@pytest.mark.parametrize("places", [2, [1, 3], [3, 1]])
def test_cuts(places, device):
    for name in ("split", "array_split"):
        ours, theirs = getattr(ops, name)(X, places, axis=-1), getattr(np, name)(X, places, axis=-1)
        assert isinstance(ours, list)
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b)
        check_gradients(lambda x, name=name: getattr(ops, name)(x, places, axis=-1), X)
    # only one of the pieces is used
    check_gradients(lambda x: ops.split(x, places, axis=-1)[1], X)


def test_unequal_cuts_and_unstack(device):
    assert [part.shape for part in ops.array_split(X, 3, axis=2)] == [
        (2, 3, 2),
        (2, 3, 1),
        (2, 3, 1),
    ]
    parts = ops.unstack(X, axis=1)
    assert isinstance(parts, list)
    for i, part in enumerate(parts):
        assert_close(part, X[:, i])
    check_gradients(lambda x: ops.unstack(x, axis=-1), X)
    check_gradients(lambda x: ops.unstack(x, axis=1)[2], X)


def test_placeholders_with_unknown_axes():
    x = KerasTensor((None, 8))
    assert ops.concatenate([x, x]).shape == (None, 8)
    assert ops.concatenate([x, x], axis=1).shape == (None, 16)
    assert [part.shape for part in ops.split(x, 2, axis=1)] == [(None, 4), (None, 4)]
    assert [part.shape for part in ops.split(x, 2)] == [(None, 8), (None, 8)]
    assert len(ops.unstack(x, axis=1)) == 8
    with pytest.raises(ValueError, match="unstack needs to know the size of axis 0"):
        ops.unstack(x)


def test_errors():
    with pytest.raises(ValueError, match="other axes agree, but got shapes"):
        ops.concatenate([X, X[:1]], axis=1)
    with pytest.raises(ValueError, match="stack needs arrays of one shape"):
        ops.stack([X, X[0]])
    with pytest.raises(ValueError, match="at least one tensor"):
        ops.concatenate([])
    with pytest.raises(ValueError, match="cannot make 3 equal pieces"):
        ops.split(X, 3, axis=2)
    with pytest.raises(TypeError, match="takes a list of tensors"):
        ops.concatenate(KerasTensor((2, 3)))
