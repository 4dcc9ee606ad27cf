"""Every layer's derivative, by inputs and by weights, against central differences in float64."""

import numpy as np
import pytest

from gpukeras import layers
from gpukeras.autograd.symbolic import flatten
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor

STEP = 6e-6
RANDOM = np.random.default_rng(5)
VECTOR = RANDOM.normal(size=(3, 6))
SERIES = RANDOM.normal(size=(3, 5, 4))
IMAGE = RANDOM.normal(size=(2, 5, 5, 2))
TOKENS = RANDOM.integers(0, 7, (3, 5)).astype("int32")


def one(name, **settings):
    return lambda: getattr(layers, name)(dtype="float64", **settings)


class SelfAttention(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 3, dtype=self.dtype_policy)

    def call(self, x):
        return self.attention(x, x, use_causal_mask=True)


CASES = {
    "Dense": (VECTOR, one("Dense", units=3, activation="tanh")),
    "Activation": (VECTOR, one("Activation", activation="gelu")),
    "ReLU": (VECTOR, one("ReLU", negative_slope=0.1)),
    "Softmax": (VECTOR, one("Softmax")),
    "Flatten": (SERIES, one("Flatten")),
    "Reshape": (SERIES, one("Reshape", target_shape=(4, 5))),
    "Embedding": (TOKENS, one("Embedding", input_dim=7, output_dim=3)),
    "Conv1D": (SERIES, one("Conv1D", filters=3, kernel_size=2, padding="causal", dilation_rate=2)),
    "Conv2D": (IMAGE, one("Conv2D", filters=3, kernel_size=3, strides=2, padding="same")),
    "Conv2D first": (IMAGE, one("Conv2D", filters=3, kernel_size=3, padding="same", data_format="channels_first")),
    "MaxPooling1D": (SERIES, one("MaxPooling1D")),
    "MaxPooling2D": (IMAGE, one("MaxPooling2D", pool_size=3, strides=2, padding="same")),
    "AveragePooling1D": (SERIES, one("AveragePooling1D", pool_size=2, padding="same")),
    "AveragePooling2D": (IMAGE, one("AveragePooling2D", pool_size=2)),
    "GlobalAveragePooling1D": (SERIES, one("GlobalAveragePooling1D")),
    "GlobalAveragePooling2D": (IMAGE, one("GlobalAveragePooling2D")),
    "GlobalMaxPooling1D": (SERIES, one("GlobalMaxPooling1D")),
    "GlobalMaxPooling2D": (IMAGE, one("GlobalMaxPooling2D")),
    "BatchNormalization": (IMAGE, one("BatchNormalization")),
    "LayerNormalization": (SERIES, one("LayerNormalization")),
    "SimpleRNN": (SERIES, one("SimpleRNN", units=3)),
    "LSTM": (SERIES, one("LSTM", units=3, return_sequences=True)),
    "GRU": (SERIES, one("GRU", units=3)),
    "GRU reset before": (SERIES, one("GRU", units=3, reset_after=False)),
    "Bidirectional": (SERIES, lambda: layers.Bidirectional(layers.LSTM(2, dtype="float64"), dtype="float64")),
    "MultiHeadAttention": (SERIES, lambda: SelfAttention(dtype="float64")),
    "Add": ([VECTOR, VECTOR[::-1].copy()], one("Add")),
    "Multiply": ([VECTOR, VECTOR[::-1].copy()], one("Multiply")),
    "Concatenate": ([VECTOR, VECTOR[::-1].copy()], one("Concatenate")),
    "Lambda": (VECTOR, one("Lambda", function=lambda x: x * x)),
    "Rescaling": (VECTOR, one("Rescaling", scale=0.5, offset=1.0)),
    "Dropout": (VECTOR, one("Dropout", rate=0.5, seed=1)),
}


@pytest.mark.parametrize("name", CASES)
def test_derivative(name, rng):
    inputs, make = CASES[name]
    layer = make()
    is_list = isinstance(inputs, list)
    arrays = [np.array(x) for x in flatten(inputs)]
    layer(inputs, training=True)
    variables = layer.trainable_variables
    for v in variables:
        v.assign(rng.normal(0.1, 0.4, v.shape))
    fixed = [(v, v.numpy()) for v in layer.non_trainable_variables]

    def call(tensors):
        for v, values in fixed:  # statistics and random counters: the same function at every evaluation
            v.assign(values)
        return flatten(layer(tensors if is_list else tensors[0], training=True))

    tensors = [Tensor(a) for a in arrays]
    floats = [t for t in tensors if t.array.dtype.kind == "f"]
    with Tape() as tape:
        for t in floats:
            tape.watch(t)
        outputs = call(tensors)
    seeds = [rng.normal(size=y.shape) for y in outputs]
    gradients = tape.gradients(list(zip(outputs, seeds, strict=True)), [*floats, *variables])

    def value():
        return sum(float((y.numpy() * s).sum()) for y, s in zip(call([Tensor(a) for a in arrays]), seeds, strict=True))

    memories = [a for a in arrays if a.dtype.kind == "f"] + [v.array for v in variables]
    for memory, gradient in zip(memories, gradients, strict=True):
        direction = rng.normal(size=memory.shape)
        start = memory.copy()
        memory[...] = start + STEP * direction
        above = value()
        memory[...] = start - STEP * direction
        below = value()
        memory[...] = start
        slope = (above - below) / (2 * STEP)
        assert np.isclose((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-6)
