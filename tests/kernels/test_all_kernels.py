"""Every kernel in every form gives what its reference gives, on the kernel's own samples."""

import importlib
import pkgutil

import numpy as np
import pytest

import gpukeras.kernels
from gpukeras.backend import devices
from gpukeras.kernels.kernel import registered_kernels
from tests.helpers import assert_close

for _module in pkgutil.iter_modules(gpukeras.kernels.__path__, "gpukeras.kernels."):
    importlib.import_module(_module.name)

KERNELS = registered_kernels()


def samples(kernel, dtype, seed):
    """The samples anew: forms write into them, so that each form needs its own."""
    rng = np.random.default_rng(seed)

    def random(shape, dtype):
        return devices.to_device(rng.standard_normal(shape).astype(dtype))

    return list(kernel.sample_function(random, dtype))


def arrays_in(value):
    """All arrays in nested tuples and lists, in order."""
    if isinstance(value, (tuple, list)):
        return [array for item in value for array in arrays_in(item)]
    return [value] if devices.is_array(value) or isinstance(value, np.generic) else []


@pytest.fixture(params=["numpy", "strict"])
def both_devices(request):
    from tests import strict_device

    strict_device.install()
    with devices.use_device(request.param):
        yield request.param


def test_there_are_kernels():
    assert KERNELS


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_every_form_equals_the_reference(name, dtype, seed, both_devices):
    kernel = KERNELS[name]
    given = samples(kernel, dtype, seed)
    expected = samples(kernel, dtype, seed)
    assert given, f"{name} yields no samples"
    for i, (args, reference_args) in enumerate(zip(given, expected, strict=True)):
        result = kernel(*args)
        reference = kernel.reference(*reference_args)
        actual = arrays_in((args, result))
        wanted = arrays_in((reference_args, reference))
        assert len(actual) == len(wanted) and actual, f"{name}: sample {i} has no arrays to compare"
        for a, b in zip(actual, wanted, strict=True):
            assert a.dtype == b.dtype, f"{name}: sample {i} gave {a.dtype}, the reference {b.dtype}"
            assert_close(a, b, dtype=dtype if a.dtype.kind == "f" else None, err_msg=f"{name}, sample {i}")
