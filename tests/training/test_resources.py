"""What training and prediction do with threads and memory: several callers, data on disk, memory that runs out."""

import subprocess
import sys
import threading

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers
from gpukeras.backend import memory, threads

X = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype("float32")


def image_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ]
    )


def sequence_model():
    return keras.Sequential(
        [
            keras.Input((8, 24)),
            layers.Masking(),
            layers.LSTM(6, return_sequences=True),
            layers.LayerNormalization(),
            layers.GRU(5),
            layers.Dense(3, activation="gelu"),
        ]
    )


def wide_model():
    """Enough numbers in every kind of layer that its kernels go to threads."""
    image = keras.Input((28, 28, 8))
    y = layers.Conv2D(32, 3, padding="same", activation="relu")(image)
    y = layers.BatchNormalization()(y)
    y = layers.add([y, layers.Conv2DTranspose(32, 3, padding="same")(y)])
    y = layers.MaxPooling2D(2)(layers.ReLU()(y))
    y = layers.Reshape((196, 32))(y)
    y = layers.LayerNormalization()(layers.add([y, layers.MultiHeadAttention(4, 16)(y, y, use_causal_mask=True)]))
    y = layers.Dropout(0.3)(layers.Dense(128, activation="gelu")(y))
    y = layers.GRU(96, return_sequences=True)(y)
    y = layers.LSTM(160)(y)
    y = layers.Dense(1024, activation="relu")(y)
    return keras.Model(image, layers.Dense(512)(y))


def test_training_gives_the_same_bits_for_any_number_of_threads(monkeypatch):
    x = np.random.default_rng(1).normal(size=(64, 28, 28, 8)).astype("float32")
    y = np.random.default_rng(2).integers(0, 512, 64)
    rooms, run = set(), threads.run

    def seen(function, *args, **kwargs):
        rooms.add(function.__module__.rpartition(".")[2])
        run(function, *args, **kwargs)

    monkeypatch.setattr(threads, "run", seen)
    found = []
    for count in (1, 2, 3):
        keras.utils.set_random_seed(5)
        model = wide_model()
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        with threads.use_count(count):
            history = model.fit(x, y, batch_size=32, verbose=0).history
            found.append([history["loss"], model.predict(x, verbose=0), *model.get_weights()])
    assert rooms >= {"columns", "normalization", "attention", "walks", "blocks"}, rooms
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("make", "shape"), [(image_model, (24, 8, 8, 3)), (sequence_model, (24, 8, 24))])
def test_predictions_in_several_threads_equal_those_of_one(make, shape):
    model, x = make(), X.reshape(shape)
    sizes = 1, 3, 24, 7  # one for each thread: other shapes, other batches

    def calls(size):
        return model.predict(x[:size], batch_size=8, verbose=0), model(x[:size]).numpy()

    expected = [calls(size) for size in sizes]
    differences, barrier = [], threading.Barrier(len(sizes))

    def predict(size, wanted):
        barrier.wait()
        for _ in range(20):
            for a, b in zip(calls(size), wanted, strict=True):
                if not np.array_equal(a, b):
                    differences.append(size)

    workers = [threading.Thread(target=predict, args=pair) for pair in zip(sizes, expected, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert differences == []


def test_a_model_is_built_once_by_the_first_of_several_predictions():
    model = keras.Sequential([layers.Dense(4, activation="relu"), layers.Dense(2)])
    found, barrier = [], threading.Barrier(4)

    def predict():
        barrier.wait()
        found.append(model.predict(X.reshape(24, -1), verbose=0))

    workers = [threading.Thread(target=predict) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    assert len(model.weights) == 4
    for outputs in found:
        np.testing.assert_array_equal(outputs, found[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is one of Linux")
def test_a_shuffled_epoch_over_a_file_that_is_larger_than_memory(tmp_path):
    """1 GB of samples in a process that may use 300 MB more than it does after the import."""
    program = f"""
import resource
import numpy as np
import gpukeras as keras

samples, features = 65536, 4096
x = np.memmap({str(tmp_path / "x.bin")!r}, "float32", "w+", shape=(samples, features))
y = np.memmap({str(tmp_path / "y.bin")!r}, "float32", "w+", shape=(samples, 1))
x[::1000, 0] = y[::1000] = 1
x, y = np.memmap(x.filename, "float32", "r", shape=x.shape), np.memmap(y.filename, "float32", "r", shape=y.shape)
model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(x[:1024], y[:1024], batch_size=1024, verbose=0)
used = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmData"))) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + (300 << 20),) * 2)
try:
    np.ones(400 << 20, "uint8")
except MemoryError:
    print("limited")
history = model.fit(x, y, batch_size=1024, shuffle=True, verbose=0)
print(history.history["loss"][0] < 1, model.optimizer.iterations.numpy())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["limited", "True", "65"], done.stderr


class TestOutOfMemory:
    def fitted(self, failing=None):
        keras.utils.set_random_seed(3)
        model = image_model()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        if failing is not None:
            model.layers[-1].activation = failing(model)
        history = model.fit(X, np.arange(24) % 5, batch_size=8, epochs=2, verbose=0)
        return history.history, model.get_weights()

    def failing(self, times):
        """An activation that runs out of memory in its fourth call, and `times - 1` times after it."""

        def make(model):
            calls = []

            def softmax(x):
                calls.append(x)
                if 4 <= len(calls) < 4 + times:
                    raise MemoryError("Unable to allocate")
                return keras.activations.softmax(x)

            return softmax

        return make

    def test_a_step_is_tried_again_with_memory_given_back(self, monkeypatch):
        released = []
        monkeypatch.setattr(memory, "release", lambda: released.append(True))
        expected = self.fitted()
        found = self.fitted(self.failing(1))
        assert released == [True]
        assert found[0] == expected[0]  # the same dropout, the same statistics: nothing of the failed step is left
        for a, b in zip(found[1], expected[1], strict=True):
            np.testing.assert_array_equal(a, b)

    def test_the_second_failure_is_the_users_to_see(self):
        with pytest.raises(MemoryError, match="Unable to allocate"):
            self.fitted(self.failing(2))

    def test_a_step_that_has_begun_to_write_weights_is_not_repeated(self, monkeypatch):
        released = []
        monkeypatch.setattr(memory, "release", lambda: released.append(True))
        monkeypatch.setattr(keras.optimizers.Adam, "update_arrays", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            self.fitted()
        assert released == []


@pytest.mark.parametrize("verbose", [1, 2])
def test_a_program_without_a_console_trains(verbose, monkeypatch):
    model = keras.Sequential([keras.Input((192,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    monkeypatch.setattr(sys, "stdout", None)
    history = model.fit(X.reshape(24, 192), np.zeros((24, 1)), epochs=2, verbose=verbose)
    model.evaluate(X.reshape(24, 192), np.zeros((24, 1)), verbose=verbose)
    model.summary()
    assert len(history.history["loss"]) == 2
