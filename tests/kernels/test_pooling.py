"""Pooling's kernels: every shape, in blocks and on threads of any number, with ties, poisoned scratch."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukeras.backend import memory, threads
from gpukeras.kernels import pooling
from gpukeras.kernels.windows import windows_of
from tests.helpers import assert_close

PROBLEMS = st.fixed_dictionaries(
    {
        "batch": st.integers(0, 5),
        "axes": st.lists(  # space, size, stride
            st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=3
        ),
        "padding": st.sampled_from(["valid", "same"]),
        "channels": st.integers(1, 5),
        "block": st.sampled_from([1, 100, 1 << 18]),
        "threaded": st.sampled_from([0, 1 << 20]),
        "threads": st.sampled_from([1, 2, 5]),
        "seed": st.integers(0, 99),
    }
)


@given(problem=PROBLEMS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_of_any_size(problem, monkeypatch):
    monkeypatch.setattr(pooling, "_BLOCK", problem["block"])
    monkeypatch.setattr(pooling, "_THREAD_BLOCK", problem["block"])
    monkeypatch.setattr(pooling, "_THREADED", problem["threaded"])
    space, size, strides = zip(*problem["axes"], strict=True)
    windows = windows_of(space, size, strides, problem["padding"], (1,) * len(space))
    if not all(windows.grid):
        return
    rng = np.random.default_rng(problem["seed"])
    x = rng.integers(-2, 3, (problem["batch"], *space, problem["channels"])).astype(np.float32)  # with ties
    y = pooling.max_pool.reference(x, windows)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    with memory.poison(), threads.use_count(problem["threads"]):
        np.testing.assert_array_equal(pooling.max_pool(x, windows), y)
        dx = pooling.max_pool_gradient(dy, x, y, windows)
        assert_close(dx, pooling.max_pool_gradient.reference(dy, x, y, windows))
        assert_close(pooling.average_pool(x, windows), pooling.average_pool.reference(x, windows))
        dx = pooling.average_pool_gradient(dy, windows)
        assert_close(dx, pooling.average_pool_gradient.reference(dy, windows))


def test_windows_that_tile():
    def tiles(space, size, strides, padding="valid"):
        return windows_of((space,), (size,), (strides,), padding, (1,)).is_tiling

    assert tiles(6, 2, 2)
    assert tiles(6, 3, 3, "same")
    assert not tiles(7, 2, 2)  # a place is left over
    assert not tiles(7, 2, 2, "same")  # a window sees padding
    assert not tiles(6, 2, 1)
    assert not tiles(6, 1, 2)
