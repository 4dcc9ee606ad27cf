"""Constraints: values, names, configs, errors."""

import numpy as np
import pytest

from gpukeras import constraints, ops
from gpukeras.autograd.tensor import Variable
from gpukeras.backend import devices
from tests.helpers import assert_close

EPSILON = 1e-7
W = np.array([[3.0, 0.1, -0.5], [-4.0, 0.2, 0.0]])


def norms(w, axis):
    return np.sqrt((w**2).sum(axis=axis, keepdims=True))


CASES = [
    (
        constraints.MaxNorm(2.0, axis=1),
        lambda w: w * np.minimum(norms(w, 1), 2) / (norms(w, 1) + EPSILON),
    ),
    (constraints.NonNeg(), lambda w: np.maximum(w, 0)),
    (constraints.UnitNorm(axis=0), lambda w: w / (norms(w, 0) + EPSILON)),
    (constraints.UnitNorm(axis=[0, 1]), lambda w: w / (norms(w, (0, 1)) + EPSILON)),
    (
        constraints.MinMaxNorm(0.5, 2.0, rate=0.75, axis=0),
        lambda w: w * (0.75 * np.clip(norms(w, 0), 0.5, 2) + 0.25 * norms(w, 0)) / (norms(w, 0) + EPSILON),
    ),
    (constraints.Constraint(), lambda w: w),
]


@pytest.mark.parametrize(("constraint", "formula"), CASES)
def test_values(constraint, formula, float_dtype, device):
    w = Variable(devices.to_device(W.astype(float_dtype)))
    projected = constraint(w)
    assert_close(projected, formula(W), dtype=float_dtype)
    assert_close(w, W.astype(float_dtype))
    w.assign(projected)
    assert w.dtype == float_dtype


def test_zero_weights_stay_zero():
    for constraint, _ in CASES:
        assert (ops.convert_to_numpy(constraint(ops.zeros((2, 3)))) == 0).all()


def test_names():
    for name, cls in {
        "max_norm": constraints.MaxNorm,
        "NonNeg": constraints.NonNeg,
        "non_neg": constraints.NonNeg,
        "unit_norm": constraints.UnitNorm,
        "min_max_norm": constraints.MinMaxNorm,
    }.items():
        assert type(constraints.get(name)) is cls
    assert constraints.get(None) is None
    assert constraints.max_norm is constraints.MaxNorm
    assert constraints.get(ops.relu) is ops.relu


@pytest.mark.parametrize("constraint", [case[0] for case in CASES])
def test_config_round_trip(constraint):
    again = constraints.deserialize(constraints.serialize(constraint))
    assert type(again) is type(constraint)
    assert again.get_config() == constraint.get_config()


def test_unknown_name():
    with pytest.raises(ValueError, match="Unknown constraint 'nonneg_'.*'nonneg'"):
        constraints.get("nonneg_")
