"""Regularizers: values, derivatives, names, configs, errors."""

import numpy as np
import pytest

from gpukeras import ops, regularizers
from gpukeras.autograd.tensor import Variable
from gpukeras.backend import devices
from gpukeras.testing import check_gradients
from tests.helpers import assert_close, away_from

X = np.array([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]])


def cosines(x):
    unit = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    return abs(unit @ unit.T)[np.triu_indices(len(x), 1)].mean()


NOTHING = regularizers.L1L2()
CASES = [
    (regularizers.L1(0.5), lambda x: 0.5 * abs(x).sum()),
    (regularizers.L2(0.25), lambda x: 0.25 * (x**2).sum()),
    (regularizers.L1L2(0.5, 0.25), lambda x: 0.5 * abs(x).sum() + 0.25 * (x**2).sum()),
    (regularizers.L1L2(l2=0.25), lambda x: 0.25 * (x**2).sum()),
    (NOTHING, lambda x: 0.0),
    (regularizers.OrthogonalRegularizer(0.5), lambda x: 0.5 * cosines(x)),
    (regularizers.OrthogonalRegularizer(0.5, "columns"), lambda x: 0.5 * cosines(x.T)),
]


@pytest.mark.parametrize(("regularizer", "formula"), CASES)
def test_values(regularizer, formula, float_dtype, device):
    penalty = regularizer(ops.convert_to_tensor(X.astype(float_dtype)))
    assert penalty.dtype == float_dtype
    assert_close(penalty, np.float64(formula(X)), dtype=float_dtype)


@pytest.mark.parametrize("regularizer", [case[0] for case in CASES if case[0].get_config() != {"l1": 0, "l2": 0}])
def test_derivatives(regularizer, device, rng):
    check_gradients(regularizer, away_from(rng.normal(size=(3, 4)), [0.0]))


def test_variables_are_accepted(device):
    v = Variable(devices.to_device(X.astype("float32")))
    assert_close(regularizers.L2(1.0)(v), np.float32((X**2).sum()))


def test_a_row_of_zeros_has_no_angle():
    x = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, -1.0]])
    assert regularizers.OrthogonalRegularizer(1.0)(x).item() == pytest.approx(0.0, abs=1e-9)


def test_one_row_has_no_angle():
    assert regularizers.OrthogonalRegularizer(1.0)(np.ones((1, 3))).item() == 0.0


def test_names():
    for name, cls in {
        "l1": regularizers.L1,
        "L2": regularizers.L2,
        "l1l2": regularizers.L1L2,
        "l1_l2": regularizers.L1L2,
        "orthogonal_regularizer": regularizers.OrthogonalRegularizer,
    }.items():
        assert type(regularizers.get(name)) is cls
    assert regularizers.get(None) is None
    assert regularizers.get(regularizers.L1).get_config() == regularizers.L1().get_config()

    def my_penalty(x):
        return ops.sum(x)

    assert regularizers.get(my_penalty) is my_penalty


@pytest.mark.parametrize("regularizer", [case[0] for case in CASES])
def test_config_round_trip(regularizer):
    again = regularizers.deserialize(regularizers.serialize(regularizer))
    assert type(again) is type(regularizer)
    assert again.get_config() == regularizer.get_config()


def test_errors():
    with pytest.raises(ValueError, match="Unknown regularizer 'l3'"):
        regularizers.get("l3")
    for value in (-0.1, float("nan"), float("inf"), "0.1"):
        for cls, name in (
            (regularizers.L1, "l1"),
            (regularizers.L2, "l2"),
            (regularizers.OrthogonalRegularizer, "factor"),
        ):
            with pytest.raises(ValueError, match=f"{name} must be a number not below 0"):
                cls(value)
    with pytest.raises(ValueError, match="mode must be 'rows' or 'columns'"):
        regularizers.OrthogonalRegularizer(mode="row")
    with pytest.raises(ValueError, match="needs a matrix"):
        regularizers.OrthogonalRegularizer()(np.ones(3))
