"""Loss functions of (y_true, y_pred): formulas in float64, gradients, dtypes, broadcasts, errors."""

import numpy as np
import pytest

from gpukeras.ops import objective
from gpukeras.ops.loss import reduce_loss
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, values

EPSILON = 1e-7

FORMULAS = {
    "mean_squared_error": lambda t, p: ((t - p) ** 2).mean(-1),
    "mean_absolute_error": lambda t, p: np.abs(t - p).mean(-1),
    "mean_absolute_percentage_error": lambda t, p: 100 * np.abs((t - p) / t).mean(-1),
    "mean_squared_logarithmic_error": lambda t, p: (np.log((1 + t) / (1 + p)) ** 2).mean(-1),
    "cosine_similarity": lambda t, p: -(t * p).sum(-1) / np.linalg.norm(t, axis=-1) / np.linalg.norm(p, axis=-1),
    "huber": lambda t, p: np.where(np.abs(t - p) <= 1, (t - p) ** 2 / 2, np.abs(t - p) - 0.5).mean(-1),
    "log_cosh": lambda t, p: np.log(np.cosh(t - p)).mean(-1),
    "kl_divergence": lambda t, p: (t * np.log(t / p)).sum(-1),
    "poisson": lambda t, p: (p - t * np.log(p + EPSILON)).mean(-1),
    "hinge": lambda t, p: np.maximum(1 - t * p, 0).mean(-1),
    "squared_hinge": lambda t, p: (np.maximum(1 - t * p, 0) ** 2).mean(-1),
    "categorical_hinge": lambda t, p: np.maximum(((1 - t) * p).max(-1) - (t * p).sum(-1) + 1, 0),
}


def test_every_function_has_a_formula():
    assert sorted(FORMULAS) == objective.__all__


@pytest.mark.parametrize("name", FORMULAS)
def test_value_and_gradients(name, rng, device):
    function = getattr(objective, name)
    t, p = rng.uniform(0.2, 0.9, (3, 4, 5)), rng.uniform(0.2, 0.9, (3, 4, 5))
    assert_close(function(t, p), FORMULAS[name](t, p), "float64")
    check_gradients(function, t, p)


@pytest.mark.parametrize("name", FORMULAS)
def test_dtype_is_that_of_the_prediction(name, float_dtype, rng, device):
    t, p = rng.uniform(0.2, 0.9, (6, 5)), rng.uniform(0.2, 0.9, (6, 5))
    y = getattr(objective, name)(t, p.astype(float_dtype))
    assert y.dtype == float_dtype
    assert_close(y, FORMULAS[name](t, p).astype(float_dtype), scale=100)  # MAPE is 100 times larger


@pytest.mark.parametrize("name", ["mean_squared_error", "huber", "log_cosh", "cosine_similarity"])
@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4,), (4, 1)), ((4, 1), (4, 3)), ((3,), (4, 3))])
def test_broadcast_and_ranks(name, shapes, rng, device):
    t, p = (rng.uniform(0.2, 0.9, shape) for shape in shapes)
    check_gradients(getattr(objective, name), t, p)


def test_huber_beyond_delta(rng, device):
    t, p = rng.standard_normal((3, 4)), rng.standard_normal((3, 4)) * 3
    check_gradients(objective.huber, t, p, delta=0.5)


def test_log_cosh_does_not_overflow():
    y = objective.log_cosh(np.zeros(2, "float32"), np.array([200.0, -200.0], "float32"))
    assert_close(y, np.float32(200 - np.log(2)))


@pytest.mark.parametrize("name", ["hinge", "squared_hinge"])
def test_bits_are_read_as_signs(name, rng, device):
    function = getattr(objective, name)
    bits, p = rng.integers(0, 2, (4, 3)), rng.uniform(-0.9, 0.9, (4, 3))
    assert_close(function(bits, p), FORMULAS[name](bits * 2 - 1, p), "float64")
    check_gradients(function, bits, p)


def test_largest_ones_share_the_gradient(device):
    from gpukeras.autograd.tape import Tape
    from gpukeras.autograd.tensor import Tensor
    from gpukeras.backend import devices

    p = Tensor(devices.to_device(np.array([[0.2, 0.5, 0.5]])))
    with Tape() as tape:
        tape.watch(p)
        y = objective.categorical_hinge(np.array([[1.0, 0.0, 0.0]]), p)
    (dp,) = tape.gradients([(y, devices.to_device(np.ones(1)))], [p])
    assert_close(dp, np.array([[-1, 0.5, 0.5]]))


def test_integers_become_the_default_float():
    y = objective.mean_squared_error([[0, 1]], [[1, 1]])
    assert y.dtype == "float32"
    assert values(y).tolist() == [0.5]


@pytest.mark.parametrize("name", FORMULAS)
def test_shapes_that_do_not_fit(name):
    with pytest.raises(ValueError, match=rf"{name}.*\(2, 3\).*\(4, 5\)"):
        getattr(objective, name)(np.ones((2, 3)), np.ones((4, 5)))
    with pytest.raises(ValueError, match=name):
        getattr(objective, name)(1.0, 2.0)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_mean_of_equals_the_function_and_its_reduction(name, dtype, rng, device):
    function = getattr(objective, name)
    t, p = (rng.uniform(0.2, 0.9, (3, 4, 5)).astype(dtype) for _ in range(2))
    mean = objective.mean_of(t, p, function, {})
    assert mean.dtype == dtype
    assert mean.shape == ()
    assert_close(mean, reduce_loss(function(t, p)))  # sums may be taken in another order


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_of_mean_of(name, rng, device):
    t, p = rng.uniform(0.2, 0.9, (3, 4, 5)), rng.uniform(0.2, 0.9, (3, 4, 5))
    check_gradients(lambda t, p: objective.mean_of(t, p, getattr(objective, name), {}), t, p)
