"""The report on a machine: each diagnosis stated by facts, and the command itself."""

import dataclasses
import importlib.metadata
import os
import subprocess
import sys
import types
import warnings

import pytest

from gpukeras import doctor
from gpukeras.backend import devices
from tests import fake_machine

WELL = doctor.Facts(
    asked="cupy",
    versions=(("Python", "3.12.1"), ("numpy", "2.4.6")),
    blas="openblas 0.3.31",
    threads=8,
    cores=8,
    cupy=(("cupy-cuda12x", "14.2.0"),),
    driver=12080,
    headers="/include",
    headers_version=12090,
    nvrtc="/lib/libnvrtc.so.12",
    nvrtc_version=12090,
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
        "ok  CUDA's headers in /include, NVRTC in /lib/libnvrtc.so.12, cuBLASLt in /lib/libcublasLt.so.12",
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
        ({"nvrtc": ""}, "CUDA's NVRTC was not found", "pip install 'gpukeras[cuda12]'"),
        ({"nvrtc": "", "driver": 13000}, "CUDA's NVRTC was not found", "pip install 'gpukeras[cuda12]'"),  # CuPy's CUDA
        ({"headers_version": 13000}, "are of 13.0, but NVRTC in", "pip install -U 'cuda-toolkit[cudart,nvrtc]==12.*'"),
        (
            {"cupy": (("cupy-cuda11x", "13.6.0"),)},
            "cupy-cuda11x 13.6.0 is not 14.2",
            "pip uninstall -y cupy-cuda11x, then pip install 'gpukeras[cuda12]'",
        ),
        (
            {"cupy": (("cupy", "13.6.0"),)},
            "cupy 13.6.0 is not 14.2",
            "pip uninstall -y cupy, then pip install 'gpukeras[cuda12]'",
        ),
        ({"memory": (1 << 28, 80 << 30)}, "0.2 of 80.0 GB", "nvidia-smi lists the processes"),
        ({"asked": "jax"}, "GPUKERAS_BACKEND is 'jax'", "auto, numpy or cupy"),
        ({"threads": "GPUKERAS_NUM_THREADS is 'many'"}, "is 'many'", "unset it"),
        ({"threads": 1}, "1 thread on 8 cores", "GPUKERAS_NUM_THREADS"),
    ],
)
def test_one_trouble_one_line_one_cure(changes, text, cure):
    (line,) = troubles(**changes)
    assert text in line and cure in line and "\n" not in line


def test_a_cure_is_not_told_twice():
    facts = {"is_usable": False, "message": "it fails; at once", "cure": "do this; then that"}
    failure = "!!  gpukeras cannot compute as GPUKERAS_BACKEND asks: it fails; at once: "
    instead = ", or set GPUKERAS_BACKEND=numpy"
    assert troubles(**facts) == [f"{failure}do this; then that{instead}"]
    assert troubles(**facts, nvrtc="")[1:] == [f"{failure}mend what is marked above{instead}"]


def test_memory_of_which_nobody_can_tell():
    message = "the GPU has no memory left (OutOfMemoryError: Out of memory allocating 512 bytes)"
    first, last = troubles(memory=None, is_usable=False, message=message)
    assert "no memory left: nvidia-smi" in first and "cannot compute" in last


def test_releases_of_one_cuda_go_together():
    assert troubles(headers_version=12000, nvrtc_version=12090) == []
    assert troubles(headers_version=None, nvrtc_version=13000) == []


def test_numpy_needs_no_gpu():
    nothing = {"cupy": (), "driver": None, "is_usable": False, "headers": None, "library": None, "memory": None}
    assert troubles(asked="numpy", **nothing) == []
    assert report(asked="numpy", **nothing)[-1] == "ok  gpukeras computes with NumPy, as GPUKERAS_BACKEND asks"
    lines = report(asked="auto", **nothing, message="CuPy is not installed", cure="pip install it")
    assert lines[-1] == "ok  gpukeras computes with NumPy: CuPy is not installed"
    assert len([line for line in lines if line.startswith("!!")]) == 2


def test_a_version_that_nobody_knows():
    assert troubles(cupy=(("cupy", "14.2.0"),), driver=11000) == []  # built from source
    assert "a BLAS that does not tell its name" in report(blas=None)[1]


@pytest.mark.parametrize(
    ("asked", "is_usable", "status"),
    [
        ("auto", True, 0),
        ("auto", False, 1),
        ("numpy", False, 0),
        ("cupy", True, 0),
        ("cupy", False, 1),
        ("jax", True, 1),
    ],
)
def test_exit_status(asked, is_usable, status):
    assert doctor.exit_status(dataclasses.replace(WELL, asked=asked, is_usable=is_usable)) == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"cupy": ()}, 0),  # whoever installs no CuPy wants NumPy
        ({"driver": None}, 0),
        ({"driver_error": 100}, 0),  # there is no GPU, or it is hidden
        ({"driver_error": 999}, 1),
    ],
)
def test_numpy_is_no_fault_without_cupy_or_a_gpu(changes, status):
    facts = dataclasses.replace(WELL, asked="auto", is_usable=False, **changes)
    assert doctor.exit_status(facts) == status
    assert str(doctor.diagnose(facts)[-1]).startswith("!!" if status else "ok")


# --- Whole machines ------------------------------------------------------------------------------------------


def report_of_this_machine(capsys):
    status = doctor.main()
    lines = capsys.readouterr().out.splitlines()
    return status, [line for line in lines[:-1] if line.startswith("!!")], lines[-1]


def test_a_machine_on_which_all_works(monkeypatch, tmp_path, capsys):
    fake_machine.install(monkeypatch, tmp_path)
    for asked in "auto", "cupy":
        monkeypatch.setenv("GPUKERAS_BACKEND", asked)
        assert report_of_this_machine(capsys) == (0, [], "ok  gpukeras computes with CuPy on NVIDIA H100")


@pytest.mark.parametrize("fault", fake_machine.FAULTS.values(), ids=fake_machine.FAULTS)
def test_what_is_wrong_with_a_machine(fault, monkeypatch, tmp_path, capsys):
    fake_machine.install(monkeypatch, tmp_path, **fault.machine)
    marked = [line.replace("HEADERS", str(tmp_path)) for line in fault.marked]
    monkeypatch.setenv("GPUKERAS_BACKEND", "auto")
    assert report_of_this_machine(capsys) == (fault.status, marked, fault.verdict)
    monkeypatch.setenv("GPUKERAS_BACKEND", "cupy")
    status, again, verdict = report_of_this_machine(capsys)
    assert (status, again) == (1 if fault.told else 0, marked)
    assert verdict.endswith(", or set GPUKERAS_BACKEND=numpy") == bool(fault.told)
    monkeypatch.setenv("GPUKERAS_BACKEND", "numpy")
    assert report_of_this_machine(capsys) == (0, [], "ok  gpukeras computes with NumPy, as GPUKERAS_BACKEND asks")


def test_two_wheels_are_told_by_the_report_alone(monkeypatch, tmp_path, capsys):
    fake_machine.install(monkeypatch, tmp_path, wheels=("cupy-cuda12x", "cupy-cuda13x"))
    monkeypatch.setenv("GPUKERAS_BACKEND", "auto")
    imported = devices._import_cupy

    def import_and_warn():
        warnings.warn("cupy-cuda12x and cupy-cuda13x are installed into one folder", RuntimeWarning, stacklevel=2)
        return imported()

    monkeypatch.setattr(devices, "_import_cupy", import_and_warn)
    assert report_of_this_machine(capsys)[0] == 0


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


@pytest.mark.parametrize("error", [0, 100])
def test_the_driver_is_asked(error, monkeypatch):
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda name: fake_machine.Driver(12080, error))
    assert doctor._start_driver() == (12080, error)


def test_no_driver(monkeypatch):
    def fail(name):
        raise OSError(name)

    monkeypatch.setattr(doctor.ctypes, "CDLL", fail)
    assert doctor._start_driver() == (None, 0)


@pytest.mark.parametrize("is_found", [True, False])
def test_the_toolkit_is_looked_for(is_found, monkeypatch, tmp_path):
    there = {"headers": 12090, "nvrtc": (12, 9)} if is_found else {"headers": None, "nvrtc": None}
    fake_machine.install(monkeypatch, tmp_path, **there)
    assert doctor._find_toolkit() == {
        "headers": str(tmp_path) if is_found else "",
        "headers_version": 12090 if is_found else None,
        "nvrtc": "/lib/nvrtc" if is_found else "",
        "nvrtc_version": 12090 if is_found else None,
        "library": "/lib/cublasLt",
    }


def test_a_toolkit_whose_versions_nobody_knows(monkeypatch, tmp_path):
    fake_machine.install(monkeypatch, tmp_path)
    (tmp_path / "cuda_runtime_api.h").write_text("nothing")
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda path: object())
    found = doctor._find_toolkit()
    assert found["headers_version"] is None and found["nvrtc_version"] is None and found["nvrtc"] == "/lib/nvrtc"


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
