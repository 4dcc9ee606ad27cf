"""Which array library the work runs on, and how values cross between them.

The choice is made at first use: ``GPUKERAS_BACKEND=auto`` (the default) takes CuPy where a GPU works,
else NumPy, and says why in one line; ``numpy`` and ``cupy`` ask for one by name.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import warnings

import numpy as np

__all__ = [
    "address_of",
    "array_module",
    "can_record",
    "cupy_distributions",
    "default_device",
    "default_module",
    "gpu_memory",
    "is_array",
    "is_module",
    "is_on_gpu",
    "probe",
    "register_device",
    "set_default_device",
    "takes",
    "to_device",
    "to_numpy",
    "use_device",
]

_modules = {"numpy": np}  # device name -> array module
_module_of_type = {np.ndarray: np}  # array type -> array module
_to_numpy_of_type = {}  # array type of another device -> function to NumPy
_default: str | None = None  # device name, None until first use

_CUDA_OF_DLPACK = 2, 13  # kDLCUDA, kDLCUDAManaged: memory that kernels reach
# Of the CPU alone, where they are wider than double precision.
_HOST_ONLY = tuple(np.dtype(wide) for wide in (np.longdouble, np.clongdouble) if np.dtype(np.longdouble).itemsize > 8)
_INSTALL = "pip install 'gpukeras[cuda12]' (or 'gpukeras[cuda13]' for a CUDA 13 driver)"


def register_device(name, module, array_type, to_numpy):
    """Make an array library known: its module, its array class, and the way back to NumPy."""
    _modules[name] = module
    _module_of_type[array_type] = module
    _to_numpy_of_type[array_type] = to_numpy


def probe():
    """Whether CuPy can compute here, and the reason or the device's name: ``(usable, message)``."""
    if importlib.util.find_spec("cupy") is None:
        return False, f"CuPy is not installed; {_INSTALL}"
    try:
        cupy = _import_cupy()
    except Exception as error:
        return False, f"CuPy cannot be imported ({_first_line(error)}); {_INSTALL}"
    if not cupy.cuda.is_available():
        return False, _why_no_gpu(cupy)
    register_device("cupy", cupy, cupy.ndarray, cupy.asnumpy)
    reason = _try_gpu(cupy)
    if reason is not None:
        del _modules["cupy"]  # asked for again, it is probed again
        return False, reason
    return True, cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()


def _try_gpu(cupy):
    """Why this GPU cannot compute, None if it can: what is missing fails here, not in training."""
    from gpukeras.backend import gemm

    try:
        # Compiles a kernel, runs it, reads it back: needs CUDA's headers.
        if float((cupy.arange(8, dtype=np.float32) * 2).sum()) != 56.0:
            return "CuPy computed a wrong sum on this GPU"
        ones = cupy.ones((2, 2), np.float32)
        if float(gemm.matmul(ones, ones).sum()) != 8.0:  # needs cuBLASLt
            return "cuBLASLt computed a wrong product on this GPU"
    except Exception as error:
        return f"CuPy cannot run a kernel ({type(error).__name__}: {_first_line(error)}){_cure_of(error)}"
    return None


def _import_cupy():
    """CuPy; where several of its wheels lie in one folder, one line says so in place of its own twenty."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import cupy
    for warning in caught:
        if "multiple CuPy packages" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            continue
        names = [name for name, _ in cupy_distributions()]
        warnings.warn(
            f"{' and '.join(names)} are installed into one folder, where one overwrites the other: "
            f"pip uninstall -y {' '.join(names)}, then {_INSTALL}.",
            RuntimeWarning,
            stacklevel=5,
        )
    return cupy


def cupy_distributions():
    """Name and version of all that installs the folder `cupy`: pip lets several of them write into it."""
    found = set()
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if re.fullmatch(r"cupy(-cuda\d+x?|-rocm-[\d-]+)?", name):
            found.add((name, distribution.version))
    return tuple(sorted(found))


def _why_no_gpu(cupy):
    """Why CuPy finds no device, with the cure."""
    try:
        runtime = cupy.cuda.runtime
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    except Exception:
        return "CuPy found no CUDA device; python -m gpukeras.doctor shows why"
    if driver == 0:
        return (
            "there is no NVIDIA driver; install the one for your GPU from nvidia.com/drivers, or start the container "
            "with --gpus all"
        )
    if driver // 1000 < needed // 1000:
        other = ", or pip install 'gpukeras[cuda12]' in place of cupy-cuda13x" if 12000 <= driver < 13000 else ""
        return (
            f"CuPy is built for CUDA {needed // 1000}, but the driver ends at {driver // 1000}.{driver % 1000 // 10}; "
            f"update the driver{other}"
        )
    return "the NVIDIA driver shows no GPU; nvidia-smi -L lists them, CUDA_VISIBLE_DEVICES hides those it leaves out"


def _cure_of(error):
    """What helps against an error of the first kernel, where that is known."""
    text = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or "memoryallocation" in text:
        return "; the GPU has no memory left: nvidia-smi lists the processes that hold it"
    if "headers" in text or "cuda_fp16.h" in text or "nvrtc" in text:
        return f"; CUDA's headers are missing: {_INSTALL}"
    return ""


def _first_line(error):
    return str(error).strip().partition("\n")[0]


def gpu_memory():
    """Free and total bytes of the GPU, None where CuPy cannot tell."""
    cupy = sys.modules.get("cupy")  # imported by `probe`, if at all
    try:
        return None if cupy is None else tuple(cupy.cuda.runtime.memGetInfo())
    except Exception:
        return None


def default_device():
    """Name of the device that new arrays are made on: ``"numpy"`` or ``"cupy"``."""
    if _default is None:
        set_default_device(os.environ.get("GPUKERAS_BACKEND", "auto"))
    return str(_default)


def set_default_device(name):
    """Choose the device by name: ``"auto"``, ``"numpy"`` or ``"cupy"``.

    Raises:
        ValueError: for another name.
        RuntimeError: for ``"cupy"`` where it cannot compute, with the cure.
    """
    global _default
    if name == "auto":
        usable, reason = probe()
        if not usable and importlib.util.find_spec("cupy") is not None:
            warnings.warn(f"gpukeras computes with NumPy: {reason}.", RuntimeWarning, stacklevel=3)
        name = "cupy" if usable else "numpy"
    elif name == "cupy" and "cupy" not in _modules:
        usable, reason = probe()
        if not usable:
            raise RuntimeError(
                f"The backend 'cupy' was asked for by name, but {reason}. Mend that (python -m gpukeras.doctor shows "
                f"how), or set GPUKERAS_BACKEND=numpy."
            )
    elif name not in _modules:
        raise ValueError(
            f"Unknown backend {name!r}. GPUKERAS_BACKEND and config.set_backend() take 'auto', 'numpy' or 'cupy'."
        )
    _default = name


@contextlib.contextmanager
def use_device(name):
    """Within the scope, new arrays are made on the named device."""
    global _default
    before = default_device()
    set_default_device(name)
    try:
        yield
    finally:
        _default = before


def default_module():
    """The array module of the default device: `numpy` or `cupy`."""
    return _modules[default_device() if _default is None else _default]


def array_module(array):
    """The module that `array` belongs to; NumPy's for Python and NumPy scalars."""
    module = _module_of_type.get(type(array))
    if module is not None:
        return module
    for kind in type(array).__mro__:
        if kind in _module_of_type:
            return _module_of_type[kind]
    return _recognize(array) or np


def _recognize(array):
    """CuPy's module for an array that a caller brought along before any device was chosen."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, getattr(cupy, "ndarray", ())):
        register_device("cupy", cupy, cupy.ndarray, cupy.asnumpy)
        return cupy
    return None


def is_module(module):
    """Whether a module is one of those whose arrays are computed with here."""
    return module in _modules.values()


def is_array(value):
    """Whether `value` is an array of a known library (not a Python or NumPy scalar)."""
    kind = type(value)
    if kind in _module_of_type:
        return True
    return any(base in _module_of_type for base in kind.__mro__) or _recognize(value) is not None


def takes(dtype):
    """Whether the default device computes with a dtype: a GPU has nothing wider than double precision."""
    return dtype not in _HOST_ONLY or default_module() is np


def is_on_gpu(value):
    """Whether `value`, an array of any library, says that its memory is a GPU's."""
    if hasattr(value, "__cuda_array_interface__"):
        return True
    return hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] in _CUDA_OF_DLPACK


def address_of(array):
    """Where an array of a device begins in its memory."""
    return array.data.ptr


def can_record(array):
    """Whether work on the array can be recorded into a CUDA graph."""
    return array_module(array).__name__ == "cupy"


def to_numpy(array):
    """The values as a NumPy array; a NumPy array is returned as it is."""
    if isinstance(array, np.ndarray):
        return array
    module = array_module(array)
    if module is not np:
        return _to_numpy_of_type[type(array)](array)
    return np.asarray(array)


def to_device(value, dtype=None):
    """`value` as an array of the default device.

    Takes arrays of either library, objects with ``__cuda_array_interface__``, ``__dlpack__`` or
    ``__array__``, numbers and nested sequences. Copies only where the device or dtype differs.
    """
    xp = default_module()
    module = array_module(value) if is_array(value) else None
    if module is None and not isinstance(value, (int, float, complex, list, tuple, np.generic)):
        value, module = _import_foreign(value, xp)
    if module is not None and module is not xp:
        value = to_numpy(value)  # the one crossing between devices
    given = getattr(value, "dtype", None)
    if dtype is None and not takes(given):
        raise TypeError(f"no GPU computes with {given}: convert it first, for instance with .astype('float64')")
    return xp.asarray(value, dtype=dtype)


def _import_foreign(value, xp):
    """An array of someone else's library, through the first protocol that both sides know."""
    if xp is not np and hasattr(value, "__cuda_array_interface__"):
        return xp.asarray(value), xp
    if xp is not np and hasattr(value, "__dlpack__") and is_on_gpu(value):
        return xp.from_dlpack(value), xp
    if hasattr(value, "__array__"):
        return np.asarray(value), np
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value), np
    return value, None
