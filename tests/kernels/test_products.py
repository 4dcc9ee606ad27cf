"""Products in pieces of rows: every size, against NumPy's product in float64."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukeras.backend import memory
from gpukeras.kernels import products
from tests.helpers import assert_close

PROBLEMS = st.fixed_dictionaries(
    {
        "others": st.sampled_from([(1,), (3,), (1, 1), (2, 3)]),
        "rows": st.integers(1, 70),
        "n": st.integers(1, 9),
        "m": st.integers(1, 9),
        "is_transposed": st.booleans(),
        "is_added": st.booleans(),
        "in_pieces": st.booleans(),
        "unpacked": st.sampled_from([1, 100, 500, 10**6]),
        "dtype": st.sampled_from(["float32", "float64"]),
    }
)


@given(problem=PROBLEMS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_of_any_size(problem, monkeypatch):
    monkeypatch.setattr(products, "_UNPACKED", problem["unpacked"])
    monkeypatch.setattr(products, "_LEAST_ROWS", 3)
    monkeypatch.setattr(products, "_LEAST_SUMMED", 3)
    others, rows, n, m = (problem[name] for name in ("others", "rows", "n", "m"))
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
        products.multiply(a, b, product, problem["in_pieces"])
        products.multiply_transposed(a, c, transposed, problem["is_added"], problem["in_pieces"])
    assert_close(product, exact @ b, scale=10)
    assert_close(transposed, before + exact.swapaxes(-1, -2) @ c, scale=10)


def test_pieces_divide_the_rows_where_they_can():
    assert products._rows_of_piece(4096, 96 * 32, 32) == 256
    assert products._rows_of_piece(968, 96 * 64, 32) == 121
    assert products._rows_of_piece(1009, 96 * 32, 32) == 320  # a prime number
    assert products._rows_of_piece(300, 96 * 32, 32) == 0  # one piece is small enough
    assert products._rows_of_piece(4096, 1152 * 128, 32) == 0  # pieces would be too short
