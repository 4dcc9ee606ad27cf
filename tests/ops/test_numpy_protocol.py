import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values
from tests.strict_device import forbid_host_reads

X = np.random.default_rng(0).uniform(0.1, 0.9, (3, 3))

CALLS = {
    "ufunc of one": lambda np_, x: np_.exp(np_.sqrt(x)) + np_.tanh(x) + np_.log1p(x) + np_.arcsin(x),
    "ufunc of two": lambda np_, x: np_.maximum(x, 0.5) + np_.minimum(0.5, x) + np_.power(x, 2),
    "mixed": lambda np_, x: np_.add(X, x) * np_.subtract(x, X) / np_.multiply(2, x),
    "matmul": lambda np_, x: np_.matmul(x, X) + np_.dot(x, x) + x @ X + X @ x,
    "sum": lambda np_, x: np_.sum(x, axis=0) + np_.sum(x, 1) + np_.sum(x, keepdims=True),
    "sum dtype": lambda np_, x: np_.sum(x, dtype="float64"),
    "mean": lambda np_, x: np_.mean(x, axis=1, keepdims=True) + np_.std(x) + np_.var(x, 0),
    "max": lambda np_, x: np_.max(x, axis=0) + np_.min(x) + np_.amax(x, 1) + np_.max(x, initial=2.0),
    "prod": lambda np_, x: np_.prod(x, axis=0),
    "where": lambda np_, x: np_.where(X > 0.5, x, 0.0),
    "clip": lambda np_, x: np_.clip(x, 0.2, 0.8) + np_.clip(x, a_min=0.3, a_max=None),
    "concatenate": lambda np_, x: np_.concatenate([x, X], axis=1),
    "concatenate flat": lambda np_, x: np_.concatenate([x, X], axis=None),
    "stack": lambda np_, x: np_.stack([x, X], axis=-1),
    "hstack": lambda np_, x: np_.hstack([x, X]),
    "reshape": lambda np_, x: np_.reshape(x, (9, 1)),
    "transpose": lambda np_, x: np_.transpose(x) + np_.swapaxes(x, 0, 1),
    "expand_dims": lambda np_, x: np_.squeeze(np_.expand_dims(x, 0), 0),
    "split": lambda np_, x: np_.split(x, 3, axis=1)[1],
    "norm": lambda np_, x: np_.linalg.norm(x, axis=1) + np_.linalg.norm(x),
    "inv": lambda np_, x: np_.linalg.inv(x + 2 * np.eye(3)),
    "einsum": lambda np_, x: np_.einsum("ij,kj->ik", x, X),
    "tensordot": lambda np_, x: np_.tensordot(x, X, axes=1),
    "cumsum": lambda np_, x: np_.cumsum(x, axis=1),
    "take": lambda np_, x: np_.take(x, np.array([0, 2]), axis=1),
    "sort": lambda np_, x: np_.sort(x, axis=0),
    "pad": lambda np_, x: np_.pad(x, ((1, 0), (0, 1))) + np_.pad(x, ((1, 0), (0, 1)), mode="edge"),
    "flip": lambda np_, x: np_.flip(x, 0) + np_.fliplr(x) + np_.flipud(x) + np_.rot90(x),
    "repeat": lambda np_, x: np_.repeat(x, 2, axis=0) + np_.tile(x, (2, 1)),
    "tril": lambda np_, x: np_.tril(x) + np_.triu(x) + np_.diag(np_.diag(x)),
    "broadcast_to": lambda np_, x: np_.broadcast_to(x, (2, 3, 3)),
    "median": lambda np_, x: np_.median(x, axis=0) + np_.quantile(x, 0.3, axis=0),
    "copy": lambda np_, x: np_.copy(x) + np_.nan_to_num(x),
    "likes": lambda np_, x: x * np_.ones_like(x) + np_.zeros_like(x) + np_.full_like(x, 2.0),
}


@pytest.mark.parametrize("name", CALLS)
def test_numpy_functions(name, device):
    call = CALLS[name]
    y = call(np, Tensor(devices.to_device(X)))
    assert isinstance(y, Tensor)
    assert_close(y, call(np, X))
    check_gradients(lambda x: call(np, x), X)


def test_questions(device):
    x = Tensor(devices.to_device(X))
    assert (np.shape(x), np.ndim(x), np.size(x)) == ((3, 3), 2, 9)
    assert np.allclose(x, X) is True
    assert np.array_equal(x, X)
    assert isinstance(np.argmax(x, axis=1), Tensor)
    assert values(np.any(x > 0.5)).tolist() is True
    assert "0." in np.array2string(x) and np.array_repr(x).startswith("array")


def test_a_layer_written_in_numpy_records_and_stays_on_the_device(device):
    x = devices.to_device(X.astype("float32"))
    w, b = Variable(np.ones((3, 2), "float32")), Variable(np.zeros(2, "float32"))
    with Tape() as tape, forbid_host_reads():
        loss = np.mean(np.maximum(Tensor(x) @ w + b, 0) ** 2)
    with forbid_host_reads():
        dw, db = tape.gradients([(loss, devices.to_device(np.ones((), "float32")))], [w, b])
    assert (dw.shape, db.shape, loss.dtype) == ((3, 2), (2,), "float32")
    rows = X.sum(axis=1)
    assert_close(db, np.full(2, 2 * rows.sum() / 6), dtype="float32")


def test_placeholders():
    x = KerasTensor((None, 4))
    assert np.maximum(x, 0).shape == (None, 4)
    assert np.mean(x, axis=-1).shape == (None,)
    assert np.concatenate([x, x], axis=1).shape == (None, 8)


def test_functions_without_an_op_fail_by_name(device):
    x = ops.convert_to_tensor(X)
    with pytest.raises(TypeError, match="np.fft has no derivative in gpukeras"):
        np.fft.fft(x)
    with pytest.raises(TypeError, match="np.hypot has no derivative"):
        np.hypot(x, x)
    with pytest.raises(TypeError, match="out=...*does not work on a Tensor"):
        np.add(x, x, out=np.zeros((3, 3)))
    with pytest.raises(TypeError, match="np.sum.*out=...*does not work"):
        np.sum(x, out=np.zeros(()))
    with pytest.raises(TypeError, match="np.add.reduce"):
        np.add.reduce(x)
    with pytest.raises(TypeError, match="order='F'"):
        np.reshape(x, (9,), order="F")
