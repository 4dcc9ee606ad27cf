"""Attention against a float64 formula: many shapes and strides, masks, and the same bits for any number of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras.backend import memory, threads
from gpukeras.kernels import attention as kernels
from tests.helpers import assert_close

PROBLEMS = st.fixed_dictionaries(
    {
        "batch": st.integers(0, 5),
        "heads": st.integers(1, 4),
        "queries": st.one_of(st.integers(1, 20), st.integers(100, 300)),
        "keys": st.one_of(st.integers(1, 20), st.integers(100, 300)),
        "dim": st.integers(1, 9),
        "n": st.integers(1, 9),
        "is_by_time": st.booleans(),  # whether time comes before the heads in memory
        "mode": st.sampled_from(["plain", "causal", "offset"]),
        "dtype": st.sampled_from(["float32", "float64"]),
        "seed": st.integers(0, 99),
    }
)
BIG = {"batch": 3, "heads": 2, "queries": 190, "keys": 170, "dim": 8, "n": 5, "is_by_time": True, "seed": 0}


def arrays_of(problem):
    """q, k, v, dy and the offset or None."""
    rng, dtype = np.random.default_rng(problem["seed"]), problem["dtype"]

    def random(time, size):
        if problem["is_by_time"]:
            x = rng.standard_normal((problem["batch"], time, problem["heads"], size)).transpose(0, 2, 1, 3)
        else:
            x = rng.standard_normal((problem["batch"], problem["heads"], time, size))
        return x.astype(dtype, order="K")

    queries, keys = problem["queries"], problem["keys"]
    q, k = random(queries, problem["dim"]), random(keys, problem["dim"])
    v, dy = random(keys, problem["n"]), random(queries, problem["n"])
    offset = None
    if problem["mode"] == "offset":
        offset = rng.standard_normal((problem["batch"], 1, keys, queries)).astype(dtype)
        offset[:, :, 1:][rng.random(offset[:, :, 1:].shape) < 0.3] = kernels.HIDDEN
    return q, k, v, dy, offset


def results(q, k, v, dy, offset, is_causal):
    """y, weights, share and the gradients of q, k, v and the scores."""
    y = np.full((*q.shape[:3], v.shape[3]), np.nan, q.dtype)
    weights, share = kernels.attention(q, k, v, offset, y, 0.4, is_causal)
    gradients = [np.full(a.shape, np.nan, q.dtype) for a in (q, k, v, weights)]
    kernels.attention_backward(q, k, v, y, weights, share, dy, None, 0.4, is_causal, *gradients)
    return y, weights * share, *gradients


def formulas(q, k, v, dy, offset, is_causal):
    """The same in float64."""
    q, k, v, dy = (a.astype(np.float64) for a in (q, k, v, dy))
    scores = 0.4 * k @ q.swapaxes(-1, -2)
    if offset is not None:
        scores = scores + offset
    if is_causal:
        scores = np.where(np.arange(k.shape[2])[:, None] > np.arange(q.shape[2]), -np.inf, scores)
    p = np.exp(scores - scores.max(axis=-2, keepdims=True))
    p /= p.sum(axis=-2, keepdims=True)
    y = p.swapaxes(-1, -2) @ v
    dp = v @ dy.swapaxes(-1, -2)
    ds = p * (dp - (p * dp).sum(axis=-2, keepdims=True))
    return y, p, 0.4 * ds.swapaxes(-1, -2) @ k, 0.4 * ds @ q, p @ dy, ds


@settings(max_examples=60, deadline=None)
@given(problem=PROBLEMS)
def test_attention_and_its_gradients(problem):
    arrays, is_causal = arrays_of(problem), problem["mode"] == "causal"
    given_before = [None if a is None else a.copy() for a in arrays]
    with memory.poison():
        found = results(*arrays, is_causal)
    for actual, expected in zip(found, formulas(*arrays, is_causal), strict=True):
        # Sums of up to 300 products of numbers of about 1.
        assert_close(actual, expected, problem["dtype"], scale=8)
    for array, before in zip(arrays, given_before, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("mode", ["plain", "causal", "offset"])
def test_bits_do_not_depend_on_threads(mode):
    problem = {**BIG, "mode": mode, "dtype": "float32"}
    arrays = arrays_of(problem)
    found = []
    for count in (1, 2, 3):
        with threads.use_count(count):
            found.append(results(*arrays, mode == "causal"))
    for others in found[1:]:
        for first, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(first, other)


def test_long_sequences_go_in_chunks_of_queries(monkeypatch):
    monkeypatch.setattr(kernels, "_BLOCK", 1 << 13)
    for mode in ("plain", "causal", "offset"):
        problem = {**BIG, "mode": mode, "dtype": "float64"}
        arrays = arrays_of(problem)
        for actual, expected in zip(
            results(*arrays, mode == "causal"), formulas(*arrays, mode == "causal"), strict=True
        ):
            assert_close(actual, expected)
