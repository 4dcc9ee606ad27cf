import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.ops import elementwise
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, away_from, values
from tests.strict_device import forbid_host_reads

X = away_from(np.random.default_rng(0).uniform(-2, 2, (3, 4)), [0.0, -1.0, 1.0, 0.5])
POSITIVE = np.abs(X) + 0.1

# name, inputs, the float64 formula, whether there is a derivative
UNARY = [
    ("abs", X, np.abs, True),
    ("absolute", X, np.abs, True),
    ("ceil", X, np.ceil, False),
    ("floor", X, np.floor, False),
    ("negative", X, np.negative, True),
    ("reciprocal", X, np.reciprocal, True),
    ("round", X, np.round, False),
    ("sign", X, np.sign, False),
    ("square", X, np.square, True),
    ("trunc", X, np.trunc, False),
]
BINARY = [
    ("add", X, X[::-1], np.add, True),
    ("divide", X, POSITIVE, np.divide, True),
    ("divide_no_nan", X, POSITIVE, np.divide, True),
    ("floor_divide", X, POSITIVE, np.floor_divide, False),
    ("maximum", X, X[::-1] + 0.01, np.maximum, True),
    ("minimum", X, X[::-1] + 0.01, np.minimum, True),
    ("mod", X, POSITIVE, np.mod, True),
    ("multiply", X, X[::-1], np.multiply, True),
    ("power", POSITIVE, X, np.power, True),
    ("subtract", X, X[::-1], np.subtract, True),
    ("true_divide", X, POSITIVE, np.divide, True),
]


@pytest.mark.parametrize(("name", "x", "formula", "_"), UNARY, ids=[row[0] for row in UNARY])
def test_value_and_dtype_of_one_array(name, x, formula, _, float_dtype, device):
    x = x.astype(float_dtype)
    with forbid_host_reads():
        y = getattr(ops, name)(Tensor(devices.to_device(x)))
    assert y.dtype == float_dtype
    if formula is not None:
        assert_close(y, formula(x.astype("float64")), dtype=float_dtype)


@pytest.mark.parametrize(("name", "x1", "x2", "formula", "_"), BINARY, ids=[row[0] for row in BINARY])
def test_value_and_dtype_of_two_arrays(name, x1, x2, formula, _, float_dtype, device):
    x1, x2 = x1.astype(float_dtype), x2.astype(float_dtype)
    with forbid_host_reads():
        y = getattr(ops, name)(Tensor(devices.to_device(x1)), Tensor(devices.to_device(x2)))
    assert y.dtype == float_dtype
    expected = formula(x1.astype("float64"), x2.astype("float64"))
    if name in ("floor_divide", "mod") and float_dtype == "float16":
        expected = formula(x1, x2)  # a step function of the rounded inputs
    # scale: log(exp(0.7) + exp(-0.7)) and the like carry the rounding of several steps
    assert_close(y, expected, dtype=float_dtype, scale=4)


@pytest.mark.parametrize("name", [row[0] for row in UNARY if row[3]])
def test_derivative_of_one_array(name, device):
    x = next(row[1] for row in UNARY if row[0] == name)
    check_gradients(getattr(ops, name), x)
    check_gradients(getattr(ops, name), np.array(x[0, 0]))


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((), (3, 4))])
@pytest.mark.parametrize("name", [row[0] for row in BINARY if row[4]])
def test_derivative_of_two_arrays(name, shapes, device):
    row = next(row for row in BINARY if row[0] == name)
    x1, x2 = (
        x[tuple(slice(size) for size in (1,) * (2 - len(shape)) + shape)].reshape(shape)
        for x, shape in zip(row[1:3], shapes, strict=True)
    )
    check_gradients(getattr(ops, name), x1, x2)


@pytest.mark.parametrize("name", [row[0] for row in BINARY if row[4]])
def test_derivative_with_a_python_number(name, device):
    operation = getattr(ops, name)
    check_gradients(lambda x: operation(x, 1.5), POSITIVE)
    check_gradients(lambda x: operation(1.5, x), POSITIVE)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, 1.5, -2])
def test_powers_by_numbers(exponent, float_dtype, device):
    x = POSITIVE.astype(float_dtype)
    y = ops.power(Tensor(devices.to_device(x)), exponent)
    assert_close(y, x.astype("float64") ** exponent, dtype=float_dtype)
    assert y.dtype == float_dtype
    check_gradients(lambda x: ops.power(x, exponent), POSITIVE)


def test_power_at_zero_has_a_finite_derivative(device):
    x = Tensor(devices.to_device(np.zeros(3)))
    exponent = Tensor(devices.to_device(np.array([0.0, 1.0, 2.0])))
    with Tape() as tape:
        tape.watch(x)
        tape.watch(exponent)
        y = ops.power(x, exponent)
    dx, dexponent = tape.gradients([(y, devices.to_device(np.ones(3)))], [x, exponent])
    assert_close(dx, np.array([0.0, 1.0, 0.0]))
    assert_close(dexponent, np.zeros(3))


@pytest.mark.parametrize("bounds", [(-0.6, 0.7), (None, 0.7), (-0.6, None)])
def test_clip(bounds, float_dtype, device):
    x = X.astype(float_dtype)
    assert_close(ops.clip(x, *bounds), np.clip(x.astype("float64"), *bounds), dtype=float_dtype)
    check_gradients(lambda x: ops.clip(x, *bounds), X)


def test_clip_by_arrays(device):
    check_gradients(ops.clip, X, X - 0.3, X[:1] + 0.4)
    check_gradients(ops.clip, X, np.array(-0.7), np.array(0.6))


def test_ties_are_shared_as_by_the_oracle(device):
    """maximum, minimum and clip where both are equal; abs at 0."""

    def slopes(function, *arrays):
        tensors = [Tensor(devices.to_device(np.array(a))) for a in arrays]
        with Tape() as tape:
            for tensor in tensors:
                tape.watch(tensor)
            y = function(*tensors)
        return [values(d).tolist() for d in tape.gradients([(y, devices.to_device(np.ones(y.shape)))], tensors)]

    assert slopes(ops.maximum, [1.0, 2.0], [1.0, 1.0]) == [[0.5, 1.0], [0.5, 0.0]]
    assert slopes(ops.minimum, [1.0, 2.0], [1.0, 1.0]) == [[0.5, 0.0], [0.5, 1.0]]
    assert slopes(lambda x: ops.maximum(x, 0.0), [0.0]) == [[0.5]]
    assert slopes(lambda x: ops.clip(x, 0, 1), [0.0, 0.5, 1.0, 2.0]) == [[0.5, 1.0, 0.5, 0.0]]
    assert slopes(ops.abs, [0.0, -1.0]) == [[1.0, -1.0]]


def test_division_by_zero_gives_zero_and_no_gradient(device):
    x = Tensor(devices.to_device(np.array([1.0, 2.0])))
    with Tape() as tape:
        tape.watch(x)
        y = ops.divide_no_nan(np.array([3.0, 3.0]), x * np.array([0.0, 1.0]))
    assert_close(y, np.array([0.0, 1.5]))
    (dx,) = tape.gradients([(y, devices.to_device(np.ones(2)))], [x])
    assert_close(dx, np.array([0.0, -0.75]))


def test_numpy_scalars_of_float64_do_not_widen(device):
    x = Tensor(devices.to_device(np.ones(2, "float32")))
    assert (x / np.sqrt(2.0)).dtype == "float32"
    assert (x * np.float64(2)).dtype == "float32"


def test_bfloat16_stays_bfloat16():
    import ml_dtypes

    x = Tensor(POSITIVE.astype(ml_dtypes.bfloat16))
    for y in (
        x * 2.0,
        x + 1,
        1 - x,
        x / 3,
        x**2,
        x**1.5,
        ops.maximum(x, 0.5),
        ops.exp(x),
        ops.clip(x, 0, 1),
    ):
        assert y.dtype.name == "bfloat16"
    assert_close(x * 2.0, POSITIVE * 2, dtype="bfloat16")


def test_nothing_is_no_operand():
    with pytest.raises(TypeError, match="two tensors or numbers, but got shape .2,. and None"):
        ops.add(np.ones(2), None)


def test_unbroadcast_sums_the_broadcast_axes():
    dy = np.ones((2, 3, 4))
    assert elementwise.unbroadcast(dy, np.ones((3, 1))).tolist() == [[8.0]] * 3
    assert elementwise.unbroadcast(dy, np.ones((1, 4), "float32")).dtype == "float32"
    assert elementwise.unbroadcast(dy, 2.0) is None
    assert elementwise.unbroadcast(dy, np.ones((2, 3, 4))) is dy
