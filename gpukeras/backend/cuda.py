"""CUDA C from the `.cu` files beside the kernels: compiled once for a dtype, launched with the declared types.

A `.cu` file is written for one element type `real`, and compiled for each dtype that is met. Who compiles and launches
is looked up by the array's home: CuPy for its arrays; tests install an emulator that runs the same text on the CPU.

Every kernel has a line ``KERNEL name(type name, ...)``. From that line arguments get their types: an array must have
the dtype that its pointer points to, a number is converted.
"""

import functools
import importlib.resources
import re

import numpy as np

from gpukeras.backend import devices

__all__ = [
    "DTYPES",
    "MAX_BLOCKS",
    "MAX_INDEX",
    "Source",
    "THREADS",
    "add_launcher",
    "blocks_of",
    "cells_of",
    "compile_options",
    "divisor",
    "dtype_of_work",
    "geometry",
    "grid_of",
    "has_places",
    "is_plain",
    "lanes",
    "parameters_of",
    "runs_on",
    "scalar",
    "takes",
    "wide_dtype",
]

DTYPES = ("bfloat16", "float16", "float32", "float64")
THREADS = 256  # of a block, as common.cuh has it
# Of a kernel that strides over its elements. An H100's 132 processors hold 1056 such blocks at once, but more of them
# keep memory busier: on an H200 Adam reached 81 % of a copy's bandwidth with 1024 blocks, 89 % with 8448.
MAX_BLOCKS = 8192
MAX_INDEX = 2**31 - 1  # what a kernel can take that divides indices, since only divisions of 32 bits are fast

_LONG_ROW = 1024  # elements up to which a warp works on a row, 32 a thread; a block of 256 threads on a longer one
_HELD = 32  # numbers of rows that a thread keeps in registers, as common.cuh has it
_ACROSS, _DOWN = 8, THREADS // 8  # threads of a block that sums over rows: each has 16 bytes of 32 rows in turn
_COLUMN_BLOCKS = 528  # of such a kernel: four for each processor; moments took 13 % longer with twice as many
_CHUNK = 128  # rows, at least, that such a block sums up: four for a thread, which are read at once
_ONE_CHUNK = 512  # rows, fewer than that, that one block sums up: less time than another kernel takes to start
_STRIP = 8  # columns of a thread that has the same ones of many rows, as normalization.cu has it,
_STRIP_ROWS, _STRIP_BLOCKS = 16, 512  # rows, at least, that it has, and blocks, at most

_NULL = np.uint64(0)  # the null pointer

_launchers = {}  # name of an array module -> launcher


def add_launcher(module_name, launcher):
    """Run `.cuda` forms for the arrays of a module.

    Args:
        launcher: Function ``(text, options, label) -> functions by name``, each called as
            ``function(grid, block, args, shared_bytes)``.
    """
    _launchers[module_name] = launcher


def takes(arguments, strided=frozenset(), wide=frozenset()):
    """Whether a `.cuda` form may be tried: CUDA C runs where the arrays lie, and they are what pointers can describe.

    All arrays must be C-contiguous, the first must have one of `DTYPES`, and what else has floats must have the same.
    Arrays of shape () are exempt: `scalar` converts them.

    Args:
        arguments: Name -> value, the first one an array.
        strided: Names of arguments that may have any layout.
        wide: Names of those that must have the type that is computed in.
    """
    first = next(iter(arguments.values()))
    if not runs_on(first):
        return False
    kind, dtype = type(first), first.dtype
    if dtype.name not in DTYPES:
        return False
    for name, array in arguments.items():
        if type(array) is kind and array.ndim:
            wanted = wide_dtype(dtype) if name in wide else dtype
            if array.dtype.kind in "fV" and array.dtype != wanted:  # V: bfloat16, which is not NumPy's own
                return False
            if name not in strided and not array.flags.c_contiguous:
                return False
    return True


def runs_on(array):
    """Whether there is CUDA C where an array lies."""
    return devices.array_module(array).__name__ in _launchers


def dtype_of_work(array, dtype):
    """The dtype to hand arrays to kernels in, where the op's is `dtype`.

    CUDA C and the products on a GPU compute in float32 whatever arrays hold. A CPU would cast 16-bit numbers for every
    single operation.
    """
    return np.dtype(np.float32) if dtype.itemsize < 4 and not runs_on(array) else dtype


def is_plain(*arrays):
    """Whether arrays, which may be None, are C-contiguous and of one size and dtype."""
    arrays = [a for a in arrays if a is not None]
    return all(a.flags.c_contiguous and a.size == arrays[0].size and a.dtype == arrays[0].dtype for a in arrays)


def wide_dtype(dtype):
    """The dtype that kernels for `dtype` compute in: float64 for float64, else float32."""
    return np.dtype("float64" if dtype.itemsize == 8 else "float32")


def lanes(dtype):
    """Elements of a 16-byte access."""
    return 16 // dtype.itemsize


def grid_of(array):
    """The number of blocks that stride over an array's elements, from its size and dtype alone."""
    return blocks_of(array.size, array.dtype)


def blocks_of(count, dtype):
    """The number of blocks for so many elements of a dtype."""
    packs = -(-count // lanes(dtype))
    return min(max(-(-packs // THREADS), 1), MAX_BLOCKS)


def scalar(value, dtype):
    """An array of shape () that a kernel reads its `wide` from, without a look at the value on the host."""
    return value.astype(wide_dtype(dtype), copy=False)


def compile_options(dtype):
    """What NVRTC is told, here and in the tests: C++17, and which type `real` is.

    Products and sums may be contracted to one rounding (NVRTC's default); denormals are flushed, as CuPy always asks.
    """
    return ("--std=c++17", f"-DREAL_{dtype.name.upper()}")


class Source:
    """A `.cu` file of `gpukeras/kernels`, by name.

    Args:
        name: The file's, without ``.cu``.
    """

    def __init__(self, name):
        self.name = name
        self._functions = {}  # (module name, dtype) -> functions by name
        self._entries = {}  # (kernel, dtype, array type) -> what a launch needs of it

    @functools.cached_property
    def text(self):
        """The file, with what it includes in its place, so that no compiler has to find files."""
        folder = importlib.resources.files("gpukeras") / "kernels"

        def included(match):
            text = (folder / match[1]).read_text(encoding="utf-8")
            rest = 2 + body[: match.start()].count("\n")
            return f'#line 1 "{match[1]}"\n{text}\n#line {rest} "{self.name}.cu"'

        body = (folder / f"{self.name}.cu").read_text(encoding="utf-8")
        return re.sub(r'^#include "(\w+\.cuh)"$', included, body, flags=re.MULTILINE)

    @functools.cached_property
    def parameters(self):
        """The parameters' types by kernel, such as ``["index", "const real*"]``."""
        return parameters_of(self.text)

    def launch(self, name, like, grid, block, *args, shared_bytes=0):
        """Run a kernel on the current stream.

        Args:
            like: An array: where it lies is where the kernel runs, and its dtype is what the kernel is compiled for.
            grid, block: Up to three numbers each, from the shapes alone.
            args: Arrays, None for those that are not there, numbers.
            shared_bytes: Size of the dynamic shared memory.
        """
        key = name, like.dtype, type(like)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._entry(name, like)
        function, parameters = entry
        if len(parameters) != len(args):
            raise TypeError(f"{self.name}.cu: {name} has {len(parameters)} parameters, but got {len(args)} arguments.")
        values = []
        for value, (is_pointer, expected, expected_type) in zip(args, parameters, strict=True):
            if not is_pointer:
                value = expected_type(value)  # CuPy would hand on a Python int as 64 bits and a float as a double
            elif value is None:
                value = _NULL
            elif value.dtype != expected or not value.flags.c_contiguous:
                raise TypeError(
                    f"{self.name}.cu: {name} expected a C-contiguous array of {expected.name}, "
                    f"but got {value.dtype.name} of shape {value.shape}."
                )
            values.append(value)
        function(grid, block, values, shared_bytes)

    def _entry(self, name, like):
        """The compiled function, and for each parameter whether it is a pointer, and the NumPy type."""
        module = devices.array_module(like).__name__
        functions = self._functions.get((module, like.dtype))
        if functions is None:
            functions = _launchers[module](self.text, compile_options(like.dtype), f"{self.name}.cu")
            self._functions[module, like.dtype] = functions
        types = [_numpy_type(t.removeprefix("const ").removesuffix("*"), like.dtype) for t in self.parameters[name]]
        pointers = [t.endswith("*") for t in self.parameters[name]]
        return functions[name], [(p, t, t.type) for p, t in zip(pointers, types, strict=True)]

    def elementwise(self, name, like, *args):
        """Run a kernel that strides over the elements of `like`, whose number it takes first."""
        self.launch(name, like, (grid_of(like),), (THREADS,), like.size, *args)

    def singly(self, name, like, *args):
        """Run a kernel that strides over the elements of `like` one at a time; it takes their number first."""
        self.launch(name, like, (min(max(-(-like.size // THREADS), 1), MAX_BLOCKS),), (THREADS,), like.size, *args)

    def places(self, name, like, channels, windows, *args):
        """Run a kernel that makes `like` place by place, where `has_places` says that it can.

        It takes the number of elements, that of channels and the windows' numbers first.
        """
        self.elementwise(name, like, channels, geometry(windows, devices.array_module(like)), *args)

    def rows(self, name, like, rows, columns, *args, held=None):
        """Run a kernel on rows: a warp has a short row, a block a long one. It takes their number and length first.

        Args:
            held: Number of arrays whose row the kernel keeps in registers, where they suffice: it is given as many
                warps for a row, and all threads of a block must meet where those of a row do.
        """
        if held is None:
            threads = 32 if columns <= _LONG_ROW else THREADS
        else:
            threads = _threads_for(held * columns, _HELD)
        if rows and columns:
            block = threads, THREADS // threads
            self.launch(name, like, (-(-rows // block[1]),), block, rows, columns, *args)

    def columns(self, name, like, rows, columns, count, *args, join="sum_of_chunks", join_args=(), out=None):
        """Run a kernel that sums over rows, and return its sums (count, columns), in `out` where it is given.

        They have the dtype that is computed in: float32 beside 16 bits.

        It takes the number of rows and columns first, and last the array of sums of chunks of rows, or the array of
        results where there is one chunk; else the kernel `join` joins the chunks, which follow from the shape alone. It
        takes the number of rows, chunks and columns, `join_args`, and both arrays.
        """
        xp = devices.array_module(like)
        tiles = -(-columns // (_ACROSS * lanes(like.dtype)))
        chunks = 1 if rows < _ONE_CHUNK else max(1, min(rows // _CHUNK, _COLUMN_BLOCKS // max(tiles, 1)))
        out = xp.empty((count, columns), wide_dtype(like.dtype)) if out is None else out
        parts = None if chunks == 1 else xp.empty((count, chunks, columns), wide_dtype(like.dtype))
        if columns:
            result = out if parts is None else None
            self.launch(name, like, (tiles, chunks), (_ACROSS, _DOWN), rows, columns, *args, parts, result)
            if parts is not None:
                self._join(join, like, rows, *join_args, parts, out)
        return out

    def strips(self, name, like, rows, columns, count, *args):
        """Run a kernel whose threads have the same 8 columns of all their rows, and sum over rows beside other work.

        What it takes and what is returned is as with `columns`. None where a row has more than a block's threads can,
        or an array more than 32 bits can count.
        """
        if columns > THREADS * _STRIP or rows * columns > MAX_INDEX:
            return None
        xp = devices.array_module(like)
        threads = _threads_for(columns, _STRIP)
        block = threads, THREADS // threads
        blocks = min(max(rows // (_STRIP_ROWS * block[1]), 1), _STRIP_BLOCKS)
        out = xp.empty((count, columns), wide_dtype(like.dtype))
        parts = None if blocks == 1 else xp.empty((count, blocks, columns), wide_dtype(like.dtype))
        if columns:
            result = out if parts is None else None
            self.launch(name, like, (blocks,), block, rows, columns, *args, parts, result)
            if parts is not None:
                self._join("sum_of_chunks", like, rows, parts, out)
        return out

    def _join(self, name, like, rows, *args):
        """Run the kernel that joins chunks of rows (count, chunks, columns), the last but one of its arguments."""
        count, chunks, columns = args[-2].shape
        tiles = -(-columns // _ACROSS)
        grid = (tiles, count) if name == "sum_of_chunks" else (tiles,)
        self.launch(name, like, grid, (_ACROSS, _DOWN), rows, chunks, columns, *args)

    def total(self, parts, like):
        """The sums (count,) of the rows of a kernel's partial sums (count, blocks), by one block each."""
        sums = devices.array_module(parts).empty(len(parts), parts.dtype)
        self.launch("sum_of_parts", like, (len(parts),), (THREADS,), parts.shape[1], parts, sums)
        return sums


@functools.lru_cache(maxsize=256)  # made once: a captured step may not copy from the host
def geometry(windows, xp):
    """The numbers of windows (`kernels.windows.Windows`) over three axes, the first of which may have size 1."""
    missing = 3 - len(windows.space)
    divisors = windows.space, windows.grid, cells_of(windows), windows.strides
    numbers = [n for kind in divisors for size in (*(1,) * missing, *kind) for n in divisor(size)]
    numbers += [n for kind in (windows.size, windows.dilation) for n in (*(1,) * missing, *kind)]
    return xp.asarray(np.array([*numbers, *(0,) * missing, *windows.lows], np.uint32).view(np.int32))


def cells_of(windows):
    """Cells along each axis: the places from one window's first to before the next one's."""
    return tuple(
        -(-(n + low) // stride) for n, low, stride in zip(windows.space, windows.lows, windows.strides, strict=True)
    )


def divisor(size):
    """Numbers d, m and s, for n // d = (n m // 2³² + n) >> s of all n < 2³¹ (Granlund and Montgomery 1994)."""
    size = max(size, 1)  # an axis of no places has no numbers to divide
    shift = (size - 1).bit_length()
    return size, ((2**shift - size) << 32) // size + 1, shift


def has_places(windows, *arrays):
    """Whether kernels that number places and elements in 32 bits, over three axes at most, can take the arrays."""
    return len(windows.space) <= 3 and all(a.size <= MAX_INDEX for a in arrays)


def parameters_of(text):
    """The types of the parameters of a text's kernels, by name."""
    found = {}
    for name, parameters in re.findall(r"^KERNEL (\w+)\(([^)]*)\)", text, flags=re.MULTILINE):
        found[name] = [re.sub(r"\s*\w+$", "", p.strip()) for p in parameters.split(",")]
    return found


def _threads_for(columns, most):
    """Threads for a row: warps, 1, 2, 4 or 8, that have at most so many columns each, where 8 suffice."""
    threads = 32
    while threads < THREADS and columns > most * threads:
        threads *= 2
    return threads


def _numpy_type(name, dtype):
    if name == "real":
        return dtype
    return wide_dtype(dtype) if name == "wide" else _TYPES[name]


_TYPES = {
    "bool": np.dtype(bool),
    "double": np.dtype("float64"),
    "float": np.dtype("float32"),
    "index": np.dtype("int64"),
    "int": np.dtype("int32"),
    "int16": np.dtype("int16"),
    "int8": np.dtype("int8"),
    "uint32": np.dtype("uint32"),
}


def _compile_with_cupy(text, options, label):
    """The launcher for CuPy's arrays: it compiles at first use, and keeps the result on disk."""
    import cupy

    return _CupyFunctions(cupy.RawModule(code=text, options=options), label)


class _CupyFunctions(dict):
    """The functions of a module, by name, fetched when first asked for."""

    def __init__(self, module, label):
        self.module, self.label = module, label

    def __missing__(self, name):
        function = self._compile(name)

        def launch(grid, block, args, shared_bytes):
            function(grid, block, tuple(args), shared_mem=shared_bytes)

        self[name] = launch
        return launch

    def _compile(self, name):
        """The function; what keeps NVRTC from compiling it is told in one line, in place of the compiler's hundreds."""
        import cupy

        try:
            return self.module.get_function(name)
        except MemoryError:
            raise
        except Exception as error:
            known = devices.explain(error, cupy)
            if known is None:
                raise
            raise RuntimeError(
                f"{self.label} cannot be compiled: {known[0]}; {known[1]} (python -m gpukeras.doctor shows more)."
            ) from error


add_launcher("cupy", _compile_with_cupy)
