"""Products of large matrices whose lines begin anywhere."""

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


def on(device, array):
    return device.EmulatorArray(array)


def matrix(rng, shape, dtype, distance=None):
    """Random numbers with NaN between the lines."""
    base = np.full((shape[0], distance or shape[1]), np.nan).astype(dtype)
    base[:, : shape[1]] = rng.standard_normal(shape)
    return base[:, : shape[1]]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("start", [0, 1, 4])
@pytest.mark.parametrize(("rows", "columns", "distances"), [(5, 37, (40, 41)), (3, 600, (600, 609)), (4, 5, (5, 24))])
def test_copies_between_any_two_distances(emulator, rng, dtype, start, rows, columns, distances):  # noqa: F811
    for from_distance, to_distance in (distances, distances[::-1]):
        x = matrix(rng, (rows, columns), dtype, from_distance)
        base = np.full(rows * to_distance + 16, 7).astype(dtype)
        out = np.lib.stride_tricks.as_strided(base[start:], (rows, columns), (to_distance * x.itemsize, x.itemsize))
        expected = base.copy()
        np.lib.stride_tricks.as_strided(expected[start:], out.shape, out.strides)[...] = x
        launches = []
        with recorded(launches):
            lines.copy_lines(on(emulator, out), on(emulator, x))
        assert launches == ["copy_lines"]
        assert base.tobytes() == expected.tobytes()


def test_what_are_no_lines_is_copied_all_the_same(emulator, rng):  # noqa: F811
    x, out = matrix(rng, (6, 9), np.float32).T, np.empty((9, 6), np.float32)
    lines.copy_lines(on(emulator, out), on(emulator, x))
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_dense_layer_of_many_classes(emulator, rng, all_pay, dtype):  # noqa: F811
    x, kernel, dy = matrix(rng, (8, 16), dtype), matrix(rng, (16, 13), dtype), matrix(rng, (8, 13), dtype)
    wide = [array.astype(np.float64) for array in (x, kernel, dy)]
    x, kernel, dy = [on(emulator, array) for array in (x, kernel, dy)]
    launches = []
    with recorded(launches):
        y = linear.linear(x, kernel, None, True)
        dx = linear.linear(dy, kernel.T)
        place = on(emulator, np.full((16, 13), np.nan, np.float32))
        dkernel, dbias = linear.linear_gradients(x, dy, (place, None), has_bias=False)
    assert dkernel is place and dbias is None
    assert launches.count("copy_lines") == 6  # the kernel and y; dy and the kernel; dy and its gradient
    assert y.flags.c_contiguous and dx.flags.c_contiguous
    for found, expected in (
        (y, np.maximum(wide[0] @ wide[1], 0)),
        (dx, wide[2] @ wide[1].T),
        (dkernel, wide[0].T @ wide[2]),
    ):
        assert_close(found, expected, dtype=np.dtype(dtype).name)


def test_small_products_and_those_of_even_lines_are_left_alone(emulator, rng):  # noqa: F811
    launches = []
    with recorded(launches):
        for columns in (13, 512):
            x, kernel = matrix(rng, (600, 300), np.float32), matrix(rng, (300, columns), np.float32)
            linear.linear(on(emulator, x), on(emulator, kernel))
    assert "copy_lines" not in launches
