"""Ops on a GPU's arrays of 16 bits run kernels of that type, with what there is one of a channel or row in float32."""

import ml_dtypes
import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import cuda, devices
from gpukeras.ops import normalization
from tests.emulator.compile import reason_to_skip
from tests.helpers import assert_close

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

DTYPES = ["float16", "bfloat16"]


@pytest.fixture
def launches(monkeypatch):
    """The launched kernels: name and dtype."""
    found = []
    launch = cuda.Source.launch

    def recording(self, name, like, *args, **kwargs):
        found.append((name, like.dtype.name))
        launch(self, name, like, *args, **kwargs)

    monkeypatch.setattr(cuda.Source, "launch", recording)
    return found


def batch_norm_train(x, scale, offset):
    return normalization.batch_norm_train(x, scale, offset)[0]


def batch_norm(x, scale, offset):
    return normalization.batch_normalization(x, scale * 0.1, scale * scale + 1, -1, offset, scale)


def layer_norm(x, scale, offset):
    return normalization.layer_normalization(x, scale, offset)


def rms_norm(x, scale, offset):
    return normalization.rms_normalization(x, scale)


CASES = {
    "batch_norm_train": (batch_norm_train, ["batch_moments", "batch_scale", "batch_sums", "batch_scale_backward"]),
    "batch_norm": (batch_norm, ["batch_scale", "batch_sums"]),
    "layer_norm": (layer_norm, ["layer_norm", "layer_norm_backward_with_sums"]),
    "rms_norm": (rms_norm, ["layer_norm", "layer_norm_backward_with_sums"]),
    "gelu": (lambda x, scale, offset: ops.gelu(x * scale, approximate=False), ["gelu"]),
    "gelu_by_tanh": (lambda x, scale, offset: ops.gelu(x * scale), ["gelu_by_tanh"]),
    "silu": (lambda x, scale, offset: ops.silu(x * scale), ["silu"]),
}


def results(device, function, arrays, dy):
    """y, and the gradients of all arrays."""
    from tests.emulator import device as emulator

    emulator.install()
    with devices.use_device(device):
        tensors = [Tensor(devices.to_device(a)) for a in arrays]
        with Tape() as tape:
            for tensor in tensors:
                tape.watch(tensor)
            y = function(*tensors)
        gradients = tape.gradients([(y, devices.to_device(dy))], tensors)
        return [devices.to_numpy(a) for a in (y.array, *gradients) if a is not None]


@pytest.mark.parametrize("dtype", DTYPES)
def test_running_averages_of_float32_are_not_rounded(dtype, rng):
    short = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x = (rng.standard_normal((64, 8)) + 100).astype(short)
    mean, variance = x.astype("float32").mean(0) + np.float32(0.01), np.full(8, 1e-3, "float32")

    def call(x):
        return normalization.batch_normalization(x, mean, variance, -1, epsilon=1e-5)

    (found, _), (plain, _) = (results(device, call, (x,), np.zeros_like(x)) for device in ("emulator", "numpy"))
    assert_close(found, plain, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_kernels_of_16_bits(name, dtype, launches, rng):
    function, expected = CASES[name]
    short = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x = (rng.standard_normal((4, 3, 16)) + 2).astype(short)
    vectors = [rng.standard_normal(16).astype(short) for _ in range(2)]
    dy = rng.standard_normal(x.shape).astype(short)
    found = results("emulator", function, (x, *vectors), dy)
    assert {(kernel, dtype) for kernel in expected} <= set(launches)
    assert {of for _, of in launches} <= {dtype, "float32"}
    launches.clear()
    plain = results("numpy", function, (x, *vectors), dy)
    assert not launches and len(found) == len(plain)
    for a, b in zip(found, plain, strict=True):
        assert a.dtype == b.dtype == short
        assert_close(a, b, dtype, scale=4)  # one is rounded where the other is not
