import math

import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import cublaslt, cuda, devices
from gpukeras.ops.attention import projection
from gpukeras.testing import check_gradients
from tests.emulator import compile as emulator
from tests.helpers import assert_close
from tests.strict_device import forbid_host_reads

pytest_plugins = ["tests.fake_gpu"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


SQUARE = normal(2, 3, 3) + 3 * np.eye(3)
SHAPES = [
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 1, 2, 3), (6, 3, 4)),
    ((5, 2, 3), (3,)),
    ((1, 2, 3), (5, 3, 4)),
]


@pytest.mark.parametrize(("shape1", "shape2"), SHAPES)
def test_matmul(shape1, shape2, device):
    x1, x2 = normal(*shape1), normal(*shape2, seed=1)
    with forbid_host_reads():
        y = ops.matmul(Tensor(devices.to_device(x1)), Tensor(devices.to_device(x2)))
    assert_close(y, x1 @ x2)
    check_gradients(ops.matmul, x1, x2)


def test_linear(float_dtype, device):
    x, kernel, bias = normal(2, 5, 3), normal(3, 4, seed=1), normal(4, seed=2)
    y = ops.linear(x.astype(float_dtype), kernel.astype(float_dtype), bias.astype(float_dtype))
    assert y.dtype == float_dtype
    assert_close(y, x @ kernel + bias, dtype=float_dtype)
    check_gradients(ops.linear, x, kernel, bias)
    check_gradients(ops.linear, x[0], kernel)


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3), (0, 3)])
def test_linear_with_rectifier(shape, float_dtype, device):
    arrays = normal(*shape), normal(3, 6, seed=1), normal(6, seed=2)
    x, kernel, bias = [a.astype(float_dtype) for a in arrays]
    y = ops.linear(x, kernel, bias, is_rectified=True)
    assert y.dtype == float_dtype
    np.testing.assert_array_equal(y.numpy(), ops.relu(ops.linear(x, kernel, bias)).numpy())
    if 0 not in shape:
        check_gradients(lambda x, kernel, bias: ops.linear(x, kernel, bias, is_rectified=True), *arrays)


def product_of(x, kernel, bias, is_rectified, name):
    if name == "projection":
        return projection(x, kernel, bias)
    return ops.linear(x, kernel, bias, is_rectified=is_rectified)


@pytest.mark.skipif(emulator.reason_to_skip() is not None, reason=str(emulator.reason_to_skip()))
@pytest.mark.parametrize("refused", [set(), {"bias", "relu_bias", "sum_of_b"}])
@pytest.mark.parametrize(("name", "is_rectified"), [("linear", False), ("linear", True), ("projection", False)])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("has_few_outputs", [True, False])
def test_a_gpu_adds_biases_and_sums_their_gradients_within_products(
    gpu_with_kernels, monkeypatch, refused, name, is_rectified, has_few_outputs, has_bias
):
    library = cublaslt._library()
    library.refused.update(cublaslt.EPILOGUES[epilogue] for epilogue in refused)
    launches = []
    launch = cuda.Source.launch

    def noting(self, kernel, like, *args, **kwargs):
        launches.append(kernel)
        launch(self, kernel, like, *args, **kwargs)

    monkeypatch.setattr(cuda.Source, "launch", noting)
    units = {True: (4, 2), False: (4, 10)}[has_few_outputs]
    units = units if name == "projection" else (math.prod(units),)
    values = [normal(*shape, seed=i).round() for i, shape in enumerate([(5, 2, 3), (3, *units), units])]
    x, kernel, bias = [Variable(value.astype("float32")) for value in values]
    bias = bias if has_bias else None
    variables = [v for v in (x, kernel, bias) if v is not None]
    places = {id(v.array): devices.to_device(np.full(v.shape, np.nan, "float32")) for v in variables[1:]}
    wanted = list(places.values())
    with Tape() as tape:
        y = product_of(x, kernel, bias, is_rectified, name)
    gradients = tape.gradients([(y, devices.to_device(np.ones(y.shape, "float32")))], variables, places)
    assert all(d is place for d, place in zip(gradients[1:], wanted, strict=True))
    backward = ["rectifier_gradient" if has_bias else "relu_backward"] * is_rectified
    if has_few_outputs:
        expected = ["linear_of_few", *backward, "input_gradient_of_few", "gradients_of_few"]
        assert sorted(launches) == sorted(expected)  # the gradients are branches, in no order
        assert library.launches == []
    else:
        assert len(library.launches) == 3
        needs_finish = is_rectified and not has_bias or has_bias and bool(refused)
        needs_sum = has_bias and not is_rectified and bool(refused)
        assert launches == ["finish"] * needs_finish + backward + ["sum_of_rows"] * needs_sum
    with devices.use_device("numpy"):
        given = [Tensor(value) for value in values[: 2 + has_bias]]
        with Tape() as tape:
            for tensor in given:
                tape.watch(tensor)
            exact = product_of(*given, *[None] * (3 - len(given)), is_rectified, name)
        exact_gradients = tape.gradients([(exact, np.ones(exact.shape))], given)
    for a, b in zip([y.array, *gradients], [exact.array, *exact_gradients], strict=True):
        np.testing.assert_array_equal(devices.to_numpy(a), b)


@pytest.mark.parametrize("axes", [0, 1, 2, ([1, 2], [1, 0]), ([0], [-1]), (1, 1)])
def test_tensordot(axes, device):
    x1 = normal(4, 3, 2)
    shape = {0: (5,), 1: (2, 5), 2: (3, 2, 5)}.get(axes if isinstance(axes, int) else None)
    shape = shape or {"([1, 2], [1, 0])": (2, 3, 5), "([0], [-1])": (5, 4), "(1, 1)": (5, 3)}[str(axes)]
    x2 = normal(*shape, seed=1)
    assert_close(ops.tensordot(x1, x2, axes=axes), np.tensordot(x1, x2, axes=axes))
    check_gradients(lambda a, b: ops.tensordot(a, b, axes=axes), x1, x2)


@pytest.mark.parametrize("name", ["dot", "inner", "outer", "vdot"])
def test_products(name, device):
    x1, x2 = normal(3, 3), normal(3, 3, seed=1)
    assert_close(getattr(ops, name)(x1, x2), getattr(np, name)(x1, x2))
    assert_close(getattr(ops, name)(x1[0], x2[0]), getattr(np, name)(x1[0], x2[0]))
    check_gradients(getattr(ops, name), x1, x2)
    check_gradients(getattr(ops, name), x1[0], x2[0])
    if name != "vdot":
        assert_close(getattr(ops, name)(x1, 2.0), getattr(np, name)(x1, 2.0))


def test_dot_of_many_axes(device):
    x1, x2 = normal(2, 4, 3), normal(5, 3, 2, seed=1)
    assert_close(ops.dot(x1, x2), np.dot(x1, x2))
    check_gradients(ops.dot, x1, x2)


def test_cross(device):
    x1, x2 = normal(4, 3), normal(4, 3, seed=1)
    assert_close(ops.cross(x1, x2), np.cross(x1, x2))
    assert_close(ops.cross(x1.T, x2.T, axis=0), np.cross(x1.T, x2.T, axis=0))
    check_gradients(ops.cross, x1, x2)


@pytest.mark.parametrize(
    ("ord", "axis"),
    [(None, None), *[(o, 1) for o in (None, 0, 1, 2, 3, 0.5, np.inf, -np.inf)]]
    + [(o, (0, 2)) for o in (None, "fro", 1, -1, np.inf, -np.inf)],
)
@pytest.mark.parametrize("keepdims", [False, True])
def test_norm(ord, axis, keepdims, device):
    x = normal(2, 3, 4)
    assert_close(ops.norm(x, ord, axis, keepdims), np.linalg.norm(x, ord, axis, keepdims))
    if ord != 0:
        check_gradients(lambda x: ops.norm(x, ord, axis, keepdims), x)


def test_normalize(float_dtype, device):
    x = normal(3, 4).astype(float_dtype)
    y = ops.normalize(x)
    assert y.dtype == float_dtype
    wide = x.astype("float64")
    assert_close(y, wide / np.linalg.norm(wide, axis=-1, keepdims=True), dtype=float_dtype)
    for order in (1, 2, 3):
        check_gradients(ops.normalize, normal(3, 4), axis=0, order=order)


def test_square_matrices(device):
    vector, matrix = normal(2, 3), normal(2, 3, 4)
    assert_close(ops.inv(SQUARE), np.linalg.inv(SQUARE))
    assert_close(ops.det(SQUARE), np.linalg.det(SQUARE))
    assert_close(ops.det(SQUARE[0]), np.linalg.det(SQUARE[0]))
    assert_close(ops.solve(SQUARE, matrix), np.linalg.solve(SQUARE, matrix))
    assert_close(ops.solve(SQUARE[0], vector[0]), np.linalg.solve(SQUARE[0], vector[0]))
    check_gradients(ops.inv, SQUARE)
    check_gradients(ops.det, SQUARE)
    check_gradients(ops.det, SQUARE[0])
    check_gradients(ops.solve, SQUARE, matrix)
    check_gradients(ops.solve, SQUARE[0], vector[0])


def test_cholesky(device):
    positive = SQUARE @ SQUARE.swapaxes(-1, -2)
    assert_close(ops.cholesky(positive), np.linalg.cholesky(positive))
    assert_close(ops.cholesky(positive, upper=True), np.linalg.cholesky(positive).swapaxes(-1, -2))
    for upper in (False, True):
        check_gradients(lambda x, upper=upper: ops.cholesky(x @ ops.swapaxes(x, -1, -2), upper=upper), SQUARE)


def test_placeholders():
    x = KerasTensor((None, 3))
    assert ops.linear(x, np.ones((3, 4), "float32")).shape == (None, 4)
    assert ops.tensordot(x, np.ones((3, 2), "float32"), axes=1).shape == (None, 2)
    assert (x @ np.ones((3, 4), "float32")).shape == (None, 4)
    assert ops.norm(x, axis=1).shape == (None,)


def test_errors():
    x = normal(2, 3)
    with pytest.raises(ValueError, match="matmul multiplies the last axis of x1.*.2, 3. and .2, 3."):
        ops.matmul(x, x)
    with pytest.raises(ValueError, match="at least one axis on both sides"):
        ops.matmul(x, np.array(1.0))
    with pytest.raises(ValueError, match="tensordot: axes=3"):
        ops.tensordot(x, x, axes=3)
    with pytest.raises(ValueError, match="of equal sizes"):
        ops.tensordot(x, x, axes=1)
    with pytest.raises(ValueError, match="inv needs square matrices"):
        ops.inv(x)
    with pytest.raises(ValueError, match="positive definite"):
        ops.cholesky(-np.eye(2))
    with pytest.raises(ValueError, match="one axis or two"):
        ops.norm(np.ones((1, 1, 1)), ord=1)
    with pytest.raises(ValueError, match="is for matrices"):
        ops.norm(x, ord="fro", axis=1)
    with pytest.raises(NotImplementedError, match="singular values"):
        ops.norm(x, ord=2)
    with pytest.raises(NotImplementedError, match="three elements"):
        ops.cross(x[:, :2], x[:, :2])
    with pytest.raises(ValueError, match="whole number from 1"):
        ops.normalize(x, order=0)
