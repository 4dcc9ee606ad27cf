"""The rectifier and its gradient against their references to the last bit: blocks, threads, layouts, infinity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras.backend import threads
from gpukeras.kernels import activation, blocks
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
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan])


def random(shape, dtype, layout, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(dtype)
    x = np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), x).astype(dtype)
    return read_only(laid_out(x, layout))


def limits(width, block, threaded):
    constants = {"_RELU_BLOCK": block, "_RELU_THREADED": threaded, "_RELU_BACKWARD_THREADED": threaded}
    rows = [(blocks, "_WIDTH", width), (blocks, "_FEW", 3)]
    return rows + [(activation, name, value) for name, value in constants.items()]


@settings(max_examples=150, **EXAMPLES)
@given(
    shape=SHAPES,
    dtype=DTYPES | st.just("float16"),
    layout=LAYOUTS,
    cut=CUTS,
    limit=st.builds(limits, st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 16, 1 << 20])),
    seed=st.integers(0, 99),
)
def test_relu(shape, dtype, layout, cut, limit, seed):
    x, other = (random(shape, dtype, layout, s) for s in (seed, seed + 100))
    expected = activation.relu.reference(x)
    for count in THREADS:
        with small_blocks(cut, count, *limit):
            y = activation.relu(x)
            activation.relu(other)  # must not touch what the first call gave
        assert_same_bits(y, expected)
        assert y.flags.writeable and not np.shares_memory(x, y)


@settings(max_examples=150, **EXAMPLES)
@given(
    shape=SHAPES,
    dtype=DTYPES | st.just("float16"),
    layouts=st.tuples(LAYOUTS, LAYOUTS),
    cut=CUTS,
    limit=st.builds(limits, st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 16, 1 << 20])),
    seed=st.integers(0, 99),
)
def test_relu_backward(shape, dtype, layouts, cut, limit, seed):
    dy, other = (random(shape, dtype, layouts[0], s) for s in (seed, seed + 100))
    y = read_only(laid_out(np.maximum(random(shape, dtype, "plain", seed + 200), 0), layouts[1]))
    with np.errstate(invalid="ignore"):  # infinity times 0
        expected = activation.relu_backward.reference(dy, y)
        for count in THREADS:
            with small_blocks(cut, count, *limit):
                dx = activation.relu_backward(dy, y)
                activation.relu_backward(other, y)  # must not touch what the first call gave
            assert_same_bits(dx, expected)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_around_the_limit_of_threads(more):
    x = np.random.default_rng(0).standard_normal(activation._RELU_THREADED + more, dtype=np.float32)
    expected = np.maximum(x, 0)
    dy, y = (a[: activation._RELU_BACKWARD_THREADED + more] for a in (x, expected))
    for count in (1, 3):
        with threads.use_count(count):
            np.testing.assert_array_equal(activation.relu(x), expected)
            assert_same_bits(activation.relu_backward(dy, y), activation.relu_backward.reference(dy, y))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_whole_numbers_stay_whole(dtype):
    x = np.array([3, 0, 250, 7]).astype(dtype)
    assert_same_bits(activation.relu(x), activation.relu.reference(x))
