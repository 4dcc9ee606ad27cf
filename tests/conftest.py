"""What every test shares: the oracle's settings, a seed per test, the float types, the marks."""

import functools
import importlib.util
import os
import random
import tempfile
import zlib

# The tests' arrays are tiny: one BLAS thread is faster than two, and steadier. Must stand before NumPy's import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

import gpukeras

# The oracle is Keras on JAX on the CPU, whatever the user's own keras.json says. This must stand
# in the environment before anyone imports keras.
os.environ["KERAS_BACKEND"] = "jax"
os.environ["KERAS_HOME"] = os.path.join(tempfile.gettempdir(), "gpukeras-oracle")
os.environ["JAX_PLATFORMS"] = "cpu"


def pytest_runtest_setup(item):
    """Skip what cannot run here: `oracle` without Keras or JAX, `gpu` without a usable GPU."""
    if item.get_closest_marker("oracle"):
        missing = [name for name in ("keras", "jax") if importlib.util.find_spec(name) is None]
        if missing:
            pytest.skip(f"the oracle needs {' and '.join(missing)}: pip install 'gpukeras[test]'")
    if item.get_closest_marker("gpu"):
        is_usable, reason = _probe_gpu()
        if not is_usable:
            pytest.skip(reason)


@functools.cache
def _probe_gpu():
    from gpukeras.backend import devices

    return devices.probe()


@pytest.fixture(autouse=True)
def seed(request):
    """The test's own seed, the same in every run and order; all global generators start from it."""
    value = zlib.crc32(request.node.nodeid.encode())
    random.seed(value)
    np.random.seed(value)
    if hasattr(gpukeras, "utils"):
        gpukeras.utils.set_random_seed(value)
    return value


@pytest.fixture(autouse=True)
def settings_of_its_own():
    """What a test sets for the whole library ends with it."""
    from gpukeras.backend import dtypes

    before = dtypes.floatx(), dtypes.epsilon(), dtypes._policy
    yield
    dtypes.set_floatx(before[0])
    dtypes.set_epsilon(before[1])
    dtypes.set_default_policy(before[2])


@pytest.fixture(autouse=True)
def poisoned_scratch():
    """Scratch arrays turn into NaN when they are given back, so that whoever reads one later is found out."""
    from gpukeras.backend import memory

    with memory.poison():
        yield


@pytest.fixture
def rng(seed):
    """A NumPy generator that starts from the test's seed."""
    return np.random.default_rng(seed)


@pytest.fixture(params=["float16", "float32", "float64"])
def float_dtype(request):
    """Each float type of NumPy in turn, by name."""
    return request.param


@pytest.fixture(params=["numpy", "strict", "emulator"])
def device(request):
    """Each device of a machine without a GPU: NumPy, one on its memory as strict as CuPy, one that runs CUDA C."""
    from gpukeras.backend import devices
    from tests import strict_device

    strict_device.install()
    if request.param == "emulator":
        from tests.emulator import compile
        from tests.emulator import device as emulator

        if compile.reason_to_skip():
            pytest.skip(compile.reason_to_skip())
        emulator.install()
    with devices.use_device(request.param):
        yield request.param
