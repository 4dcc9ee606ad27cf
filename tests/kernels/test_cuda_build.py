"""Every .cu file compiles for every kind of GPU that is supported, within bounds on registers and without spills.

NVRTC needs neither a GPU nor a driver: it and the headers of the 16-bit floats come from two small wheels.
"""

import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

import gpukeras.kernels
from gpukeras.backend import cuda, dtypes
from tests.emulator.compile import cache

SOURCES = sorted(path.stem for path in Path(gpukeras.kernels.__file__).parent.glob("*.cu"))
DTYPES = "float32", "float64", "float16", "bfloat16"
ARCHITECTURES = (
    "sm_75",
    "sm_80",
    "sm_90",
    "sm_100",
)  # Turing, which has no bfloat16 of its own, Ampere, Hopper, Blackwell

# A processor has 65536 registers: at 64 a thread it takes 4 blocks of 256 threads at once, half of all that it could.
# Double precision may take twice as many.
MOST_REGISTERS = {"float64": 128}
REGISTERS = 64

FLOAT_ATOMIC = re.compile(r"\b(?:atom|red)\.[\w.:]*\bb?f(?:16|32|64)")


def _nvidia(*parts):
    """A path in the wheels of the namespace package `nvidia`."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found = sorted(Path(folder, *parts[:-1]).glob(parts[-1]))
        if found:
            return found[0]
    return None


@functools.cache
def nvrtc():
    """The library, and the folder of headers; or the reason why there is none."""
    library = _nvidia("cuda_nvrtc", "lib", "libnvrtc.so.*")
    header = _nvidia("cuda_runtime", "include", "cuda_fp16.h")
    if library is None or header is None:
        return "needs NVRTC: pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12"
    return ctypes.CDLL(str(library)), header.parent


def compiled(text, options):
    """The PTX and the log of a compilation to machine code; those of an earlier run, where nothing has changed."""
    library, headers = nvrtc()
    version = (ctypes.c_int * 2)()
    library.nvrtcVersion(ctypes.byref(version, 0), ctypes.byref(version, 4))
    state = "\n".join([f"{version[0]}.{version[1]}", text, *options])
    kept = cache() / f"{hashlib.sha256(state.encode()).hexdigest()[:16]}-nvrtc.json"
    if not kept.exists():
        unfinished = kept.with_name(f"{kept.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(_compile(library, headers, text, options)), encoding="utf-8")
        os.replace(unfinished, kept)
    return json.loads(kept.read_text(encoding="utf-8"))


def _compile(library, headers, text, options):
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    options = [option.encode() for option in (*options, f"-I{headers}")]
    status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = _output(program, library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog)
    assert status == 0, log.decode()
    ptx = _output(program, library.nvrtcGetPTXSize, library.nvrtcGetPTX)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx.decode(), log.decode()


def _output(program, size_of, get):
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(max(size.value, 1))
    get(program, buffer)
    return buffer.value


def resources(log):
    """Registers and bytes of spills by kernel, from ptxas's report."""
    found = {}
    for name, report in re.findall(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry|\Z)", log, re.DOTALL):
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", report))
        found[name] = int(re.search(r"Used (\d+) registers", report)[1]), spills
    return found


@pytest.fixture(autouse=True)
def needs_nvrtc():
    if isinstance(nvrtc(), str):
        pytest.skip(nvrtc())


def compile_source(text, dtype, architecture):
    """PTX and log of a `.cu` file's text, compiled as on a GPU."""
    options = cuda.compile_options(dtypes.as_dtype(dtype))
    return compiled(text, (*options, "-ftz=true", f"-arch={architecture}", "--ptxas-options=-v"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SOURCES)
def test_compiles_without_spills(name, dtype, architecture):
    source = cuda.Source(name)
    ptx, log = compile_source(source.text, dtype, architecture)
    assert not FLOAT_ATOMIC.findall(ptx), "sums by atomics differ from launch to launch"
    found = resources(log)
    assert set(found) == set(source.parameters), "KERNEL lines and compiled functions differ"
    for kernel, (registers, spills) in found.items():
        assert spills == 0, f"{kernel}: {spills} bytes are spilled"
        most = 128 if "#define LEAST_BLOCKS 2" in source.text else REGISTERS
        assert registers <= MOST_REGISTERS.get(dtype, most), f"{kernel} takes {registers} registers"


def test_a_sum_by_atomics_is_found():
    text = cuda.Source("updates").text + "KERNEL add(const real* x, real* y) { atomicAdd(y, x[threadIdx.x]); }\n"
    assert FLOAT_ATOMIC.findall(compile_source(text, "float32", "sm_90")[0])
