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
