import functools
import subprocess
import sys
import types

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import ops
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.backend import devices


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
        ({"driverGetVersion": lambda: fail(RuntimeError())}, "no CUDA device; python -m gpukeras.doctor shows why"),
    ],
)
def test_why_there_is_no_gpu(changes, text, monkeypatch):
    monkeypatch.setattr(devices, "_import_cupy", lambda: cupy_that(**changes))
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name)
    usable, reason = devices.probe()
    assert not usable and text in reason and "\n" not in reason


class OutOfMemoryError(MemoryError):
    pass


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (RuntimeError("Failed to find CUDA headers.\nLong story"), "CUDA's headers are missing: pip install"),
        (RuntimeError("nvrtc: cannot open source file cuda_fp16.h"), "pip install 'gpukeras[cuda12]'"),
        (OutOfMemoryError("Out of memory allocating 512 bytes"), "no memory left: nvidia-smi lists the processes"),
        (RuntimeError("cudaErrorMemoryAllocation: out of memory"), "no memory left: nvidia-smi"),
        (RuntimeError("another"), "another)"),
    ],
)
def test_why_a_gpu_cannot_compute(error, cure):
    cupy = types.SimpleNamespace(arange=lambda *arguments, **settings: fail(error))
    reason = devices._try_gpu(cupy)
    assert reason.startswith("CuPy cannot run a kernel (") and cure in reason and "\n" not in reason


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
        with pytest.raises(TypeError, match=r"x has dtype \w+, which no GPU computes with. Convert it: x.astype"):
            self.model().fit(x, np.ones((4, 1)), verbose=0)
        with pytest.raises(TypeError, match=r"no GPU computes with \w+: convert it first"):
            convert_to_array(x)
        with devices.use_device("numpy"):
            assert convert_to_array(x).dtype == np.longdouble

    @pytest.mark.parametrize("device", ["numpy", "strict"])
    @pytest.mark.parametrize("x", [np.zeros(4, [("a", "f4")]), np.array(["a"] * 4), np.array([None] * 4)])
    def test_what_is_no_number_is_refused(self, x, device):
        with devices.use_device(device):
            with pytest.raises(TypeError, match="x has dtype .*, which is not numeric. Encode it"):
                self.model().fit(x, np.ones((4, 1)), verbose=0)
            with pytest.raises(TypeError, match="dtype .* is not numeric. Convert it first"):
                self.model().train_on_batch(x, np.ones((4, 1)))


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
