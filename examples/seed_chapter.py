"""A first walk through the API: layers, models, compile, fit, evaluate, predict.

Follows a chapter written for tf.keras cell by cell. ``tf.matmul``, ``tf.nn.relu`` and ``tf.ones``
are ``keras.ops.matmul``, ``keras.ops.relu`` and ``keras.ops.ones``; the rest is the chapter's.
It takes a second or two; ``--quick`` changes nothing.
"""

import numpy as np

import gpukeras as keras
from gpukeras import layers, models

keras.utils.set_random_seed(9)


# A layer of one's own: build() makes the weights, call() computes.
class SimpleDense(keras.layers.Layer):
    def __init__(self, units, activation=None):
        super().__init__()
        self.units = units
        self.activation = activation

    def build(self, input_shape):
        input_dim = input_shape[-1]
        self.W = self.add_weight(shape=(input_dim, self.units), initializer="random_normal")
        self.b = self.add_weight(shape=(self.units,), initializer="zeros")

    def call(self, inputs):
        y = keras.ops.matmul(inputs, self.W) + self.b
        if self.activation is not None:
            y = self.activation(y)
        return y


# A layer is called like a function; the first call builds it.
my_dense = SimpleDense(units=32, activation=keras.ops.relu)
output_tensor = my_dense(keras.ops.ones(shape=(2, 784)))
print(output_tensor)
assert output_tensor.shape == (2, 32) and output_tensor.dtype == "float32"

# Layers find the sizes of their inputs by themselves, so they stack without being told.
model = models.Sequential([layers.Dense(32, activation="relu"), layers.Dense(32)])
assert model(np.ones((4, 8), "float32")).shape == (4, 32)
# Made, but not called, as in the chapter: SimpleDense calls its activation, and text has no call.
sizes = {32: "relu", 64: "relu", 10: "softmax"}
model = keras.Sequential([SimpleDense(units, activation=name) for units, name in sizes.items()])

# compile() takes names, or objects. Both mean the same; objects have settings.
model = keras.Sequential([keras.layers.Dense(1)])
model.compile(optimizer="rmsprop", loss="mean_squared_error", metrics=["accuracy"])
model.compile(
    optimizer=keras.optimizers.RMSprop(),
    loss=keras.losses.MeanSquaredError(),
    metrics=[keras.metrics.BinaryAccuracy()],
)
families = {
    keras.optimizers: "SGD Adagrad RMSprop Adam AdamW Adadelta Adamax Nadam Ftrl Lion",
    keras.losses: "CategoricalCrossentropy SparseCategoricalCrossentropy BinaryCrossentropy "
    "MeanSquaredError KLDivergence CosineSimilarity MeanAbsoluteError Huber Hinge Poisson",
    keras.metrics: "CategoricalAccuracy SparseCategoricalAccuracy BinaryAccuracy AUC Precision "
    "Recall Accuracy Mean MeanSquaredError TopKCategoricalAccuracy",
}
for family, names in families.items():
    assert all(getattr(family, name)().name for name in names.split())

# fit() on two clouds of points.
mean, cov, size = [0, 3], [[1, 0.5], [0.5, 1]], 1000
negative_samples = np.random.multivariate_normal(mean=mean, cov=cov, size=size)
positive_samples = np.random.multivariate_normal(mean=mean[::-1], cov=cov, size=size)
inputs = np.vstack((negative_samples, positive_samples)).astype(np.float32)
targets = np.vstack((np.zeros((size, 1), "float32"), np.ones((size, 1), "float32")))
model = keras.Sequential([keras.layers.Dense(1)])
model.compile(optimizer="sgd", loss="mean_squared_error", metrics=["accuracy"])
history = model.fit(inputs, targets, epochs=5, batch_size=128).history
print(history)
assert len(history["loss"]) == 5 and history["loss"][-1] < 0.05 and history["accuracy"][-1] > 0.95

# Validation: samples that training does not see.
model = keras.Sequential([keras.layers.Dense(1)])
model.compile(
    optimizer=keras.optimizers.RMSprop(learning_rate=0.1),
    loss=keras.losses.MeanSquaredError(),
    metrics=[keras.metrics.BinaryAccuracy()],
)
order = np.random.permutation(len(inputs))
val, train = np.split(order, [int(0.3 * len(inputs))])
val_data = inputs[val], targets[val]
history = model.fit(inputs[train], targets[train], 16, epochs=5, validation_data=val_data).history
assert {"val_loss", "val_binary_accuracy"} < set(history)

# evaluate() gives the loss and the metrics; predict() works batch by batch, a call all at once.
loss_and_metrics = model.evaluate(*val_data, batch_size=128)
print(loss_and_metrics)
assert loss_and_metrics[0] < 0.05 and loss_and_metrics[1] > 0.95
predictions = model.predict(val_data[0], batch_size=128)
assert np.allclose(predictions, model(val_data[0]), atol=1e-5)
