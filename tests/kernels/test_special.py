"""erf and its kin, against values of high precision and against identities."""

import math

import numpy as np
import pytest

from gpukeras.backend import devices
from gpukeras.kernels import special
from tests.helpers import assert_close, values


def on_device(x):
    return devices.to_device(np.asarray(x))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_erf_is_the_integral_of_a_bell(device, dtype):
    x = np.linspace(-7, 7, 2001).astype(dtype)
    y = special.erf(on_device(x))
    assert y.dtype == dtype
    expected = np.array([math.erf(v) for v in x])
    assert_close(y, expected, dtype=dtype)
    if dtype == "float64":
        np.testing.assert_allclose(values(y), expected, rtol=1e-14, atol=0)


def test_erfc_keeps_its_precision_in_the_tail(device):
    x = np.linspace(-6, 26, 1001)
    expected = np.array([math.erfc(v) for v in x])
    # exp(-x²) alone has an error of x² · 1e-16.
    np.testing.assert_allclose(values(special.erfc(on_device(x))), expected, rtol=2e-13, atol=0)
    short = special.erfc(on_device(np.float32([-1.0, 0.0, 3.0])))
    assert short.dtype == "float32"
    assert_close(short, [math.erfc(v) for v in (-1.0, 0.0, 3.0)], dtype="float32")


def test_erf_saturates_at_exactly_one(device):
    for dtype in ("float32", "float64"):
        y = values(special.erf(on_device(np.array([-30.0, 30.0], dtype))))
        np.testing.assert_array_equal(y, [-1.0, 1.0])


def test_erfinv_undoes_erf(device):
    x = np.linspace(-0.999999, 0.999999, 997)
    y = values(special.erfinv(on_device(x)))
    assert_close([math.erf(v) for v in y], x)
    near_one = 1 - np.logspace(-15, -3, 25)
    y = values(special.erfinv(on_device(near_one)))
    np.testing.assert_allclose([math.erfc(v) for v in y], 1 - near_one, rtol=1e-11)


def test_erfinv_at_and_beyond_the_edges(device):
    y = values(special.erfinv(on_device([-1.0, 0.0, 1.0, 1.5])))
    np.testing.assert_array_equal(y, [-np.inf, 0.0, np.inf, np.nan])
    assert special.erfinv(on_device(np.float32([0.5]))).dtype == "float32"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_normal_cdf(device, dtype):
    x = np.linspace(-8, 8, 40001).astype(dtype)
    y = special.normal_cdf(on_device(x))
    assert y.dtype == dtype
    assert_close(y, [0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype(float)], dtype=dtype)
