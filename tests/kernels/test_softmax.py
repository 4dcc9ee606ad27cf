"""Softmax and its gradient over any axes against float64: blocks, threads, layouts, in place."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras import ops
from gpukeras.backend import threads
from gpukeras.kernels import blocks, softmax
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


@st.composite
def problems(draw):
    """A shape, and axes of it none of which is empty: a number or a tuple, counted from either end, in any order."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 7, 0]), min_size=1, max_size=4))
    rank = len(shape)
    axes = draw(st.sampled_from([a for n in range(1, rank + 1) for a in itertools.permutations(range(rank), n)]))
    for axis in axes:
        shape[axis] = max(shape[axis], 1)
    axes = tuple(axis - rank * draw(st.booleans()) for axis in axes)
    return tuple(shape), axes[0] if len(axes) == 1 and draw(st.booleans()) else axes


def formulas(x, dy, axis):
    """y and dx in float64."""
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    if not x.size:
        return x, dy
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    y = e / e.sum(axis=axis, keepdims=True)
    return y, y * (dy - (y * dy).sum(axis=axis, keepdims=True))


@settings(max_examples=250, **EXAMPLES)
@given(
    problem=problems(),
    dtype=DTYPES,
    spread=st.sampled_from([1.0, 30.0]),
    layouts=st.tuples(LAYOUTS, LAYOUTS, LAYOUTS),
    cut=CUTS,
    is_in_place=st.booleans(),
    seed=st.integers(0, 99),
)
def test_softmax_and_its_gradient(problem, dtype, spread, layouts, cut, is_in_place, seed):
    shape, axis = problem
    rng = np.random.default_rng(seed)
    plain_x, plain_dy, other = ((spread * rng.standard_normal(shape)).astype(dtype) for _ in range(3))
    expected_y, expected_dx = formulas(plain_x, plain_dy, axis)
    found = []
    for count in THREADS:
        x, dy = (laid_out(a, layout) for a, layout in zip((plain_x, plain_dy), layouts[:2], strict=True))
        if not is_in_place:
            x, dy = read_only(x), read_only(dy)
        y, dx = (x, dy) if is_in_place else (laid_out(np.full(shape, np.nan, dtype), layouts[2]) for _ in range(2))
        with small_blocks(cut, count):
            assert softmax.softmax(x, y, axis) is y
            softmax.softmax(other, np.empty_like(other), axis)
            read_only(y)
            assert softmax.softmax_backward(y, dy, dx, axis) is dx
            softmax.softmax_backward(other, plain_dy, np.empty_like(other), axis)
        found.append((y, dx))
        if not is_in_place:
            assert_same_bits(x, plain_x)
            assert_same_bits(dy, plain_dy)
    for y, dx in found:
        assert_same_bits(y, found[0][0])
        assert_same_bits(dx, found[0][1])
    assert_close(found[0][0], expected_y, dtype)
    assert_close(found[0][1], expected_dx, dtype, scale=spread)  # differences of numbers of that size


@pytest.mark.parametrize("axis", [-1, 0, 1, (0, 1)])
@pytest.mark.parametrize("size", [blocks.BLOCK - 1, blocks.BLOCK + 1, blocks.THREADED - 1, blocks.THREADED + 1])
def test_around_the_limits_of_blocks(size, axis):
    shape = next((n, size // n) for n in (7, 5, 3, 1) if size % n == 0) + (1,) * (axis == 1)
    rng = np.random.default_rng(size)
    x, dy = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    found = []
    for count in (1, 3):
        with threads.use_count(count):
            y = softmax.softmax(x, np.empty_like(x), axis)
            found.append((y, softmax.softmax_backward(y, dy, np.empty_like(x), axis)))
    for first, other, expected in zip(*found, formulas(x, dy, axis), strict=True):
        assert_same_bits(first, other)
        assert_close(first, expected, "float32")


@pytest.mark.parametrize("axis", [-1, 0, (0, 1)])
@pytest.mark.parametrize("layout", ["plain", "stepped"])
def test_huge_numbers_and_hidden_rows(axis, layout):
    """Numbers at the ends of the range, among them rows of nothing else, which `masked_softmax` makes."""
    x = np.zeros((3, 4), np.float32)
    x[0], x[1, 1], x[2, 2] = -0.7 * np.finfo("f").max, -np.inf, 80.0
    y = softmax.softmax(laid_out(x, layout), laid_out(x, layout), axis)
    with np.errstate(under="ignore"):
        assert_close(y, formulas(x, np.zeros_like(x), axis)[0], "float32")


def test_nan_stays_in_its_row():
    x = np.zeros((3, 4), np.float32)
    x[1, 2] = np.nan
    y = softmax.softmax(x, np.empty_like(x))
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], 0.25)


@pytest.mark.parametrize("axis", [(0, 2, 2), (0, -1, 2)])
def test_an_axis_given_twice_is_refused(axis):
    with pytest.raises(ValueError, match="duplicate"):
        ops.softmax(np.ones((2, 3, 4), "float32"), axis=axis)


@pytest.mark.parametrize("function", [ops.softmax, ops.log_softmax])
def test_no_axis_means_all_axes(function):
    x = np.random.default_rng(0).standard_normal((3, 4), dtype="float32")
    assert_close(function(x, axis=None).numpy(), function(x.reshape(-1)).numpy().reshape(3, 4))


def test_sparsemax_takes_one_axis():
    with pytest.raises(ValueError, match="one axis"):
        ops.sparsemax(np.ones((2, 3), "float32"), axis=None)
