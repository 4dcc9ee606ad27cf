"""Comparisons shared by all tests: one table of tolerances."""

import numpy as np

from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices

# Relative and absolute tolerance by the dtype that was computed in.
TOLERANCES = {
    "float64": (1e-7, 1e-9),
    "float32": (2e-5, 2e-6),
    "float16": (4e-3, 2e-3),
    "bfloat16": (4e-2, 1e-2),
}


def values(x):
    """The NumPy array of a Tensor, a device array, or another library's array."""
    if isinstance(x, Tensor):
        x = x.array
    return devices.to_numpy(x) if devices.is_array(x) else np.asarray(x)


def assert_close(actual, expected, dtype=None, scale=1.0, err_msg=""):
    """Equal shapes, and values equal to the tolerance of `dtype` (the narrower operand's if None).

    `scale` multiplies the absolute tolerance, for sums of many terms; say why where it is used.
    """
    actual, expected = values(actual), values(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}. {err_msg}"
    if dtype is None:
        floats = [a.dtype for a in (actual, expected) if a.dtype.name in TOLERANCES]
        dtype = min(floats, key=lambda d: d.itemsize).name if floats else None
    if dtype is None:
        np.testing.assert_array_equal(actual, expected, err_msg=err_msg)
        return
    rtol, atol = TOLERANCES[dtype]
    np.testing.assert_allclose(
        actual.astype(np.float64),
        expected.astype(np.float64),
        rtol=rtol,
        atol=atol * scale,
        err_msg=err_msg,
    )


def away_from(x, points, distance=1e-2):
    """Move the elements of `x` that lie near one of `points` (kinks) a step away."""
    for point in points:
        near = np.abs(x - point) < distance
        x = np.where(near, point + np.where(x >= point, 1, -1) * 2 * distance, x)
    return x
