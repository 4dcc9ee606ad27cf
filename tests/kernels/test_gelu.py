"""GELU against float64 formulas: many sizes and layouts, the whole range, the same bits for any number of threads."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras.backend import memory, threads
from gpukeras.kernels import activation
from tests.helpers import assert_close

SHAPES = st.one_of(
    st.tuples(st.integers(0, 5000)),
    st.tuples(st.integers(0, 40), st.integers(1, 90)),
    st.sampled_from([(1, 1), (65537,), (530, 503)]),
)


def exactly(x):
    """GELU and its slope in float64."""
    x = x.astype(np.float64)
    below = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.reshape(-1)]).reshape(x.shape)
    return x * below, below + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def by_tanh(x):
    x = x.astype(np.float64)
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)


FORMULAS = {"gelu": exactly, "gelu_by_tanh": by_tanh}


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=40, deadline=None)
@given(
    shape=SHAPES,
    dtype=st.sampled_from(["float32", "float64"]),
    spread=st.sampled_from([0.01, 1.0, 30.0]),
    is_contiguous=st.booleans(),
    has_slope=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_and_slopes(name, shape, dtype, spread, is_contiguous, has_slope, seed):
    x = (spread * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)
    x = x if is_contiguous else x.T.copy().T
    before = x.copy()
    y, slope = np.full(shape, np.nan, dtype), np.full(shape, np.nan, dtype) if has_slope else None
    with memory.poison(), np.errstate(over="ignore", under="ignore"):  # x³ of the form by tanh leaves the range
        getattr(activation, name)(x, y, slope)
    with np.errstate(over="ignore", under="ignore"):
        expected_y, expected_slope = FORMULAS[name](x)
    assert_close(y, expected_y, dtype)
    if has_slope:
        assert_close(slope, expected_slope, dtype)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", FORMULAS)
def test_bits_do_not_depend_on_threads(name):
    x = np.random.default_rng(0).standard_normal(700_001, dtype=np.float32)
    found = []
    for count in (1, 2, 3):
        y, slope = np.empty_like(x), np.empty_like(x)
        with threads.use_count(count):
            getattr(activation, name)(x, y, slope)
        found.append((y, slope))
    for others in found[1:]:
        for first, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(first, other)


def test_far_out():
    """Beyond the range of the exponential: x on the right, 0 on the left, infinity included."""
    x = np.array([1e4, 1e30, np.inf, -1e4, -1e30], np.float32)
    y = np.full_like(x, np.nan)
    activation.gelu(x, y)
    np.testing.assert_array_equal(y, np.float32([1e4, 1e30, np.inf, 0, 0]))
