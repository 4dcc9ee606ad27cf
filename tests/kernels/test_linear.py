"""Affine maps, sums of rows, and minimum and maximum with a number, on small integers, whose sums are exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras.backend import cuda, devices, dtypes, threads
from gpukeras.kernels import blocks, linear
from tests.emulator.compile import reason_to_skip, schedule
from tests.helpers import assert_close
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

SIZES = st.integers(0, 23)
PROBLEMS = st.fixed_dictionaries(
    {
        "shape": st.tuples(SIZES, SIZES, SIZES),
        "dtype": DTYPES | st.just("float16"),
        "layouts": st.tuples(LAYOUTS, LAYOUTS, LAYOUTS),
        "has_bias": st.booleans(),
        "is_rectified": st.booleans(),
        "seed": st.integers(0, 99),
    }
)


def integers(shape, dtype, layout, rng):
    return read_only(laid_out(rng.integers(-4, 5, shape).astype(dtype), layout))


def arrays_of(problem, seed=0):
    rng = np.random.default_rng(problem["seed"] + seed)
    rows, n, m = problem["shape"]
    shapes = zip(((rows, n), (n, m), (m,)), problem["layouts"], strict=True)
    arrays = [integers(shape, problem["dtype"], layout, rng) for shape, layout in shapes]
    return arrays if problem["has_bias"] else [*arrays[:2], None]


@settings(max_examples=150, **EXAMPLES)
@given(problem=PROBLEMS, cut=CUTS, is_many=st.booleans(), rows_of_block=st.integers(1, 9), width=st.integers(1, 5))
def test_linear(problem, cut, is_many, rows_of_block, width):
    x, kernel, bias = arrays_of(problem)
    expected = x.astype(np.float64) @ kernel.astype(np.float64) + (0 if bias is None else bias)
    expected = np.maximum(expected, 0) if problem["is_rectified"] else expected
    limits = [(linear, "MANY_ROWS", 1), (linear, "_PRODUCTS", 0), (linear, "_BLOCK", rows_of_block)] if is_many else []
    for count in THREADS:
        with small_blocks(cut, count, (blocks, "_FEW", 3), (blocks, "_WIDTH", width), *limits):
            y = linear.linear(x, kernel, bias, problem["is_rectified"])
            linear.linear(*arrays_of(problem, 1), problem["is_rectified"])  # must not touch what the first call gave
        assert y.dtype == problem["dtype"]
        np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(linear.linear.reference(x, kernel, bias, problem["is_rectified"]), expected)


@pytest.mark.parametrize("rows", [linear.MANY_ROWS - 1, linear.MANY_ROWS, linear.MANY_ROWS + 1])
@pytest.mark.parametrize("units", [256, 257])
def test_linear_around_the_limit_of_many_rows(rows, units, rng):
    x, kernel, bias = (rng.standard_normal(shape, dtype=np.float32) for shape in ((rows, 128), (128, units), units))
    assert linear._PRODUCTS == linear.MANY_ROWS * 128 * 256
    found = []
    for count in (1, 3):
        with threads.use_count(count):
            found.append(linear.linear(x, kernel, bias, True))
    assert_same_bits(*found)
    wide = np.maximum(x.astype(np.float64) @ kernel + bias, 0)
    assert_close(found[0], wide, "float32", scale=10)  # sums of 128 products


@settings(max_examples=60, **EXAMPLES)
@given(
    shape=st.tuples(SIZES, SIZES) | st.just((5003, 3)),
    dtype=st.sampled_from(["float16", "float32", "float64", "int32"]),
    layout=LAYOUTS,
    seed=st.integers(0, 99),
)
def test_sum_of_rows(shape, dtype, layout, seed):
    rng = np.random.default_rng(seed)
    x, other = (integers(shape, dtype, layout, rng) for _ in range(2))
    expected = linear.sum_of_rows.reference(x)
    y = linear.sum_of_rows(x)
    linear.sum_of_rows(other)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)


@settings(max_examples=100, **EXAMPLES)
@given(
    shape=st.tuples(st.integers(0, 70)) | st.tuples(SIZES, SIZES),
    dtype=DTYPES | st.just("float16"),
    function=st.sampled_from([np.minimum, np.maximum, np.add]),
    number=st.sampled_from([0.0, -1.5, 2, np.inf, np.nan]),
    is_in_place=st.booleans(),
    few=st.sampled_from([0, 5, 1 << 15]),
    width=st.sampled_from([1, 4, 7]),
    seed=st.integers(0, 99),
)
def test_with_number(shape, dtype, function, number, is_in_place, few, width, seed):
    x = (2 * np.random.default_rng(seed).standard_normal(shape)).round().astype(dtype)
    before, expected = x.copy(), function(x, np.array(number, dtype))
    out = x if is_in_place else np.full_like(x, 9)
    with small_blocks((1 << 16, 1 << 18, 1 << 18), 1, (blocks, "_FEW", few), (blocks, "_WIDTH", width)):
        blocks.with_number(function, x, number, out)
        blocks.with_number(function, -before, number + 1, np.empty_like(before))
    np.testing.assert_array_equal(out, expected)
    if not is_in_place:
        assert_same_bits(x, before)


@pytest.mark.parametrize(
    "size", [511, 512, blocks._WIDTH - 1, blocks._WIDTH, blocks._FEW, blocks._FEW + 1, blocks._FEW + 512]
)
def test_with_number_around_its_limits(size):
    x = np.random.default_rng(size).standard_normal(size, dtype=np.float32)
    out = np.empty_like(x)
    blocks.with_number(np.maximum, x, 0.0, out)
    np.testing.assert_array_equal(out, np.maximum(x, 0))


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
class TestFewOutputs:
    """On the emulator, whether by 16 bytes or not; on small integers, whose sums are exact."""

    SHAPES = [(1, 1, 1), (3, 4, 1), (1, 9, 2), (130, 6, 10), (257, 12, 5), (300, 8, 32), (6, 2047, 3), (2, 1024, 31)]

    @pytest.fixture(params=["float32", "float64", "float16", "bfloat16"])
    def problem(self, request, seed, monkeypatch):
        """A function of a shape that gives x, kernel, bias and dy, and the names of the kernels that are launched."""
        from tests.emulator import device

        device.install()
        names, launch = [], cuda.Source.launch
        dtype, rng = dtypes.as_dtype(request.param), np.random.default_rng(seed)
        monkeypatch.setattr(cuda.Source, "launch", lambda *args, **kw: (names.append(args[1]), launch(*args, **kw))[1])

        def draw(*shape):
            return device.EmulatorArray(rng.integers(-2, 3, shape).astype(dtype))

        def make(rows, n, m):
            return draw(rows, n), draw(n, m), draw(m), draw(rows, m)

        with devices.use_device("emulator"), schedule(seed):
            yield make, names

    def exact(self, array):
        return devices.to_numpy(array).astype("float64")

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("is_rectified", [True, False])
    def test_of_a_product(self, problem, shape, is_rectified):
        make, names = problem
        x, kernel, bias, _ = make(*shape)
        for added in (bias, None):
            y = linear.linear(x, kernel, added, is_rectified)
            expected = self.exact(x) @ self.exact(kernel) + (0 if added is None else self.exact(added))
            expected = np.maximum(expected, 0) if is_rectified else expected
            assert y.dtype == x.dtype and y.shape == expected.shape
            np.testing.assert_array_equal(self.exact(y), expected.astype(x.dtype).astype("float64"))
        assert names == ["linear_of_few"] * 2

    @pytest.mark.parametrize("shape", SHAPES)
    def test_of_its_gradients(self, problem, shape):
        make, names = problem
        x, kernel, bias, dy = make(*shape)
        dx = linear.linear_input_gradient(dy, kernel)
        expected = self.exact(dy) @ self.exact(kernel).T
        assert dx.dtype == x.dtype
        np.testing.assert_array_equal(self.exact(dx), expected.astype(x.dtype).astype("float64"))
        exact = self.exact(x).T @ self.exact(dy), self.exact(dy).sum(axis=0)
        for dtype in (x.dtype, cuda.wide_dtype(x.dtype)):
            for has_bias in (True, False):
                places = kernel.astype(dtype), bias.astype(dtype)
                dkernel, dbias = linear.linear_gradients(x, dy, places, has_bias)
                assert dkernel is places[0] and dbias is (places[1] if has_bias else None)
                for a, b in zip((dkernel, dbias)[: 1 + has_bias], exact, strict=False):
                    assert a.dtype == dtype
                    np.testing.assert_array_equal(self.exact(a), b.astype(dtype).astype("float64"))
        dkernel, dbias = linear.linear_gradients(x, dy)
        assert dkernel.dtype == dbias.dtype == x.dtype and dbias.shape == bias.shape
        assert names == ["input_gradient_of_few"] + ["gradients_of_few"] * 5

    @pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0), (2, 3, 33), (1025, 1, 1), (2, 1 << 16, 2)])
    def test_of_other_products_is_no_kernel(self, problem, shape):
        make, names = problem
        x, kernel, bias, dy = make(*shape)
        x, kernel, dy = [array.astype("float32") for array in (x, kernel, dy)]
        results = linear.linear(x, kernel), linear.linear_input_gradient(dy, kernel), *linear.linear_gradients(x, dy)
        x, kernel, dy = [self.exact(array) for array in (x, kernel, dy)]
        for a, b in zip(results, (x @ kernel, dy @ kernel.T, x.T @ dy, dy.sum(axis=0)), strict=True):
            assert_close(a, b, "float32", scale=10)
        assert not [name for name in names if "few" in name]
