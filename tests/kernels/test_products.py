"""Products in tiles: every size, against NumPy's product in float64."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukeras.backend import blas, memory
from gpukeras.kernels import products
from tests.helpers import assert_close

PROBLEMS = st.fixed_dictionaries(
    {
        "others": st.sampled_from([(1,), (3,), (1, 1), (2, 3)]),
        "rows": st.integers(1, 70),
        "n": st.integers(1, 9),
        "m": st.sampled_from([1, 2, 3, 4, 5, 8, 12]),
        "is_transposed": st.booleans(),
        "is_added": st.booleans(),
        "in_tiles": st.booleans(),
        "unpacked": st.sampled_from([1, 20, 100, 500, 10**6]),
        "most_summed": st.sampled_from([(1, 1), (3, 2), (4, 64), (48, 64)]),
        "dtype": st.sampled_from(["float32", "float64"]),
    }
)


@pytest.fixture
def unpacked(monkeypatch):
    """As on a processor with AVX-512."""
    monkeypatch.setattr(blas, "multiplies_unpacked", lambda: True)


@given(problem=PROBLEMS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tiles_of_any_size(problem, unpacked, monkeypatch):
    for name, value in {"_LEAST_ROWS": 3, "_LEAST_SUMMED": 3, "_LEAST_COLUMNS": 1, "_VECTOR": 1}.items():
        monkeypatch.setattr(products, name, value)
    monkeypatch.setattr(products, "_UNPACKED", problem["unpacked"])
    monkeypatch.setattr(products, "_MOST_SUMMED", problem["most_summed"])
    others, rows, n, m, in_tiles = (problem[name] for name in ("others", "rows", "n", "m", "in_tiles"))
    rng = np.random.default_rng(rows)

    def random(*shape):
        return rng.standard_normal((*others, *shape)).astype(problem["dtype"])

    a, b, c = random(rows, n), random(n, m), random(rows, m)
    if problem["is_transposed"]:
        a = np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)
    exact = a.astype(np.float64)
    product, transposed = np.full_like(c, np.nan), random(n, m)
    before = transposed * problem["is_added"]
    with memory.poison():
        multiply = products.multiplier(a, products.in_chunks(b) if in_tiles else b[..., None, :, :], in_tiles)
        add = products.transposed_multiplier(a, m, in_tiles)
        for _ in range(2):  # what is made once serves again and again
            multiply(product)
        add(c, transposed, problem["is_added"])
    assert_close(product, exact @ b, scale=10)
    assert_close(transposed, before + exact.swapaxes(-1, -2) @ c, scale=10)


def test_tiles_divide_the_rows_where_they_can(unpacked):
    assert products._rows_of_tile(4096, 96 * 32, 32) == 256
    assert products._rows_of_tile(968, 96 * 64, 32) == 121
    assert products._rows_of_tile(1009, 96 * 32, 32) == 320  # a prime number
    assert products._rows_of_tile(300, 96 * 32, 32) == 0  # one tile is small enough
    assert products._rows_of_tile(4096, 1152 * 128, 32) == 0  # tiles would be too short


def test_chunks_have_as_many_columns_as_tiles_of_enough_rows_can(unpacked):
    def shape(n, m):
        return products.in_chunks(np.empty((n, m))).shape

    assert shape(288, 64) == (1, 288, 64)
    assert shape(384, 128) == (2, 384, 64)
    assert shape(576, 128) == (4, 576, 32)
    assert shape(1152, 128) == (1, 1152, 128)  # with 32 columns it would still be too large
    assert shape(384, 96) == (1, 384, 96)  # 48 would do, but halves of it are no multiple of 32


def test_columns_of_summed_tiles(unpacked):
    assert products._size_of_summed(96, 32) == [48, 32]
    assert products._size_of_summed(384, 128) == [48, 64]
    assert products._size_of_summed(64, 96) == [32, 48]
    assert products._size_of_summed(27, 33) == [27, 33]


def test_products_stay_whole_where_tiles_do_not_pay(monkeypatch):
    monkeypatch.setattr(blas, "multiplies_unpacked", lambda: False)
    assert products._rows_of_tile(4096, 96 * 32, 32) == 0
    assert products._size_of_summed(96, 32) == (96, 32)
    assert products.in_chunks(np.empty((384, 128))).shape == (1, 384, 128)
