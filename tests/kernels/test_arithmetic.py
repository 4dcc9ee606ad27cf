"""Sums and products of two arrays alike: who computes them with CUDA C, and to the last bit."""

import ml_dtypes
import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.kernels import arithmetic
from tests.emulator.compile import reason_to_skip
from tests.kernels.test_all_kernels import recorded

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))


@pytest.fixture
def on_gpu():
    from tests.emulator import device

    device.install()
    with devices.use_device("emulator"):
        yield device.EmulatorArray


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("size", [1, 8, 4099])
def test_results_are_rounded_once(on_gpu, rng, dtype, size):
    a, b = (rng.standard_normal(size).astype(dtype) for _ in range(2))
    wide = a.astype("float32"), b.astype("float32")
    for kernel, expected in (
        (arithmetic.add, wide[0] + wide[1]),
        (arithmetic.subtract, wide[0] - wide[1]),
        (arithmetic.multiply, wide[0] * wide[1]),
        (arithmetic.add_to, wide[0] + wide[1]),
    ):
        found = kernel(on_gpu(a.copy()), on_gpu(b))
        assert devices.to_numpy(found).tobytes() == expected.astype(dtype).tobytes()


def test_ops_and_sums_of_gradients_use_them(on_gpu, rng):
    x, y = (Tensor(on_gpu(rng.standard_normal((3, 5)).astype("float32"))) for _ in range(2))
    launches = []
    with recorded(launches):
        with Tape() as tape:
            tape.watch(x)
            z = ops.subtract(ops.multiply(ops.add(x, y), x), x)
        assert launches == ["add", "multiply", "subtract"]
        (dx,) = tape.gradients([(z, on_gpu(np.ones((3, 5), "float32")))], [x])
    assert launches[3:] == ["multiply", "multiply", "add", "add"]
    np.testing.assert_allclose(devices.to_numpy(dx), 2 * x.numpy() + y.numpy() - 1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("other", [np.ones(5, "float32"), np.ones((3, 5), "int32"), np.float32(1.0), 1.0])
def test_others_are_left_to_operators(on_gpu, other):
    x, launches = on_gpu(np.ones((3, 5), "float32")), []
    with recorded(launches):
        y = ops.add(Tensor(x), other if isinstance(other, float) else Tensor(on_gpu(np.asarray(other))))
    assert launches == ([] if np.ndim(other) < 2 else ["add"])  # int32 is cast before
    assert (y.numpy() == 2.0).all()
