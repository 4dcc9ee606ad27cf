"""What a captured step launches: every node of a graph takes a small model 1.5 to 3 microseconds."""

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers
from gpukeras.backend import devices
from gpukeras.training import captures
from tests.emulator import compile as emulator
from tests.fake_cuda import nodes_of

pytest_plugins = ["tests.fake_gpu"]
pytestmark = pytest.mark.skipif(emulator.reason_to_skip() is not None, reason=str(emulator.reason_to_skip()))

OF_LAYERS = {
    "cublasLtMatmul",
    "finish",
    "gradients_of_few",
    "input_gradient_of_few",
    "linear_of_few",
    "rectifier_gradient",
    "softmax",
    "sum_of_chunks",
    "sum_of_rows",
}


def test_nodes_of_a_perceptron(gpu_with_kernels):
    x = np.random.default_rng(0).normal(size=(512, 20)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(32, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, np.arange(512) % 10, batch_size=128, epochs=1, verbose=0)
    (graph,) = captures.graphs_of(model)
    nodes = nodes_of(graph)
    # Neither of what the layers launch, nor of the copies of gradients that they could have written to their places.
    rest = [name for name in nodes if name not in OF_LAYERS and name != "__setitem__"]
    assert rest == [
        "gather_rows",
        "mean_sparse_crossentropy",
        "matches_of_blocks",
        "sparse_crossentropy_of_softmax_backward",
        "adam",
        "add_all",
    ]
    assert len(nodes) <= 29


def model_of(*metrics, loss="sparse_categorical_crossentropy", optimizer="adam"):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((20,)), layers.Dense(3, activation="softmax")])
    model.compile(optimizer, loss, metrics=list(metrics))
    return model


class Best(keras.metrics.Metric):
    """A metric of the user's that reads, in an update, what it has just added."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.mean = keras.metrics.SparseCategoricalAccuracy()
        self.best = self.add_weight(name="best")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.mean.update_state(y_true, y_pred)
        self.best.assign(keras.ops.maximum(self.best, self.mean.result()))

    def result(self):
        return self.best


@pytest.mark.parametrize("labels", ["int64", "uint8", "float32", "column"])
def test_metrics_that_are_added_together_equal_those_on_numpy(gpu_with_kernels, labels):
    x = np.random.default_rng(0).normal(size=(200, 20)).astype("float32")
    y = np.arange(200) % 3
    y = y[:, None] if labels == "column" else y.astype(labels)

    def results():
        model = model_of("accuracy", "sparse_top_k_categorical_accuracy", Best(name="best"))
        logs = model.fit(x, y, batch_size=64, epochs=3, verbose=0, validation_data=(x, y)).history
        return logs, model.optimizer.iterations.numpy()

    found, steps = results()
    with devices.use_device("numpy"):
        expected, expected_steps = results()
    assert steps == expected_steps == 12 and found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=1e-7)


def test_a_step_that_overflows_is_not_counted(gpu_with_kernels):
    x, y = np.full((64, 20), np.nan, "float32"), np.arange(64) % 3
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model = model_of("accuracy", optimizer=optimizer)
    model.fit(x, y, batch_size=32, epochs=3, verbose=0)
    assert model.optimizer.iterations.numpy() == 0
    model.fit(np.zeros_like(x), y, batch_size=32, epochs=3, verbose=0)
    assert model.optimizer.iterations.numpy() == 6
