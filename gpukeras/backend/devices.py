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
    "UNKNOWN_CURE",
    "address_of",
    "array_module",
    "can_record",
    "cuda_of",
    "cupy_distributions",
    "default_device",
    "default_module",
    "explain",
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
    "try_cupy",
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
_LEAST_OF_CUDA_13, _LAST_OF_CUDA_12 = 75, 121  # compute capabilities that NVRTC 13.0 and 12.9 make code for
UNKNOWN_CURE = "python -c 'import cupy; cupy.show_config()' shows what it works with"


def register_device(name, module, array_type, to_numpy):
    """Make an array library known: its module, its array class, and the way back to NumPy."""
    _modules[name] = module
    _register_arrays(module, array_type, to_numpy)


def _register_arrays(module, array_type, to_numpy):
    _module_of_type[array_type] = module
    _to_numpy_of_type[array_type] = to_numpy


def probe():
    """Whether CuPy can compute here, and the device's name or the reason with its cure: ``(usable, message)``."""
    usable, text, cure = try_cupy()
    return usable, f"{text}; {cure}" if cure else text


def try_cupy():
    """Whether CuPy can compute here, the device's name or the reason, and the cure: ``(usable, text, cure)``."""
    if importlib.util.find_spec("cupy") is None:
        return False, "CuPy is not installed", _install()
    try:
        cupy = _import_cupy()
    except Exception as error:
        return False, f"CuPy cannot be imported ({_telling_line(error)})", _install_anew()
    if not cupy.cuda.is_available():
        return False, *_why_no_gpu(cupy)
    register_device("cupy", cupy, cupy.ndarray, cupy.asnumpy)
    trouble = _try_gpu(cupy)
    if trouble is not None:
        del _modules["cupy"]  # asked for again, it is probed again
        return False, *trouble
    return True, cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode(), ""


def _try_gpu(cupy):
    """Why this GPU cannot compute, and the cure, None if it can: what is missing fails here, not in training."""
    from gpukeras.backend import gemm

    try:
        # Compiles a kernel, runs it, reads it back: needs NVRTC and CUDA's headers.
        if float((cupy.arange(8, dtype=np.float32) * 2).sum()) != 56.0:
            return "CuPy computed a wrong sum on this GPU", UNKNOWN_CURE
        ones = cupy.ones((2, 2), np.float32)
        if float(gemm.matmul(ones, ones).sum()) != 8.0:  # needs cuBLASLt
            return "cuBLASLt computed a wrong product on this GPU", UNKNOWN_CURE
    except Exception as error:
        unknown = f"CuPy cannot run a kernel ({type(error).__name__}: {_telling_line(error)})", UNKNOWN_CURE
        return explain(error, cupy) or unknown
    return None


def explain(error, cupy):
    """Why a kernel could not be compiled or run, and the cure: ``(text, cure)``, None where that is not known."""
    words = f"{type(error).__name__} {error}".lower()
    told = f"{type(error).__name__}: {_telling_line(error)}"
    if isinstance(error, MemoryError) or "memoryallocation" in words:
        return f"the GPU has no memory left ({told})", "nvidia-smi lists the processes that hold it"
    if "libnvrtc" in words or "nvrtc64" in words or "nvrtc-builtins" in words:
        return "NVRTC, which compiles the GPU's kernels, was not found", _install()
    if "cublaslt" in words and "not found" in words:
        return "cuBLASLt, which multiplies matrices, was not found", _install()
    if "find cuda headers" in words or "open source file" in words:
        return "CUDA's headers, which kernels are compiled with, were not found", _install()
    if any(kind in words for kind in ("kernel image is available", "no_binary_for_gpu", "--gpu-architecture")):
        return _no_code_for(cupy, told)
    if any(kind in words for kind in ("unsupported_ptx", "unsupportedptx", "kernel image is invalid")):
        return f"NVRTC is newer than the driver ({told})", f"update the driver, or {_toolkit(_release_of_driver(cupy))}"
    if type(error).__name__ == "CompileException":
        text = f"NVRTC cannot compile with CUDA's headers, which are of another version ({_telling_line(error)})"
        return text, _toolkit()
    return None


def _no_code_for(cupy, told):
    """A GPU that is older or newer than what the kernels can be compiled for."""
    capability = int(cupy.cuda.Device().compute_capability)
    text = f"nothing here makes code for a GPU of compute capability {capability // 10}.{capability % 10} ({told})"
    other = 12 if capability < _LEAST_OF_CUDA_13 else 13 if capability > _LAST_OF_CUDA_12 else None
    if other is None or other == cuda_of(cupy_distributions()):
        return text, _toolkit()
    return text, _install_anew(other)


def _release_of_driver(cupy):
    version = cupy.cuda.runtime.driverGetVersion()
    return f"{version // 1000}.{version % 1000 // 10}"


def _telling_line(error):
    """The line of an error's text that says what is wrong: of CuPy's long ones, the first that names an error."""
    lines = [line.strip() for line in str(error).splitlines() if re.search(r"\w", line)]
    return next((line for line in lines if re.search(r"error: *\S", line, re.IGNORECASE)), (lines or [""])[0])


def _install():
    """What brings CuPy's libraries, for the CuPy that is there."""
    number = cuda_of(cupy_distributions())
    return f"pip install 'gpukeras[cuda{number}]'" if number in (12, 13) else _INSTALL


def _install_anew(number=None):
    """What puts one whole CuPy, for the CUDA version of that number, in the place of those that are there."""
    names = " ".join(name for name, _ in cupy_distributions())
    install = f"pip install 'gpukeras[cuda{number}]'" if number else _install()
    return f"pip uninstall -y {names}, then {install}" if names else install


def _toolkit(release=None):
    """What brings NVRTC and headers of one version."""
    return f"pip install -U 'cuda-toolkit[cudart,nvrtc]=={release or cuda_of(cupy_distributions()) or 12}.*'"


def _import_cupy():
    """CuPy; where several of its wheels lie in one folder, one line says so in place of its own twenty."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import cupy
    for warning in caught:
        if "multiple CuPy packages" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            continue
        names = " and ".join(name for name, _ in cupy_distributions())
        warnings.warn(
            f"{names} are installed into one folder, where one overwrites the other: {_install_anew()}.",
            RuntimeWarning,
            stacklevel=6,
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


def cuda_of(distributions):
    """The CUDA version that the one wheel among `cupy_distributions()` is for, None where that cannot be told."""
    found = [re.fullmatch(r"cupy-cuda(\d\d)\w*", name) for name, _ in distributions]
    return int(found[0][1]) if len(found) == 1 and found[0] else None


def _why_no_gpu(cupy):
    """Why CuPy finds no device, and the cure."""
    try:
        runtime = cupy.cuda.runtime
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    except Exception:
        return "CuPy found no CUDA device", "nvidia-smi -L lists them"
    if driver == 0:
        return (
            "there is no NVIDIA driver",
            "install the one for your GPU from nvidia.com/drivers, or start the container with --gpus all",
        )
    if driver // 1000 < needed // 1000:
        other = ", or pip install 'gpukeras[cuda12]' in place of cupy-cuda13x" if 12000 <= driver < 13000 else ""
        return (
            f"CuPy is built for CUDA {needed // 1000}, but the driver ends at {driver // 1000}.{driver % 1000 // 10}",
            f"update the driver{other}",
        )
    return (
        "the NVIDIA driver shows no GPU",
        "nvidia-smi -L lists them, CUDA_VISIBLE_DEVICES hides those it leaves out",
    )


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
            text = f"gpukeras computes with NumPy: {reason} (python -m gpukeras.doctor shows more)."
            warnings.warn(text, RuntimeWarning, stacklevel=3)
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
    """CuPy's module for an array that a caller brought along before any device was chosen.

    That there is an array does not say that kernels run: the device is still to be probed.
    """
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, getattr(cupy, "ndarray", ())):
        _register_arrays(cupy, cupy.ndarray, cupy.asnumpy)
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
