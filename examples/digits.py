"""Train a small convolutional network on handwritten digits, then save it and load it again.

    python examples/digits.py

Takes seconds on a CPU. ``--quick`` trains for a moment only.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import gpukeras as keras
from gpukeras import layers


def picture(image):
    """An 8 x 8 image as text, dark points as dark characters."""
    shades = " .:-=+*#%@"
    rows = (image * 9).round().astype(int)
    return ["".join(2 * shades[shade] for shade in row) for row in rows]


parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--quick", action="store_true", help="one epoch on a part of the data")
quick = parser.parse_args().quick

keras.utils.set_random_seed(1)

# The data: 1,797 images of 8 x 8 pixels, shipped with the package. Pixels go from 0 to 16.
(x_train, y_train), (x_test, y_test) = keras.datasets.digits.load_data()
x_train = x_train[..., np.newaxis].astype("float32") / 16
x_test = x_test[..., np.newaxis].astype("float32") / 16
if quick:
    x_train, y_train = x_train[:256], y_train[:256]

# The model.
model = keras.Sequential(
    [
        keras.Input(shape=(8, 8, 1)),
        layers.Conv2D(32, kernel_size=3, padding="same", activation="relu"),
        layers.MaxPooling2D(pool_size=2),
        layers.Dropout(0.2),
        layers.Conv2D(64, kernel_size=3, padding="same", activation="relu"),
        layers.MaxPooling2D(pool_size=2),
        layers.Dropout(0.3),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dropout(0.4),
        layers.Dense(10, activation="softmax"),
    ]
)
model.summary()

# Training. A tenth of the training images is kept apart to watch the progress.
model.compile(
    optimizer=keras.optimizers.Adam(learning_rate=3e-3),
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
model.fit(x_train, y_train, batch_size=32, epochs=1 if quick else 15, validation_split=0.1)

# How good is it on images that it has never seen?
loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
print(f"\nTest accuracy: {accuracy:.1%} (loss {loss:.3f})")

# A look at some predictions: each row is the probability of the digits 0 to 9.
probabilities = model.predict(x_test[:4], verbose=0)
columns = [picture(image[..., 0]) for image in x_test[:4]]
print("\n" + "\n".join("    ".join(lines) for lines in zip(*columns, strict=True)))
captions = [
    f"{digit} ({row[digit]:.0%}), is {label}"
    for digit, row, label in zip(probabilities.argmax(axis=1), probabilities, y_test, strict=False)
]
print("    ".join(caption.ljust(16) for caption in captions))

# One file holds architecture, weights and the optimizer's state; Keras can read it, too.
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "digits.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    print(f"\nSaved and loaded {path.name} ({path.stat().st_size / 1024:.0f} kB).")
same = np.allclose(loaded.predict(x_test, verbose=0), model.predict(x_test, verbose=0), atol=1e-6)
print("The loaded model gives the same predictions." if same else "The loaded model differs!")
