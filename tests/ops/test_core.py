import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values

X = np.random.default_rng(0).standard_normal((3, 4))


def slopes(function, *tensors):
    with Tape() as tape:
        for tensor in tensors:
            if not isinstance(tensor, Variable):
                tape.watch(tensor)
        y = function(*tensors)
    return tape.gradients([(y, devices.to_device(np.ones(y.shape, y.dtype)))], list(tensors))


def test_conversion(device):
    assert ops.convert_to_tensor(1.5).dtype == "float32"
    assert ops.convert_to_tensor(1).dtype == "int32"
    assert ops.convert_to_tensor([True]).dtype == "bool"
    assert ops.convert_to_tensor([[1, 2.0]]).dtype == "float32"
    assert ops.convert_to_tensor(X).dtype == "float64"
    assert ops.convert_to_tensor(X, "float16").dtype == "float16"
    assert ops.array([1, 2], "int64").dtype == "int64"
    x = ops.convert_to_tensor(X)
    assert ops.convert_to_tensor(x) is x
    assert ops.convert_to_tensor(KerasTensor((None, 2)), "int32").dtype == "int32"
    copied = ops.convert_to_numpy(x)
    assert type(copied) is np.ndarray
    copied[...] = 0
    assert_close(x, X)
    with pytest.raises(NotImplementedError, match="sparse=True"):
        ops.convert_to_tensor(X, sparse=True)
    with pytest.raises(TypeError, match="Cannot make a Tensor"):
        ops.convert_to_tensor("abc")
    with pytest.raises(ValueError, match="has no values"):
        ops.convert_to_numpy(KerasTensor((2,)))


def test_a_variable_becomes_a_tensor_with_a_gradient(device):
    v = Variable(np.ones(2, "float32"))
    (dv,) = slopes(lambda v: ops.convert_to_tensor(v) * 3, v)
    assert values(dv).tolist() == [3.0, 3.0]
    assert not isinstance(ops.convert_to_tensor(v), Variable)


def test_what_is_a_tensor():
    assert ops.is_tensor(ops.zeros(2))
    assert not any(map(ops.is_tensor, (X, 1.0, None, KerasTensor((2,)), Variable(X))))


def test_cast(device):
    for dtype in ("float16", "float32", "int32", "bool"):
        assert_close(ops.cast(X, dtype), X.astype(dtype))
    x = Tensor(devices.to_device(X))
    (dx,) = slopes(lambda x: ops.cast(x, "float32"), x)
    assert dx.dtype == "float64" and values(dx).tolist() == np.ones_like(X).tolist()
    assert slopes(lambda x: ops.cast(x, "int32"), x) == [None]
    check_gradients(lambda x: ops.cast(x, "float64"), X)
    with pytest.raises(ValueError, match="Did you mean 'float32'"):
        ops.cast(X, "float23")


def test_saturate_cast(device):
    x = np.array([-300.0, -1.5, 0.0, 200.0, 1e30])
    assert values(ops.saturate_cast(x, "uint8")).tolist() == [0, 0, 0, 200, 255]
    assert values(ops.saturate_cast(x, "int8")).tolist() == [-128, -1, 0, 127, 127]
    assert values(ops.saturate_cast(x.astype("float32"), "int32")).tolist()[:4] == [
        -300,
        -1,
        0,
        200,
    ]
    assert values(ops.saturate_cast(np.array([300, -1]), "uint8")).tolist() == [255, 0]
    assert values(ops.saturate_cast(x, "float16")).tolist()[-1] == 65504
    assert values(ops.saturate_cast(x, "bool")).tolist() == [True, True, False, True, True]
    tensor = Tensor(devices.to_device(np.array([1.0, 1e30])))
    assert values(slopes(lambda x: ops.saturate_cast(x, "float32") * 1e-9, tensor)[0]).shape == (2,)
    assert values(slopes(lambda x: ops.saturate_cast(x, "float16"), tensor)[0]).tolist() == [
        1.0,
        0.0,
    ]


def test_shapes():
    x = KerasTensor((None, 3))
    assert (ops.shape(x), ops.ndim(x), ops.size(x), ops.dtype(x)) == ((None, 3), 2, None, "float32")
    assert (ops.shape(X), ops.ndim(X), ops.size(X), ops.dtype(X)) == ((3, 4), 2, 12, "float64")
    assert (ops.shape([1, 2]), ops.size(1.0), ops.dtype(1)) == ((2,), 1, "int32")
    assert ops.dtype(np.array([True])) == "bool"


def test_copies_and_stops(device):
    x = Tensor(devices.to_device(X))
    assert_close(ops.copy(x), X)
    assert not np.shares_memory(values(ops.copy(x)), values(x))
    (dx,) = slopes(lambda x: x * ops.stop_gradient(x), x)
    assert_close(dx, X)
    check_gradients(ops.copy, X)


def test_branches(device):
    assert ops.cond(ops.convert_to_tensor(True), lambda: 1, lambda: 2) == 1
    assert ops.cond(False, lambda: 1, lambda: 2) == 2
    assert [ops.switch(i, [lambda x: x, lambda x: -x], 3) for i in (-1, 0, 1, 7)] == [3, 3, -3, -3]
    with pytest.raises(NotImplementedError, match="ops.where"):
        ops.cond(KerasTensor((), "bool"), lambda: 1, lambda: 2)


def test_loops(device):
    x = ops.convert_to_tensor(1.0)
    i, doubled = ops.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), (0, x))
    assert (int(i), float(doubled)) == (3, 8.0)
    assert ops.while_loop(lambda i: True, lambda i: i + 1, 0, maximum_iterations=4) == 4
    assert ops.while_loop(lambda i: i < 2, lambda i: [i + 1], [0]) == [2]
    assert float(ops.fori_loop(0, 3, lambda i, x: x + i, x)) == 4.0
    (dx,) = slopes(
        lambda x: ops.fori_loop(0, 3, lambda i, y: y * x, x),
        Tensor(devices.to_device(np.array(2.0))),
    )
    assert float(values(dx)) == 32.0


def test_scan_and_map(device):
    last, sums = ops.scan(lambda c, x: (c + x, c + x), np.zeros(4), X)
    assert_close(sums, np.cumsum(X, axis=0))
    assert_close(last, X.sum(axis=0))
    _, sums = ops.scan(lambda c, x: (c + x, c + x), np.zeros(4), X, reverse=True)
    assert_close(sums, np.cumsum(X[::-1], axis=0)[::-1])
    assert float(ops.scan(lambda c, _: (c * 2, None), 1.0, length=3)[0]) == 8.0
    check_gradients(lambda x: ops.scan(lambda c, r: (c * r, c * r), np.ones(4), x), X)
    assert_close(ops.map(lambda r: r * 2, X), X * 2)
    found = ops.map(lambda r: {"a": r[0] + r[1], "b": (r[0],)}, (X, X))
    assert_close(found["a"], 2 * X)
    assert_close(found["b"][0], X)
    assert_close(ops.vectorized_map(lambda r: ops.sum(r), X), X.sum(axis=1))
    with pytest.raises(TypeError, match="needs a function"):
        ops.scan(None, 0, X)
    with pytest.raises(ValueError, match="xs or length"):
        ops.scan(lambda c, x: (c, x), 0)
    with pytest.raises(ValueError, match="xs of one length"):
        ops.scan(lambda c, x: (c, None), 0, (X, X[:2]))


@ops.custom_gradient
def log1pexp(x):
    e = ops.exp(x)

    def grad(*args, upstream=None):
        if upstream is None:
            (upstream,) = args
        return ops.multiply(upstream, 1.0 - 1.0 / ops.add(1, e))

    return ops.log(1 + e), grad


def test_custom_gradient(device):
    assert_close(log1pexp(X), np.log1p(np.exp(X)))
    check_gradients(log1pexp, X)
    check_gradients(lambda x: log1pexp(x * 2) * 3, X)
    assert log1pexp(KerasTensor((None, 2))).shape == (None, 2)
    v = Variable(np.zeros(2, "float32"))
    (dv,) = slopes(log1pexp, v)
    assert values(dv).tolist() == [0.5, 0.5]


def test_custom_gradient_of_several(device):
    @ops.custom_gradient
    def swapped(x, y):
        return (y * 2, x * 3), lambda dy, dx: (dx * 3, dy * 2)

    check_gradients(swapped, X, X + 1)
    check_gradients(lambda x, y: swapped(x, y)[0], X, X + 1, subsets=False)

    @ops.custom_gradient
    def doubled(x, factor):
        return x * factor, lambda upstream: upstream * factor * 2  # only of the tensors

    x = Tensor(devices.to_device(X))
    assert_close(slopes(lambda x: doubled(x, 3.0), x)[0], np.full_like(X, 6.0))

    @ops.custom_gradient
    def reversed_(x):
        return x, lambda upstream: -upstream

    assert_close(slopes(reversed_, x)[0], -np.ones_like(X))


def test_wrong_gradients_are_refused(device):
    x = Tensor(devices.to_device(X))
    with pytest.raises(ValueError, match="of wrong_shape returned a gradient of shape .2,. for"):

        @ops.custom_gradient
        def wrong_shape(x):
            return x, lambda dy: ops.ones(2)

        slopes(wrong_shape, x)
    with pytest.raises(ValueError, match="2 gradients for 1 inputs"):

        @ops.custom_gradient
        def wrong_number(x):
            return x, lambda dy: (dy, dy)

        slopes(wrong_number, x)
