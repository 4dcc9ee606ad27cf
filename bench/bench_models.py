"""A training step and a prediction of five models, by pytest-benchmark.

    python -m pytest bench/bench_models.py

The device is the library's choice: set GPUKERAS_BACKEND to decide. Add --benchmark-json=FILE to keep the figures.
"""

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers, ops

RANDOM = np.random.default_rng(0)


def linear():
    """The seed chapter's model."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    return model, "sgd", "mse", RANDOM.normal(size=(128, 2)), RANDOM.normal(size=(128, 1))


def mlp():
    """784-512-512-10."""
    model = keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(512, activation="relu"),
            layers.Dense(512, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return model, "adam", SPARSE, RANDOM.normal(size=(128, 784)), RANDOM.integers(0, 10, 128)


def convnet():
    """The MNIST example of the Keras pages."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(128, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return model, "rmsprop", SPARSE, RANDOM.normal(size=(64, 28, 28, 1)), RANDOM.integers(0, 10, 64)


def lstm():
    """Embedding 10000 x 128 and an LSTM of 128 units over 100 steps."""
    model = keras.Sequential(
        [
            keras.Input((100,), dtype="int32"),
            layers.Embedding(10_000, 128),
            layers.LSTM(128),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    return model, "adam", "binary_crossentropy", RANDOM.integers(0, 10_000, (64, 100)), RANDOM.integers(0, 2, (64, 1))


def transformer():
    """Two causal blocks of width 128 with 4 heads over 128 tokens."""
    tokens = keras.Input((128,), dtype="int32")
    x = layers.Embedding(256, 128)(tokens)
    for _ in range(2):
        h = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 32)(h, h, use_causal_mask=True)
        h = layers.LayerNormalization()(x)
        x = x + layers.Dense(128)(layers.Dense(512, activation="gelu")(h))
    model = keras.Model(tokens, layers.Dense(256, activation="softmax")(x))
    return model, "adam", SPARSE, RANDOM.integers(0, 256, (32, 128)), RANDOM.integers(0, 256, (32, 128))


SPARSE = "sparse_categorical_crossentropy"
MODELS = [linear, mlp, convnet, lstm, transformer]


@pytest.fixture(params=MODELS, ids=lambda make: make.__name__)
def workload(request):
    """A compiled model after one step, with a batch."""
    model, optimizer, loss, x, y = request.param()
    model.compile(optimizer, loss, metrics=["accuracy"])
    x = ops.convert_to_tensor(x.astype("float32" if x.dtype.kind == "f" else "int32"))
    y = ops.convert_to_tensor(y.astype("float32" if y.dtype.kind == "f" else "int32"))
    model.train_on_batch(x, y)
    return model, x, y


def test_training_step(benchmark, workload):
    """Forward, backward, update and metrics of one batch, through train_on_batch."""
    model, x, y = workload
    benchmark(model.train_on_batch, x, y)


def test_prediction(benchmark, workload):
    """The outputs for one batch, through predict_on_batch."""
    model, x, _ = workload
    benchmark(model.predict_on_batch, x)
