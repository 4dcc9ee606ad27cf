"""Every `.cuda` form under AddressSanitizer, in arrays that end where their memory does.

A program of its own: the sanitizer must be there before Python is (`environment`), and ends the process at the first
access that lies outside.
"""

import ctypes
import functools
import itertools
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import gpukeras.kernels
from gpukeras.backend import cuda
from gpukeras.backend.dtypes import as_dtype
from tests.emulator import compile, device
from tests.kernels import test_all_kernels
from tests.kernels.test_all_kernels import CUDA_KERNELS, MOST, Guarded, arrays_in, cuda_samples, run_on_emulator

# Accesses out of memory; those of 16 bytes, or of any other size, at addresses that are no multiple of it; and indices
# beyond an array that stands within another one.
FLAGS = (
    "-fsanitize=address,alignment,bounds",
    "-fno-sanitize-recover=all",
    "-g1",
    "-O1",
    "-fno-omit-frame-pointer",
)
DTYPES = "float32", "float16"
BEFORE = 16  # bytes before an array that nobody may touch; 8 of them where it shall lie off a boundary of 16


@functools.cache
def sanitizer():
    """Path of the library that is to be loaded before Python, or None."""
    command = ["g++", "-print-file-name=libasan.so"]
    path = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return path if os.path.isabs(path) else None


def environment():
    """The variables of a process that loads libraries built with `FLAGS`."""
    options = "detect_leaks=0:detect_stack_use_after_return=0:redzone=256"
    return {**os.environ, "LD_PRELOAD": str(sanitizer()), "ASAN_OPTIONS": options}


def _of_sanitizer(name, *types):
    function = getattr(ctypes.CDLL(None), name)
    function.argtypes = types
    return function


class Exact(Guarded):
    """Copies of arrays on the emulator without a byte before or after them that may be accessed."""

    def __init__(self, device, shift):
        super().__init__(device, shift)
        self.poison = _of_sanitizer("__asan_poison_memory_region", ctypes.c_void_p, ctypes.c_size_t)
        self.heal = _of_sanitizer("__asan_unpoison_memory_region", ctypes.c_void_p, ctypes.c_size_t)
        self.before = BEFORE // 2 if shift else BEFORE

    def _copy(self, array):
        if not array.flags.c_contiguous:
            return array.copy("K")
        base = np.empty(self.before + array.nbytes, np.uint8)
        view = base[self.before :].view(array.dtype).reshape(array.shape)
        view[...] = array
        self.poison(base.ctypes.data, self.before)
        # NumPy keeps small pieces of memory, and hands them out again.
        weakref.finalize(base, self.heal, base.ctypes.data, self.before)
        return view


def check_red_zones(arrays):
    """The memory of every array must be followed by some that nobody may access."""
    is_poisoned = _of_sanitizer("__asan_address_is_poisoned", ctypes.c_void_p)
    for array in arrays:
        while isinstance(array.base, np.ndarray):
            array = array.base
        end = array.ctypes.data + max(array.nbytes, 1)  # NumPy asks for memory for an array of nothing, too
        assert is_poisoned(end), f"no red zone after an array of {array.nbytes} bytes"


def install():
    """Build for the sanitizer what is launched on the emulator from now on."""
    os.environ.pop("LD_PRELOAD", None)  # compilers do without
    compile.FLAGS = (*compile.FLAGS, *FLAGS)
    device.install()
    launch = cuda.Source.launch

    def launch_with_red_zones(self, name, like, grid, block, *args, **settings):
        check_red_zones([a._array for a in args if isinstance(a, device.EmulatorArray)])
        launch(self, name, like, grid, block, *args, **settings)

    cuda.Source.launch = launch_with_red_zones


def build_all(dtypes):
    """Compile every source for some dtypes, on all cores."""

    def build_one(source, dtype):
        compile.build(source.text, cuda.compile_options(as_dtype(dtype)), f"{source.name}.cu")

    sources = [cuda.Source(path.stem) for path in Path(gpukeras.kernels.__file__).parent.glob("*.cu")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(build_one, *zip(*itertools.product(sources, dtypes), strict=True)))


def walk(names, dtype, shifts, seed=1):
    """Run forms on their samples, in arrays that are so shifted in turn; print what is run."""
    for name in names:
        kernel, launched = CUDA_KERNELS[name], 0
        for i, args in enumerate(cuda_samples(kernel, dtype, seed)):
            if any(a.size > MOST for a in arrays_in(args)):
                continue
            for shift in shifts:
                print(f"{name}: {dtype}, sample {i}, shift {shift}", flush=True)
                launched += run_on_emulator(kernel, args, device, 0, shift, Exact) is not None
        assert launched, f"{name}: its CUDA form declined all samples of {dtype}"


if __name__ == "__main__":
    install()
    build_all(DTYPES)
    walk(sorted(CUDA_KERNELS), "float32", shifts=(0, 1))
    walk(sorted(CUDA_KERNELS), "float16", shifts=(0,))  # off a boundary it is one element at a time, as in float32
    shapes = Path(test_all_kernels.__file__).with_name("test_cuda_shapes.py")  # long rows, which no sample has
    sys.exit(pytest.main(["-s", "-v", "-p", "no:cacheprovider", str(shapes)]))
