"""Smooth activations: values in float64, derivatives, dtypes, the ends of the range."""

import math

import numpy as np
import pytest

from gpukeras.ops import activation
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normal_cdf(x):
    return np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))(x)


def gelu_by_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


FORMULAS = [
    ("celu", {}, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    ("celu", {"alpha": 0.7}, lambda x: np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0) / 0.7))),
    ("elu", {}, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    ("elu", {"alpha": 0.3}, lambda x: np.where(x > 0, x, 0.3 * np.expm1(np.minimum(x, 0)))),
    ("gelu", {}, gelu_by_tanh),
    ("gelu", {"approximate": False}, lambda x: x * normal_cdf(x)),
    ("log_sigmoid", {}, lambda x: -np.log1p(np.exp(-x))),
    ("mish", {}, lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    (
        "selu",
        {},
        lambda x: 1.05070098 * np.where(x > 0, x, 1.67326324 * np.expm1(np.minimum(x, 0))),
    ),
    ("sigmoid", {}, sigmoid),
    ("silu", {}, lambda x: x * sigmoid(x)),
    ("softplus", {}, lambda x: np.log1p(np.exp(x))),
    ("softsign", {}, lambda x: x / (1 + np.abs(x))),
    ("squareplus", {}, lambda x: (x + np.sqrt(x * x + 4)) / 2),
    ("squareplus", {"b": 0.5}, lambda x: (x + np.sqrt(x * x + 0.5)) / 2),
    ("tanh_shrink", {}, lambda x: x - np.tanh(x)),
]
IDS = [f"{name}-{'-'.join(map(str, settings.values()))}" for name, settings, _ in FORMULAS]


@pytest.mark.parametrize(("name", "settings", "formula"), FORMULAS, ids=IDS)
def test_value(device, float_dtype, name, settings, formula):
    x = np.linspace(-6, 6, 60).reshape(3, 20).astype(float_dtype)
    y = getattr(activation, name)(x, **settings)
    assert y.dtype == float_dtype
    assert_close(y, formula(x.astype("float64")), dtype=float_dtype)


@pytest.mark.parametrize(("name", "settings", "formula"), FORMULAS, ids=IDS)
def test_derivative(device, rng, name, settings, formula):
    x = 2 * rng.standard_normal((3, 5))
    check_gradients(getattr(activation, name), x, **settings)


@pytest.mark.parametrize(("name", "settings", "formula"), FORMULAS, ids=IDS)
def test_scalar_and_python_number(device, name, settings, formula):
    expected = formula(np.float64(0.75))
    function = getattr(activation, name)
    assert_close(function(np.array(0.75), **settings), expected)
    y = function(0.75, **settings)
    assert y.dtype == "float32"
    assert_close(y, expected, dtype="float32")


@pytest.mark.parametrize(("name", "settings", "formula"), FORMULAS, ids=IDS)
def test_integers_become_floatx(device, name, settings, formula):
    x = np.array([-2, 0, 3], "int32")
    y = getattr(activation, name)(x, **settings)
    assert y.dtype == "float32"
    assert_close(y, formula(x.astype("float64")), dtype="float32")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("name", "settings", "formula"), FORMULAS, ids=IDS)
def test_large_arguments_neither_overflow_nor_warn(name, settings, formula, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    from gpukeras.autograd.tape import Tape
    from gpukeras.autograd.tensor import Tensor, convert_to_array

    x = Tensor(convert_to_array(np.array([-60000.0, -300.0, 0.0, 300.0, 60000.0]), dtype))
    with Tape() as tape:
        tape.watch(x)
        y = getattr(activation, name)(x, **settings)
    (dx,) = tape.gradients([(y, np.ones_like(y.array))], [x])
    assert y.dtype == x.dtype and dx.dtype == x.dtype
    with np.errstate(all="ignore"):
        assert np.isfinite(y.numpy().astype("float64")).all()
        assert np.isfinite(dx.astype("float64")).all()


def test_sigmoid_keeps_its_precision_where_it_is_small(device):
    y = values(activation.sigmoid(np.float32([-80.0, -20.0])))
    np.testing.assert_allclose(y, np.exp([-80.0, -20.0]), rtol=1e-5)


def test_exact_gelu_vanishes_for_very_negative_numbers(device):
    y = values(activation.gelu(np.float32([-50.0, 50.0]), approximate=False))
    np.testing.assert_array_equal(y, [0.0, 50.0])


def test_swish_is_silu():
    assert activation.swish is activation.silu


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_glu(device, rng, axis):
    x = rng.standard_normal((4, 6, 2))
    a, b = np.split(x, 2, axis)
    assert_close(activation.glu(x, axis=axis), a * sigmoid(b))
    check_gradients(activation.glu, x, axis=axis)


def test_glu_says_what_is_wrong():
    with pytest.raises(ValueError, match="must be even, but got shape"):
        activation.glu(np.ones((2, 3)))
    with pytest.raises(ValueError, match="axis=2 for an array of shape"):
        activation.glu(np.ones((2, 4)), axis=2)
