"""What is installed, what it would compute with, and the cure for what is missing: ``python -m gpukeras.doctor``.

Exit status 1 where the device that ``GPUKERAS_BACKEND`` asks for cannot be used, and where CuPy and a GPU are there but
do not work together, else 0. Without CuPy or without a GPU, NumPy is no fault.
"""

import ctypes
import dataclasses
import importlib.metadata
import os
import platform
import re
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from gpukeras.backend import cudnn, devices, threads

__all__ = ["Facts", "Finding", "diagnose", "examine", "exit_status", "main"]

_LEAST_MEMORY = 512 << 20  # bytes: a context, cuBLASLt's workspace and a small model
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is so on a machine; what cannot be found out is None.

    Args:
        asked: The value of GPUKERAS_BACKEND.
        versions: Name and version of what is installed, among what gpukeras uses.
        blas: NumPy's BLAS, with its version.
        threads: How many threads gpukeras uses, or why it cannot tell.
        cores: How many the process may use.
        cupy: Name and version of each CuPy distribution; there should be one.
        driver: The newest CUDA version that NVIDIA's driver runs, as 12040 for 12.4.
        driver_error: What the driver answers when it is started, 0 for all well.
        visible: The value of CUDA_VISIBLE_DEVICES.
        headers, nvrtc, library: Where CUDA's headers, NVRTC and cuBLASLt are found, "" for nowhere.
        headers_version, nvrtc_version: The CUDA versions of the first two, as 12090 for 12.9.
        cudnn: The optional cuDNN's version as a number, or why it cannot be used, with the cure.
        memory: Free and total bytes of the GPU.
        is_usable: Whether CuPy can compute here.
        message: The GPU's name, or why CuPy cannot.
        cure: What helps against that.

    Example:
        >>> exit_status(Facts(asked="cupy", is_usable=False))
        1
    """

    asked: str = "auto"
    versions: tuple = ()
    blas: str | None = None
    threads: int | str = 1
    cores: int = 1
    cupy: tuple = ()
    driver: int | None = None
    driver_error: int = 0
    visible: str | None = None
    headers: str | None = None
    headers_version: int | None = None
    nvrtc: str | None = None
    nvrtc_version: int | None = None
    library: str | None = None
    cudnn: int | str | None = None
    memory: tuple | None = None
    is_usable: bool = False
    message: str = ""
    cure: str = ""


class Finding(NamedTuple):
    """One line of the report.

    Example:
        >>> print(Finding("CuPy is not installed", "pip install 'gpukeras[cuda12]'"))
        !!  CuPy is not installed: pip install 'gpukeras[cuda12]'
    """

    text: str
    cure: str = ""  # none where all is well

    def __str__(self):
        return f"!!  {self.text}: {self.cure}" if self.cure else f"ok  {self.text}"


# --- Diagnoses: each a function of facts ----------------------------------------------------------------------


def _installed(facts):
    """The versions, in one line."""
    return Finding(", ".join(f"{name} {version}" for name, version in facts.versions))


def _products(facts):
    """NumPy's BLAS and the threads."""
    if isinstance(facts.threads, str):
        return Finding(facts.threads, "unset it, or give it a number")
    kind = facts.blas or "a BLAS that does not tell its name"
    text = f"NumPy multiplies by {kind}, {_count(facts.threads, 'thread')} on {_count(facts.cores, 'core')}"
    if facts.threads < facts.cores and facts.threads == 1:
        return Finding(text, "GPUKERAS_NUM_THREADS and OPENBLAS_NUM_THREADS set the number of threads")
    return Finding(text)


def _driver(facts):
    """No driver, no GPU, or a driver that does not start."""
    if facts.driver is None:
        return Finding(
            "There is no NVIDIA driver",
            "install the one for your GPU from nvidia.com/drivers; in a container, start it with --gpus all",
        )
    runs = f"NVIDIA's driver for CUDA {_cuda(facts.driver)}"
    if facts.driver_error == 0:
        return Finding(runs)
    if facts.driver_error == _NO_DEVICE:
        if facts.visible is not None:
            return Finding(f"{runs} sees no GPU", f"CUDA_VISIBLE_DEVICES is {facts.visible!r}; unset it")
        return Finding(f"{runs} sees no GPU", "nvidia-smi -L lists GPUs; a container needs --gpus all")
    if facts.driver_error in (803, 804):
        return Finding(f"{runs} and its kernel module are of different versions", "restart the machine")
    return Finding(
        f"{runs} does not start, CUDA error {facts.driver_error}", "nvidia-smi says more; restart the machine"
    )


def _cupy(facts):
    """No CuPy, two of them, or one of an unsuitable version."""
    if not facts.cupy:
        return Finding("CuPy is not installed", f"pip install {_extra(facts)}")
    names = " and ".join(f"{name} {version}" for name, version in facts.cupy)
    replace = "pip uninstall -y " + " ".join(name for name, _ in facts.cupy) + f", then pip install {_extra(facts)}"
    if len(facts.cupy) > 1:
        return Finding(f"{names} are installed into one folder", replace)
    release = tuple(int(number) for number in re.findall(r"\d+", facts.cupy[0][1])[:2])
    if not (14, 2) <= release < (15,):
        is_replaced = devices.cuda_of(facts.cupy) == _cuda_to_install(facts)  # by pip itself, under the same name
        return Finding(f"{names} is not 14.2 or a later 14", f"pip install {_extra(facts)}" if is_replaced else replace)
    return Finding(names)


def _age(facts):
    """A driver that is older than the CUDA that CuPy was built for."""
    needed = devices.cuda_of(facts.cupy)
    if needed is None or facts.driver is None or facts.driver >= needed * 1000:
        return None
    text = f"CuPy is built for CUDA {needed}, but the driver ends at {_cuda(facts.driver)}"
    if needed == 13 and facts.driver >= 12000:
        return Finding(text, "update the driver, or pip uninstall -y cupy-cuda13x and pip install 'gpukeras[cuda12]'")
    return Finding(text, "update the driver")


def _toolkit(facts):
    """Compiler and headers of CuPy's kernels, and the library of products."""
    if not facts.cupy or facts.headers is None:
        return None
    places = ("headers", facts.headers), ("NVRTC", facts.nvrtc), ("cuBLASLt", facts.library)
    missing = [name for name, place in places if not place]
    if missing:
        verb = "was" if missing in (["NVRTC"], ["cuBLASLt"]) else "were"
        return Finding(f"CUDA's {' and '.join(missing)} {verb} not found", f"pip install {_extra(facts)}")
    if _is_mixed(facts):
        headers, nvrtc = _cuda(facts.headers_version), _cuda(facts.nvrtc_version)
        text = f"CUDA's headers in {facts.headers} are of {headers}, but NVRTC in {facts.nvrtc} is of {nvrtc}"
        return Finding(text, _matching_toolkit(facts))
    if not facts.is_usable and _is_newer_than_driver(facts):
        text = f"NVRTC in {facts.nvrtc} is of CUDA {_cuda(facts.nvrtc_version)}, but the driver ends at "
        return Finding(text + _cuda(facts.driver), f"update the driver, or {_matching_toolkit(facts)}")
    return Finding(f"CUDA's headers in {facts.headers}, NVRTC in {facts.nvrtc}, cuBLASLt in {facts.library}")


def _is_mixed(facts):
    """Whether headers and NVRTC are of different major versions: some headers then do not compile."""
    found = facts.headers_version, facts.nvrtc_version
    return None not in found and found[0] // 1000 != found[1] // 1000


def _is_newer_than_driver(facts):
    """Whether NVRTC makes code for a later major version than the driver runs, which does not come from CuPy's."""
    if facts.nvrtc_version is None or facts.driver is None or _age(facts) is not None:
        return False
    return facts.nvrtc_version // 1000 > facts.driver // 1000


def _matching_toolkit(facts):
    """What brings headers and NVRTC of one version."""
    return f"pip install -U 'cuda-toolkit[cudart,nvrtc]=={_cuda_to_install(facts)}.*'"


def _cudnn(facts):
    """The optional library of convolutions and attention; doing without it is no fault."""
    if not facts.is_usable or facts.cudnn is None:
        return None
    if isinstance(facts.cudnn, int):
        release = f"{facts.cudnn // 10000}.{facts.cudnn // 100 % 100}.{facts.cudnn % 100}"
        return Finding(f"Convolutions and attention of 16 bits go through cuDNN {release}")
    reason, _, cure = facts.cudnn.partition("; ")
    if "not installed" in reason:
        return Finding(f"Convolutions and attention are gpukeras's own kernels; for cuDNN's: {cure}")
    return Finding(reason, cure)


def _memory(facts):
    """A GPU whose memory others hold."""
    if facts.memory is None:
        if "OutOfMemory" in facts.message or "MemoryAllocation" in facts.message:
            return Finding("The GPU has no memory left", "nvidia-smi lists the processes that hold it")
        return None
    free, total = facts.memory
    text = f"{free / 2**30:.1f} of {total / 2**30:.1f} GB of the GPU's memory are free"
    return Finding(text, "nvidia-smi lists the processes that hold it" if free < _LEAST_MEMORY else "")


def _verdict(facts):
    """What gpukeras would compute with."""
    if facts.asked not in ("auto", "numpy", "cupy"):
        return Finding(f"GPUKERAS_BACKEND is {facts.asked!r}", "set it to auto, numpy or cupy")
    if facts.asked == "numpy":
        return Finding("gpukeras computes with NumPy, as GPUKERAS_BACKEND asks")
    if facts.is_usable:
        return Finding(f"gpukeras computes with CuPy on {facts.message}")
    is_marked = any(finding is not None and finding.cure for finding in (look(facts) for look in _OF_GPU))
    cure = "mend what is marked above" if is_marked else facts.cure or devices.UNKNOWN_CURE
    if facts.asked == "cupy":
        return Finding(
            f"gpukeras cannot compute as GPUKERAS_BACKEND asks: {facts.message}",
            f"{cure}, or set GPUKERAS_BACKEND=numpy",
        )
    if _is_idle(facts):
        return Finding(f"gpukeras computes with NumPy, though there is a GPU: {facts.message}", cure)
    return Finding(f"gpukeras computes with NumPy: {facts.message}")


_OF_GPU = _driver, _cupy, _age, _toolkit, _cudnn, _memory


def _is_idle(facts):
    """Whether CuPy and a GPU are there, and do not work together."""
    is_there = facts.driver is not None and facts.driver_error != _NO_DEVICE
    return is_there and bool(facts.cupy) and not facts.is_usable


def diagnose(facts):
    """The report's lines, the verdict last. Where NumPy is asked for, the GPU is left out."""
    of_gpu = () if facts.asked == "numpy" else _OF_GPU
    found = [diagnosis(facts) for diagnosis in (_installed, _products, *of_gpu, _verdict)]
    return [finding for finding in found if finding is not None]


def exit_status(facts):
    """0 where gpukeras computes with what was asked for, and no GPU that CuPy was installed for is left out."""
    if facts.asked == "auto":
        return int(_is_idle(facts))
    return 0 if facts.asked == "numpy" or (facts.asked == "cupy" and facts.is_usable) else 1


def _count(number, noun):
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cuda(version):
    return f"{version // 1000}.{version % 1000 // 10}"


def _extra(facts):
    """What to install, as pip is told."""
    return f"'gpukeras[cuda{_cuda_to_install(facts)}]'"


def _cuda_to_install(facts):
    """The CUDA version, 12 or 13, that fits the CuPy that is there, where the driver runs it, or else the driver."""
    wheel = devices.cuda_of(facts.cupy)
    if wheel in (12, 13) and (facts.driver is None or facts.driver >= wheel * 1000):
        return wheel
    return 13 if facts.driver is not None and facts.driver >= 13000 else 12


# --- Finding out ----------------------------------------------------------------------------------------------


def examine():
    """The facts about this machine."""
    asked = os.environ.get("GPUKERAS_BACKEND", "auto")
    driver, driver_error = _start_driver()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report says it: two CuPys in one folder
        is_usable, message, cure = devices.try_cupy() if asked in ("auto", "cupy") else (False, "", "")
    try:
        number = threads.count()
    except ValueError as error:
        number = str(error).rstrip(".")
    return Facts(
        asked=asked,
        versions=_versions(),
        blas=_blas(),
        threads=number,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cupy=devices.cupy_distributions(),
        driver=driver,
        driver_error=driver_error,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        **_find_toolkit(),
        cudnn=cudnn.version_or_reason() if is_usable else None,
        memory=devices.gpu_memory() if asked in ("auto", "cupy") else None,
        is_usable=is_usable,
        message=message,
        cure=cure,
    )


def _versions():
    found = [("Python", platform.python_version())]
    for name in ("gpukeras", "numpy", "h5py", "ml_dtypes", "threadpoolctl"):
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append((name, "without a version"))
    return tuple(found)


def _blas():
    import threadpoolctl

    found = threadpoolctl.threadpool_info()
    kinds = [library for library in found if library["user_api"] == "blas"]
    bundled = [library for library in kinds if "numpy" in library["filepath"]]
    for library in (*bundled, *kinds):
        return f"{library['internal_api']} {library['version']}"
    return None


def _start_driver():
    """The newest CUDA version of NVIDIA's driver, None without one, and what its start returns."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None, 0
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    return version.value, library.cuInit(0)


def _find_toolkit():
    """Where headers, NVRTC and cuBLASLt are, and versions; nothing without the finder that comes with CuPy."""
    try:
        from cuda import pathfinder
    except ImportError:
        return {}

    def find(name):
        try:
            return pathfinder.load_nvidia_dynamic_lib(name).abs_path
        except (RuntimeError, OSError):  # it is not there, or does not load
            return ""

    headers, nvrtc = pathfinder.find_nvidia_header_directory("cudart") or "", find("nvrtc")
    return {
        "headers": headers,
        "headers_version": _version_of_headers(headers),
        "nvrtc": nvrtc,
        "nvrtc_version": _version_of_nvrtc(nvrtc),
        "library": find("cublasLt"),
    }


def _version_of_headers(folder):
    try:
        text = (Path(folder) / "cuda_runtime_api.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"#define CUDART_VERSION +(\d+)", text)
    return int(found[1]) if found else None


def _version_of_nvrtc(path):
    major, minor = ctypes.c_int(), ctypes.c_int()
    try:
        status = ctypes.CDLL(path).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) if path else 1
    except (OSError, AttributeError):
        return None
    return None if status else major.value * 1000 + minor.value * 10


def main():
    """Print the report; returns the exit status."""
    facts = examine()
    for finding in diagnose(facts):
        print(finding)
    return exit_status(facts)


if __name__ == "__main__":
    sys.exit(main())
