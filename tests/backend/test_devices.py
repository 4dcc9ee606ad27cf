import functools
import subprocess
import sys
import types

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import ops
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.backend import cuda, devices
from tests import fake_machine


def run(code, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


FAKE_CUPY = """
import importlib.machinery, sys, types
cupy = types.ModuleType("cupy")
cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
cupy.cuda = types.SimpleNamespace(is_available=lambda: False)
cupy.ndarray = type("ndarray", (), {})
sys.modules["cupy"] = cupy
"""
USE = "import gpukeras as keras, numpy as np; print(keras.ops.ones(2).numpy(), keras.config.backend())"


def test_numpy_is_used_silently_without_cupy():
    result = run(USE, GPUKERAS_BACKEND="numpy")
    assert result.stdout.split()[-1] == "numpy" and result.stderr == ""


def test_cupy_without_a_gpu_says_why_in_one_line():
    result = run(FAKE_CUPY + USE, GPUKERAS_BACKEND="auto")
    assert result.stdout.split()[-1] == "numpy"
    lines = [line for line in result.stderr.splitlines() if "gpukeras computes with NumPy" in line]
    assert len(lines) == 1 and "no CUDA device" in lines[0]


def test_cupy_by_name_without_a_gpu_raises_with_the_cure():
    for start in ("", FAKE_CUPY):
        result = run(start + USE, GPUKERAS_BACKEND="cupy")
        assert result.returncode != 0
        assert "RuntimeError: The backend 'cupy' was asked for by name" in result.stderr
        assert "GPUKERAS_BACKEND=numpy" in result.stderr
    assert "pip install" in run(USE, GPUKERAS_BACKEND="cupy").stderr


def test_unknown_backend():
    result = run(USE, GPUKERAS_BACKEND="jax")
    assert "Unknown backend 'jax'" in result.stderr and "'numpy'" in result.stderr


def test_arrays_of_either_kind_are_accepted(device):
    host = np.float32([[1.0, 2.0]])
    on_device = devices.to_device(host)
    layer = keras.layers.Dense(2)
    np.testing.assert_array_equal(layer(host), layer(on_device))
    mixed = ops.add(host, on_device)
    np.testing.assert_array_equal(mixed, host * 2)
    assert devices.is_array(mixed.array) and type(mixed.array) is type(on_device)
    model = keras.Sequential([layer])
    model.compile("sgd", "mse")
    model.fit(on_device, host, verbose=0)
    result = model.predict(on_device, verbose=0)
    assert type(result) is type(on_device)
    assert type(model.predict(host, verbose=0)) is np.ndarray


def test_results_cross_by_numpy_and_dlpack():
    x = ops.convert_to_tensor([[1.0, 2.0]])
    view = np.asarray(x)
    assert view.dtype == np.float32 and not view.flags.writeable
    np.testing.assert_array_equal(np.from_dlpack(x), view)
    assert not hasattr(x, "__cuda_array_interface__")
    copy = x.numpy()
    copy[...] = 0
    assert x.numpy().sum() == 3


def test_foreign_arrays_come_in():
    class OnlyArray:
        def __array__(self, dtype=None, copy=None):
            return np.float32([1.0, 2.0])

    class OnlyDLPack:
        array = np.float32([1.0, 2.0])

        def __dlpack__(self, **settings):
            return self.array.__dlpack__(**settings)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    for foreign in (OnlyArray(), OnlyDLPack()):
        np.testing.assert_array_equal(ops.add(foreign, 1.0), [2.0, 3.0])


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1, "int32"), (1.0, "float32"), (True, "bool"), ([1, 2], "int32"), ([1, 2.0], "float32"), (2**40, "int64")],
)
def test_python_values_get_keras_dtypes(value, dtype):
    assert convert_to_array(value).dtype == dtype


@pytest.mark.parametrize("value", ["text", object(), [[1, 2], [3]], types.SimpleNamespace()])
def test_what_is_no_array_is_refused(value):
    with pytest.raises(TypeError, match="Cannot make a Tensor"):
        convert_to_array(value)


def test_tensor_manners():
    x = Tensor(np.float32([[1.0, 2.0], [3.0, 4.0]]))
    assert len(x) == 2 and x.ndim == 2 and x.size == 4 and x.T.shape == (2, 2)
    assert [row.numpy().tolist() for row in x] == [[1.0, 2.0], [3.0, 4.0]]
    assert float(x[0, 1]) == 2.0 and int(x[1, 0]) == 3 and bool(x[0, 0] == 1.0)
    assert f"{x[0, 1]:.2f}" == "2.00"
    assert repr(x) == "Tensor(\n[[1. 2.]\n [3. 4.]], shape=(2, 2), dtype=float32)"
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)
    with pytest.raises(TypeError):
        len(x[0, 0])
    with pytest.raises(TypeError):
        x[0] = 1.0


def test_variables_are_assigned_in_place_with_checks():
    v = keras.Variable(np.zeros(3, "float32"), name="v")
    memory = v.array
    v.assign([1, 2, 3])
    v.assign_add([1, 1, 1])
    v.assign_sub([0, 1, 2])
    np.testing.assert_array_equal(v.numpy(), [2, 2, 2])
    assert v.array is memory and v.dtype == "float32" and v.path == "v"
    with pytest.raises(ValueError, match=r"'v' has shape \(3,\)"):
        v.assign([1.0, 2.0])
    source = np.ones(3, "float32")
    w = keras.Variable(source)
    source[...] = 7
    assert w.numpy().max() == 1
    with pytest.raises(ValueError, match="needs a shape"):
        keras.Variable(lambda shape, dtype: np.zeros(shape, dtype))


def cupy_that(**changes):
    """CuPy as far as it is asked before it computes."""
    runtime = types.SimpleNamespace(driverGetVersion=lambda: 12040, runtimeGetVersion=lambda: 12090)
    cuda = types.SimpleNamespace(is_available=lambda: False, runtime=runtime)
    vars(runtime).update({name: value for name, value in changes.items() if hasattr(runtime, name)})
    vars(cuda).update({name: value for name, value in changes.items() if hasattr(cuda, name)})
    return types.SimpleNamespace(cuda=cuda)


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"driverGetVersion": lambda: 0}, "no NVIDIA driver; install the one for your GPU from nvidia.com/drivers"),
        ({"driverGetVersion": lambda: 11080}, "built for CUDA 12, but the driver ends at 11.8; update the driver"),
        ({"runtimeGetVersion": lambda: 13020}, "ends at 12.4; update the driver, or pip install 'gpukeras[cuda12]'"),
        ({}, "shows no GPU; nvidia-smi -L lists them, CUDA_VISIBLE_DEVICES"),
        ({"driverGetVersion": lambda: fail(RuntimeError())}, "no CUDA device; nvidia-smi -L lists them"),
    ],
)
def test_why_there_is_no_gpu(changes, text, monkeypatch):
    monkeypatch.setattr(devices, "_import_cupy", lambda: cupy_that(**changes))
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name)
    usable, reason = devices.probe()
    assert not usable and text in reason and "\n" not in reason


COMPUTE = "import gpukeras as keras, numpy as np; print(keras.layers.Dense(1)(np.ones((2, 3), 'float32')).shape)"
NO_NVRTC = f"""{FAKE_CUPY}
def arange(*arguments, **settings):
    raise type("DynamicLibNotFoundError", (RuntimeError,), {{}})({fake_machine.NOT_FOUND!r})
cupy.cuda.is_available = lambda: True
cupy.arange, cupy.asnumpy = arange, None
"""


def test_what_a_program_prints_that_falls_back_on_numpy():
    result = run(NO_NVRTC + COMPUTE, GPUKERAS_BACKEND="auto")
    assert result.returncode == 0 and result.stdout == "(2, 1)\n"
    (line,) = [line for line in result.stderr.splitlines() if "Warning" in line]
    assert line.endswith(
        "RuntimeWarning: gpukeras computes with NumPy: NVRTC, which compiles the GPU's kernels, was not found; "
        f"{devices._INSTALL} (python -m gpukeras.doctor shows more)."
    )


def test_what_a_program_prints_that_asks_for_cupy():
    result = run(NO_NVRTC + COMPUTE, GPUKERAS_BACKEND="cupy")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        "RuntimeError: The backend 'cupy' was asked for by name, but NVRTC, which compiles the GPU's kernels, was not "
        f"found; {devices._INSTALL}. Mend that (python -m gpukeras.doctor shows how), or set GPUKERAS_BACKEND=numpy."
    )


TOLD = {name: fault for name, fault in fake_machine.FAULTS.items() if fault.told}


@pytest.mark.parametrize("fault", TOLD.values(), ids=TOLD)
def test_what_is_wrong_is_told_once_and_numpy_computes(fault, monkeypatch, tmp_path):
    fake_machine.install(monkeypatch, tmp_path, **fault.machine)
    monkeypatch.setenv("GPUKERAS_BACKEND", "auto")
    x = np.ones((2, 3), "float32")
    with pytest.warns(RuntimeWarning) as caught:
        assert keras.layers.Dense(1)(x).shape == (2, 1)
        keras.layers.Dense(1)(x)
    assert [str(warning.message) for warning in caught] == [
        f"gpukeras computes with NumPy: {fault.told} (python -m gpukeras.doctor shows more)."
    ]
    assert keras.config.backend() == "numpy"


@pytest.mark.parametrize("fault", TOLD.values(), ids=TOLD)
def test_what_is_wrong_is_an_error_where_cupy_is_asked_for(fault, monkeypatch, tmp_path):
    fake_machine.install(monkeypatch, tmp_path, **fault.machine)
    monkeypatch.setenv("GPUKERAS_BACKEND", "cupy")
    for _ in range(2):  # it is not forgotten that it failed
        with pytest.raises(RuntimeError) as caught:
            keras.layers.Dense(1)(np.ones((2, 3), "float32"))
        assert str(caught.value) == (
            f"The backend 'cupy' was asked for by name, but {fault.told}. Mend that (python -m gpukeras.doctor shows "
            "how), or set GPUKERAS_BACKEND=numpy."
        )


def test_an_array_of_cupy_does_not_prove_that_it_computes(monkeypatch, tmp_path):
    fault = TOLD["no NVRTC"]
    fake_machine.install(monkeypatch, tmp_path, **fault.machine)
    assert devices.is_array(sys.modules["cupy"].ndarray())
    with pytest.raises(RuntimeError, match="NVRTC, which compiles the GPU's kernels, was not found"):
        devices.set_default_device("cupy")


@pytest.mark.parametrize("name", ["some-cuda12x", "cupy-cuda13x"])
def test_the_cure_is_for_the_cupy_that_is_there(name, monkeypatch):
    monkeypatch.setattr(devices, "cupy_distributions", lambda: ((name, "14.2.0"),))
    known = name == "cupy-cuda13x"
    assert devices._install() == ("pip install 'gpukeras[cuda13]'" if known else devices._INSTALL)
    monkeypatch.setattr(devices, "cupy_distributions", tuple)
    assert devices._install() == devices._install_anew() == devices._INSTALL


IMPORT_FAILS = """
================================================================
Failed to import CuPy.

If you installed CuPy via wheels (cupy-cudaXXX), make sure that the package matches with the version of CUDA installed.

Original error:
  ImportError: libcudart.so.12: cannot open shared object file: No such file or directory
================================================================
"""


def test_a_cupy_that_cannot_be_imported(monkeypatch, tmp_path):
    fake_machine.install(monkeypatch, tmp_path)
    monkeypatch.setattr(devices, "_import_cupy", lambda: fail(ImportError(IMPORT_FAILS)))
    assert devices.probe() == (
        False,
        "CuPy cannot be imported (ImportError: libcudart.so.12: cannot open shared object file: No such file or "
        "directory); pip uninstall -y cupy-cuda12x, then pip install 'gpukeras[cuda12]'",
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("cudaErrorMemoryAllocation: out of memory", "the GPU has no memory left (RuntimeError: cuda"),
        ("Products need NVIDIA's cuBLASLt, which was not found.", "cuBLASLt, which multiplies matrices"),
        ('x.cu(1): catastrophic error: cannot open source file "cuda_fp16.h"', "CUDA's headers, which kernels"),
        ("nvrtc: error: failed to open libnvrtc-builtins.so.12.9", "NVRTC, which compiles"),
        ("CuPy failed to load nvrtc64_120_0.dll: FileNotFoundError", "NVRTC, which compiles"),
        ("cudaErrorNoKernelImageForDevice: no kernel image is available for execution", "nothing here makes code"),
        ("cudaErrorUnsupportedPtxVersion: compiled with an unsupported toolchain.", "NVRTC is newer than the driver"),
    ],
)
def test_other_words_for_the_same(error, text, monkeypatch, tmp_path):
    fake_machine.install(monkeypatch, tmp_path)
    told, cure = devices.explain(RuntimeError(error), sys.modules["cupy"])
    assert told.startswith(text) and cure and "\n" not in told + cure
    assert devices.explain(RuntimeError("another"), sys.modules["cupy"]) is None


def test_results_that_are_wrong(monkeypatch, tmp_path):
    fake_machine.install(monkeypatch, tmp_path)
    monkeypatch.setattr(sys.modules["cupy"], "ones", lambda *arguments: np.zeros(*arguments))
    assert devices.probe() == (
        False,
        f"cuBLASLt computed a wrong product on this GPU; {devices.UNKNOWN_CURE}",
    )
    monkeypatch.setattr(sys.modules["cupy"], "arange", lambda *arguments, **settings: np.zeros(8))
    assert devices.probe()[1].startswith("CuPy computed a wrong sum on this GPU; ")


def test_a_kernel_that_does_not_compile_in_the_midst_of_training(monkeypatch, tmp_path):
    fake_machine.install(monkeypatch, tmp_path)

    def functions(error):
        module = types.SimpleNamespace(get_function=lambda name: fail(error))
        monkeypatch.setattr(sys.modules["cupy"], "RawModule", lambda **settings: module, raising=False)
        return cuda._compile_with_cupy("", (), "softmax.cu")

    with pytest.raises(RuntimeError) as caught:
        functions(fake_machine.error("CompileException", fake_machine.LOG, Exception))["softmax"]
    fault = TOLD["headers of another release than NVRTC"]
    expected = f"softmax.cu cannot be compiled: {fault.told} (python -m gpukeras.doctor shows more)."
    assert str(caught.value) == expected
    for error in MemoryError("none left"), KeyError("softmax"):  # these are for others to handle
        with pytest.raises(type(error)):
            functions(error)["softmax"]


def test_two_wheels_of_cupy_are_told_in_one_line(tmp_path):
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text(
        """import types, warnings
warnings.warn("\\n-----\\nCuPy may not function correctly because multiple CuPy packages are installed\\n-----")
warnings.warn("something else")
cuda = types.SimpleNamespace(is_available=lambda: False)
"""
    )
    for name in ("cupy_cuda12x", "cupy_cuda13x"):
        (tmp_path / f"{name}-14.2.0.dist-info").mkdir()
        (tmp_path / f"{name}-14.2.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 14.2.0\n"
        )
    result = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + USE, GPUKERAS_BACKEND="auto")
    told = [line for line in result.stderr.splitlines() if "installed into one folder" in line]
    assert len(told) == 1 and "cupy-cuda12x and cupy-cuda13x are" in told[0]
    assert "pip uninstall -y cupy-cuda12x cupy-cuda13x, then pip install" in told[0]
    assert "may not function" not in result.stderr and "something else" in result.stderr


class TestDtypes:
    @pytest.fixture(autouse=True)
    def strict(self):
        from tests import strict_device

        strict_device.install()
        with devices.use_device("strict"):
            yield

    def model(self):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    @pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is double here")
    def test_what_no_gpu_computes_with_is_refused_with_the_cure(self):
        x = np.ones((4, 3), np.longdouble)
        with pytest.raises(TypeError) as caught:
            self.model().fit(x, np.ones((4, 1)), verbose=0)
        name = np.dtype(np.longdouble).name
        assert str(caught.value) == f"x has dtype {name}, which no GPU computes with. Convert it: x.astype('float32')."
        with pytest.raises(TypeError) as caught:
            self.model().train_on_batch(x, np.ones((4, 1)))
        assert str(caught.value).startswith(
            f"Cannot make a Tensor of ndarray of shape (4, 3): no GPU computes with {name}: convert it first, for "
            "instance with .astype('float64'). "
        )
        assert "\n" not in str(caught.value)
        with devices.use_device("numpy"):
            assert convert_to_array(x).dtype == np.longdouble

    @pytest.mark.parametrize("device", ["numpy", "strict"])
    @pytest.mark.parametrize("x", [np.zeros(4, [("a", "f4")]), np.array(["a"] * 4), np.array([None] * 4)])
    def test_what_is_no_number_is_refused(self, x, device):
        with devices.use_device(device):
            with pytest.raises(TypeError) as caught:
                self.model().fit(x, np.ones((4, 1)), verbose=0)
            assert str(caught.value) == (
                f"x has dtype {x.dtype}, which is not numeric. Encode it as numbers first, for instance with "
                "np.unique(..., return_inverse=True)."
            )
            with pytest.raises(TypeError) as caught:
                self.model().train_on_batch(x, np.ones((4, 1)))
            assert str(caught.value) == (
                f"Cannot make a Tensor of ndarray of shape (4,): its dtype {x.dtype} is not numeric. Convert it first, "
                "for instance with .astype('float32')."
            )

    def test_a_batch_of_both_kinds_trains(self):
        host = np.ones((4, 3), "float32"), np.ones((4, 1), "float32")
        x, y = (devices.to_device(array) for array in host)
        for batch in (host[0], y), (x, host[1]):
            self.model().fit(*batch, verbose=0)
            self.model().train_on_batch(*batch)

    def test_a_batch_of_both_kinds_trains_with_numpy_and_one_line_says_what_it_costs(self):
        y = devices.to_device(np.ones((4, 1), "float32"))
        with devices.use_device("numpy"), pytest.warns(RuntimeWarning) as caught:
            self.model().fit(np.ones((4, 3), "float32"), y, epochs=2, verbose=0)
        assert [str(warning.message) for warning in caught] == [
            "y is on the GPU (StrictArray), but gpukeras computes with NumPy: it is copied to the host. "
            "keras.config.set_backend('cupy') computes where it is."
        ]


def test_a_model_of_another_backend_is_named_with_the_cure():
    from tests import strict_device

    strict_device.install()
    x, y = np.ones((4, 3), "float32"), np.ones((4, 1), "float32")

    def model():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    steps = {
        "fit": lambda model: model.fit(x, y, verbose=0),
        "evaluate": lambda model: model.evaluate(x, y, verbose=0),
        "predict": lambda model: model.predict(x, verbose=0),
        "train_on_batch": lambda model: model.train_on_batch(x, y),
    }
    for name, step in steps.items():
        for home, other in ("numpy", "strict"), ("strict", "numpy"):
            with devices.use_device(home):
                made = model()
            with devices.use_device(other), pytest.raises(ValueError, match=f"built on the backend '{home}'") as caught:
                step(made)
            assert f"set_backend('{home}')" in str(caught.value), name


CALLS = {
    "a model": lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]),
    "a layer": lambda: built(keras.layers.Dense(2), (None, 3)),
    "a lookup": lambda: built(keras.layers.Embedding(4, 2), (None, 3)),
    "an op": lambda: functools.partial(keras.ops.add, keras.Variable(np.ones((2, 3), "float32"))),
}


def built(layer, shape):
    layer.build(shape)
    return layer


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("home", "other"), [("numpy", "strict"), ("strict", "numpy")])
def test_calls_with_what_lies_on_another_backend_say_so(name, home, other):
    from tests import strict_device

    strict_device.install()
    x = np.ones((2, 3), "int32" if name == "a lookup" else "float32")
    with devices.use_device(home):
        call = CALLS[name]()
    with devices.use_device(other), pytest.raises(TypeError, match=rf"^ops\.\w+: the variable .* '{home}'") as caught:
        call(x)
    assert f"keras.config.set_backend('{home}')" in str(caught.value)


@pytest.mark.parametrize(("home", "other"), [("numpy", "strict"), ("strict", "numpy")])
def test_ops_of_lists_say_so_too(home, other):
    from tests import strict_device

    strict_device.install()
    with devices.use_device(home):
        there = keras.ops.ones((2, 3))
    with devices.use_device(other), pytest.raises(TypeError, match=rf"^ops.concatenate: the Tensor .* '{home}'"):
        keras.ops.concatenate([keras.ops.ones((2, 3)), there])
