"""Layer normalization by rows against a float64 formula: many shapes, and the same bits for any number of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras.backend import memory, threads
from gpukeras.kernels import normalization
from tests.helpers import assert_close

SHAPES = st.tuples(st.integers(0, 50), st.integers(1, 80)) | st.sampled_from([(4099, 128), (2500, 65), (19, 40000)])


def formulas(x, gamma, beta, dy, is_centred):
    """y, dx, dgamma and dbeta in float64."""
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    z = x - x.mean(axis=1, keepdims=True) if is_centred else x
    scale = 1 / np.sqrt((z * z).mean(axis=1, keepdims=True) + 1e-3)
    z = z * scale
    g = dy if gamma is None else dy * gamma
    dx = g - z * (g * z).mean(axis=1, keepdims=True)
    if is_centred:
        dx -= g.mean(axis=1, keepdims=True)
    y = (z if gamma is None else z * gamma) + (0 if beta is None else beta)
    return y, dx * scale, (dy * z).sum(axis=0), dy.sum(axis=0)


def results(x, gamma, beta, dy, is_centred):
    z, y, dx = (np.full(x.shape, np.nan, x.dtype) for _ in range(3))
    scale = normalization.layer_norm(x, gamma, beta, z, y, 1e-3, is_centred)
    sums = normalization.layer_norm_backward(z, scale, gamma, dy, dx, True, True, is_centred)
    return y, dx, *sums


def arrays_of(shape, dtype, has, seed, is_contiguous=True):
    rng = np.random.default_rng(seed)
    x, dy = ((3 + rng.standard_normal(shape)).astype(dtype) for _ in range(2))
    dy *= (shape[0] + 1) ** -0.5  # sums over rows of about 1
    if not is_contiguous:
        x, dy = x.T.copy().T, dy.T.copy().T
    gamma, beta = (rng.standard_normal(shape[1]).astype(dtype) if given_ else None for given_ in has)
    return x, gamma, beta, dy


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    dtype=st.sampled_from(["float32", "float64"]),
    has=st.tuples(st.booleans(), st.booleans()),
    is_centred=st.booleans(),
    is_contiguous=st.booleans(),
    seed=st.integers(0, 99),
)
def test_layer_norm_and_its_gradients(shape, dtype, has, is_centred, is_contiguous, seed):
    arrays = arrays_of(shape, dtype, has, seed, is_contiguous)
    with memory.poison():
        found = results(*arrays, is_centred)
    if not shape[0]:
        assert [a.shape for a in found] == [shape, shape, shape[1:], shape[1:]]
        return
    for actual, expected in zip(found, formulas(*arrays, is_centred), strict=True):
        assert_close(actual, expected, dtype, scale=10)  # sums of thousands of products


@pytest.mark.parametrize("shape", [(4099, 128), (600, 1000)])
def test_bits_do_not_depend_on_threads(shape):
    arrays = arrays_of(shape, "float32", (True, True), 0)
    found = []
    for count in (1, 2, 3):
        with threads.use_count(count):
            found.append(results(*arrays, True))
    for others in found[1:]:
        for first, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(first, other)
