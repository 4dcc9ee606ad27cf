"""cuBLASLt, NVIDIA's library of matrix products, reached through ctypes.

CuPy's own products cannot be recorded into a CUDA graph, copy transposed operands of a batch, and add no bias on the
way. Here stream and workspace are handed over with every call, so that a capture sees nothing but kernels.

The library counts matrices down their columns, we along their rows. What we call y = a · b it sees, in the same memory,
as yᵀ = bᵀ · aᵀ: its A is our b, its B our a, and its rows are our columns. `gemm.py` turns arrays into a `Product`; a
`Plan` holds the library's descriptors for it, and the algorithm.
"""

import contextlib
import ctypes
import functools
import importlib
import os
import threading
import weakref
from typing import Any, NamedTuple

from gpukeras.backend.graphs import allocator

__all__ = ["EPILOGUES", "Plan", "Product", "RESULTS", "enable_tf32", "handle", "is_tf32_enabled", "workspace"]

# Numbers out of <cublasLt.h>, <cublas_api.h> and <library_types.h>; they are the same for CUDA 12 and 13.
_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
_COMPUTE_FLOAT32, _COMPUTE_FLOAT64, _COMPUTE_TF32 = 68, 70, 77
_TRANSPOSE_A, _TRANSPOSE_B, _EPILOGUE, _VECTOR = 3, 4, 7, 8  # attributes of a product
_COUNT, _STRIDE = 5, 6  # of a matrix
_MOST_WORKSPACE, _PARTIAL_SUMS, _ALIGNMENTS = 1, 3, (5, 6, 7, 8)  # of the search for an algorithm
_IN_FLOAT32 = 2  # partial sums in the type that is computed in; others are in the result's type
EPILOGUES = {None: 1, "bias": 4, "relu_bias": 6, "gelu_bias": 36, "sum_of_b": 256, "sum_of_a": 512}
_STATUS = {
    1: "NOT_INITIALIZED",
    3: "ALLOC_FAILED",
    7: "INVALID_VALUE",
    8: "ARCH_MISMATCH",
    11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED",
    14: "INTERNAL_ERROR",
    15: "NOT_SUPPORTED",
    16: "LICENSE_ERROR",
}
_NO_MEMORY, _NOT_SUPPORTED = 3, 15

RESULTS = {  # type of the operands -> types that the result may have; sums are in float32, those of float64 in float64
    "float16": ("float16", "float32"),
    "bfloat16": ("bfloat16", "float32"),
    "float32": ("float32",),
    "float64": ("float64",),
}
_WORKSPACE = 32 << 20  # bytes, as NVIDIA advises for Hopper

_is_tf32_enabled = True


def enable_tf32(enabled=True):
    """Whether a GPU may round the factors of float32 products to TensorFloat-32: 10 bits of mantissa instead of 23.

    Sums are in float32 either way. GPUs from Ampere on multiply several times faster so. It is on at start, as in Keras
    on JAX: JAX's default matmul precision means TF32 on such GPUs. Nothing changes on a CPU and on older GPUs, nor in a
    step that has been captured already.

    Args:
        enabled: False for float32 throughout.
    """
    global _is_tf32_enabled
    _is_tf32_enabled = bool(enabled)


def is_tf32_enabled():
    """Whether float32 products on a GPU may round their factors to TF32."""
    return _is_tf32_enabled


class Product(NamedTuple):
    """All that the library is told of out = a · b, in elements, and so the key of its plan.

    Triples are of a, b and out: the step from one row to the next (where transposed, from one column to the next), and
    the step from one product of a batch to the next.
    """

    dtype: str
    out_dtype: str
    rows: int
    columns: int
    inner: int
    is_transposed: tuple  # of a and b
    leading: tuple
    count: int
    strides: tuple
    epilogue: str | None
    is_tf32: bool

    def __str__(self):
        batch = f"{self.count} times " if self.count > 1 else ""
        after = f" with epilogue {self.epilogue}" if self.epilogue else ""
        return (
            f"{batch}({self.rows}, {self.inner}) · ({self.inner}, {self.columns}) of {self.dtype} "
            f"to {self.out_dtype}{after}"
        )


class _Heuristic(ctypes.Structure):
    """What the search for an algorithm returns."""

    _fields_ = [
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


class Plan:
    """A product as the library knows it: its descriptors, and the algorithm that it chose.

    Attributes:
        has_algorithm: Whether it found one; not every GPU has every epilogue for every type.
    """

    def __init__(self, product, handle=None, alignment=256):
        self.product = product
        self.handle = handle
        self.library = _library()
        self.lock = threading.Lock()  # the vector's address is part of the description
        is_double = product.dtype == "float64"
        self.number = ctypes.c_double if is_double else ctypes.c_float  # the type of alpha and beta
        compute = _COMPUTE_TF32 if product.is_tf32 else _COMPUTE_FLOAT64 if is_double else _COMPUTE_FLOAT32
        self.description = self._create("MatmulDesc", compute, _TYPES["float64" if is_double else "float32"])
        self._describe(_TRANSPOSE_A, ctypes.c_int32(product.is_transposed[1]))
        self._describe(_TRANSPOSE_B, ctypes.c_int32(product.is_transposed[0]))
        self._describe(_EPILOGUE, ctypes.c_uint32(EPILOGUES[product.epilogue]))
        rows, columns, inner = product.rows, product.columns, product.inner
        self.a = self._matrix(0, product.dtype, *((rows, inner) if product.is_transposed[0] else (inner, rows)))
        self.b = self._matrix(1, product.dtype, *((inner, columns) if product.is_transposed[1] else (columns, inner)))
        self.out = self._matrix(2, product.out_dtype, columns, rows)
        self.has_algorithm = False
        self.algorithm: Any = None
        if handle is not None:
            self._search(alignment)

    def _create(self, kind, *arguments):
        made = ctypes.c_void_p()
        status = getattr(self.library, f"cublasLt{kind}Create")(ctypes.byref(made), *arguments)
        _check(status, f"make a {kind} for", self.product)
        weakref.finalize(self, getattr(self.library, f"cublasLt{kind}Destroy"), made.value)
        return made.value

    def _set(self, kind, described, attribute, value):
        function = getattr(self.library, f"cublasLt{kind}SetAttribute")
        status = function(described, attribute, ctypes.byref(value), ctypes.sizeof(value))
        _check(status, f"set attribute {attribute} of a {kind} for", self.product)

    def _describe(self, attribute, value):
        self._set("MatmulDesc", self.description, attribute, value)

    def _matrix(self, which, dtype, rows, columns):
        """The layout of one matrix, in the library's rows and columns."""
        product = self.product
        made = self._create("MatrixLayout", _TYPES[dtype], rows, columns, product.leading[which])
        if product.count > 1:
            self._set("MatrixLayout", made, _COUNT, ctypes.c_int32(product.count))
            self._set("MatrixLayout", made, _STRIDE, ctypes.c_int64(product.strides[which]))
        return made

    def _search(self, alignment):
        """Ask for the best algorithm on this GPU for addresses that `alignment` divides."""
        search = self._create("MatmulPreference")
        self._set("MatmulPreference", search, _MOST_WORKSPACE, ctypes.c_uint64(_WORKSPACE))
        if self.product.out_dtype in ("float16", "bfloat16"):
            self._set("MatmulPreference", search, _PARTIAL_SUMS, ctypes.c_uint32(_IN_FLOAT32))
        for attribute in _ALIGNMENTS:
            self._set("MatmulPreference", search, attribute, ctypes.c_uint32(alignment))
        if self.product.epilogue:
            self._describe(_VECTOR, ctypes.c_void_p(alignment))  # not followed: the library looks at its zeros only
        found, count = _Heuristic(), ctypes.c_int()
        matrices = self.b, self.a, self.out, self.out
        results = 1, ctypes.byref(found), ctypes.byref(count)
        status = self.library.cublasLtMatmulAlgoGetHeuristic(self.handle, self.description, *matrices, search, *results)
        if status != _NOT_SUPPORTED:
            _check(status, "look for an algorithm for", self.product)
        self.has_algorithm = status == 0 and count.value > 0 and found.state == 0
        self.algorithm = ctypes.byref(found.algorithm)

    def run(self, a, b, out, vector, alpha, beta, workspace, stream):
        """Launch out ← alpha · a · b + beta · out on addresses; `vector` is the epilogue's, 0 where there is none."""
        if not vector:
            self._launch(a, b, out, alpha, beta, workspace, stream)
            return
        with self.lock:
            self._describe(_VECTOR, ctypes.c_void_p(vector))
            self._launch(a, b, out, alpha, beta, workspace, stream)

    def _launch(self, a, b, out, alpha, beta, workspace, stream):
        status = self.library.cublasLtMatmul(
            self.handle,
            self.description,
            _number(self.number, alpha),
            b,
            self.b,
            a,
            self.a,
            _number(self.number, beta),
            out,
            self.out,
            out,
            self.out,
            self.algorithm,
            workspace,
            _WORKSPACE,
            stream,
        )
        if status:
            _check(status, "multiply", self.product)


@functools.lru_cache(maxsize=64)
def _number(kind, value):
    """A number in C's memory, which the library reads when a product is launched."""
    return ctypes.byref(kind(value))


@functools.cache
def handle(device):
    """The library's state for a device, made at the first product there."""
    made = ctypes.c_void_p()
    _check(_library().cublasLtCreate(ctypes.byref(made)), "start")
    return made.value


@functools.cache
def workspace(cupy, device, stream, thread=None):
    """Memory that products on a stream compute in. There for good, since a captured step holds its address.

    It comes from the program's allocator even while a capture has a pool of its own, which goes when its graph does.
    """
    return allocator(cupy)(_WORKSPACE)


# --- The library itself ---------------------------------------------------------------------------------------

_POINTER = ctypes.c_void_p
_ARGUMENTS = {
    "Create": [_POINTER],
    "MatmulDescCreate": [_POINTER, ctypes.c_int, ctypes.c_int],
    "MatmulDescDestroy": [_POINTER],
    "MatmulDescSetAttribute": [_POINTER, ctypes.c_int, _POINTER, ctypes.c_size_t],
    "MatrixLayoutCreate": [_POINTER, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64],
    "MatrixLayoutDestroy": [_POINTER],
    "MatrixLayoutSetAttribute": [_POINTER, ctypes.c_int, _POINTER, ctypes.c_size_t],
    "MatmulPreferenceCreate": [_POINTER],
    "MatmulPreferenceDestroy": [_POINTER],
    "MatmulPreferenceSetAttribute": [_POINTER, ctypes.c_int, _POINTER, ctypes.c_size_t],
    "MatmulAlgoGetHeuristic": [_POINTER] * 7 + [ctypes.c_int, _POINTER, _POINTER],
    "Matmul": [_POINTER] * 14 + [ctypes.c_size_t, _POINTER],
}


@functools.lru_cache(maxsize=1)
def _library():
    """cuBLASLt, loaded at the first product."""
    library = ctypes.CDLL(_find())
    for name, types in _ARGUMENTS.items():
        function = getattr(library, f"cublasLt{name}")
        function.argtypes, function.restype = types, ctypes.c_int
    return library


def _find():
    """The library's file: from NVIDIA's wheels, or else from the system's CUDA toolkit."""
    pathfinder: Any = None
    with contextlib.suppress(ImportError):  # it comes with CuPy, and knows wheels, conda's folders and CUDA_PATH
        pathfinder = importlib.import_module("cuda.pathfinder")
    if pathfinder is not None:
        with contextlib.suppress(pathfinder.DynamicLibNotFoundError):
            return pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path
    for version in (13, 12):
        name = f"cublasLt64_{version}.dll" if os.name == "nt" else f"libcublasLt.so.{version}"
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return name
    raise RuntimeError(
        "Products on a GPU need NVIDIA's cuBLASLt, which was not found. pip install 'gpukeras[cuda12]' (or "
        "'gpukeras[cuda13]' for a CUDA 13 driver) brings it; python -m gpukeras.doctor shows what is installed."
    )


def _check(status, doing, product=None):
    """Raise what the library reports, in words."""
    if status == 0:
        return
    about = doing if product is None else f"{doing} {product}"
    raise (MemoryError if status == _NO_MEMORY else RuntimeError)(
        f"cuBLASLt could not {about}: CUBLAS_STATUS_{_STATUS.get(status, status)}. "
        f"python -m gpukeras.doctor shows what is installed."
    )
