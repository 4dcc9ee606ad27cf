"""Depthwise convolution and its gradients against their definition, on small integers, whose sums are exact."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras.kernels import depthwise
from gpukeras.kernels.windows import windows_of
from tests.kernels.cutting import CUTS, DTYPES, EXAMPLES, LAYOUTS, THREADS, laid_out, read_only, small_blocks

PROBLEMS = st.fixed_dictionaries(
    {
        "batch": st.integers(0, 3),
        "axes": st.lists(  # space, size, stride
            st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=2
        ),
        "dilation": st.sampled_from([1, 1, 2]),
        "padding": st.sampled_from(["valid", "same", "causal"]),
        "channels": st.integers(1, 3),
        "multiplier": st.integers(1, 3),
        "dtype": DTYPES,
        "layouts": st.tuples(LAYOUTS, LAYOUTS, LAYOUTS),
        "seed": st.integers(0, 99),
    }
)


def by_definition(x, weights, dy, windows):
    """y, dx and dweights."""
    y, dx, dweights = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(weights)
    channels, multiplier = weights.shape[-2:]
    for out in itertools.product(*map(range, windows.grid)):
        for k in itertools.product(*map(range, windows.size)):
            seen = zip(out, windows.strides, windows.lows, k, windows.dilation, strict=True)
            place = tuple(o * stride - low + i * step for o, stride, low, i, step in seen)
            if not all(0 <= p < n for p, n in zip(place, windows.space, strict=True)):
                continue
            for c, i in itertools.product(range(channels), range(multiplier)):
                of_x, of_y, of_weights = (slice(None), *place, c), (slice(None), *out, c * multiplier + i), (*k, c, i)
                y[of_y] += x[of_x] * weights[of_weights]
                dx[of_x] += dy[of_y] * weights[of_weights]
                dweights[of_weights] += (x[of_x] * dy[of_y]).sum()
    return y, dx, dweights


def by_kernels(x, weights, dy, windows):
    return (
        depthwise.depthwise(x, weights, windows),
        depthwise.depthwise_input_gradient(dy, weights, windows),
        depthwise.depthwise_kernel_gradient(x, dy, windows),
    )


@settings(max_examples=80, **EXAMPLES)
@given(problem=PROBLEMS, cut=CUTS)
def test_depthwise_and_its_gradients(problem, cut):
    space, size, strides = zip(*problem["axes"], strict=True)
    windows = windows_of(space, size, strides, problem["padding"], (problem["dilation"],) * len(space))
    rng = np.random.default_rng(problem["seed"])
    batch, channels, multiplier = problem["batch"], problem["channels"], problem["multiplier"]
    shapes = (batch, *space, channels), (*size, channels, multiplier), (batch, *windows.grid, channels * multiplier)
    plain = [rng.integers(-4, 5, shape).astype(problem["dtype"]) for shape in shapes]
    x, weights, dy = (read_only(laid_out(a, layout)) for a, layout in zip(plain, problem["layouts"], strict=True))
    for count in THREADS:
        with small_blocks(cut, count):
            results = by_kernels(x, weights, dy, windows)
            by_kernels(-x, weights, dy, windows)  # must not touch what the first calls gave
        for actual, expected in zip(results, by_definition(*plain, windows), strict=True):
            assert actual.dtype == expected.dtype
            np.testing.assert_array_equal(actual, expected)
