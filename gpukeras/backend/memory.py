"""Memory on the host and the device: flat buffers, scratch arrays, and how freed memory is kept."""

import ctypes
import functools
import math
import sys
import threading
import weakref

import numpy as np

from gpukeras.backend import devices

__all__ = [
    "ALIGNMENT",
    "FlatBuffer",
    "available",
    "free_memory",
    "keep_freed_blocks",
    "kept",
    "limit_kept",
    "poison",
    "release",
    "scratch",
]

ALIGNMENT = 64  # elements; 256 bytes of float32, so that 16-byte accesses are always legal


class FlatBuffer:
    """One zero-filled array with a view for each of several shapes.

    A kernel that runs over `array` updates all views in one pass. Views start at multiples of
    `ALIGNMENT` elements; the gaps between them are zero and stay zero under every update.

    Attributes:
        array: The whole buffer (size,).
        views: One view per shape, in order.
        segments: ``(start, stop)`` of each view in `array`.
        casts: dtype -> buffer of the same layout with the values in another type, see `cast`.
    """

    def __init__(self, shapes, dtype, module=None):
        self.segments = []
        self.casts = {}
        self._values_of = {}  # dtype -> what stands for the values that are in `casts`
        end = 0
        for shape in shapes:
            size = math.prod(shape)
            self.segments.append((end, end + size))
            end += -(-size // ALIGNMENT) * ALIGNMENT
        self.array = (module or devices.default_module()).zeros(end, dtype)
        self.views = [
            self.array[start:stop].reshape(shape) for (start, stop), shape in zip(self.segments, shapes, strict=True)
        ]

    def like(self):
        """Another buffer of the same layout, zero-filled."""
        return FlatBuffer([view.shape for view in self.views], self.array.dtype)

    def cast(self, dtype, values, cast_into):
        """The buffer in another dtype, in arrays that stay where they are.

        Args:
            dtype: The type.
            values: An object that stands for what the buffer holds now: where it is another than at the last call, all
                is cast, by one kernel.
            cast_into: That kernel, called as ``cast_into(target, source)``.
        """
        buffer = self.casts.get(dtype)
        if buffer is None:
            shapes = [view.shape for view in self.views]
            buffer = self.casts[dtype] = FlatBuffer(shapes, dtype, devices.array_module(self.array))
        if self._values_of.get(dtype) is not values:
            cast_into(buffer.array, self.array)
            self._values_of[dtype] = values
        return buffer


# --- The process's allocator -----------------------------------------------------------------------------

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # numbers of mallopt's settings in <malloc.h>
_KEPT_AT_MOST = 1 << 30  # bytes of free memory


def keep_freed_blocks():
    """Let the C library keep freed blocks for the next array, instead of giving each back to the system at once.

    By default glibc returns each block above 128 KB, and the next array of that size pays a page fault for every 4 KB:
    two thirds of a training step's time for a small MLP. It takes a threshold of at most 32 MB; without maps of their
    own, blocks of any size are kept: a residual network's step with 256 images took 719 ms with the threshold and 387
    so. `release` gives back what is free, `limit_kept` what is too much. Does nothing where there is no glibc (musl,
    macOS, Windows).
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_MOST)


class _Usage(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def kept():
    """Bytes of free memory that the C library keeps; 0 where it does not tell (glibc before 2.33, other libraries)."""
    library = _glibc()
    if library is None or not hasattr(library, "mallinfo2"):
        return 0
    library.mallinfo2.restype = _Usage
    return library.mallinfo2().fordblks


def limit_kept():
    """Give free memory back where more than 1 GB is kept: called at the end of `fit`, `evaluate` and `predict`."""
    if kept() > _KEPT_AT_MOST:
        release()


def release():
    """Give free memory back to the system: scratch arrays, the allocator's free blocks, CuPy's free pools."""
    for free in list(_free_of_threads):
        free.buffers = []  # a thread may be choosing from the list that it has
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


@functools.lru_cache(maxsize=1)
def _glibc():
    """The C library, where it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def free_memory():
    """Bytes that new arrays may take on the default device; None where it does not tell, as on NumPy.

    Where the program has set an allocator of its own for CuPy, what the driver has left: at least so much.
    """
    cupy = sys.modules.get("cupy")
    if cupy is None or devices.default_module() is not cupy:
        return None
    known = devices.gpu_memory()
    if known is None:
        return None
    pool = cupy.get_default_memory_pool()
    if cupy.cuda.get_allocator() != pool.malloc:
        return known[0]  # another allocator, such as RMM's, does not say what it keeps
    free = known[0] + pool.free_bytes()  # what the pool keeps is not free for the driver, but for us
    limit = pool.get_limit()
    return min(free, limit - pool.used_bytes()) if limit else free


def available():
    """Bytes that new arrays may take on the default device, the host included; None where nobody tells."""
    if devices.default_module() is not np:
        return free_memory()
    system, own = _kilobytes_in("/proc/meminfo"), _kilobytes_in("/proc/self/status")
    if "MemAvailable" not in system:
        return None
    import resource  # which Windows lacks, as it lacks /proc

    free = [system["MemAvailable"]]
    for kind, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and used in own:
            free.append(max(limit - own[used], 0) + kept())
    return min(free)


def _kilobytes_in(path):
    """The sizes in one of Linux's files about memory, in bytes; none where there is no such file."""
    try:
        with open(path, encoding="ascii") as file:
            fields = [line.split() for line in file]
    except OSError:
        return {}
    return {field[0].rstrip(":"): int(field[1]) << 10 for field in fields if len(field) == 3 and field[2] == "kB"}


# --- Scratch arrays ------------------------------------------------------------------------------------------


class _Scratch(threading.local):
    """The free scratch buffers of a thread, arrays of bytes."""

    def __init__(self):
        self.free = _FreeBuffers()
        _free_of_threads.add(self.free)


class _FreeBuffers:
    def __init__(self):
        self.buffers = []


_free_of_threads: weakref.WeakSet[_FreeBuffers] = weakref.WeakSet()
_scratch = _Scratch()
_is_poisoning = False


class scratch:
    """A NumPy array of undefined values for the length of a `with` block; its memory is used again afterwards.

    For the large temporary arrays of a `.cpu` form: no page fault and no eviction from the cache after the first use,
    on any system. The array, and every view of it, must not be used after the block.

    Example:
        >>> with scratch((2, 3), np.dtype("float32")) as columns:
        ...     columns.shape
        (2, 3)
    """

    __slots__ = ("buffer", "dtype", "shape")

    def __init__(self, shape, dtype):
        self.shape = shape
        self.dtype = dtype

    def __enter__(self):
        size = math.prod(self.shape) * self.dtype.itemsize
        self.buffer = self._take(size)
        return np.ndarray(self.shape, self.dtype, buffer=self.buffer)

    def _take(self, size):
        """The smallest free buffer that is large enough, or a new one in the place of the largest."""
        free = _scratch.free.buffers
        fitting = [i for i, buffer in enumerate(free) if buffer.nbytes >= size]
        if fitting:
            return free.pop(min(fitting, key=lambda i: free[i].nbytes))
        if free:
            free.pop(max(range(len(free)), key=lambda i: free[i].nbytes))
        return np.empty(max(size, 1), np.uint8)

    def __exit__(self, *error):
        if _is_poisoning:
            self.buffer.fill(0xFF)  # NaN in every float type
        _scratch.free.buffers.append(self.buffer)


class poison:
    """Within the `with` block, scratch arrays are filled with NaN when they are given back: a test of their users."""

    def __enter__(self):
        global _is_poisoning
        self.before, _is_poisoning = _is_poisoning, True

    def __exit__(self, *error):
        global _is_poisoning
        _is_poisoning = self.before
