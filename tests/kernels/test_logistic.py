"""The logistic function, SiLU and both GELUs against float64: small blocks, threads, layouts, the ends of the range."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras.kernels import activation, blocks, special
from tests.helpers import assert_close
from tests.kernels.cutting import (
    CUTS,
    DTYPES,
    EXAMPLES,
    LAYOUTS,
    THREADS,
    assert_same_bits,
    laid_out,
    read_only,
    small_blocks,
)

SHAPES = st.one_of(
    st.tuples(st.integers(0, 60)), st.tuples(st.integers(0, 9), st.integers(0, 9)), st.just((2, 3, 1, 4))
)


def silu(x):
    s = 1 / (1 + np.exp(-x))
    return x * s, s + x * s * (1 - s)


def gelu(x):
    below = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.reshape(-1)]).reshape(x.shape)
    return x * below, below + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def gelu_by_tanh(x):
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)


FORMULAS = {"silu": silu, "gelu": gelu, "gelu_by_tanh": gelu_by_tanh}


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=80, **EXAMPLES)
@given(
    shape=SHAPES,
    dtype=DTYPES,
    spread=st.sampled_from([0.01, 1.0, 30.0]),
    layouts=st.tuples(LAYOUTS, LAYOUTS, LAYOUTS),
    cut=CUTS,
    has_slope=st.booleans(),
    width=st.sampled_from([1, 4, 512]),
    seed=st.integers(0, 99),
)
def test_units_with_slopes(name, shape, dtype, spread, layouts, cut, has_slope, width, seed):
    rng = np.random.default_rng(seed)
    plain, other = ((spread * rng.standard_normal(shape)).astype(dtype) for _ in range(2))
    x, function = read_only(laid_out(plain, layouts[0])), getattr(activation, name)
    found = []
    with np.errstate(over="ignore", under="ignore"):  # x³ of the form by tanh leaves the range
        for count in THREADS:
            y, slope = (laid_out(np.full(shape, np.nan, dtype), layout) for layout in layouts[1:])
            with small_blocks(cut, count, (blocks, "_WIDTH", width)):
                function(x, y, slope if has_slope else None)
                function(other, np.empty_like(other), np.empty_like(other))  # must not touch what the first call gave
            found.append((y, slope))
        expected_y, expected_slope = FORMULAS[name](plain.astype(np.float64))
    for y, slope in found:
        assert_same_bits(y, found[0][0])
        assert_same_bits(slope, found[0][1])
    assert_close(found[0][0], expected_y, dtype)
    assert_close(found[0][1], expected_slope if has_slope else np.full(shape, np.nan), dtype)
    assert_same_bits(x, plain)


@settings(max_examples=60, **EXAMPLES)
@given(
    shape=SHAPES | st.tuples(st.integers(4090, 4100)) | st.just((65, 67)),
    dtype=DTYPES,
    spread=st.sampled_from([1.0, 30.0, 1000.0]),
    layouts=st.tuples(LAYOUTS, LAYOUTS),
    cut=st.sampled_from([(1 << 16, 1 << 18, 1 << 18), (1000, 1 << 18, 1), (1000, 4096, 300), (1000, 4098, 4000)]),
    seed=st.integers(0, 99),
)
def test_logistic(shape, dtype, spread, layouts, cut, seed):
    rng = np.random.default_rng(seed)
    plain, other = ((spread * rng.standard_normal(shape)).astype(dtype) for _ in range(2))
    x = read_only(laid_out(plain, layouts[0]))
    found = []
    for count in THREADS:
        y = laid_out(np.full(shape, np.nan, dtype), layouts[1])
        with small_blocks(cut, count):
            activation.logistic(x, y)
            activation.logistic(other, np.empty_like(other))  # must not touch what the first call gave
        found.append(y)
    for y in found:
        assert_same_bits(y, found[0])
    with np.errstate(over="ignore"):
        assert_close(found[0], 1 / (1 + np.exp(-plain.astype(np.float64))), dtype)
    assert_same_bits(x, plain)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [6, 4096, blocks.THREADED + 1])
def test_ends_of_the_range(dtype, size):
    """Infinity and NaN, in few numbers and in many: neither a warning nor another value."""
    x, y = np.zeros(size, dtype), np.empty(size, dtype)
    x[:6] = -np.inf, -1e30, -100.0, 100.0, np.inf, np.nan
    activation.logistic(x, y)
    assert_close(y[:6], [0, 0, math.exp(-100), 1, 1, np.nan], dtype)
    np.testing.assert_array_equal(y[6:], 0.5)
    activation.silu(x[1:], y[1:])
    assert_close(y[1:6], [0, -100 * math.exp(-100), 100, np.inf, np.nan], dtype)


@settings(max_examples=60, **EXAMPLES)
@given(shape=SHAPES, dtype=DTYPES | st.just("float16"), layout=LAYOUTS, seed=st.integers(0, 99))
def test_error_functions_of_any_layout(shape, dtype, layout, seed):
    """They have one form only: against Python's, for arrays that do not lie in one piece and read-only ones."""
    x = read_only(laid_out((2 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype), layout))
    before = x.copy()
    results = [f(x) for f in (special.erf, special.erfc, special.normal_cdf, special.erfinv)]
    special.erf(-before)  # must not touch what the first call gave
    flat = [float(v) for v in x.reshape(-1)]
    for y, f in zip(results, (math.erf, math.erfc, lambda v: 0.5 * math.erfc(-v / math.sqrt(2))), strict=False):
        assert y.dtype == dtype
        assert_close(y, np.array([f(v) for v in flat]).reshape(shape), dtype)
    inside = abs(before) < 1
    assert_close([math.erf(v) for v in results[3][inside]], before[inside].astype(np.float64), dtype)
    assert np.isnan(results[3][abs(before) > 1]).all()
    assert_same_bits(x, before)


def test_silu_far_out_is_zero_in_every_form():
    x = np.array([-1e37, -3e38, -200.0, 1e37], "float32")
    for form in (activation.silu, activation.silu.reference):
        y = np.empty_like(x)
        form(x, y)
        assert_close(y, [0, 0, 0, 1e37])
