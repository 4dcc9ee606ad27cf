"""cuDNN for what a GPU's arrays hold: each graph is executed by a frontend in Python, and validated by the real one."""

import functools
import importlib.metadata
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpukeras as keras
from gpukeras.backend import cublaslt, cudnn, devices
from gpukeras.kernels import attention, convolution
from gpukeras.kernels.windows import windows_of
from tests import fake_cuda, fake_cudnn
from tests.helpers import assert_close
from tests.strict_device import StrictArray

pytest_plugins = ["tests.fake_gpu"]

DTYPES = [np.dtype("float16"), np.dtype(ml_dtypes.bfloat16), np.dtype("float32")]


@pytest.fixture
def library(monkeypatch):
    """A cuDNN in Python, and a CuPy on NumPy memory that it works for."""
    fake_cuda.install(monkeypatch)
    return fake_cudnn.install(monkeypatch)


def to_host(array):
    return devices.to_numpy(array)


def random(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def operations(library):
    return [graph.operation for graph in library.graphs]


# --- Convolution ----------------------------------------------------------------------------------------------

CASES = [
    # space, size, channels, filters, groups, strides, padding, dilation
    ((9, 8), (3, 2), 3, 4, 1, (1, 1), "same", (1, 1)),
    ((9, 8), (3, 3), 1, 5, 1, (2, 1), "valid", (1, 1)),
    ((11, 7), (2, 2), 4, 6, 2, (2, 3), "same", (1, 1)),
    ((12, 11), (3, 3), 4, 4, 1, (1, 1), "same", (2, 3)),
    ((20,), (4,), 2, 6, 1, (3,), "same", (1,)),
    ((20,), (4,), 6, 2, 1, (2,), "causal", (1,)),
    ((5, 6, 5), (2, 3, 1), 4, 6, 2, (1, 2, 1), "same", (1, 1, 1)),
    ((7, 7), (1, 1), 4, 3, 1, (3, 2), "valid", (1, 1)),
]


def check_convolution(case, dtype, batch, rng):
    space, size, channels, filters, groups, strides, padding, dilation = case
    windows = windows_of(space, size, strides, padding, dilation)
    x = random(rng, (batch, *space, channels), dtype)
    weights = random(rng, (*size, channels // groups, filters), dtype)
    dy = random(rng, (batch, *windows.grid, filters), dtype)
    found = (
        cudnn.convolve(StrictArray(x), StrictArray(weights), windows),
        cudnn.input_gradient(StrictArray(dy), StrictArray(weights), windows, groups),
        cudnn.kernel_gradient(StrictArray(x), StrictArray(dy), windows, groups),
    )
    wide_x, wide_weights, wide_dy = (a.astype("float64") for a in (x, weights, dy))
    exact = (
        convolution.convolve.reference(wide_x, wide_weights, windows),
        convolution.convolve_input_gradient.reference(wide_dy, wide_weights, windows, groups),
        convolution.convolve_kernel_gradient.reference(wide_x, wide_dy, windows, groups),
    )
    for a, b in zip(found, exact, strict=True):
        assert a is not None and a.dtype == dtype and a.flags.c_contiguous
        assert_close(to_host(a), b, dtype.name, scale=10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolutions_equal_their_references(case, dtype, library, rng):
    check_convolution(case, dtype, 3, rng)
    assert operations(library) == ["conv_fprop", "conv_dgrad", "conv_wgrad"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_convolutions_of_random_shapes(data, library):
    axes = data.draw(st.integers(1, 3))
    draw = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    size, groups = draw(1, 3), data.draw(st.integers(1, 2))
    is_strided = data.draw(st.booleans())
    strides, dilation = (draw(1, 3), (1,) * axes) if is_strided else ((1,) * axes, draw(1, 2))
    space = tuple((k - 1) * d + 1 + more for k, d, more in zip(size, dilation, draw(0, 5), strict=True))
    padding = data.draw(st.sampled_from(["same", "valid"]))
    case = space, size, groups * data.draw(st.integers(1, 3)), 2 * groups, groups, strides, padding, dilation
    seed = data.draw(st.integers(0, 2**16))
    check_convolution(case, np.dtype("float32"), data.draw(st.integers(1, 3)), np.random.default_rng(seed))


def convolve(library, x=None, dtype="float32", **settings):
    windows = windows_of((6, 6), (3, 3), (1, 1), "same", (1, 1))
    x = np.ones((2, 6, 6, 4), dtype) if x is None else x
    return cudnn.convolve(StrictArray(x), StrictArray(np.ones((3, 3, 4, 5), x.dtype)), windows)


def test_engines_that_break_promises_are_left_out(library):
    convolve(library)
    with_tf32 = library.graphs[-1].deselected
    assert with_tf32 == {"NONDETERMINISTIC", "REDUCED_PRECISION_REDUCTION"}
    convolve(library, dtype="float16")
    assert library.graphs[-1].deselected == with_tf32
    cublaslt.enable_tf32(False)
    try:
        convolve(library)
    finally:
        cublaslt.enable_tf32(True)
    assert library.graphs[-1].deselected == with_tf32 | {"TENSOR_CORE", "DOWN_CONVERT_INPUTS"}


def test_a_plan_is_made_once_and_a_refusal_remembered(library):
    for _ in range(3):
        assert convolve(library) is not None
    assert len(library.graphs) == 1 and cudnn.refusals() == {}
    library.refused.add("conv_fprop")
    for _ in range(3):
        assert convolve(library, dtype="float16") is None
    assert len(library.graphs) == 2
    ((asked, reason),) = cudnn.refusals().items()
    assert (asked.kind, asked.dtype, reason) == ("forward", "float16", "No engine for conv_fprop")


def test_what_cudnn_cannot_take_is_left_to_the_kernels(library):
    assert convolve(library, dtype="float64") is None
    assert convolve(library, np.ones((0, 6, 6, 4), "float32")) is None
    memory = np.ones(2 * 6 * 6 * 4 + 4, "float32")
    shift = 1 if memory.ctypes.data % 16 == 0 else 0
    assert convolve(library, memory[shift : shift + 288].reshape(2, 6, 6, 4)) is None
    keras.config.enable_cudnn(False)
    try:
        assert not keras.config.is_cudnn_enabled()
        assert convolve(library) is None
    finally:
        keras.config.enable_cudnn()
    assert not library.graphs
    assert convolve(library) is not None


def test_windows_with_negative_padding_are_left_to_the_kernels(library, rng):
    windows = windows_of((6, 6), (1, 1), (1, 1), "same", (1, 1))
    cropped = type(windows)((6, 6), (2, 2), (1, 1), (1, 1), (-1, -1), (3, 3))
    x, weights = np.ones((2, 6, 6, 4), "float32"), np.ones((2, 2, 4, 5), "float32")
    assert cudnn.convolve(StrictArray(x), StrictArray(weights), cropped) is None


# --- Attention ------------------------------------------------------------------------------------------------


def heads(rng, dtype, batch=2, count=3, time=5, dim=8):
    """An array (batch, heads, time, dim) that lies (batch, time, heads, dim), as `dot_product_attention` has it."""
    return random(rng, (batch, time, count, dim), dtype).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (4, 7), (7, 4)])
@pytest.mark.parametrize("refused", [set(), {"sdpa"}, {"sdpa_backward"}], ids=str)
def test_attention_equals_its_reference(queries, keys, is_causal, dtype, refused, library, gpu_with_kernels, rng):
    library.refused |= refused
    q, k, v = heads(rng, dtype, time=queries), heads(rng, dtype, time=keys), heads(rng, dtype, time=keys, dim=16)
    dy, y = heads(rng, dtype, time=queries, dim=16), heads(rng, dtype, time=queries, dim=16)
    on_gpu = [StrictArray(a) for a in (q, k, v, y, dy)]
    kept = attention.attention(*on_gpu[:3], None, on_gpu[3], 0.3, is_causal)
    assert isinstance(kept[0], attention.LogSums) == ("sdpa" not in refused)
    gradients = [StrictArray(np.full_like(a, np.nan)) for a in (q, k, v)]
    attention.attention_backward(*on_gpu[:4], *kept, on_gpu[4], None, 0.3, is_causal, *gradients)

    wide = [a.astype("float64") for a in (q, k, v, y, dy)]
    exact = [np.zeros(a.shape) for a in (q, k, v)]
    plain = attention.attention.reference(*wide[:3], None, wide[3], 0.3, is_causal)
    attention.attention_backward.reference(*wide[:4], *plain, wide[4], None, 0.3, is_causal, *exact)
    for a, b in zip((on_gpu[3], *gradients), (wide[3], *exact), strict=True):
        assert_close(to_host(a), b, dtype.name, scale=4)


def test_single_gradients_of_attention(library, gpu_with_kernels, rng):
    q, k, v, y, dy = (StrictArray(heads(rng, np.dtype("float16"))) for _ in range(5))
    kept = attention.attention(q, k, v, None, y, 0.3, True)
    every = [StrictArray(np.zeros((2, 3, 5, 8), "float16")) for _ in range(3)]
    attention.attention_backward(q, k, v, y, *kept, dy, None, 0.3, True, *every)
    one = StrictArray(np.zeros((2, 3, 5, 8), "float16"))
    attention.attention_backward(q, k, v, y, *kept, dy, None, 0.3, True, None, one, None)
    np.testing.assert_array_equal(to_host(one), to_host(every[1]))


@pytest.mark.parametrize(("dtype", "dim"), [("float32", 8), ("float16", 4), ("float16", 264)])
def test_attention_that_cudnn_does_not_have(dtype, dim, library, rng):
    q, k, v, y = (StrictArray(heads(rng, np.dtype(dtype), dim=dim)) for _ in range(4))
    assert cudnn.attention(q, k, v, y, 0.3, False) is None
    assert not library.graphs


# --- Models ---------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu_with_cudnn(gpu_with_kernels, monkeypatch):
    """The fake GPU, whose streams record cuDNN's launches too."""
    fake_cudnn.install(monkeypatch, gpu_with_kernels.kernel)
    return gpu_with_kernels


def trained(layers, x, y, dtype="float32", **settings):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers()])
    model.compile(keras.optimizers.SGD(0.05), "mse", **settings)
    history = model.fit(x, y, epochs=3, batch_size=4, verbose=0).history["loss"]
    return [history, *[devices.to_numpy(v.array) for v in model.variables]]


def convolutional():
    return [
        keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(4, 3, strides=2),
        keras.layers.Conv2DTranspose(3, 3, strides=2),
        keras.layers.Flatten(),
        keras.layers.Dense(1),
    ]


def test_a_model_trains_alike_eagerly_captured_and_without_cudnn(gpu_with_cudnn, rng):
    x, y = rng.standard_normal((8, 7, 7, 2)).astype("float32"), rng.standard_normal((8, 1)).astype("float32")
    captured = trained(convolutional, x, y)
    assert {"conv_fprop", "conv_dgrad", "conv_wgrad"} == set(operations(fake_cudnn))
    eager = trained(convolutional, x, y, run_eagerly=True)
    for a, b in zip(captured, eager, strict=True):
        np.testing.assert_array_equal(a, b)
    keras.config.enable_cudnn(False)
    try:
        without = trained(convolutional, x, y)
    finally:
        keras.config.enable_cudnn()
    for a, b in zip(captured, without, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_small_convolutions_are_left_to_the_kernels(gpu_with_cudnn, monkeypatch, rng):
    x, y = rng.standard_normal((8, 7, 7, 2)).astype("float32"), rng.standard_normal((8, 1)).astype("float32")
    monkeypatch.setattr(
        convolution, "_LEAST_FOR_CUDNN", {"forward": 1, "input_gradient": 1, "kernel_gradient": 1 << 30}
    )
    trained(convolutional, x, y)
    assert {"conv_fprop", "conv_dgrad"} == set(operations(fake_cudnn))


def attending():
    inputs = keras.Input((6, 16))
    y = keras.layers.MultiHeadAttention(2, 8)(inputs, inputs, use_causal_mask=True)
    return keras.Model(inputs, keras.layers.Dense(1, dtype="float32")(keras.layers.Flatten()(y)))


def test_attention_of_16_bits_trains_alike_eagerly_captured_and_without_cudnn(gpu_with_cudnn, rng):
    x, y = rng.standard_normal((8, 6, 16)).astype("float32"), rng.standard_normal((8, 1)).astype("float32")

    def weights(**settings):
        keras.utils.set_random_seed(4)
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = attending()
        finally:
            keras.config.set_dtype_policy(None)
        model.compile(keras.optimizers.SGD(0.05), "mse", **settings)
        model.fit(x, y, epochs=4, batch_size=4, verbose=0)
        return [devices.to_numpy(v.array) for v in model.variables]

    captured = weights()
    assert {"sdpa", "sdpa_backward"} == set(operations(fake_cudnn))
    for a, b in zip(captured, weights(run_eagerly=True), strict=True):
        np.testing.assert_array_equal(a, b)
    keras.config.enable_cudnn(False)
    try:
        without = weights()
    finally:
        keras.config.enable_cudnn()
    for a, b in zip(captured, without, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.002)


# --- Finding it -----------------------------------------------------------------------------------------------


@pytest.fixture
def versions(monkeypatch):
    """A function that makes believe what is installed: the frontend's version, and what cuDNN answers."""

    def believe(frontend, answer):
        def version(name):
            assert name == "nvidia-cudnn-frontend"
            if frontend is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return frontend

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setitem(sys.modules, "cudnn", types.SimpleNamespace(backend_version=answer))

    cudnn.version_or_reason.cache_clear()
    cudnn._library.cache_clear()
    yield believe
    cudnn.version_or_reason.cache_clear()
    cudnn._library.cache_clear()


def missing():
    raise RuntimeError("Unable to find symbol cudnnGetVersion\nmore")


@pytest.mark.parametrize(
    ("frontend", "answer", "reason"),
    [
        (None, missing, r"frontend is not installed; pip install 'gpukeras\[cudnn\]'"),
        ("1.21.0", missing, "1.21.0 is not from 1.22 to 1.26"),
        ("1.32.0", missing, "1.32.0 is not from 1.22 to 1.26"),
        (
            "1.22.1",
            missing,
            r"cannot be loaded \(Unable to find symbol cudnnGetVersion\); pip install nvidia-cudnn-cu12",
        ),
        ("1.22.1", lambda: 90100, "cuDNN 90100 is older than 9.5; pip install nvidia-cudnn-cu12"),
        (
            "1.24.0",
            lambda: 92100,
            r"1.24.0 is for cuDNN 9.22 .* cuDNN is 92100; pip install 'nvidia-cudnn-frontend<1.24'",
        ),
    ],
)
def test_what_is_missing_is_said_with_its_cure(frontend, answer, reason, versions):
    versions(frontend, answer)
    assert isinstance(cudnn.version_or_reason(), str)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(cudnn.version_or_reason())
    assert cudnn._library() is None


@pytest.mark.parametrize(("frontend", "version"), [("1.23.0", 91002), ("1.26.0", 92200)])
def test_what_is_there_is_used(frontend, version, versions):
    versions(frontend, lambda: version)
    assert cudnn.version_or_reason() == version
    assert cudnn._library() is sys.modules["cudnn"]


# --- The real frontend ----------------------------------------------------------------------------------------

# It asks cuDNN for nothing but its version before engines are looked for.
_SHIM = 'extern "C" unsigned long cudnnGetVersion() { return 91002; }'

_VALIDATE = """
import numpy as np
from gpukeras.backend import cudnn
from gpukeras.kernels.windows import windows_of
import cudnn as library

assert cudnn.version_or_reason() == 91002

def validate(asked):
    numbers = library.data_type
    kind = getattr(numbers, cudnn._TYPES[asked.dtype])
    types = {"io_data_type": kind, "intermediate_data_type": numbers.FLOAT, "compute_data_type": numbers.FLOAT}
    graph = library.pygraph(handle=1, sm_version=90, **types)  # else it would look for a GPU
    asked.describe(library, graph)
    graph.validate()
    for note in ("NONDETERMINISTIC", "REDUCED_PRECISION_REDUCTION", "TENSOR_CORE", "DOWN_CONVERT_INPUTS"):
        getattr(library.numerical_note, note)
    for name in ("create_execution_plans", "deselect_numeric_notes", "check_support", "build_plans", "execute"):
        getattr(graph, name)
    print(asked.kind)

for space, size, strides, padding, groups in (
    ((9, 8), (3, 3), (1, 1), "same", 1), ((9, 8), (3, 2), (2, 1), "valid", 2), ((20,), (4,), (2,), "causal", 1),
    ((5, 6, 5), (2, 3, 1), (1, 2, 1), "same", 2),
):
    windows = windows_of(space, size, strides, padding, (1,) * len(size))
    for dtype in ("float16", "float32"):
        x, y = np.ones((2, *space, 8), dtype), np.ones((2, *windows.grid, 16), dtype)
        for kind, like in ("forward", x), ("input_gradient", y), ("kernel_gradient", x):
            validate(cudnn._convolution(kind, like, 8, 16, groups, windows))
q, k = (np.ones((2, time, 3, 16), "float16").transpose(0, 2, 1, 3) for time in (5, 7))
for is_causal in (False, True):
    validate(cudnn._attention("forward", (q, k, k, q), 0.25, is_causal))
    validate(cudnn._attention("backward", (q, k, k, q, q, q, k, k), 0.25, is_causal))
"""


@functools.cache
def _frontend():
    try:
        return tuple(int(n) for n in importlib.metadata.version("nvidia-cudnn-frontend").split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.mark.skipif(_frontend() is None, reason="nvidia-cudnn-frontend is not installed")
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.skipif(sys.platform != "linux", reason="the library's name is Linux's")
def test_the_real_frontend_takes_our_graphs(tmp_path):
    (tmp_path / "shim.cpp").write_text(_SHIM)
    made = tmp_path / "libcudnn.so.9"
    compile_shim = ["g++", "-shared", "-fPIC", "-Wl,-soname,libcudnn.so.9", "-o", made, tmp_path / "shim.cpp"]
    subprocess.run(compile_shim, check=True)
    root = Path(keras.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", _VALIDATE],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "GPUKERAS_BACKEND": "numpy", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split().count("forward") == 10 and len(run.stdout.split()) == 28
