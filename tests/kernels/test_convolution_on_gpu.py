"""What convolutions on a GPU launch beside their columns, on a CUDA made of NumPy with emulated kernels."""

import pytest

import gpukeras as keras
from gpukeras import layers
from gpukeras.backend import cublaslt, cuda, devices
from gpukeras.kernels import convolution
from gpukeras.kernels.windows import windows_of
from gpukeras.training import captures
from tests.emulator.compile import reason_to_skip
from tests.helpers import assert_close

pytest_plugins = ["tests.fake_gpu"]
pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))


@pytest.fixture
def launches(monkeypatch):
    names, launch = [], cuda.Source.launch

    def recording(self, name, *args, **kwargs):
        names.append(name)
        launch(self, name, *args, **kwargs)

    monkeypatch.setattr(cuda.Source, "launch", recording)
    return names


@pytest.mark.parametrize("has_epilogue", [True, False])
@pytest.mark.parametrize("is_rectified", [True, False])
@pytest.mark.parametrize("in_parts", [True, False])
def test_bias_and_rectifier_are_part_of_the_product(
    in_parts, is_rectified, has_epilogue, gpu_with_kernels, launches, rng, monkeypatch
):
    if not has_epilogue:
        cublaslt._library().refused |= {cublaslt.EPILOGUES["bias"], cublaslt.EPILOGUES["relu_bias"]}
    if in_parts:
        monkeypatch.setattr(convolution, "_MOST_COLUMNS", 2 * 36 * 27 * 4)  # of two images
    windows = windows_of((6, 6), (3, 3), (1, 1), "same", (1, 1))
    host = [rng.standard_normal(shape).astype("float32") for shape in ((5, 6, 6, 3), (3, 3, 3, 4), (4,))]
    x, weights, bias = (devices.to_device(a) for a in host)
    y = convolution.convolve(x, weights, windows, bias, is_rectified)
    assert_close(y, convolution.convolve.reference(*host[:2], windows, host[2], is_rectified), "float32", scale=4)
    parts = 3 if in_parts else 1
    assert launches.count("columns") == parts and launches.count("finish") == (0 if has_epilogue else parts)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_gradients_are_written_where_the_optimizer_wants_them(policy, gpu_with_kernels, rng):
    """A step has no copies between the last gradient and the update."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, activation="relu", dtype=policy),
            layers.Conv2DTranspose(2, 2, strides=2, dtype=policy),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    x, y = (devices.to_device(rng.standard_normal(s).astype("float32")) for s in ((8, 6, 6, 2), (8, 1)))
    model.fit(x, y, batch_size=8, epochs=4, verbose=0)
    (graph,) = captures.graphs_of(model)
    labels = [getattr(kernel, "label", None) for kernel in graph.graph.kernels]
    after_loss = labels[labels.index("squared_error") :]
    assert "sgd" in after_loss and "__setitem__" not in after_loss
