"""What tests of `.cpu` forms share: arrays of any layout, blocks of a few elements, comparison to the last bit."""

import contextlib

import numpy as np
import pytest
from hypothesis import strategies as st

from gpukeras.backend import memory, threads
from gpukeras.kernels import blocks

# The same examples in every run; more of them find no more, but take their time.
EXAMPLES = {"deadline": None, "derandomize": True}
DTYPES = st.sampled_from(["float32", "float64"])
LAYOUTS = st.sampled_from(["plain", "plain", "plain", "transposed", "reversed", "stepped"])  # plain ones are cut
THREADS = (1, 2, 5)

# BLOCK, THREADED, THREAD_BLOCK: never on threads; on threads from the second block on; some blocks, then on threads.
CUTS = st.sampled_from([(1 << 16, 1 << 18, 1 << 18), (7, 1 << 18, 1), (8, 8, 5), (8, 20, 6), (1, 2, 1)])


def laid_out(x, layout):
    """A copy of x that lies in memory differently."""
    x = np.asarray(x)
    if layout == "transposed":
        return np.array(x.T, order="C").T
    if layout == "reversed":
        return np.asarray(np.flip(np.array(np.flip(x), order="C")))
    if layout == "stepped":
        wide = np.full([2 * n + 1 for n in x.shape], 123, x.dtype)
        view = wide[(..., *[slice(1, None, 2)] * x.ndim)]
        view[...] = x
        return view
    return np.array(x, order="C")


def read_only(x):
    """x, which nobody may write into."""
    if x is not None:
        x.flags.writeable = False
    return x


@contextlib.contextmanager
def small_blocks(cut, count, *constants):
    """Cut arrays at these limits, on so many threads; `constants` are a module's own: (module, name, value)."""
    block, threaded, thread_block = cut
    with pytest.MonkeyPatch.context() as patch, threads.use_count(count), memory.poison():
        patch.setattr(blocks, "BLOCK", block)
        patch.setattr(blocks, "THREAD_BLOCK", thread_block)
        patch.setitem(blocks.elementwise.__kwdefaults__, "threaded", threaded)
        patch.setattr(blocks.for_rows, "__defaults__", (threaded, *blocks.for_rows.__defaults__[1:]))
        for module, name, value in constants:
            patch.setattr(module, name, value)
        yield


def assert_same_bits(actual, expected):
    """The same shape, dtype and bits; but one NaN is as good as another."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    if actual.dtype.kind == "f":
        integer = np.dtype(f"i{actual.dtype.itemsize}")
        actual, expected = (np.where(np.isnan(a), a.dtype.type(np.nan), a).view(integer) for a in (actual, expected))
    np.testing.assert_array_equal(actual, expected)
