"""Dropout's mask against its reference to the last bit: blocks, threads, layouts, masks that are broadcast, NaN."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras.backend import threads
from gpukeras.kernels import dropout
from tests.kernels.cutting import CUTS, EXAMPLES, LAYOUTS, THREADS, assert_same_bits, laid_out, read_only, small_blocks


@settings(max_examples=150, **EXAMPLES)
@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    ones=st.lists(st.booleans(), min_size=3, max_size=3),
    missing=st.integers(0, 2),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    layouts=st.tuples(LAYOUTS, LAYOUTS),
    scale=st.sampled_from([0.0, 1.0, 1.25, 1 / 0.7]),
    cut=CUTS,
    many=st.sampled_from([0, 20, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_masked(shape, ones, missing, dtype, layouts, scale, cut, many, seed):
    rng = np.random.default_rng(seed)
    mask_shape = tuple(1 if is_one else n for n, is_one in zip(shape, ones, strict=False))[missing:]
    mask = read_only(laid_out(-rng.integers(0, 2, mask_shape).astype(np.int8), layouts[1]))
    x, other = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    x[rng.random(shape) < 0.1] = np.nan
    x[rng.random(shape) < 0.1] = np.inf
    x, scale = read_only(laid_out(x, layouts[0])), np.dtype(dtype).type(scale)
    with np.errstate(invalid="ignore"):  # infinity times 0
        expected = dropout.masked.reference(x, mask, scale)
        assert_same_bits(expected, np.where(mask == 0, np.zeros((), dtype), x * scale))
        for count in THREADS:
            with small_blocks(cut, count, (dropout, "_MANY", many)):
                y = dropout.masked(x, mask, scale)
                dropout.masked(other, mask, scale)  # must not touch what the first call gave
            assert_same_bits(y, expected)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_around_the_limit_of_blocks(more):
    size = dropout._MANY + more
    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal(size, dtype=np.float32), -rng.integers(0, 2, size).astype(np.int8)
    for count in (1, 3):
        with threads.use_count(count):
            y = dropout.masked(x, mask, np.float32(1.25))
        assert_same_bits(y, dropout.masked.reference(x, mask, np.float32(1.25)))


def test_a_single_number_is_dropped():
    number, zero = np.array(1.0, "float32"), np.array(0, "int8")
    y = dropout.masked(number, zero, np.float32(2))
    assert y == 0 and y.dtype == np.float32
    assert dropout.masked(number, ~zero, np.float32(2)) == 2
