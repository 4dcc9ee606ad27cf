"""A machine with a GPU, a driver, CuPy and the toolkit, all pretended, from which tests take away.

`FAULTS` has one entry for each thing that may be wrong there, with the texts of the real CuPy 14.2: what it does to the
machine, the lines that the doctor marks, and what it says to whoever only computes.
"""

import ctypes
import importlib.machinery
import sys
import types
from typing import NamedTuple

import numpy as np

from gpukeras import doctor
from gpukeras.backend import devices, gemm


def error(kind, text, base=RuntimeError):
    return type(kind, (base,), {})(text)


NOT_FOUND = 'Failure finding "libnvrtc.so.13 or libnvrtc.so.12": No such file: libnvrtc.so.13 or libnvrtc.so.12\n'
HEADERS = "Failed to find CUDA headers. Please install the CUDA Toolkit, or:\n\n  $ pip install cupy-cuda12x[ctk]\n"
NO_IMAGE = "CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is available for execution on the device"
LOG = """/usr/include/storage.h(9): warning #12-D: parsing restarts here
/usr/include/storage.h(137): error: incomplete type "__nv_fp8_e8m0" is not allowed; expected a ";"
      __nv_fp8_e8m0 __ret{};
                    ^

42 errors detected in the compilation of "k.cu".
"""


class Fault(NamedTuple):
    """What is wrong with a machine, and what is said about it."""

    machine: dict  # arguments of `install`
    marked: list  # the report's lines beginning with !!
    verdict: str  # its last line
    status: int  # the report's exit status, where GPUKERAS_BACKEND is auto
    told: str  # what a program is told by a warning, or by the error where CuPy was asked for; "" where CuPy computes


IDLE = "!!  gpukeras computes with NumPy, though there is a GPU: "
INSTALL = "pip install 'gpukeras[cuda12]'"
TOOLKIT = "pip install -U 'cuda-toolkit[cudart,nvrtc]==12.*'"
TWO = "cupy-cuda12x 14.2.0 and cupy-cuda13x 14.2.0 are installed into one folder"
MIXED = "NVRTC cannot compile with CUDA's headers, which are of another version (/usr/include/storage.h(137): error: "
MIXED += 'incomplete type "__nv_fp8_e8m0" is not allowed; expected a ";")'

FAULTS = {
    "no driver": Fault(
        {"driver": None},
        [
            "!!  There is no NVIDIA driver: install the one for your GPU from nvidia.com/drivers; in a container, "
            "start it with --gpus all"
        ],
        "ok  gpukeras computes with NumPy: there is no NVIDIA driver",
        0,
        "there is no NVIDIA driver; install the one for your GPU from nvidia.com/drivers, or start the container with "
        "--gpus all",
    ),
    "no GPU to see": Fault(
        {"driver_error": 100},
        [
            "!!  NVIDIA's driver for CUDA 12.8 sees no GPU: nvidia-smi -L lists GPUs; a container needs --gpus all",
        ],
        "ok  gpukeras computes with NumPy: the NVIDIA driver shows no GPU",
        0,
        "the NVIDIA driver shows no GPU; nvidia-smi -L lists them, CUDA_VISIBLE_DEVICES hides those it leaves out",
    ),
    "an old driver": Fault(
        {"driver": 11080},
        ["!!  CuPy is built for CUDA 12, but the driver ends at 11.8: update the driver"],
        IDLE + "CuPy is built for CUDA 12, but the driver ends at 11.8: mend what is marked above",
        1,
        "CuPy is built for CUDA 12, but the driver ends at 11.8; update the driver",
    ),
    "two wheels of CuPy": Fault(
        {"wheels": ("cupy-cuda12x", "cupy-cuda13x")},
        [f"!!  {TWO}: pip uninstall -y cupy-cuda12x cupy-cuda13x, then {INSTALL}"],
        "ok  gpukeras computes with CuPy on NVIDIA H100",
        0,
        "",  # CuPy's own warning is replaced at its import
    ),
    "no headers": Fault(
        {"headers": None, "error": error("RuntimeError", HEADERS)},
        [f"!!  CUDA's headers were not found: {INSTALL}"],
        IDLE + "CUDA's headers, which kernels are compiled with, were not found: mend what is marked above",
        1,
        f"CUDA's headers, which kernels are compiled with, were not found; {INSTALL}",
    ),
    "no NVRTC": Fault(
        {"nvrtc": None, "error": error("DynamicLibNotFoundError", NOT_FOUND)},
        [f"!!  CUDA's NVRTC was not found: {INSTALL}"],
        IDLE + "NVRTC, which compiles the GPU's kernels, was not found: mend what is marked above",
        1,
        f"NVRTC, which compiles the GPU's kernels, was not found; {INSTALL}",
    ),
    "headers of another CUDA than NVRTC": Fault(
        {"headers": 13000, "error": error("CompileException", LOG, Exception)},
        [f"!!  CUDA's headers in HEADERS are of 13.0, but NVRTC in /lib/nvrtc is of 12.9: {TOOLKIT}"],
        f"{IDLE}{MIXED}: mend what is marked above",
        1,
        f"{MIXED}; {TOOLKIT}",
    ),
    "headers of another release than NVRTC": Fault(
        {"headers": 12000, "error": error("CompileException", LOG, Exception)},
        [],
        f"{IDLE}{MIXED}: {TOOLKIT}",
        1,
        f"{MIXED}; {TOOLKIT}",
    ),
    "NVRTC of a later CUDA than the driver": Fault(
        {
            "nvrtc": (13, 0),
            "headers": 13000,
            "error": error("CUDADriverError", "CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid"),
        },
        [f"!!  NVRTC in /lib/nvrtc is of CUDA 13.0, but the driver ends at 12.8: update the driver, or {TOOLKIT}"],
        IDLE + "NVRTC is newer than the driver (CUDADriverError: CUDA_ERROR_INVALID_IMAGE: device kernel image is "
        "invalid): mend what is marked above",
        1,
        "NVRTC is newer than the driver (CUDADriverError: CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid); "
        "update the driver, or pip install -U 'cuda-toolkit[cudart,nvrtc]==12.8.*'",
    ),
    "no kernel image": Fault(
        {"capability": "103", "error": error("CUDADriverError", NO_IMAGE)},
        [],
        f"{IDLE}nothing here makes code for a GPU of compute capability 10.3 (CUDADriverError: {NO_IMAGE}): {TOOLKIT}",
        1,
        f"nothing here makes code for a GPU of compute capability 10.3 (CUDADriverError: {NO_IMAGE}); {TOOLKIT}",
    ),
    "a GPU later than CUDA 12": Fault(
        {"driver": 13000, "capability": "130", "error": error("CUDADriverError", NO_IMAGE)},
        [],
        f"{IDLE}nothing here makes code for a GPU of compute capability 13.0 (CUDADriverError: {NO_IMAGE}): pip "
        "uninstall -y cupy-cuda12x, then pip install 'gpukeras[cuda13]'",
        1,
        f"nothing here makes code for a GPU of compute capability 13.0 (CUDADriverError: {NO_IMAGE}); pip "
        "uninstall -y cupy-cuda12x, then pip install 'gpukeras[cuda13]'",
    ),
    "a GPU that CUDA 13 has left out": Fault(
        {
            "capability": "61",
            "driver": 13000,
            "wheels": ("cupy-cuda13x",),
            "nvrtc": (13, 0),
            "headers": 13000,
            "error": error(
                "CompileException", "nvrtc: error: invalid value for --gpu-architecture (-arch)\n", Exception
            ),
        },
        [],
        f"{IDLE}nothing here makes code for a GPU of compute capability 6.1 (CompileException: nvrtc: error: invalid "
        f"value for --gpu-architecture (-arch)): pip uninstall -y cupy-cuda13x, then {INSTALL}",
        1,
        "nothing here makes code for a GPU of compute capability 6.1 (CompileException: nvrtc: error: invalid value "
        f"for --gpu-architecture (-arch)); pip uninstall -y cupy-cuda13x, then {INSTALL}",
    ),
    "no room": Fault(
        {"free": 1 << 20, "error": error("OutOfMemoryError", "Out of memory allocating 512 bytes", MemoryError)},
        ["!!  0.0 of 80.0 GB of the GPU's memory are free: nvidia-smi lists the processes that hold it"],
        IDLE + "the GPU has no memory left (OutOfMemoryError: Out of memory allocating 512 bytes): mend what is marked "
        "above",
        1,
        "the GPU has no memory left (OutOfMemoryError: Out of memory allocating 512 bytes); nvidia-smi lists the "
        "processes that hold it",
    ),
    "little room": Fault(
        {"free": 1 << 28},
        ["!!  0.2 of 80.0 GB of the GPU's memory are free: nvidia-smi lists the processes that hold it"],
        "ok  gpukeras computes with CuPy on NVIDIA H100",
        0,
        "",
    ),
    "something else": Fault(
        {"error": error("CUDARuntimeError", "cudaErrorECCUncorrectable: uncorrectable ECC error; encountered")},
        [],
        IDLE + "CuPy cannot run a kernel (CUDARuntimeError: cudaErrorECCUncorrectable: uncorrectable ECC error; "
        f"encountered): {devices.UNKNOWN_CURE}",
        1,
        "CuPy cannot run a kernel (CUDARuntimeError: cudaErrorECCUncorrectable: uncorrectable ECC error; encountered); "
        + devices.UNKNOWN_CURE,
    ),
}


def install(
    monkeypatch,
    tmp_path,
    driver: int | None = 12080,
    driver_error=0,
    wheels=("cupy-cuda12x",),
    headers: int | None = 12090,
    nvrtc: tuple | None = (12, 9),
    capability="90",
    free=70 << 30,
    error=None,
):
    """Make this machine one with a GPU for the length of a test.

    Args:
        driver, driver_error: The newest CUDA version of the driver, None without one, and what its start answers.
        wheels: Names of the CuPys that are installed, all 14.2.0.
        headers, nvrtc: The versions of CUDA's headers and of NVRTC, None where they are missing.
        capability, free: Of the GPU: compute capability, and bytes of free memory.
        error: What CuPy's first kernel raises.
    """

    def arange(*arguments, **settings):
        if error is not None:
            raise error
        return np.arange(*arguments, **settings)

    cupy = types.ModuleType("cupy")
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: driver or 0,
        runtimeGetVersion=lambda: int(wheels[0][9:11]) * 1000 + 90,
        getDeviceProperties=lambda number: {"name": b"NVIDIA H100"},
        memGetInfo=lambda: (free, 80 << 30),
    )
    works = driver is not None and driver_error == 0 and driver >= int(wheels[0][9:11]) * 1000
    cuda = types.SimpleNamespace(
        is_available=lambda: works,
        runtime=runtime,
        Device=lambda: types.SimpleNamespace(id=0, compute_capability=capability),
    )
    array = type("ndarray", (), {})
    vars(cupy).update(cuda=cuda, arange=arange, ones=np.ones, ndarray=array, asnumpy=np.asarray)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for name in "_modules", "_module_of_type", "_to_numpy_of_type":
        monkeypatch.setattr(devices, name, dict(getattr(devices, name)))
    monkeypatch.setattr(devices, "_default", None)
    monkeypatch.setattr(devices, "cupy_distributions", lambda: tuple((name, "14.2.0") for name in wheels))
    _install_libraries(monkeypatch, tmp_path, driver, driver_error, headers, nvrtc)
    monkeypatch.setattr(gemm, "matmul", np.matmul)
    monkeypatch.setattr(doctor.threads, "count", lambda: 8)
    monkeypatch.setattr(doctor.cudnn, "version_or_reason", lambda: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def _install_libraries(monkeypatch, tmp_path, driver, driver_error, headers, nvrtc):
    """The driver, and what CuPy's finder knows."""
    if headers is not None:
        (tmp_path / "cuda_runtime_api.h").write_text(f"#define CUDART_VERSION  {headers}\n")
    places = {"nvrtc": nvrtc and "/lib/nvrtc", "cublasLt": "/lib/cublasLt"}

    def load(name):
        if places[name] is None:
            raise error("DynamicLibNotFoundError", name)
        return types.SimpleNamespace(abs_path=places[name])

    finder = types.SimpleNamespace(
        load_nvidia_dynamic_lib=load,
        find_nvidia_header_directory=lambda name: None if headers is None else str(tmp_path),
    )
    monkeypatch.setitem(sys.modules, "cuda", types.SimpleNamespace(pathfinder=finder))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", finder)
    real = ctypes.CDLL

    def open_library(name, *arguments, **settings):
        if name == "/lib/nvrtc":
            return Nvrtc(nvrtc)
        if name in ("libcuda.so.1", "nvcuda.dll"):
            if driver is None:
                raise OSError(name)
            return Driver(driver, driver_error)
        return real(name, *arguments, **settings)

    monkeypatch.setattr(ctypes, "CDLL", open_library)


class Driver:
    """NVIDIA's driver, as far as the doctor asks it."""

    def __init__(self, version, error):
        self.version, self.error = version, error

    def cuDriverGetVersion(self, pointer):
        pointer._obj.value = self.version

    def cuInit(self, flags):
        return self.error


class Nvrtc:
    """NVRTC, as far as the doctor asks it."""

    def __init__(self, version):
        self.version = version

    def nvrtcVersion(self, major, minor):
        major._obj.value, minor._obj.value = self.version
        return 0
