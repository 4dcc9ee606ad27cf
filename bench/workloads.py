"""The models that are measured, as Keras programs: each function is handed the `keras` module it builds with.

    >>> import gpukeras as keras
    >>> mlp(keras, tiny=True).model.output_shape
    (None, 10)

`tiny` keeps a model's structure and makes everything about it small, for tests.
"""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["HEAVY", "INFERENCE", "ONE_ROW", "WORKLOADS", "Workload", "arrays_like", "data", "named", "reset"]


class Workload(NamedTuple):
    """A model that is not compiled yet, what to compile it with, and what to train it on."""

    model: Any
    optimizer: Any
    loss: Any
    metrics: list
    x: np.ndarray
    y: np.ndarray
    batch_size: int

    def compile(self):
        """Compile the model; returns it."""
        self.model.compile(optimizer=self.optimizer, loss=self.loss, metrics=self.metrics)
        return self.model


# --- Data ----------------------------------------------------------------------------------------------------


class _Data(NamedTuple):
    batch_size: int
    batches: int  # in an epoch: 0.2 s or more of work on two cores, so that an epoch's start weighs little
    x: Any  # function of (random, rows, tiny)
    y: Any  # the same


def _normal(*shape, tiny_shape=None):
    def make(random, rows, tiny):
        return random.standard_normal((rows, *((tiny_shape or shape) if tiny else shape)), dtype=np.float32)

    return make


def _uniform(*shape, tiny_shape=None):
    def make(random, rows, tiny):
        return random.random((rows, *((tiny_shape or shape) if tiny else shape)), dtype=np.float32)

    return make


def _integers(below, *shape, tiny_below=None, tiny_shape=None):
    def make(random, rows, tiny):
        size = (rows, *((tiny_shape or shape) if tiny else shape))
        return random.integers(0, (tiny_below or below) if tiny else below, size, dtype=np.int32)

    return make


def _labels(random, rows, tiny):
    """0 or 1, as floats in one column."""
    return random.integers(0, 2, (rows, 1)).astype(np.float32)


def _clouds(random, rows, tiny):
    """Two overlapping clouds of points, row by row in turn."""
    points = random.standard_normal((rows, 2), dtype=np.float32)
    points[0::2] += (0, 3)
    points[1::2] += (3, 0)
    return points


def _cloud_numbers(random, rows, tiny):
    return (np.arange(rows) % 2).astype(np.float32)[:, None]


_DATA = {
    "linear": _Data(128, 128, _clouds, _cloud_numbers),
    "mlp": _Data(128, 64, _normal(784, tiny_shape=(12,)), _integers(10)),
    "convnet": _Data(64, 16, _normal(28, 28, 1), _integers(10)),
    "residual": _Data(32, 6, _normal(32, 32, 3, tiny_shape=(8, 8, 3)), _integers(10)),
    "lstm": _Data(64, 6, _integers(10_000, 100, tiny_below=50, tiny_shape=(6,)), _labels),
    "gru": _Data(256, 4, _normal(120, 14, tiny_shape=(6, 3)), _normal(1)),
    "transformer": _Data(
        32,
        4,
        _integers(256, 128, tiny_below=20, tiny_shape=(8,)),
        _integers(256, 128, tiny_below=20, tiny_shape=(8,)),
    ),
    "tabular": _Data(256, 128, _normal(32), _labels),
    "autoencoder": _Data(64, 8, _uniform(28, 28, 1, tiny_shape=(8, 8, 1)), _uniform(28, 28, 1, tiny_shape=(8, 8, 1))),
}


def data(name, tiny=False):
    """``(x, y, batch_size)`` of a workload, the same in every process."""
    batch_size, batches, x, y = _DATA[name]
    if tiny:
        batch_size, batches = 4, 2
    random = np.random.default_rng(20)
    rows = batch_size * batches
    return x(random, rows, tiny), y(random, rows, tiny), batch_size


def arrays_like(shapes):
    """Weights to start from, the same in every process: one array for each shape, None for a vector.

    Vectors (biases, scales, moving statistics) keep what their initializers gave, which draws nothing.
    """
    random = np.random.default_rng(21)
    return [
        None
        if len(shape) < 2
        else random.standard_normal(shape, dtype=np.float32) * np.float32(np.prod(shape[:-1]) ** -0.5)
        for shape in shapes
    ]


# --- Models --------------------------------------------------------------------------------------------------

_CLASSES = "sparse_categorical_crossentropy"


def linear(keras, tiny=False):
    """Two numbers in, one out, stochastic gradient descent: a first chapter's model, nothing but overhead."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    return Workload(model, "sgd", "mean_squared_error", ["accuracy"], *data("linear", tiny))


def mlp(keras, tiny=False):
    """Fully connected 784-512-512-10, Adam."""
    layers, units = keras.layers, 16 if tiny else 512
    model = keras.Sequential(
        [
            keras.Input((12 if tiny else 784,)),
            layers.Dense(units, activation="relu"),
            layers.Dense(units, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return Workload(model, "adam", _CLASSES, ["accuracy"], *data("mlp", tiny))


def convnet(keras, tiny=False):
    """The usual convolutional network for 28x28 digits, 32-64-128 filters, RMSprop."""
    layers, filters = keras.layers, 2 if tiny else 32
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(2 * filters, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(4 * filters, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return Workload(model, "rmsprop", _CLASSES, ["accuracy"], *data("convnet", tiny))


def residual(keras, tiny=False):
    """Residual network with batch normalization on 32x32 colour images, 32-64-128 filters, Adam."""
    layers, filters = keras.layers, 4 if tiny else 32

    def convolve(x, filters, size, strides=1):
        return layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)

    def normalize(x):
        return layers.BatchNormalization()(x)

    def block(x, filters, strides):
        shortcut = x if strides == 1 else normalize(convolve(x, filters, 1, strides))
        x = layers.ReLU()(normalize(convolve(x, filters, 3, strides)))
        x = normalize(convolve(x, filters, 3))
        return layers.ReLU()(layers.Add()([x, shortcut]))

    inputs = keras.Input((8, 8, 3) if tiny else (32, 32, 3))
    x = layers.ReLU()(normalize(convolve(inputs, filters, 3)))
    x = block(x, filters, 1)
    x = block(x, 2 * filters, 2)
    x = block(x, 4 * filters, 2)
    outputs = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    return Workload(model, "adam", _CLASSES, ["accuracy"], *data("residual", tiny))


def lstm(keras, tiny=False):
    """Embedding 10000 x 128 and an LSTM of 128 units over 100 tokens, Adam."""
    layers, units = keras.layers, 8 if tiny else 128
    model = keras.Sequential(
        [
            keras.Input((6 if tiny else 100,), dtype="int32"),
            layers.Embedding(50 if tiny else 10_000, units),
            layers.LSTM(units),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    return Workload(model, "adam", "binary_crossentropy", ["accuracy"], *data("lstm", tiny))


def gru(keras, tiny=False):
    """Bidirectional GRU of 32 units over a time series of 120 x 14, a regression, RMSprop."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 3) if tiny else (120, 14)),
            layers.Bidirectional(layers.GRU(4 if tiny else 32)),
            layers.Dense(1),
        ]
    )
    return Workload(model, "rmsprop", "mse", ["mae"], *data("gru", tiny))


def transformer(keras, tiny=False):
    """Two causal blocks of width 128 with 4 heads over 128 tokens, crossentropy from logits, Adam."""
    layers = keras.layers
    width, heads, tokens, words = (8, 2, 8, 20) if tiny else (128, 4, 128, 256)
    inputs = keras.Input((tokens,), dtype="int32")
    x = layers.Embedding(words, width)(inputs)
    for _ in range(2):
        h = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(h, h, use_causal_mask=True)])
        h = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(h))])
    model = keras.Model(inputs, layers.Dense(words)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Workload(model, "adam", loss, ["accuracy"], *data("transformer", tiny))


def tabular(keras, tiny=False):
    """Fully connected 32-64-64-1, Adam: many small steps."""
    layers, units = keras.layers, 8 if tiny else 64
    model = keras.Sequential(
        [
            keras.Input((32,)),
            layers.Dense(units, activation="relu"),
            layers.Dense(units, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    return Workload(model, "adam", "binary_crossentropy", ["accuracy"], *data("tabular", tiny))


def autoencoder(keras, tiny=False):
    """Convolutional autoencoder of 28x28 images by strides and transposed convolutions, Adam."""
    layers, filters = keras.layers, 2 if tiny else 32
    same = {"padding": "same", "activation": "relu"}
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1) if tiny else (28, 28, 1)),
            layers.Conv2D(filters, 3, strides=2, **same),
            layers.Conv2D(2 * filters, 3, strides=2, **same),
            layers.Conv2DTranspose(2 * filters, 3, strides=2, **same),
            layers.Conv2DTranspose(filters, 3, strides=2, **same),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ]
    )
    return Workload(model, "adam", "binary_crossentropy", ["mae"], *data("autoencoder", tiny))


WORKLOADS = {
    function.__name__: function
    for function in (linear, mlp, convnet, residual, lstm, gru, transformer, tabular, autoencoder)
}
HEAVY = ("mlp", "convnet", "residual", "lstm", "gru", "transformer")  # also written by hand in raw_torch.py
INFERENCE = ("mlp", "convnet")  # predict of 256 rows
ONE_ROW = ("mlp", "tabular")  # predict of one row, and a call of the model on one


def named(names, parser):
    """Names of workloads as the command line has them, all if there are none; an unknown one ends the program."""
    for name in names:
        if name not in WORKLOADS:
            parser.error(f"{name!r} is none of {', '.join(WORKLOADS)}")
    return list(names) or list(WORKLOADS)


def reset(model):
    """Set the weights to those that every engine starts from; vectors stay as they are."""
    weights = model.get_weights()
    drawn = arrays_like([array.shape for array in weights])
    model.set_weights([old if new is None else new for old, new in zip(weights, drawn, strict=True)])
