"""Two ways to a training step of one's own: a loop with GradientTape, and an overridden train_step.

python examples/custom_loop.py
"""

import argparse

import numpy as np

import gpukeras as keras
from gpukeras import layers

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--quick", action="store_true", help="fewer epochs")
epochs = 2 if parser.parse_args().quick else 20

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.uniform(-3, 3, (256, 1)).astype("float32")
y = np.sin(x) + rng.normal(0, 0.1, x.shape).astype("float32")


def build_layers():
    return [layers.Dense(64, activation="tanh"), layers.Dense(1)]


# 1. The loop written out: forward under the tape, gradients, update, metric.
model = keras.Sequential([keras.Input((1,)), *build_layers()])
optimizer = keras.optimizers.Adam(learning_rate=0.01)
loss_function = keras.losses.MeanSquaredError()
mean_loss = keras.metrics.Mean(name="loss")

for epoch in range(epochs):
    mean_loss.reset_state()
    order = rng.permutation(len(x))
    for start in range(0, len(x), 32):
        batch = order[start : start + 32]
        with keras.GradientTape() as tape:
            predictions = model(x[batch], training=True)
            loss = loss_function(y[batch], predictions)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        mean_loss.update_state(loss)
    if epoch % 5 == 0 or epoch == epochs - 1:
        print(f"Loop, epoch {epoch + 1}: loss {float(mean_loss.result()):.4f}")


# 2. A model whose step differs, here by noise on the inputs; fit() does all the rest.
class NoisyModel(keras.Sequential):
    def __init__(self, layers, noise):
        super().__init__(layers)
        self.noise = noise

    def train_step(self, data):
        x, y = data
        x = x + keras.random.normal(x.shape, stddev=self.noise)
        with keras.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}


noisy = NoisyModel(build_layers(), noise=0.1)
noisy.compile(optimizer=keras.optimizers.Adam(learning_rate=0.01), loss="mse", metrics=["mae"])
history = noisy.fit(x, y, epochs=epochs, verbose=0).history
print(f"train_step, epoch {epochs}: " + ", ".join(f"{k} {v[-1]:.4f}" for k, v in history.items()))

probe = np.array([[-1.5], [0.0], [1.5]], "float32")
print("sin:       ", np.sin(probe).ravel().round(2))
print("the loop:  ", model.predict(probe, verbose=0).ravel().round(2))
print("train_step:", noisy.predict(probe, verbose=0).ravel().round(2))
