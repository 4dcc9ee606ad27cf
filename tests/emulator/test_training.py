"""A whole model trains on the emulator, its kernels run as CUDA C: to the weights that NumPy gives."""

import pytest

import gpukeras as keras
from gpukeras import layers
from gpukeras.backend import cuda, devices
from gpukeras.training import step
from gpukeras.training.data import to_batch
from tests.emulator.compile import reason_to_skip
from tests.helpers import assert_close

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))


@pytest.fixture
def launches(monkeypatch):
    """The names of the launched kernels."""
    names = []
    launch = cuda.Source.launch

    def recording(self, name, *args, **kwargs):
        names.append(name)
        launch(self, name, *args, **kwargs)

    monkeypatch.setattr(cuda.Source, "launch", recording)
    return names


def trained(device, body, x, y, loss, optimizer, steps=3):
    """The weights after some steps that read nothing back to the host."""
    from tests.emulator import device as emulator

    emulator.install()
    keras.utils.set_random_seed(1)
    with devices.use_device(device):
        made = body()
        model = keras.Sequential(made) if isinstance(made, list) else made
        model.compile(optimizer(), loss)
        batch = to_batch((x, y))
        step.train(model, *batch)
        with emulator.forbid_host_reads():
            for _ in range(steps):
                step.train(model, *batch)
        return [devices.to_numpy(v.array) for v in model.variables + model.optimizer.variables]


def compare(body, x, y, loss, optimizer, launches, expected_launches):
    expected = trained("numpy", body, x, y, loss, optimizer)
    assert not launches
    actual = trained("emulator", body, x, y, loss, optimizer)
    assert set(expected_launches) <= set(launches)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, scale=20)  # four steps: rounding differs from the second one on


def test_a_classifier(launches, rng):
    x, y = rng.standard_normal((50, 6)).astype("float32"), rng.integers(0, 3, 50)

    def body():
        return [
            keras.Input((6,)),
            layers.Dense(40, activation="relu"),
            layers.Dense(16, use_bias=False),  # a bias before the next layer has a gradient of nothing but rounding
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(8, activation="gelu"),
            layers.LayerNormalization(),
            layers.Dense(3, activation="softmax"),
        ]

    def optimizer():
        return keras.optimizers.Adam(0.01, global_clipnorm=1.0)

    compare(
        body, x, y, "sparse_categorical_crossentropy", optimizer, launches,
        ["adam", "batch_moments", "batch_scale_backward", "dropout", "finish", "gelu", "gradients_of_few",
         "input_gradient_of_few", "layer_norm", "layer_norm_backward_with_sums", "linear_of_few", "rectifier_gradient",
         "mean_sparse_crossentropy", "sparse_crossentropy_of_softmax_backward",
         "squares_of_blocks"],
    )  # fmt: skip


def test_a_regression(launches, rng):
    x, y = rng.standard_normal((40, 5)).astype("float32"), rng.standard_normal((40, 1)).astype("float32")

    def body():
        return [keras.Input((5,)), layers.Dense(12, activation="silu"), layers.Dense(1)]

    compare(
        body, x, y, "mse", lambda: keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=1.0), launches,
        ["sgd_momentum", "silu", "squared_error", "scale_by_norm"],
    )  # fmt: skip


def test_a_convolutional_network(launches, rng):
    x, y = rng.standard_normal((12, 9, 8, 3)).astype("float32"), rng.integers(0, 3, 12)

    def body():
        return [
            keras.Input((9, 8, 3)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.DepthwiseConv2D(3, strides=2, padding="same"),
            layers.AveragePooling2D(2, padding="same"),
            layers.Flatten(),
            layers.Dense(3),
        ]

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compare(
        body, x, y, loss, lambda: keras.optimizers.SGD(0.05), launches,
        ["columns", "max_pool", "max_pool_gradient_disjoint", "depthwise", "depthwise_input_gradient",
         "depthwise_kernel_gradient", "average_pool", "average_pool_gradient_disjoint",
         "finish", "rectifier_gradient",
         "sparse_crossentropy_of_logits", "sparse_crossentropy_of_logits_backward", "sgd"],
    )  # fmt: skip


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "SimpleRNN"])
def test_a_recurrent_network(layer, launches, rng):
    x, y = rng.standard_normal((6, 5, 4)).astype("float32"), rng.standard_normal((6, 1)).astype("float32")
    x[1, 3:] = 0.0

    def body():
        return [
            keras.Input((5, 4)),
            layers.Masking(),
            getattr(layers, layer)(7, return_sequences=True, recurrent_dropout=0.2),
            getattr(layers, layer)(5),
            layers.Dense(1),
        ]

    step = {"LSTM": "lstm_step", "GRU": "gru_after_step", "SimpleRNN": "simple_rnn_step"}[layer]
    expected = [step, f"{step}_back", "last_gradient"]
    compare(body, x, y, "mse", lambda: keras.optimizers.SGD(0.05), launches, expected)


def test_a_transformer(launches, rng):
    x, y = rng.integers(0, 11, (6, 7)), rng.integers(0, 3, 6)

    def body():
        inputs = keras.Input((7,), dtype="int32")
        z = layers.Embedding(11, 8)(inputs)
        z = layers.LayerNormalization()(z + layers.MultiHeadAttention(2, 4)(z, z, use_causal_mask=True))
        z = z + layers.Dense(8)(layers.Dense(12, activation="gelu")(z))
        return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(z)))

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = [
        "add_runs",
        "attention_weights",
        "scores_gradient",
        "layer_norm",
        "layer_norm_backward_with_sums",
        "gelu",
        "sgd",
    ]
    compare(body, x, y, loss, lambda: keras.optimizers.SGD(0.05), launches, expected)
