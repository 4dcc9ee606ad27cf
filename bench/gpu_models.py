"""The models of `bench.gpu`'s steps: the CPU benches' where they serve, and two that need a GPU.

    >>> import gpukeras as keras
    >>> resnet18(keras, "tiny").model.output_shape
    (None, 10)

Each is a function of the `keras` module and a size: "full" is what is timed, "small" what NumPy can be asked about,
"tiny" is for tests.
"""

from typing import NamedTuple

import numpy as np

from bench import workloads
from bench.workloads import Workload

__all__ = ["MODELS", "gpt2", "resnet18", "weights_of"]

_BATCH_SIZES = {"mlp": 128, "convnet": 128, "lstm": 64}


def _of_the_cpu(name):
    """A model of `bench.workloads` with the batch of a GPU."""

    def make(keras, size):
        workload = workloads.WORKLOADS[name](keras, tiny=size == "tiny")
        rows = {"full": _BATCH_SIZES[name], "small": 16, "tiny": 4}[size]
        return workload._replace(x=workload.x[:rows], y=workload.y[:rows], batch_size=rows)

    return make


class ResNetSizes(NamedTuple):
    batch_size: int
    side: int
    filters: int


RESNET_SIZES = {"full": ResNetSizes(256, 32, 64), "small": ResNetSizes(4, 32, 64), "tiny": ResNetSizes(4, 8, 2)}


def resnet18(keras, size):
    """ResNet-18 for 32x32 images (He et al. 2015, with a first convolution of 3x3 and no pooling after it), Adam."""
    layers = keras.layers
    batch_size, side, filters = RESNET_SIZES[size]

    def convolve(x, filters, size, strides=1):
        x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    def block(x, filters, strides):
        shortcut = x if strides == 1 else convolve(x, filters, 1, strides)
        x = layers.ReLU()(convolve(x, filters, 3, strides))
        return layers.ReLU()(layers.Add()([convolve(x, filters, 3), shortcut]))

    inputs = keras.Input((side, side, 3))
    x = layers.ReLU()(convolve(inputs, filters, 3))
    for i in range(4):
        x = block(block(x, filters << i, 1 if i == 0 else 2), filters << i, 1)
    model = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    random = np.random.default_rng(28)
    images = random.standard_normal((batch_size, side, side, 3), np.float32)
    labels = random.integers(0, 10, batch_size, dtype=np.int32)
    return Workload(model, "adam", _class_loss(keras), [], images, labels, batch_size)


class GPTSizes(NamedTuple):
    batch_size: int
    layers: int
    width: int
    heads: int
    tokens: int
    words: int


GPT_SIZES = {
    "full": GPTSizes(4, 12, 768, 12, 1024, 50257),
    "small": GPTSizes(2, 2, 128, 4, 64, 512),
    "tiny": GPTSizes(2, 1, 8, 2, 6, 20),
}


def gpt2(keras, size):
    """GPT-2 small (Radford et al. 2019) without dropout, Adam; the last layer has weights of its own."""
    layers = keras.layers
    batch_size, depth, width, heads, tokens, words = GPT_SIZES[size]
    inputs, positions = keras.Input((tokens,), dtype="int32"), keras.Input((tokens,), dtype="int32")
    x = layers.Add()([layers.Embedding(words, width)(inputs), layers.Embedding(tokens, width)(positions)])
    for _ in range(depth):
        h = layers.LayerNormalization(epsilon=1e-5)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(h, h, use_causal_mask=True)])
        h = layers.LayerNormalization(epsilon=1e-5)(x)
        x = layers.Add()([x, layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(h))])
    outputs = layers.Dense(words, use_bias=False)(layers.LayerNormalization(epsilon=1e-5)(x))
    model = keras.Model([inputs, positions], outputs)
    random = np.random.default_rng(29)
    text = random.integers(0, words, (batch_size, tokens + 1), dtype=np.int32)
    places = np.tile(np.arange(tokens, dtype=np.int32), (batch_size, 1))
    return Workload(
        model, "adam", _class_loss(keras), [], [text[:, :-1].copy(), places], text[:, 1:].copy(), batch_size
    )


def weights_of(model):
    """The trainable weights of layers, a tuple for each, by the layers' class, in the order in which they were made."""
    found = {}
    for layer in sorted(model.layers, key=_number):
        if layer.trainable_variables:
            arrays = tuple(variable.numpy() for variable in layer.trainable_variables)
            found.setdefault(type(layer).__name__, []).append(arrays)
    return found


def _number(layer):
    """How many layers of its class were made before: the end of its name."""
    end = layer.name.rpartition("_")[2]
    return int(end) if end.isdigit() else 0


def _class_loss(keras):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


MODELS = {name: _of_the_cpu(name) for name in _BATCH_SIZES} | {"resnet18": resnet18, "gpt2": gpt2}
