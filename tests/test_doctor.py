"""The report on a machine: each diagnosis stated by facts, and the command itself."""

import dataclasses
import importlib.metadata
import os
import subprocess
import sys
import types

import pytest

from gpukeras import doctor
from gpukeras.backend import devices

WELL = doctor.Facts(
    asked="cupy",
    versions=(("Python", "3.12.1"), ("numpy", "2.4.6")),
    blas="openblas 0.3.31",
    threads=8,
    cores=8,
    cupy=(("cupy-cuda12x", "14.2.0"),),
    driver=12080,
    headers="/include",
    library="/lib/libcublasLt.so.12",
    memory=(70 << 30, 80 << 30),
    is_usable=True,
    message="NVIDIA H100",
)


def report(**changes):
    return [str(finding) for finding in doctor.diagnose(dataclasses.replace(WELL, **changes))]


def troubles(**changes):
    return [line for line in report(**changes) if line.startswith("!!")]


def test_all_is_well():
    assert report() == [
        "ok  Python 3.12.1, numpy 2.4.6",
        "ok  NumPy multiplies by openblas 0.3.31, 8 threads on 8 cores",
        "ok  NVIDIA's driver for CUDA 12.8",
        "ok  cupy-cuda12x 14.2.0",
        "ok  CUDA's headers in /include, cuBLASLt in /lib/libcublasLt.so.12",
        "ok  70.0 of 80.0 GB of the GPU's memory are free",
        "ok  gpukeras computes with CuPy on NVIDIA H100",
    ]


def test_the_optional_cudnn():
    def line(found):
        (line,) = [line for line in report(cudnn=found) if "onvolution" in line or "cuDNN" in line]
        return line

    assert line(91002) == "ok  Convolutions and attention of 16 bits go through cuDNN 9.10.2"
    absent = line("cuDNN's frontend is not installed; pip install 'gpukeras[cudnn]'")
    assert absent == (
        "ok  Convolutions and attention are gpukeras's own kernels; for cuDNN's: pip install 'gpukeras[cudnn]'"
    )
    assert line("cuDNN 90100 is older than 9.5; update it") == "!!  cuDNN 90100 is older than 9.5: update it"
    assert report(cudnn=91002, is_usable=False, asked="auto") == report(is_usable=False, asked="auto")


@pytest.mark.parametrize(
    ("changes", "text", "cure"),
    [
        ({"driver": None}, "no NVIDIA driver", "--gpus all"),
        ({"driver_error": 100}, "driver for CUDA 12.8 sees no GPU", "nvidia-smi -L"),
        ({"driver_error": 100, "visible": ""}, "sees no GPU", "CUDA_VISIBLE_DEVICES is ''; unset it"),
        ({"driver_error": 803}, "kernel module are of different versions", "restart"),
        ({"driver_error": 999}, "does not start, CUDA error 999", "nvidia-smi"),
        ({"driver": 11080}, "built for CUDA 12, but the driver ends at 11.8", "update the driver"),
        ({"cupy": (("cupy-cuda13x", "14.2.0"),)}, "built for CUDA 13, but the driver ends at 12.8", "[cuda12]"),
        ({"cupy": ()}, "CuPy is not installed", "pip install 'gpukeras[cuda12]'"),
        ({"cupy": (), "driver": 13000}, "CuPy is not installed", "pip install 'gpukeras[cuda13]'"),
        ({"cupy": (("cupy-cuda12x", "13.6.0"),)}, "13.6.0 is not 14.2 or a later 14", "pip install"),
        ({"cupy": (("cupy-cuda12x", "14.1.0rc1"),)}, "is not 14.2", "pip install"),
        ({"cupy": (("cupy-cuda12x", "15.0.0"),)}, "is not 14.2", "pip install"),
        (
            {"cupy": (("cupy", "14.2.0"), ("cupy-cuda12x", "14.2.0"))},
            "cupy 14.2.0 and cupy-cuda12x 14.2.0 are installed into one folder",
            "pip uninstall -y cupy cupy-cuda12x, then pip install 'gpukeras[cuda12]'",
        ),
        ({"headers": ""}, "CUDA's headers were not found", "pip install 'gpukeras[cuda12]'"),
        ({"headers": "", "library": ""}, "CUDA's headers and cuBLASLt were not found", "pip install"),
        ({"memory": (1 << 28, 80 << 30)}, "0.2 of 80.0 GB", "nvidia-smi lists the processes"),
        ({"asked": "jax"}, "GPUKERAS_BACKEND is 'jax'", "auto, numpy or cupy"),
        ({"threads": "GPUKERAS_NUM_THREADS is 'many'"}, "is 'many'", "unset it"),
        ({"threads": 1}, "1 thread on 8 cores", "GPUKERAS_NUM_THREADS"),
    ],
)
def test_one_trouble_one_line_one_cure(changes, text, cure):
    (line,) = troubles(**changes)
    assert text in line and cure in line and "\n" not in line


def test_a_gpu_that_fails_for_another_reason():
    lines = troubles(is_usable=False, message="CuPy cannot run a kernel (RuntimeError: no\nlong story)")
    assert len(lines) == 1 and "CuPy cannot run a kernel (RuntimeError: no: mend" in lines[0]


def test_memory_that_is_used_up():
    message = "CuPy cannot run a kernel (OutOfMemoryError: Out of memory allocating 512 bytes)"
    first, last = troubles(memory=None, is_usable=False, message=message)
    assert "no memory left: nvidia-smi" in first and "cannot compute" in last


def test_numpy_needs_no_gpu():
    nothing = {"cupy": (), "driver": None, "is_usable": False, "headers": None, "library": None, "memory": None}
    assert troubles(asked="numpy", **nothing) == []
    assert report(asked="numpy", **nothing)[-1] == "ok  gpukeras computes with NumPy, as GPUKERAS_BACKEND asks"
    lines = report(asked="auto", **nothing, message="CuPy is not installed; pip install it")
    assert lines[-1] == "ok  gpukeras computes with NumPy: CuPy is not installed"
    assert len([line for line in lines if line.startswith("!!")]) == 2


def test_a_version_that_nobody_knows():
    assert troubles(cupy=(("cupy", "14.2.0"),), driver=11000) == []  # built from source
    assert "a BLAS that does not tell its name" in report(blas=None)[1]


@pytest.mark.parametrize(
    ("asked", "is_usable", "status"),
    [
        ("auto", True, 0),
        ("auto", False, 0),
        ("numpy", False, 0),
        ("cupy", True, 0),
        ("cupy", False, 1),
        ("jax", True, 1),
    ],
)
def test_exit_status(asked, is_usable, status):
    assert doctor.exit_status(dataclasses.replace(WELL, asked=asked, is_usable=is_usable)) == status


# --- Finding out ---------------------------------------------------------------------------------------------


def test_every_distribution_of_cupy_is_found(monkeypatch):
    names = ["numpy", "cupy_cuda12x", "CuPy-CUDA13x", "cupy-xarray", "cupy-rocm-5-0", "cupy", None]
    found = [types.SimpleNamespace(metadata={"Name": name}, version="14.2.0") for name in names]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    assert [name for name, _ in devices.cupy_distributions()] == [
        "cupy",
        "cupy-cuda12x",
        "cupy-cuda13x",
        "cupy-rocm-5-0",
    ]


class Driver:
    def __init__(self, version, error):
        self.version, self.error = version, error

    def cuDriverGetVersion(self, pointer):
        pointer._obj.value = self.version

    def cuInit(self, flags):
        return self.error


@pytest.mark.parametrize("error", [0, 100])
def test_the_driver_is_asked(error, monkeypatch):
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda name: Driver(12080, error))
    assert doctor._start_driver() == (12080, error)


def test_no_driver(monkeypatch):
    def fail(name):
        raise OSError(name)

    monkeypatch.setattr(doctor.ctypes, "CDLL", fail)
    assert doctor._start_driver() == (None, 0)


@pytest.mark.parametrize("is_found", [True, False])
def test_the_toolkit_is_looked_for(is_found, monkeypatch):
    class NotFound(RuntimeError):
        pass

    def load(name):
        if not is_found:
            raise NotFound(name)
        return types.SimpleNamespace(abs_path=f"/lib/{name}")

    finder = types.SimpleNamespace(
        load_nvidia_dynamic_lib=load,
        find_nvidia_header_directory=lambda name: f"/include/{name}" if is_found else None,
        DynamicLibNotFoundError=NotFound,
    )
    monkeypatch.setitem(sys.modules, "cuda", types.SimpleNamespace(pathfinder=finder))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", finder)
    assert doctor._find_toolkit() == (("/include/cudart", "/lib/cublasLt") if is_found else ("", ""))


def test_memory_is_told_by_cupy(monkeypatch):
    def fail():
        raise RuntimeError

    for tell, expected in ((lambda: (1, 2), (1, 2)), (fail, None)):
        runtime = types.SimpleNamespace(memGetInfo=tell)
        module = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))
        monkeypatch.setitem(sys.modules, "cupy", module)
        assert devices.gpu_memory() == expected
    monkeypatch.delitem(sys.modules, "cupy")
    assert devices.gpu_memory() is None


@pytest.mark.parametrize(
    ("backend", "threads", "status", "last"),
    [
        ("numpy", "3", 0, "ok  gpukeras computes with NumPy, as GPUKERAS_BACKEND asks"),
        ("numpy", "many", 0, "ok  gpukeras computes with NumPy"),
        ("nonsense", "3", 1, "!!"),
    ],
)
def test_the_command(backend, threads, status, last):
    environment = {**os.environ, "GPUKERAS_BACKEND": backend, "GPUKERAS_NUM_THREADS": threads}
    command = [sys.executable, "-W", "error", "-m", "gpukeras.doctor"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment)
    assert done.returncode == status and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok  Python ") and lines[-1].startswith(last)
    assert f"{threads} threads" in lines[1] or f"is '{threads}': unset it" in lines[1]
