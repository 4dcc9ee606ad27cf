"""A third device, on NumPy memory like the strict one, whose kernels run their CUDA C on the emulator."""

import importlib.util

import numpy as np

from gpukeras.backend import cuda, devices
from tests import strict_device
from tests.emulator.compile import compile_for_cpu


def _strict_device_anew():
    """The strict device's module once more, with an array class of its own."""
    spec = importlib.util.spec_from_file_location("emulator_arrays", strict_device.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.strict.__name__ = "emulator"
    return module


_arrays = _strict_device_anew()
emulator, EmulatorArray, forbid_host_reads = _arrays.strict, _arrays.StrictArray, _arrays.forbid_host_reads


def _empty(shape, dtype=float, **settings):
    """Undefined values that no result may depend on: NaN, or all bits set."""
    array = np.empty(shape, dtype, **settings)
    if array.size:
        array.reshape(-1).view(np.uint8).fill(0xFF)
    return EmulatorArray(array)


def _empty_like(array, dtype=None, **settings):
    return _empty(settings.pop("shape", None) or array.shape, dtype or array.dtype, **settings)


emulator.empty, emulator.empty_like = _empty, _empty_like


def install():
    """Make the device known as ``"emulator"``."""
    devices.register_device("emulator", emulator, EmulatorArray, _arrays.to_numpy)
    cuda.add_launcher("emulator", compile_for_cpu)
