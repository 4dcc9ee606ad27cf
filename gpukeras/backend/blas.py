"""Matrix products, reached in one place so that a faster library can stand behind all of them; NumPy's BLAS itself."""

import ctypes
import functools
import os
import sys
import threading

import numpy as np

from gpukeras.backend import devices

__all__ = [
    "OWN_THREADS",
    "add_scaled",
    "can_limit",
    "finished_matmul",
    "matmul",
    "multiplies_unpacked",
    "one_thread",
    "scaled_matmul",
    "shorten_spinning",
    "thread_count",
]


OWN_THREADS = "gpukeras-"  # how the names of the threads of `threads.run` begin


def matmul(a, b, out=None):
    """Matrix product of the last two axes, broadcast over the others; transposed views cost no copy."""
    if type(a) is not np.ndarray:
        if devices.array_module(a).__name__ == "cupy":
            from gpukeras.backend import gemm  # when first used

            if gemm.can_multiply(a, b, out):
                return gemm.matmul(a, b, out)  # CuPy's own products cannot be recorded into a graph
        product = a @ b
        if a.dtype.kind == "V" and out is None:
            product = product.astype(a.dtype, copy=False)  # NumPy's own is float32
    elif a.dtype.kind == "V":  # bfloat16: NumPy has no product of its own for it
        product = np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
    elif a.ndim != 2 or b.ndim != 2:
        return np.matmul(a, b, out=out)
    elif _SHARED < len(a) * b.size < _LARGE:
        with _limit:
            return np.dot(a, b, out)
    else:
        return np.dot(a, b, out)  # the cheapest way into BLAS, which takes transposed operands as they are
    if out is None:
        return product
    out[...] = product
    return out


def scaled_matmul(a, b, out, alpha=1.0, beta=0.0):
    """out ← alpha · a · b + beta · out, rounded once: sums in float32 at least, also from and to 16 bits.

    Arrays of any strides; on a GPU one product, and no pass beside it.
    """
    if devices.array_module(a).__name__ == "cupy":
        from gpukeras.backend import gemm  # when first used

        if gemm.can_multiply(a, b, out):
            gemm.matmul(a, b, out, alpha=alpha, beta=beta)
            return
    wide = np.float32 if min(a.dtype.itemsize, b.dtype.itemsize) < 4 else a.dtype
    product = matmul(a.astype(wide, copy=False), b.astype(wide, copy=False))
    if alpha != 1:
        product *= alpha
    if beta != 0:
        product += beta * out
    out[...] = product


def finished_matmul(a, b, epilogue, vector, out=None):
    """The product with an epilogue of `gemm.matmul` in the same pass; None where there is no such product.

    Then nothing was computed: whoever calls has a kernel of its own for what comes after a product.
    """
    if devices.array_module(a).__name__ == "cupy":
        from gpukeras.backend import gemm  # when first used

        if gemm.can_multiply(a, b, out):
            return gemm.matmul(a, b, out, epilogue=epilogue, vector=vector, in_one_pass=True)
    return None


# Multiplications of products that OpenBLAS would share among threads though one is better. A second thread that is
# awake spares 256 x 64 x 64 10 of 25 us, one that must be woken adds 25; a small model wakes one in every step.
_SHARED = 1 << 18
_LARGE = 3 << 19

_MANY = 1 << 15


def add_scaled(x, alpha, y, beta=1.0):
    """y ← alpha · x + beta · y for flat NumPy arrays of one type, in one pass where BLAS has a function for it.

    In NumPy that is three passes: for 131072 numbers 59 us instead of 20. For few numbers NumPy's calls take less time.
    """
    library = _library() if y.size >= _MANY else None
    add = None if library is None else library.add_scaled.get(y.dtype.char)
    if add is not None and x.flags.c_contiguous and y.flags.c_contiguous and x.dtype == y.dtype:
        add(y.size, alpha, x.ctypes.data, 1, beta, y.ctypes.data, 1)
        return
    if beta != 1:
        np.multiply(y, beta, y)
    np.add(y, x * alpha, y)


# --- NumPy's BLAS ---------------------------------------------------------------------------------------------


class _Library:
    """The BLAS that NumPy uses: its number of threads, its file, axpby by NumPy's type, the processor it is for."""

    def __init__(self, get_count, set_count, file, add_scaled, processor):
        self.get_count = get_count
        self.set_count = set_count
        self.file = file
        self.add_scaled = add_scaled
        self.processor = processor


@functools.lru_cache(maxsize=1)
def _library():
    """NumPy's BLAS, or None where its threads are not in reach (for instance Apple's Accelerate)."""
    import threadpoolctl  # finds the library among those that the process has loaded, on every system

    found = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    bundled = [library for library in found if "numpy" in os.path.basename(os.path.dirname(library.filepath))]
    library = next(iter(bundled or found), None)
    if library is None:
        return None
    # Reached directly, the functions take 0.2 microseconds a call, through the controller 1.2; and a controller obeys
    # only the first thread that uses one. A PyDLL keeps Python's lock, which others might not give back at once.
    dynlib = ctypes.PyDLL(library.filepath)
    for prefix in ("", "scipy_"):
        for suffix in ("", "64_", "_64"):
            get_count = getattr(dynlib, f"{prefix}openblas_get_num_threads{suffix}", None)
            set_count = getattr(dynlib, f"{prefix}openblas_set_num_threads{suffix}", None)
            if get_count is not None and set_count is not None:
                add_scaled = _axpby(library.dynlib, prefix, suffix)
                processor = getattr(library, "architecture", None)
                return _Library(get_count, set_count, library.dynlib, add_scaled, processor)
    return _Library(library.get_num_threads, library.set_num_threads, None, {}, None)


def _axpby(dynlib, prefix, suffix):
    """OpenBLAS's y ← alpha · x + beta · y by NumPy's type; it runs in the calling thread, without Python's lock."""
    size = ctypes.c_int64 if "64" in suffix else ctypes.c_int32
    found = {}
    for char, letter, number in (("f", "s", ctypes.c_float), ("d", "d", ctypes.c_double)):
        function = getattr(dynlib, f"{prefix}cblas_{letter}axpby{suffix}", None)
        if function is not None:
            function.argtypes = [size, number, ctypes.c_void_p, size, number, ctypes.c_void_p, size]
            function.restype = None
            found[char] = function
    return found


def thread_count():
    """The number of threads that BLAS uses, None where it does not tell."""
    library = _library()
    if library is None:
        return None
    return _limit.before if _limit.depth else library.get_count()  # what it uses when it is not held to one thread


def can_limit():
    """Whether BLAS can be held to one thread."""
    return _library() is not None


@functools.lru_cache(maxsize=1)
def multiplies_unpacked():
    """Whether small products are computed without copies of their operands: OpenBLAS's on processors with AVX-512."""
    library = _library()
    return library is not None and library.processor in ("SkylakeX", "Cooperlake", "SapphireRapids")


class Limit:
    """Holds BLAS to one thread as long as any thread is within the `with` block."""

    def __init__(self):
        self.lock = threading.Lock()
        self.depth = 0
        self.before = 1

    def __enter__(self):
        library = _library()
        if library is None:
            return
        with self.lock:
            if self.depth == 0:
                self.before = library.get_count()
                if self.before != 1:
                    library.set_count(1)
            self.depth += 1

    def __exit__(self, *error):
        library = _library()
        if library is None:
            return
        with self.lock:
            self.depth -= 1
            if self.depth == 0 and self.before != 1:
                library.set_count(self.before)

    def forget(self):
        """In a forked process nobody else runs, so that the `with` blocks of other threads have no end."""
        self.lock = threading.Lock()
        library = _library() if self.depth else None
        if library is not None:
            self.depth = 0
            library.set_count(self.before)


_limit = Limit()


def one_thread():
    """A `with` block in which BLAS computes in the calling thread alone."""
    return _limit


_SPINNING = "18"  # a power of two, in cycles: about 0.1 ms


def shorten_spinning():
    """Let OpenBLAS's threads sleep 0.1 ms after a product instead of 25 ms.

    While they wait they spin, and so take the cores from the threads of `threads.run`: a training step of a
    convolutional network took 18 ms instead of 12.9 in a process whose OpenBLAS had threads awake; products alone keep
    their speed. OpenBLAS reads the setting when it starts its threads, so they are started anew. That must not happen
    while another thread computes a product: in a process with other threads all stays as it is, but for those of a
    notebook's kernel and our own, which are idle when a model first runs. OPENBLAS_THREAD_TIMEOUT keeps its value where
    it is set.
    """
    library = _library()
    if library is None or library.file is None or "OPENBLAS_THREAD_TIMEOUT" in os.environ:
        return
    others = [thread for thread in threading.enumerate() if not thread.name.startswith(OWN_THREADS)]
    if len(others) > 1 and "ipykernel" not in sys.modules:
        return
    names = ("openblas_read_env", "blas_thread_shutdown_", "blas_thread_init")
    read_environment, stop, start = [getattr(library.file, name, None) for name in names]
    if read_environment is None or stop is None or start is None or library.get_count() == 1:
        return
    os.environ["OPENBLAS_THREAD_TIMEOUT"] = _SPINNING
    try:
        read_environment()
        stop()
        start()
    finally:
        del os.environ["OPENBLAS_THREAD_TIMEOUT"]
