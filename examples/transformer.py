"""A small causal transformer that writes, character by character, in the style of one text.

    python examples/transformer.py

The text is the Zen of Python, which every Python has. Takes seconds on a CPU.
"""

import argparse
import codecs
import contextlib
import io

import numpy as np

import gpukeras as keras
from gpukeras import layers

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--quick", action="store_true", help="a few steps only")
quick = parser.parse_args().quick
keras.utils.set_random_seed(0)

with contextlib.redirect_stdout(io.StringIO()):
    import this
text = codecs.decode(this.s, "rot13")
alphabet = sorted(set(text))
codes = np.array([alphabet.index(character) for character in text], "int32")

length, width, heads, blocks = 32, 64, 4, 2
# Each sample is a stretch of the text; its targets are the same, one character further.
stretches = np.lib.stride_tricks.sliding_window_view(codes, length + 1)
x, y = stretches[:, :-1], stretches[:, 1:]
if quick:
    x, y = x[:64], y[:64]


class TokenAndPosition(layers.Layer):
    """What a character is, plus where it stands."""

    def __init__(self, length, vocabulary, width, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(vocabulary, width)
        self.positions = layers.Embedding(length, width)

    def call(self, inputs):
        return self.tokens(inputs) + self.positions(keras.ops.arange(inputs.shape[1]))


def transformer_block(x):
    """Attention to what stands before, then a small network; both are added to the main path."""
    normalized = layers.LayerNormalization()(x)
    attention = layers.MultiHeadAttention(num_heads=heads, key_dim=width // heads)
    x = layers.Add()([x, attention(normalized, normalized, use_causal_mask=True)])
    h = layers.LayerNormalization()(x)
    h = layers.Dense(4 * width, activation="gelu")(h)
    h = layers.Dense(width)(h)
    return layers.Add()([x, h])


inputs = keras.Input(shape=(length,), dtype="int32")
hidden = TokenAndPosition(length, len(alphabet), width)(inputs)
for _ in range(blocks):
    hidden = transformer_block(hidden)
hidden = layers.LayerNormalization()(hidden)
outputs = layers.Dense(len(alphabet))(hidden)
model = keras.Model(inputs, outputs)
model.summary()
model.compile(
    optimizer=keras.optimizers.Adam(learning_rate=3e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)


def write(start, count):
    """Continue a text: draw the next character by its probability, again and again."""
    written = start
    for _ in range(count):
        recent = [alphabet.index(character) for character in written[-length:]]
        window = np.zeros((1, length), "int32")  # what stands behind the text is masked
        window[0, : len(recent)] = recent
        logits = model.predict_on_batch(window)[0, len(recent) - 1].astype("float64")
        probabilities = np.exp((logits - logits.max()) / 0.5)  # below 1: rather the likely ones
        written += alphabet[rng.choice(len(alphabet), p=probabilities / probabilities.sum())]
    return written


rng = np.random.default_rng(0)
print("Before training:", repr(write("Now is ", 40)))
history = model.fit(x, y, batch_size=32, epochs=1 if quick else 6)
print("After training: ", write("Now is ", 40 if quick else 200))
