"""Cutting arrays into blocks."""

import numpy as np
import pytest

from gpukeras.backend import threads
from gpukeras.kernels import blocks


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("size", [0, 1, blocks.BLOCK, blocks.THREADED - 1, blocks.THREADED + 7])
def test_every_element_is_met_once(number, size):
    x, y = np.arange(size, dtype="float32"), np.zeros(size, "float32")

    def add(x, y):
        np.add(y, x, out=y)

    with threads.use_count(number):
        blocks.elementwise(add, x.reshape(1, size), y.reshape(size, 1))
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(("rows", "width"), [(0, 5), (3, 0), (1, 100_000), (7, 3), (4099, 129)])
def test_every_row_is_met_once(number, rows, width):
    count = np.zeros(rows, int)

    def add(part):
        count[part] += 1

    with threads.use_count(number):
        blocks.for_rows(add, rows, width)
    assert (count == 1).all()


def test_plain_arrays_lie_in_one_piece_and_match():
    x = np.zeros((4, 6))
    assert blocks.is_plain(x, x.reshape(24))
    assert not blocks.is_plain(x, x[:, :5])
    assert not blocks.is_plain(x.T)
    assert not blocks.is_plain(x, np.zeros(6))
