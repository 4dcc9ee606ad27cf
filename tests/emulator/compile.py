"""CUDA C compiled by g++ and launched on NumPy memory: `cuda.add_launcher`'s interface without a GPU."""

import ctypes
import functools
import getpass
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from gpukeras.backend import cuda

FOLDER = Path(__file__).parent
HEADERS = ("cuda_emulator.h", "cuda_fp16.h", "cuda_bf16.h")
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas")

_seed = 0  # of the schedule


def reason_to_skip():
    """Why kernels cannot be emulated here, or None."""
    return None if shutil.which("g++") else "the emulator needs g++ (apt-get install g++)"


class schedule:
    """Within the `with` block, threads and blocks run in an order that follows from a seed; 0 is that of numbers."""

    def __init__(self, seed):
        self.seed = seed

    def __enter__(self):
        global _seed
        self.before, _seed = _seed, self.seed

    def __exit__(self, *error):
        global _seed
        _seed = self.before


def compile_for_cpu(text, options, label, flags=()):
    """The launcher's function: the kernels of a text by name, each called as (grid, block, args, shared_bytes)."""
    library = ctypes.CDLL(str(build(text, options, label, flags)))
    return {name: _function(library, name) for name in cuda.parameters_of(text)}


def build(text, options, label, flags=()):
    """Path of the shared library of a text; built anew only when something that goes into it has changed."""
    flags = (*FLAGS, *flags)
    defines = [option for option in options if option.startswith("-D")]
    runtime = _built("runtime.o", (FOLDER / "runtime.cpp").read_text(encoding="utf-8"), ("-c", *flags))
    start = [f'#include "{HEADERS[0]}"', "namespace kernels {", f'#line 1 "{label}"']
    source = "\n".join([*start, _emulated(text), _launches(text), "}"])
    return _built(f"{label}.so", source, ("-shared", *flags, *defines), (str(runtime),))


def _emulated(text):
    """The text with its shared arrays as the emulator's."""
    text = re.sub(
        r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];", r"EMULATED_DYNAMIC_SHARED(\1, \2);", text
    )
    text = re.sub(r"__shared__ (\w+) (\w+)((?:\[[^\]]+\])+);", r"EMULATED_SHARED(\1, \2, \3);", text)
    left = re.search(r".*__shared__.*", text)
    if left:
        raise ValueError(f"The emulator does not understand this declaration: {left[0].strip()}")
    return text


def _launches(text):
    """For every kernel a C function that takes the arguments' addresses, as cuLaunchKernel does."""
    lines = []
    for name, types in cuda.parameters_of(text).items():
        values = ", ".join(f"*static_cast<{t}*>(a[{i}])" for i, t in enumerate(types))
        lines.append(
            f"static void run_{name}(void** a) {{ {name}({values}); }}\n"
            f'extern "C" __attribute__((visibility("default"))) const char* launch_{name}(void** args, '
            "const unsigned* grid, const unsigned* block, size_t shared, unsigned seed) "
            f"{{ return emulator::launch(run_{name}, args, grid, block, shared, seed, sizeof(wide) == 4); }}"
        )
    return "\n".join(lines)


def _built(name, source, flags, objects=()):
    command = ["g++", f"-I{FOLDER}", "-x", "c++", "-", *flags]
    if objects:
        command += ["-x", "none", *objects]
    state = "\n".join([_version(), *command, source, *((FOLDER / h).read_text(encoding="utf-8") for h in HEADERS)])
    digest = hashlib.sha256(state.encode()).hexdigest()[:16]
    path = cache() / f"{digest}-{name}"
    if not path.exists():
        # Under a name of its own first: several test processes may build the same file.
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        result = subprocess.run([*command, "-o", str(unfinished)], input=source, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"g++ cannot compile {name}:\n{result.stderr[:4000]}")
        os.replace(unfinished, path)
    return path


@functools.cache
def _version():
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def cache():
    """A folder of the user's for what was built, by a digest of all that went into it."""
    folder = Path(tempfile.gettempdir()) / f"gpukeras-emulator-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _function(library, name):
    function = getattr(library, f"launch_{name}")
    function.restype = ctypes.c_char_p
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_size_t, ctypes.c_uint]

    def launch(grid, block, args, shared_bytes):
        values = [_value(arg) for arg in args]
        addresses = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])
        sizes = [(ctypes.c_uint * 3)(*size, *[1] * (3 - len(size))) for size in (grid, block)]
        fault = function(addresses, *sizes, shared_bytes, _seed)
        if fault:
            raise RuntimeError(f"{name}: {fault.decode()}.")

    return launch


def _value(arg):
    """An array of one element that holds what a kernel is handed: a number, or an array's address."""
    array = getattr(arg, "_array", arg)  # device arrays wrap NumPy's
    if isinstance(array, np.ndarray):
        return np.array([array.ctypes.data], np.uint64)
    return np.array([array])
