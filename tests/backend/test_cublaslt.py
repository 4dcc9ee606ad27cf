"""The binding of cuBLASLt: descriptors as the library keeps them, statuses in words, and how it is found."""

import ctypes
import itertools
import sys
import types

import numpy as np
import pytest

from gpukeras.backend import cublaslt, gemm
from tests import fake_cublaslt, fake_cuda
from tests.strict_device import StrictArray

PLAIN = cublaslt.Product(
    dtype="float32",
    out_dtype="float32",
    rows=3,
    columns=5,
    inner=4,
    is_transposed=(False, False),
    leading=(4, 5, 5),
    count=1,
    strides=(0, 0, 0),
    epilogue=None,
    is_tf32=False,
)


def multiply():
    a, b = StrictArray(np.ones((3, 4), "float32")), StrictArray(np.ones((4, 5), "float32"))
    return gemm.matmul(a, b)


@pytest.fixture
def library(monkeypatch):
    made = fake_cublaslt.Library()
    fake_cuda.install(monkeypatch)
    monkeypatch.setattr(cublaslt, "_library", lambda: made)
    for cached in (gemm._planned, cublaslt.handle, cublaslt.workspace):
        cached.cache_clear()
    yield made
    for cached in (gemm._planned, cublaslt.handle, cublaslt.workspace):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("function", "status", "kind", "message"),
    [
        ("cublasLtMatmul", 13, RuntimeError, "could not multiply .*CUBLAS_STATUS_EXECUTION_FAILED"),
        ("cublasLtMatmul", 3, MemoryError, "could not multiply .*CUBLAS_STATUS_ALLOC_FAILED"),
        ("cublasLtMatmul", 99, RuntimeError, "CUBLAS_STATUS_99"),
        ("cublasLtMatmulAlgoGetHeuristic", 7, RuntimeError, "look for an algorithm for .*CUBLAS_STATUS_INVALID_VALUE"),
        ("cublasLtMatmulAlgoGetHeuristic", 15, RuntimeError, "no algorithm on this GPU for "),
        ("cublasLtMatmulDescCreate", 1, RuntimeError, "make a MatmulDesc for .*CUBLAS_STATUS_NOT_INITIALIZED"),
        ("cublasLtMatrixLayoutCreate", 7, RuntimeError, "make a MatrixLayout for .*CUBLAS_STATUS_INVALID_VALUE"),
        ("cublasLtMatmulPreferenceSetAttribute", 7, RuntimeError, "set attribute 1 of a MatmulPreference for "),
    ],
)
def test_errors_name_shapes_and_types(function, status, kind, message, library):
    library.status[function] = status
    with pytest.raises(kind, match=message) as error:
        multiply()
    assert "(3, 4) · (4, 5) of float32 to float32" in str(error.value)


def test_start_without_a_driver(library):
    library.status["cublasLtCreate"] = 1
    with pytest.raises(RuntimeError, match=r"could not start: CUBLAS_STATUS_NOT_INITIALIZED.*gpukeras\.doctor"):
        multiply()


def test_a_batch_and_its_epilogue_are_named():
    product = PLAIN._replace(count=7, epilogue="bias", dtype="bfloat16")
    assert str(product) == "7 times (3, 4) · (4, 5) of bfloat16 to float32 with epilogue bias"


# --- How it is found -----------------------------------------------------------------------------------------


def pathfinder_of(load):
    module = types.ModuleType("cuda.pathfinder")
    module.DynamicLibNotFoundError = type("DynamicLibNotFoundError", (RuntimeError,), {})
    module.load_nvidia_dynamic_lib = lambda name: load(module, name)
    package = types.ModuleType("cuda")
    package.pathfinder = module
    return {"cuda": package, "cuda.pathfinder": module}


def miss(module, name):
    raise module.DynamicLibNotFoundError(name)


def test_pathfinder_finds_it(monkeypatch):
    found = types.SimpleNamespace(abs_path="/somewhere/lib.so")
    for name, module in pathfinder_of(lambda module, name: found if name == "cublasLt" else None).items():
        monkeypatch.setitem(sys.modules, name, module)
    assert cublaslt._find() == "/somewhere/lib.so"


@pytest.mark.parametrize("has_pathfinder", [True, False])
def test_else_the_system_finds_it(has_pathfinder, monkeypatch):
    modules = pathfinder_of(miss) if has_pathfinder else {"cuda": None}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    tried = []

    def load(name):
        tried.append(name)
        if "12" not in name:
            raise OSError(name)

    monkeypatch.setattr(cublaslt.ctypes, "CDLL", load)
    assert "12" in cublaslt._find() and "13" in tried[0]
    monkeypatch.setattr(cublaslt.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    with pytest.raises(RuntimeError, match=r"pip install 'gpukeras\[cuda12\]'"):
        cublaslt._find()


# --- NVIDIA's own library, where it is installed --------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    """The library itself: it keeps descriptors without a GPU, and only the search for an algorithm needs one."""
    try:
        return cublaslt._library()
    except RuntimeError:
        pytest.skip("NVIDIA's cuBLASLt is not installed: pip install nvidia-cublas-cu12 cuda-pathfinder")


def read(real, kind, described, attribute, number):
    value, written = number(), ctypes.c_size_t()
    function = getattr(real, f"cublasLt{kind}GetAttribute")
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    size = ctypes.sizeof(value)
    assert function(described, attribute, ctypes.byref(value), size, ctypes.byref(written)) == 0
    assert written.value == size
    return value.value


@pytest.mark.parametrize("dtype", cublaslt.RESULTS)
def test_real_descriptors_hold_what_was_said(dtype, real):
    settings = {"dtype": dtype, "out_dtype": cublaslt.RESULTS[dtype][-1], "is_tf32": dtype == "float32"}
    for *is_transposed, epilogue in itertools.product([False, True], [False, True], cublaslt.EPILOGUES):
        product = PLAIN._replace(**settings, is_transposed=tuple(is_transposed), epilogue=epilogue)
        check_real(real, product._replace(leading=(10, 11, 12), count=6, strides=(100, 0, 1 << 33)))


def check_real(real, product):
    plan = cublaslt.Plan(product)
    described = [read(real, "MatmulDesc", plan.description, key, ctypes.c_int32) for key in (0, 1, 3, 4, 7)]
    compute = {"float32": 77, "float64": 70}.get(product.dtype, 68)
    scale = 1 if product.dtype == "float64" else 0
    assert described == [compute, scale, *product.is_transposed[::-1], cublaslt.EPILOGUES[product.epilogue]]
    shapes = [(4, 3), (5, 4), (5, 3)]  # in the library's eyes
    for which, matrix in enumerate((plan.a, plan.b, plan.out)):
        numbers = (ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int32, ctypes.c_int64)
        found = [read(real, "MatrixLayout", matrix, *pair) for pair in zip((0, 2, 3, 4, 5, 6), numbers, strict=True)]
        dtype = product.out_dtype if which == 2 else product.dtype
        kind = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}[dtype]
        shape = shapes[which][:: -1 if which < 2 and product.is_transposed[which] else 1]
        assert found == [kind, *shape, product.leading[which], 6, product.strides[which]]


def test_real_search_has_the_arguments_in_order(real):
    """Without a handle it says that it is not initialized; with arguments out of place it says or does otherwise."""
    plan = cublaslt.Plan(PLAIN._replace(dtype="float16", out_dtype="float16", epilogue="bias"))
    plan.handle = None
    with pytest.raises(RuntimeError, match="look for an algorithm for .*CUBLAS_STATUS_NOT_INITIALIZED"):
        plan._search(16)


def test_real_product_has_the_arguments_in_order(real):
    plan = cublaslt.Plan(PLAIN)
    plan.algorithm = ctypes.byref(cublaslt._Heuristic())
    with pytest.raises(RuntimeError, match="multiply .*CUBLAS_STATUS_NOT_INITIALIZED"):
        plan.run(1 << 40, 1 << 41, 1 << 42, 0, 1.0, 0.0, 1 << 43, 0)


def test_a_descriptor_may_go_while_others_stay(real):
    plans = [cublaslt.Plan(PLAIN) for _ in range(3)]
    kept = plans.pop(0)
    plans.clear()
    assert read(real, "MatrixLayout", kept.out, 2, ctypes.c_uint64) == 5
