"""Casts between any two types, and that those between 16 and 32 bits on a GPU are our kernels."""

import ml_dtypes
import numpy as np
import pytest

from gpukeras import ops
from gpukeras.backend import devices
from gpukeras.kernels import casts
from tests.helpers import values

DTYPES = ["float16", ml_dtypes.bfloat16, "float32", "float64", "int32", "bool"]


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_equal_numpys(source, target, device, rng):
    x = (rng.normal(size=(7, 21)) * 3.0).astype(source)
    expected = x.astype(target)
    x = devices.to_device(x)
    for found in (casts.cast(x, np.dtype(target)), casts.cast(x.T, np.dtype(target)).T, ops.cast(x, target).array):
        assert found.dtype == target
        np.testing.assert_array_equal(values(found), expected)


def test_of_what_is_no_number_or_too_large(device):
    x = np.float32([np.nan, np.inf, -np.inf, 1e30, -1e30, 65519.9, 65520.0, -0.0])
    with np.errstate(over="ignore"):
        expected = x.astype("float16")
        found = casts.cast(devices.to_device(x), np.dtype("float16"))
    np.testing.assert_array_equal(values(found), expected)
    assert np.signbit(values(found)[-1])
    np.testing.assert_array_equal(values(casts.cast(found, np.dtype("float32"))), expected.astype("float32"))


@pytest.mark.parametrize("short", ["float16", ml_dtypes.bfloat16])
def test_are_kernels_where_there_is_cuda_c(short, device, monkeypatch):
    launched = []
    plain = type(casts._CUDA).launch
    monkeypatch.setattr(
        type(casts._CUDA),
        "launch",
        lambda self, name, *args, **kw: launched.append(name) or plain(self, name, *args, **kw),
    )
    x = devices.to_device(np.ones((4, 5), "float32"))
    casts.cast(casts.cast(x, np.dtype(short)), np.dtype("float32"))
    assert launched == (["narrow_all", "widen_all"] if device == "emulator" else [])
