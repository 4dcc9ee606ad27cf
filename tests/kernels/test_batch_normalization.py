"""Batch normalization's kernels: every shape, the same bits for any number of threads, poisoned scratch, precision."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukeras.backend import memory, threads
from gpukeras.kernels import normalization
from tests.helpers import assert_close

PROBLEMS = st.fixed_dictionaries(
    {
        "outer": st.integers(1, 300),
        "channels": st.integers(1, 40),
        "inner": st.sampled_from([1, 1, 1, 2, 30]),
        "block": st.sampled_from([1, 700, 1 << 18]),
        "line": st.sampled_from([1, 64, 512]),
        "small": st.sampled_from([0, 1 << 14]),
        "threaded": st.sampled_from([0, 1 << 20]),
        "offset": st.sampled_from([0, 3]),
        "dtype": st.sampled_from(["float32", "float64"]),
        "seed": st.integers(0, 99),
    }
)


def compute(x, dy, vectors):
    """What all four kernels give, in one list."""
    y, dx = np.empty_like(x), np.empty_like(x)
    normalization.batch_scale(x, *vectors[:3], y)
    normalization.batch_scale_backward(x, vectors[0], dy, *vectors[1:], dx)
    moments = normalization.batch_moments(x)
    return [*moments, *normalization.batch_sums(x, vectors[0], dy), y, dx]


@given(problem=PROBLEMS)
@settings(
    max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_blocks_and_lines_of_any_size(problem, monkeypatch):
    monkeypatch.setattr(normalization, "_BATCH_BLOCK", problem["block"])
    monkeypatch.setattr(normalization, "_LINE", problem["line"])
    monkeypatch.setattr(normalization, "_SMALL", problem["small"])
    monkeypatch.setattr(normalization, "_THREADED", problem["threaded"])
    rng = np.random.default_rng(problem["seed"])
    shape = problem["outer"], problem["channels"], problem["inner"]
    x, dy = (rng.standard_normal(shape).astype(problem["dtype"]) for _ in range(2))
    x += problem["offset"]
    vectors = [rng.standard_normal(shape[1]).astype(problem["dtype"]) for _ in range(4)]
    given_before = x.copy(), dy.copy()
    with memory.poison():
        results = compute(x, dy, vectors)
    with threads.use_count(1):
        again = compute(x, dy, vectors)
    np.testing.assert_array_equal(x, given_before[0])
    np.testing.assert_array_equal(dy, given_before[1])
    for result, other in zip(results, again, strict=True):
        np.testing.assert_array_equal(result, other)

    x, dy = x.astype(np.float64), dy.astype(np.float64)
    mean, factor, offset, slope = (v.astype(np.float64)[:, None] for v in vectors)
    centred = x - mean
    expected = [
        x.mean((0, 2)),
        x.var((0, 2)),
        dy.sum((0, 2)),
        (dy * centred).sum((0, 2)),
        centred * factor + offset,
        factor * (dy - offset - centred * slope),
    ]
    for result, wanted in zip(results, expected, strict=True):
        terms = shape[0] * shape[2] if result.ndim == 1 else 10  # a sum's error grows with its terms
        assert_close(result, wanted, dtype=problem["dtype"], scale=terms)


@pytest.mark.parametrize("shape", [(4096, 32, 1), (64, 32, 64)])
def test_the_variance_about_a_large_mean(shape):
    x = (3000 + np.random.default_rng(1).standard_normal(shape)).astype(np.float32)
    mean, variance = normalization.batch_moments(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, wide.var((0, 2)), rtol=1e-4)


@pytest.mark.parametrize("shape", [(4096, 32, 1), (64, 32, 64)])
def test_sums_about_a_large_mean(shape):
    rng = np.random.default_rng(1)
    x = (3000 + rng.standard_normal(shape)).astype(np.float32)
    dy = rng.standard_normal(shape, dtype=np.float32)
    mean = x.mean((0, 2), dtype=np.float64).astype(np.float32)
    total, product = normalization.batch_sums(x, mean, dy)
    wide = x.astype(np.float64) - mean[:, None]
    np.testing.assert_allclose(total, dy.sum((0, 2), dtype=np.float64), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(product, (dy * wide).sum((0, 2)), rtol=1e-5, atol=1e-3)


def test_the_moments_of_sorted_rows():
    x = np.repeat(np.arange(5000.0, dtype=np.float32)[:, None, None], 3, axis=1)
    mean, variance = normalization.batch_moments(x)
    np.testing.assert_allclose(mean, 2499.5, rtol=1e-6)
    np.testing.assert_allclose(variance, (5000.0**2 - 1) / 12, rtol=1e-5)
