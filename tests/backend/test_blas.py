"""Products and sums by NumPy's BLAS."""

import numpy as np
import pytest

from gpukeras.backend import blas


@pytest.mark.parametrize("size", [0, 1, 1000, blas._MANY, blas._MANY + 13])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_add_scaled(size, dtype, beta, rng):
    x, y = rng.normal(size=(2, size)).astype(dtype)
    expected = -0.3 * x.astype("float64") + beta * y.astype("float64")
    before = x.copy()
    blas.add_scaled(x, -0.3, y, beta)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=0, atol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(x, before)


def test_add_scaled_of_a_part_leaves_the_rest(rng):
    x, y = rng.normal(size=(2, blas._MANY + 10)).astype("float32")
    before = y.copy()
    blas.add_scaled(x[5:-5], 2.0, y[5:-5], 1.0)
    np.testing.assert_array_equal(y[:5], before[:5])
    np.testing.assert_array_equal(y[-5:], before[-5:])
    np.testing.assert_allclose(y[5:-5], before[5:-5] + 2 * x[5:-5], rtol=1e-5, atol=1e-6)


def test_add_scaled_without_a_library_in_reach(monkeypatch, rng):
    x, y = rng.normal(size=(2, blas._MANY))
    expected = 0.1 * x + 0.9 * y
    monkeypatch.setattr(blas, "_library", lambda: None)
    blas.add_scaled(x, 0.1, y, 0.9)
    np.testing.assert_allclose(y, expected, rtol=1e-14)


@pytest.mark.parametrize("shape", [(3, 4, 5), (256, 64, 64), (256, 256, 256)])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_products_of_every_size(shape, is_transposed, rng):
    rows, inner, columns = shape
    a = rng.normal(size=(inner, rows)).T if is_transposed else rng.normal(size=(rows, inner))
    b, out = rng.normal(size=(inner, columns)), np.empty((rows, columns))
    before = blas.thread_count()
    assert blas.matmul(a, b, out=out) is out
    np.testing.assert_allclose(out, np.einsum("ij,jk->ik", a, b), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(blas.matmul(a, b), out)
    assert blas.thread_count() == before
