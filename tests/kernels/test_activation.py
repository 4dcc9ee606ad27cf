"""Rectifier, softmax, logistic function and SiLU: every form against its reference, on drawn shapes and layouts."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukeras.backend import memory, threads
from gpukeras.kernels import activation, blocks, softmax
from tests.helpers import assert_close

SHAPES = st.one_of(
    st.tuples(st.sampled_from([0, 1, 2, 511, 4899, 4900, 4901, 20001])),
    st.tuples(st.integers(0, 9), st.sampled_from([1, 3, 128, 701])),
    st.tuples(st.integers(0, 4), st.integers(1, 5), st.sampled_from([1, 2, 37])),
)
LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.T.copy().T,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
}
DRAWN = {
    "shape": SHAPES,
    "dtype": st.sampled_from(["float32", "float64"]),
    "layout": st.sampled_from(sorted(LAYOUTS)),
    "count": st.integers(1, 3),
    "seed": st.integers(0, 99),
}
SETTINGS = {
    "max_examples": 40,
    "derandomize": True,
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut small arrays into blocks for threads as if they were large ones."""
    monkeypatch.setattr(blocks, "BLOCK", 500)
    monkeypatch.setattr(blocks, "THREAD_BLOCK", 1000)
    for name in ("_RELU_THREADED", "_RELU_BACKWARD_THREADED", "_RELU_BLOCK"):
        monkeypatch.setattr(activation, name, 700)


def arrays(shape, dtype, layout, seed, number):
    rng = np.random.default_rng(seed)
    return [LAYOUTS[layout](3.0 * rng.standard_normal(shape).astype(dtype)) for _ in range(number)]


@given(**DRAWN)
@settings(**SETTINGS)
def test_rectifier(shape, dtype, layout, count, seed, small_blocks):
    x, dy = arrays(shape, dtype, layout, seed, 2)
    before = x.copy(), dy.copy()
    with threads.use_count(count):
        y = activation.relu(x)
        dx = activation.relu_backward(dy, y)
    np.testing.assert_array_equal(y, activation.relu.reference(x))
    np.testing.assert_array_equal(dx, activation.relu_backward.reference(dy, y))
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(dy, before[1])


def test_the_rectifier_keeps_what_is_no_number():
    x = np.zeros(5000, "float32")
    x[::7] = np.nan
    np.testing.assert_array_equal(np.isnan(activation.relu(x)), np.isnan(x))


@given(axis=st.integers(-1, 2), **DRAWN)
@settings(**SETTINGS)
def test_softmax(axis, shape, dtype, layout, count, seed, small_blocks):
    axis = axis % len(shape)
    x, dy = arrays(shape, dtype, layout, seed, 2)
    if not x.size:
        return
    expected = softmax.softmax.reference(x, np.empty_like(x), axis)
    expected_dx = softmax.softmax_backward.reference(expected, dy, np.empty_like(dy), axis)
    with threads.use_count(count), memory.poison():
        y = softmax.softmax(x, np.empty_like(x), axis)
        dx = softmax.softmax_backward(expected, dy, np.empty_like(dy), axis)
        in_place, in_dy = x.copy(order="K"), dy.copy(order="K")
        softmax.softmax(in_place, in_place, axis)
        softmax.softmax_backward(expected, in_dy, in_dy, axis)
    assert_close(y, expected)
    assert_close(dx, expected_dx)
    assert_close(in_place, expected)
    assert_close(in_dy, expected_dx)


@pytest.mark.parametrize("name", ["logistic", "silu"])
@given(**DRAWN)
@settings(**SETTINGS)
def test_smooth_functions(name, shape, dtype, layout, count, seed, small_blocks):
    (x,) = arrays(shape, dtype, layout, seed, 1)
    kernel, number = getattr(activation, name), 2 if name == "silu" else 1
    found, expected = ([np.full_like(x, np.nan) for _ in range(number)] for _ in range(2))
    with threads.use_count(count), memory.poison():
        kernel(x, *found)
    kernel.reference(x, *expected)
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted)
