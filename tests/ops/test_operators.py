import operator

import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values

X = np.random.default_rng(0).uniform(0.5, 2, (3, 4))
FLOAT = "add sub mul truediv floordiv mod pow lt le gt ge eq ne".split()
BITS = "and_ or_ xor lshift rshift".split()


def tensor(x=X):
    return Tensor(devices.to_device(x))


@pytest.mark.parametrize("name", FLOAT)
def test_operators(name, device):
    operate = getattr(operator, name)
    assert_close(operate(tensor(), tensor(X[:1])), operate(X, X[:1]))
    assert_close(operate(tensor(), 1.5), operate(X, 1.5))
    assert_close(operate(1.5, tensor()), operate(1.5, X))
    assert_close(operate(tensor(), X), operate(X, X))
    assert_close(operate(X, tensor()), operate(X, X))
    assert operate(KerasTensor((None, 4)), 2).shape == (None, 4)
    assert operate(2, KerasTensor((None, 4))).shape == (None, 4)
    assert operate(KerasTensor((None, 4)), tensor(X[0])).shape == (None, 4)
    assert operate(tensor(X[0]), KerasTensor((None, 4))).shape == (None, 4)


@pytest.mark.parametrize("name", BITS)
def test_operators_on_bits(name, device):
    operate = getattr(operator, name)
    x = np.arange(6, dtype="int32")
    assert_close(operate(tensor(x), 2), operate(x, 2))
    assert_close(operate(2, tensor(x)), operate(2, x))
    if name in ("and_", "or_", "xor"):
        assert_close(operate(tensor(x > 2), tensor(x < 4)), operate(x > 2, x < 4))


def test_other_operators(device):
    x = tensor()
    assert_close(-x, -X)
    assert_close(+x, X)
    assert_close(abs(-x), X)
    assert_close(round(x), np.round(X))
    assert_close(round(x, 1), np.round(X, 1))
    assert_close(~tensor(X > 1), ~(X > 1))
    assert_close(x @ x.T, X @ X.T)
    assert_close(X @ x.T, X @ X.T)
    assert_close(x[1:, 0], X[1:, 0])
    assert [values(row).tolist() for row in x] == X.tolist()


def test_comparison_with_nothing_and_words():
    for x in (tensor(), Variable(X), KerasTensor((2,))):
        assert (x == None) is False  # noqa: E711
        assert (x != None) is True  # noqa: E711
        assert (x == "x") is False
        assert x != "x"
        assert hash(x) == id(x)
        assert x in {x}


def test_a_tensor_never_changes(device):
    x = before = tensor()
    x += 1
    x *= 2
    assert x is not before
    assert_close(before, X)
    with pytest.raises(TypeError, match="ops.slice_update"):
        x[0] = 1
    v = kept = Variable(X)
    v += 1
    assert_close(kept, X)
    assert not isinstance(v, Variable)


def test_methods(device):
    x = tensor()
    assert_close(x.T, X.T)
    assert_close(x.reshape(4, 3), X.reshape(4, 3))
    assert_close(x.reshape((2, -1)), X.reshape(2, -1))
    assert_close(x.reshape(-1), X.reshape(-1))
    assert_close(x.transpose(), X.T)
    assert_close(x.transpose(1, 0), X.T)
    assert_close(x.transpose((1, 0)), X.T)
    assert x.astype("float16").dtype == "float16"
    assert_close(x.sum(axis=0, keepdims=True), X.sum(axis=0, keepdims=True))
    assert_close(x.mean(1), X.mean(1))
    for name in "max min std var prod argmax argmin cumsum ravel flatten copy squeeze all any".split():
        np.testing.assert_allclose(values(getattr(x, name)()), getattr(X, name)())
    check_gradients(lambda x: (x.T @ x).reshape(2, -1).sum(axis=0), X)
    assert KerasTensor((None, 4)).reshape((-1, 2, 2)).shape == (None, 2, 2)
    assert KerasTensor((None, 4)).astype("int32").dtype == "int32"


def test_a_word_is_no_operand():
    with pytest.raises(TypeError, match="Cannot make a Tensor"):
        tensor() + "x"


def test_operators_of_float32_keep_it(device):
    x = tensor(X.astype("float32"))
    for y in (x + 1, 1 - x, x * 0.5, x / 3, x**2, 2**x, x % 2, x // 2, -x, abs(x), x @ x.T):
        assert y.dtype == "float32"
    assert (ops.cast(x, "int32") / 2).dtype == "float32"
