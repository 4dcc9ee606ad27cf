"""Ten training steps of every layer, loss and metric, in both libraries: the same History and weights."""

import numpy as np
import pytest

pytest.importorskip("keras")
import gpukeras
from tests.helpers import assert_close
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

RANDOM = np.random.default_rng(3)
VECTOR = RANDOM.normal(size=(20, 6)).astype("float32")
SERIES = RANDOM.normal(size=(20, 5, 4)).astype("float32")
IMAGE = RANDOM.normal(size=(20, 6, 6, 2)).astype("float32")
TOKENS = RANDOM.integers(0, 7, (20, 5)).astype("int32")
TARGET = RANDOM.normal(size=(20, 2)).astype("float32")


def one(name, **settings):
    """A body of one layer."""
    return lambda layers, x: getattr(layers, name)(**settings)(x)


def attention(layers, x):
    h = layers.LayerNormalization()(x)
    return layers.Add()([x, layers.MultiHeadAttention(2, 3)(h, h, use_causal_mask=True)])


def masked(layers, x):
    return layers.GRU(4)(layers.Embedding(7, 3, mask_zero=True)(x))


BODIES = {
    "Dense": (VECTOR, one("Dense", units=5, activation="relu")),
    "Activation": (VECTOR, one("Activation", activation="gelu")),
    "ReLU": (VECTOR, one("ReLU", negative_slope=0.1)),
    "Softmax": (VECTOR, one("Softmax")),
    "Flatten": (SERIES, one("Flatten")),
    "Reshape": (SERIES, one("Reshape", target_shape=(4, 5))),
    "Embedding": (TOKENS, one("Embedding", input_dim=7, output_dim=3)),
    "masked GRU": (TOKENS, masked),
    "Conv1D": (SERIES, one("Conv1D", filters=3, kernel_size=2, padding="causal", activation="relu")),
    "Conv2D": (IMAGE, one("Conv2D", filters=3, kernel_size=3, strides=2, padding="same")),
    "channels_first": (IMAGE, one("Conv2D", filters=3, kernel_size=3, padding="same", data_format="channels_first")),
    "MaxPooling1D": (SERIES, one("MaxPooling1D")),
    "MaxPooling2D": (IMAGE, one("MaxPooling2D", padding="same", pool_size=3)),
    "AveragePooling1D": (SERIES, one("AveragePooling1D", pool_size=2, padding="same")),
    "AveragePooling2D": (IMAGE, one("AveragePooling2D", pool_size=2)),
    "GlobalAveragePooling1D": (SERIES, one("GlobalAveragePooling1D")),
    "GlobalAveragePooling2D": (IMAGE, one("GlobalAveragePooling2D")),
    "GlobalMaxPooling1D": (SERIES, one("GlobalMaxPooling1D")),
    "GlobalMaxPooling2D": (IMAGE, one("GlobalMaxPooling2D")),
    "BatchNormalization": (IMAGE, one("BatchNormalization", momentum=0.8)),
    "LayerNormalization": (SERIES, one("LayerNormalization")),
    "SimpleRNN": (SERIES, one("SimpleRNN", units=4)),
    "LSTM": (SERIES, one("LSTM", units=4, return_sequences=True)),
    "GRU": (SERIES, one("GRU", units=4)),
    "Bidirectional": (SERIES, lambda layers, x: layers.Bidirectional(layers.LSTM(3))(x)),
    "MultiHeadAttention": (SERIES, attention),
    "Add": (VECTOR, lambda layers, x: layers.Add()([layers.Dense(3)(x), layers.Dense(3)(x)])),
    "Multiply": (VECTOR, lambda layers, x: layers.Multiply()([layers.Dense(3)(x), layers.Dense(3)(x)])),
    "Concatenate": (VECTOR, lambda layers, x: layers.Concatenate()([layers.Dense(3)(x), x])),
    "Lambda": (VECTOR, lambda layers, x: layers.Lambda(lambda t: t * 2 + 1)(x)),
    "Rescaling": (VECTOR, one("Rescaling", scale=0.5, offset=1.0)),
}


def train(keras, body, x, y, weights, loss, metrics, units, activation):
    keras.utils.clear_session()
    inputs = keras.Input(x.shape[1:], dtype=str(x.dtype))
    h = body(keras.layers, inputs)
    h = h if len(h.shape) == 2 else keras.layers.Flatten()(h)
    model = keras.Model(inputs, keras.layers.Dense(units, activation=activation)(h))
    if weights is not None:
        model.set_weights(weights)
    start = model.get_weights()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss=loss, metrics=metrics)
    history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)  # two epochs of five steps
    return model, history.history, start


def compare(body, x, y, loss="mse", metrics=("mae",), units=2, activation=None):
    ours, history, start = train(gpukeras, body, x, y, None, loss, list(metrics), units, activation)
    theirs, expected, _ = train(oracle_keras, body, x, y, start, loss, list(metrics), units, activation)
    assert list(history) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-3, atol=1e-4, err_msg=name)  # ten steps of rounding
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        assert a.path == b.path
        assert_close(a, b, scale=200, err_msg=a.path)  # ten steps of rounding


@pytest.mark.parametrize("name", BODIES)
def test_layer(name):
    x, body = BODIES[name]
    compare(body, x, TARGET)


PROBABILITY = (RANDOM.random((20, 1)) > 0.5).astype("float32")
CLASSES = RANDOM.integers(0, 3, 20)
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]


@pytest.mark.parametrize(
    ("loss", "y", "units", "activation", "metrics"),
    [
        ("categorical_crossentropy", ONE_HOT, 3, "softmax", ["categorical_accuracy", "accuracy"]),
        ("sparse_categorical_crossentropy", CLASSES, 3, "softmax", ["sparse_categorical_accuracy"]),
        ("binary_crossentropy", PROBABILITY, 1, "sigmoid", ["binary_accuracy", "auc", "precision", "recall"]),
        ("mean_squared_error", TARGET, 2, None, ["mse", "mae", "cosine_similarity"]),
        ("mean_absolute_error", TARGET, 2, None, ["mse"]),
        ("kl_divergence", ONE_HOT, 3, "softmax", ["kl_divergence", "categorical_crossentropy"]),
        ("cosine_similarity", TARGET, 2, None, ["mse"]),
        ("huber", TARGET, 2, None, ["mae"]),
        ("mean_squared_error", CLASSES[:, None].astype("float32"), 1, None, ["accuracy", "mean_absolute_error"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_loss_and_metrics(loss, y, units, activation, metrics):
    compare(one("Dense", units=5, activation="tanh"), VECTOR, y, loss, metrics, units, activation)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("CategoricalCrossentropy", {"from_logits": True, "label_smoothing": 0.1}),
        ("CategoricalCrossentropy", {"reduction": "sum"}),
        ("MeanSquaredError", {"reduction": "mean_with_sample_weight"}),
        ("Huber", {"delta": 0.5}),
    ],
)
def test_loss_options(name, settings):
    losses = {keras: getattr(keras.losses, name)(**settings) for keras in (gpukeras, oracle_keras)}
    body = one("Dense", units=5, activation="tanh")
    ours, history, start = train(gpukeras, body, VECTOR, ONE_HOT, None, losses[gpukeras], ["mae"], 3, None)
    theirs, expected, _ = train(oracle_keras, body, VECTOR, ONE_HOT, start, losses[oracle_keras], ["mae"], 3, None)
    for key, values in expected.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-3, atol=1e-4, err_msg=key)
