"""Columns and the ways back from them: every shape, the same bits for any number of threads, poisoned scratch."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukeras.backend import blas, memory, threads
from gpukeras.kernels import columns, convolution, products
from gpukeras.kernels.windows import windows_of
from tests.helpers import assert_close

PROBLEMS = st.fixed_dictionaries(
    {
        "batch": st.integers(0, 3),
        "axes": st.lists(  # space, size, stride, dilation
            st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.integers(1, 2)),
            min_size=1,
            max_size=3,
        ),
        "padding": st.sampled_from(["valid", "same", "causal"]),
        "groups": st.integers(1, 3),
        "channels": st.integers(1, 6),
        "filters": st.integers(1, 6),
        "is_first": st.booleans(),  # whether channels come first in memory
        "block": st.sampled_from([1, 3000, 1 << 20]),
        "unpacked": st.sampled_from([1, 300, 10**6]),
        "is_rectified": st.booleans(),
        "dtype": st.sampled_from(["float32", "float64"]),
        "seed": st.integers(0, 99),
    }
)
PLAIN = {"batch": 3, "padding": "same", "groups": 1, "channels": 5, "filters": 6, "is_first": False}
PLAIN |= {"block": 3000, "dtype": "float32", "seed": 0}


def arrays_of(problem):
    """x, weights, dy and the windows; None where no window fits."""
    axes = tuple(zip(*problem["axes"], strict=True))
    windows = windows_of(*axes[:3], problem["padding"], axes[3])
    if not all(windows.grid):
        return None
    rng, groups, channels = np.random.default_rng(problem["seed"]), problem["groups"], problem["channels"]

    def random(*shape):
        a = rng.standard_normal(shape).astype(problem["dtype"])
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 1)), 1, -1) if problem["is_first"] else a

    x = random(problem["batch"], *windows.space, groups * channels)
    weights = random(*windows.size, channels, groups * problem["filters"]) * 0.1
    return x, weights, random(problem["batch"], *windows.grid, weights.shape[-1]) * 0.1, windows


def results(x, weights, dy, windows, groups):
    """What every walk gives that can compute the problem, in reference's order: y, dx, dweights."""
    y = np.full((len(x), *windows.grid, weights.shape[-1]), np.nan, x.dtype)
    bias = np.arange(weights.shape[-1], dtype=x.dtype) * 0.1
    dweights = columns.gather(x, windows, groups, y, weights, dy=dy)
    with_bias = np.full_like(y, np.nan)
    assert columns.gather(x, windows, groups, with_bias, weights, bias) is None
    found = {
        "y": [y, with_bias - bias, convolution.convolve(x, weights, windows)],
        "dx": [
            columns.scatter(dy, weights, windows, groups),
            convolution.convolve_input_gradient(dy, weights, windows, groups),
        ],
        "dweights": [
            dweights,
            columns.gather(x, windows, groups, dy=dy),
            convolution.convolve_kernel_gradient(x, dy, windows, groups),
        ],
    }
    if max(windows.dilation) == 1:
        found["dx"].append(columns.interleave(dy, weights, windows, groups))
    if windows.mirrored is not None:
        found["y"].append(columns.scatter(x, columns.mirrored(weights, groups), windows.mirrored, groups))
        dx = np.full(x.shape, np.nan, x.dtype)
        mirrored = columns.gather(dy, windows.mirrored, groups, dx, columns.mirrored(weights, groups), dy=x)
        found["dx"].append(dx)
        found["dweights"].append(columns.mirrored(mirrored, groups))
    dx, dweights = convolution.convolve_gradients(x, dy, weights, windows, groups)
    y, other_dweights = convolution.convolve_and_kernel_gradient(x, weights, dy, windows, groups)
    found["y"].append(y)
    found["dx"].append(dx)
    found["dweights"] += [dweights, other_dweights]
    return found


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PROBLEMS)
def test_every_walk_equals_the_reference(monkeypatch, problem):
    monkeypatch.setattr(columns, "_BLOCK_BYTES", problem["block"])
    monkeypatch.setattr(blas, "multiplies_unpacked", lambda: True)
    monkeypatch.setattr(products, "_UNPACKED", problem["unpacked"])
    monkeypatch.setattr(products, "_LEAST_ROWS", 2)
    monkeypatch.setattr(products, "_LEAST_SUMMED", 2)
    made = arrays_of(problem)
    if made is None:
        return
    x, weights, dy, windows = made
    groups = problem["groups"]
    expected = {
        "y": convolution.convolve.reference(x, weights, windows),
        "dx": convolution.convolve_input_gradient.reference(dy, weights, windows, groups),
        "dweights": convolution.convolve_kernel_gradient.reference(x, dy, windows, groups),
    }
    with memory.poison():
        found = results(*made, groups)
    for name, wanted in expected.items():
        for i, result in enumerate(found[name]):
            assert result.dtype == x.dtype
            # Sums of some hundred terms of size 1 in another order.
            assert_close(result, wanted, scale=10, err_msg=f"{name} {i}")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PROBLEMS)
def test_bias_and_rectifier(monkeypatch, problem):
    monkeypatch.setattr(columns, "_BLOCK_BYTES", problem["block"])
    made = arrays_of(problem)
    if made is None:
        return
    x, weights, dy, windows = made
    groups, is_rectified = problem["groups"], problem["is_rectified"]
    of_filters = np.linspace(-1, 1, weights.shape[-1], dtype=x.dtype)
    of_channels = np.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
    forward = x, weights, windows, of_filters, is_rectified
    back = dy, weights, windows, groups, of_channels, is_rectified
    dx = convolution.convolve_input_gradient.reference(*back)
    with memory.poison():
        assert_close(convolution.convolve(*forward), convolution.convolve.reference(*forward), scale=10)
        assert_close(convolution.convolve_input_gradient(*back), dx, scale=10)
        assert_close(columns.scatter(*back), dx, scale=10)
        if max(windows.dilation) == 1:
            assert_close(columns.interleave(*back), dx, scale=10)


@pytest.mark.parametrize(
    "axes",
    [
        [(9, 3, 1, 1), (8, 3, 1, 1)],
        [(9, 3, 2, 1), (8, 3, 2, 1)],
        [(9, 3, 1, 2), (7, 2, 1, 1)],
        [(9, 2, 2, 1), (8, 2, 2, 1)],
        [(30, 4, 1, 1)],
        [(5, 3, 1, 1), (5, 3, 2, 1), (6, 2, 1, 1)],
    ],
)
@pytest.mark.parametrize("batch, channels, filters", [(6, 5, 6), (1, 5, 6), (5, 1, 8), (5, 8, 1)])
def test_the_bits_do_not_depend_on_the_number_of_threads(monkeypatch, axes, batch, channels, filters):
    monkeypatch.setattr(columns, "_BLOCK_BYTES", 3000)
    monkeypatch.setattr(blas, "multiplies_unpacked", lambda: True)
    monkeypatch.setattr(products, "_UNPACKED", 4000)
    monkeypatch.setattr(products, "_LEAST_ROWS", 2)
    monkeypatch.setattr(products, "_LEAST_SUMMED", 2)
    made = arrays_of({**PLAIN, "axes": axes, "batch": batch, "channels": channels, "filters": filters})
    runs = []
    for count in (1, 2, 5):
        with threads.use_count(count):
            runs.append(results(*made, 1))
    for name, first in runs[0].items():
        for other in runs[1:]:
            for a, b in zip(first, other[name], strict=True):
                np.testing.assert_array_equal(a, b, err_msg=name)


def test_blocks_cover_all_windows_once():
    for batch, grid, width in itertools.product([1, 2, 7, 64], [(1, 5), (9, 9), (300, 7)], [1, 500, 40_000]):
        seen = np.zeros((batch, grid[0]), int)
        for cut in columns._cuts(batch, grid, width, np.dtype("float32")):
            seen[cut] += 1
        assert (seen == 1).all()


def test_an_error_in_a_block_ends_the_others(monkeypatch):
    monkeypatch.setattr(columns, "_BLOCK_BYTES", 3000)
    x, weights, _, windows = arrays_of({**PLAIN, "axes": [(9, 3, 1, 1), (8, 3, 1, 1)]})
    with pytest.raises(ValueError), threads.use_count(2):
        columns.gather(x, windows, 1, np.empty((3, 1, 8, 6), x.dtype), weights)


def test_large_weights_are_summed_in_one_part(monkeypatch):
    monkeypatch.setattr(columns, "_BLOCK_BYTES", 3000)
    x, weights, dy, windows = arrays_of({**PLAIN, "axes": [(9, 3, 1, 1)]})
    wanted = convolution.convolve_kernel_gradient.reference(x, dy, windows, 1)
    for nbytes in (1, 4 * weights.size * 3):
        monkeypatch.setattr(columns, "_PARTS_BYTES", nbytes)
        assert_close(convolution.convolve_kernel_gradient(x, dy, windows, 1), wanted)
