"""Products of large matrices whose lines end anywhere."""

import ml_dtypes
import numpy as np
import pytest

from gpukeras.kernels import linear, lines
from tests.helpers import assert_close
from tests.kernels.test_all_kernels import emulator, recorded  # noqa: F401  a fixture


@pytest.fixture
def all_pay(monkeypatch):
    """Products are taken for large ones from small sizes on."""
    monkeypatch.setattr(lines, "_LONG", 2)
    monkeypatch.setattr(lines, "_MANY", 1)
    monkeypatch.setattr(linear, "_FEW_OUTPUTS", 0)


def matrix(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(8, 16, 13), (7, 15, 16), (9, 8, 8), (5, 13, 11), (16, 7, 24)])
def test_a_dense_layer_of_any_sizes(emulator, rng, all_pay, dtype, rows, inner, columns):  # noqa: F811
    x, kernel = matrix(rng, (rows, inner), dtype), matrix(rng, (inner, columns), dtype)
    dy = matrix(rng, (rows, columns), dtype)
    wide = [array.astype(np.float64) for array in (x, kernel, dy)]
    x, kernel, dy = [emulator.EmulatorArray(array) for array in (x, kernel, dy)]
    launches = []
    with recorded(launches):
        y = linear.linear(x, kernel, None, True)
        dx = linear.linear_input_gradient(dy, kernel)
        place = emulator.EmulatorArray(np.full((inner, columns), np.nan, np.float32))
        dkernel, dbias = linear.linear_gradients(x, dy, (place, None), has_bias=False)
    assert dkernel is place and dbias is None
    lanes = 16 // np.dtype(dtype).itemsize
    assert ("fit_lines" in launches) == any(size % lanes for size in (inner, columns))
    assert y.flags.c_contiguous and dx.flags.c_contiguous
    for found, expected in (
        (y, np.maximum(wide[0] @ wide[1], 0)),
        (dx, wide[2] @ wide[1].T),
        (dkernel, wide[0].T @ wide[2]),
    ):
        assert_close(found, expected, dtype=np.dtype(dtype).name)


def test_copies_of_what_50257_classes_need(emulator, rng, all_pay):  # noqa: F811
    x, kernel, dy = [emulator.EmulatorArray(matrix(rng, s, np.float32)) for s in ((8, 16), (16, 13), (8, 13))]
    launches = []
    with recorded(launches):
        linear.linear(x, kernel)  # the kernel and y
        linear.linear_input_gradient(dy, kernel)  # dy and the kernel
        linear.linear_gradients(x, dy, has_bias=False)  # dy and its gradient
    assert launches == 6 * ["fit_lines"]


def test_small_products_and_those_of_even_lines_are_left_alone(emulator, rng):  # noqa: F811
    launches = []
    with recorded(launches):
        for columns in (13, 512):
            x, kernel = matrix(rng, (600, 300), np.float32), matrix(rng, (300, columns), np.float32)
            linear.linear(emulator.EmulatorArray(x), emulator.EmulatorArray(kernel))
    assert "fit_lines" not in launches
