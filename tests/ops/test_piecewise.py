"""Rectifiers, hard sigmoids, shrinkage: values in float64, derivatives away from kinks."""

import numpy as np
import pytest

from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.ops import piecewise
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, away_from, values

KINKS = [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0]


def bounded(x, slope=0.0, most=np.inf, threshold=0.0):
    return np.where(x >= most, most, np.where(x > threshold, x, slope * (x - threshold)))


FORMULAS = [
    ("relu", {}, lambda x: np.maximum(x, 0)),
    ("relu6", {}, lambda x: np.clip(x, 0, 6)),
    ("leaky_relu", {}, lambda x: np.where(x > 0, x, 0.2 * x)),
    ("leaky_relu", {"negative_slope": 0.01}, lambda x: np.where(x > 0, x, 0.01 * x)),
    ("bounded_relu", {}, bounded),
    ("bounded_relu", {"max_value": 6.0}, lambda x: bounded(x, most=6)),
    ("bounded_relu", {"threshold": 1.0}, lambda x: bounded(x, threshold=1)),
    ("bounded_relu", {"negative_slope": 0.5, "max_value": 3.0}, lambda x: bounded(x, 0.5, 3)),
    (
        "bounded_relu",
        {"negative_slope": 0.5, "max_value": 3.0, "threshold": 1.0},
        lambda x: bounded(x, 0.5, 3, 1),
    ),
    ("hard_sigmoid", {}, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    ("hard_silu", {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    ("hard_tanh", {}, lambda x: np.clip(x, -1, 1)),
    ("soft_shrink", {}, lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0)),
    ("soft_shrink", {"threshold": 1.0}, lambda x: np.sign(x) * np.maximum(np.abs(x) - 1, 0)),
    ("hard_shrink", {}, lambda x: np.where(np.abs(x) > 0.5, x, 0)),
    ("hard_shrink", {"threshold": 1.0}, lambda x: np.where(np.abs(x) > 1, x, 0)),
    ("threshold", {"threshold": 0.5, "default_value": -2}, lambda x: np.where(x > 0.5, x, -2)),
    ("sparse_plus", {}, lambda x: np.where(x >= 1, x, np.clip(0.5 * x + 0.5, 0, 1) ** 2)),
    ("sparse_sigmoid", {}, lambda x: np.clip(0.5 * x + 0.5, 0, 1)),
]
IDS = [f"{name}-{'-'.join(map(str, settings.values()))}" for name, settings, _ in FORMULAS]


@pytest.mark.parametrize(("name", "settings", "formula"), FORMULAS, ids=IDS)
def test_value(device, float_dtype, name, settings, formula):
    x = np.linspace(-7, 7, 57).astype(float_dtype)  # a kink among them
    y = getattr(piecewise, name)(x, **settings)
    assert y.dtype == float_dtype
    assert_close(y, formula(x.astype("float64")), dtype=float_dtype)


@pytest.mark.parametrize(("name", "settings", "formula"), FORMULAS, ids=IDS)
def test_derivative(device, rng, name, settings, formula):
    x = away_from(3 * rng.standard_normal((4, 7)), KINKS)
    check_gradients(getattr(piecewise, name), x, **settings)


@pytest.mark.parametrize(("name", "settings", "formula"), FORMULAS, ids=IDS)
def test_gradient_has_the_dtype_of_the_input(float_dtype, name, settings, formula):
    x = Tensor(np.linspace(-7, 7, 57).astype(float_dtype))
    with Tape() as tape:
        tape.watch(x)
        y = getattr(piecewise, name)(x, **settings)
    ((_, outputs, backward, needs),) = tape.entries
    (dx,) = backward(np.ones_like(y.array), needs)
    assert dx.dtype == float_dtype


@pytest.mark.parametrize(("name", "settings", "formula"), FORMULAS, ids=IDS)
def test_scalar_and_python_number(device, name, settings, formula):
    function = getattr(piecewise, name)
    assert_close(function(np.array(0.75), **settings), np.float64(formula(np.float64(0.75))))
    assert_close(function(0.75, **settings), np.float64(formula(np.float64(0.75))), dtype="float32")


def test_relu_keeps_integers(device):
    y = piecewise.relu(np.array([-2, 3], "int32"))
    assert y.dtype == "int32"
    np.testing.assert_array_equal(values(y), [0, 3])
    assert piecewise.relu(np.array([True, False])).dtype == "int32"


def test_hard_swish_is_hard_silu():
    assert piecewise.hard_swish is piecewise.hard_silu


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5), (4, 1), (1, 5)])
def test_parametric_relu(device, rng, float_dtype, shape):
    x = away_from(rng.standard_normal((3, 4, 5)), [0.0])
    alpha = rng.standard_normal(shape)
    check_gradients(piecewise.parametric_relu, x, alpha)
    x, alpha = x.astype(float_dtype), alpha.astype(float_dtype)
    y = piecewise.parametric_relu(x, alpha)
    assert y.dtype == float_dtype
    x = x.astype("float64")
    assert_close(y, np.where(x > 0, x, alpha.astype("float64") * x), dtype=float_dtype)
