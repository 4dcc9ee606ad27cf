"""Steps that run out of memory: one error with the largest tensors and a batch that fits, and a model as before."""

import re
import subprocess
import sys
import weakref

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers, ops
from gpukeras.backend import devices, memory
from tests import strict_device

pytest_plugins = ["tests.fake_gpu"]

MEGABYTE = 1_000_000


class OutOfMemoryError(MemoryError):
    """What CuPy raises, which is a MemoryError too."""


class Limited:
    """Memory of the fake GPU of which only so many bytes are there."""

    def __init__(self, monkeypatch):
        self.limit, self.used, self.refused = None, 0, 0
        make = strict_device.StrictArray.__init__

        def limited(array, values):
            if values.base is None and id(values) not in strict_device._known:
                if self.limit is not None and self.used + values.nbytes > self.limit:
                    self.refused += 1
                    raise OutOfMemoryError(f"Out of memory allocating {values.nbytes:,} bytes")
                self.used += values.nbytes
                weakref.finalize(values, self.give_back, values.nbytes)
            make(array, values)

        monkeypatch.setattr(strict_device.StrictArray, "__init__", limited)
        monkeypatch.setattr(devices, "gpu_memory", lambda: self.limit and (self.limit - self.used, self.limit))
        monkeypatch.setattr(memory, "free_memory", lambda: self.limit and self.limit - self.used)

    def give_back(self, size):
        self.used -= size


@pytest.fixture
def limited(gpu, monkeypatch):
    return Limited(monkeypatch)


def perceptron():
    return keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(300, activation="relu", name="wide"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )


def images():
    return keras.Sequential(
        [
            keras.Input((20,)),
            layers.Reshape((5, 4, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="wide"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def sequences():
    return keras.Sequential(
        [
            keras.Input((20,)),
            layers.Reshape((10, 2)),
            layers.LSTM(32, name="wide"),
            layers.Dense(10, activation="softmax"),
        ]
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.wide = layers.Dense(200, name="wide")
        self.last = layers.Dense(10)

    def call(self, x):
        return ops.softmax(self.last(ops.tanh(self.wide(x)) + ops.sum(x, axis=1, keepdims=True)))


MODELS = {"perceptron": perceptron, "images": images, "sequences": sequences, "subclassed": Subclassed}
LARGE = 4000


def data(size):
    x = np.random.default_rng(0).normal(size=(size, 20)).astype("float32")
    return ops.convert_to_tensor(x), ops.convert_to_tensor(np.arange(size) % 10)


def compiled(make):
    keras.utils.set_random_seed(1)
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.train_on_batch(*data(8))
    return model


def state(model):
    variables = model.variables + model.optimizer.variables + [v for m in model.metrics for v in m.variables]
    return [devices.to_numpy(v.array) for v in variables]


STEPS = {
    "train": lambda model, x, y: model.train_on_batch(x, y),
    "test": lambda model, x, y: model.test_on_batch(x, y),
    "predict": lambda model, x, y: model.predict_on_batch(x),
}


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("make", MODELS)
def test_the_batch_that_the_error_names_fits(limited, make, kind):
    model, step = compiled(MODELS[make]), STEPS[kind]
    x, y = data(LARGE)
    model.reset_metrics()
    before = state(model)
    limited.limit = limited.used + (2 * MEGABYTE if kind == "train" else MEGABYTE // 4)
    with pytest.raises(MemoryError) as caught:
        step(model, x, y)
    text = str(caught.value)
    assert type(caught.value) is MemoryError and caught.value.__context__ is None
    first, title, *tensors, weights, advice = text.splitlines()
    assert f"a {kind} step of {LARGE} samples ran out of memory. Out of memory allocating" in first
    assert re.search(r"Of the GPU's [\d.,]+ MB, [\d.,]+ MB are free now\.$", first)
    assert title == "Its largest tensors, and the layers that make them:"
    sizes = [float(line.rpartition(", ")[2].split()[0].replace(",", "")) for line in tensors]
    assert 1 <= len(sizes) <= 5 and sizes == sorted(sizes, reverse=True)
    assert "'wide': (" in text and str(LARGE) in tensors[0]
    assert weights.startswith("Weights take ") and ("optimizer" in weights) == (kind == "train")
    fitting = int(re.search(r"A batch_size of (\d+) would fit", advice)[1])
    assert 1 <= fitting < LARGE
    for a, b in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(a, b)
    del x, y, caught
    refused = limited.refused
    model.run_eagerly = True  # the fake's graphs keep every array that is made while they are recorded
    for _ in range(2):
        step(model, *data(fitting))
    assert limited.refused == refused


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is one of Linux")
@pytest.mark.parametrize("make", ["perceptron", "images"])
def test_the_batch_that_the_error_names_fits_on_numpy(make):
    """In a process that may use 100 MB more than it does after a first step."""
    program = f"""
import re, resource
import numpy as np
import gpukeras as keras
from tests.training.test_shortage import MODELS, compiled, data, state

model = compiled(MODELS[{make!r}])
model.train_on_batch(*data(500))
keras.utils.clear_session()
used = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmData"))) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + (100 << 20),) * 2)
before = state(model)
x, y = data(200)
x, y = (np.broadcast_to(np.asarray(v.numpy())[:1], (100_000, *v.shape[1:])) for v in (x, y))
try:
    model.fit(x, y, batch_size=100_000, verbose=0)
except MemoryError as error:
    text = str(error)
print(text)
assert all(map(np.array_equal, before, state(model)))
fitting = int(re.search(r"A batch_size of (\\d+) would fit", text)[1])
assert 100 < fitting < 100_000
model.fit(x[: 2 * fitting], y[: 2 * fitting], batch_size=fitting, verbose=0)
print("fits")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "Unable to allocate" in done.stdout.splitlines()[0] and done.stdout.endswith("fits\n"), done.stderr
    assert "'wide': (100000, " in done.stdout


def raising(monkeypatch, layer, times):
    """Let the layer's call run out of memory so many times for batches of more than 3 samples."""
    call, calls = layer.call, []

    def failing(x, **settings):
        if len(x) > 3:
            calls.append(x.shape)
            if len(calls) <= times:
                raise MemoryError("Unable to allocate")
        return call(x, **settings)

    monkeypatch.setattr(layer, "call", failing)
    return calls


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_is_tried_once_more(monkeypatch, kind):
    x, y = data(24)
    expected, found = compiled(perceptron), compiled(perceptron)
    calls = raising(monkeypatch, found.layers[2], 1)
    results = [STEPS[kind](model, x, y) for model in (expected, found)]
    assert len(calls) == 2
    np.testing.assert_array_equal(*results)
    for a, b in zip(state(expected), state(found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_where_nobody_tells_what_is_free_no_batch_is_named(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: None)
    model = compiled(perceptron)
    raising(monkeypatch, model.layers[0], 2)
    with pytest.raises(MemoryError, match=r"(?s)'wide': \(24, 300\).*is not known, as this system does not tell"):
        model.train_on_batch(*data(24))


def test_room_that_is_there_in_pieces(monkeypatch):
    model = compiled(perceptron)
    raising(monkeypatch, model.layers[0], 2)
    with pytest.raises(MemoryError, match=r"A batch_size of 12 would fit"):
        model.train_on_batch(*data(24))


def test_a_model_that_is_too_large_for_one_sample(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    model = compiled(perceptron)
    raising(monkeypatch, model.layers[0], 2)
    with pytest.raises(MemoryError, match=r"Not even one sample would fit.*Make the model smaller"):
        model.train_on_batch(*data(24))


def test_a_step_whose_tensors_cannot_be_found_out(monkeypatch):
    model = compiled(perceptron)

    def refuse(x, **settings):
        raise MemoryError("Unable to allocate") if len(x) > 3 else ValueError("too few")

    monkeypatch.setattr(model.layers[0], "call", refuse)
    with pytest.raises(MemoryError, match=r"not known, as a step of 2 samples fails too \(ValueError\)"):
        model.train_on_batch(*data(24))


@pytest.mark.parametrize("size", [1, 2])
def test_batches_of_few_samples(monkeypatch, size):
    monkeypatch.setattr(memory, "available", lambda: 5000)
    model = compiled(perceptron)
    made = []
    call = model.layers[0].call

    def failing(x, **settings):
        made.append(len(x))
        if len(made) <= 2:
            raise MemoryError("Unable to allocate")
        return call(x, **settings)

    monkeypatch.setattr(model.layers[0], "call", failing)
    with pytest.raises(MemoryError, match=rf"'wide': \({size}, 300\)"):
        model.train_on_batch(*data(size))


def test_a_prediction_that_may_have_written_something_is_not_repeated(monkeypatch):
    class Own(layers.Layer):
        def call(self, x):
            return x

    model = keras.Sequential([keras.Input((20,)), Own(), layers.Dense(3)])
    calls = raising(monkeypatch, model.layers[1], 1)
    with pytest.raises(MemoryError, match="a predict step of 24 samples"):
        model.predict(data(24)[0], verbose=0)
    assert len(calls) == 1


def test_an_optimizer_that_was_half_built_is_built_anew(monkeypatch):
    def trained(times):
        keras.utils.set_random_seed(1)
        model = perceptron()
        model.compile(keras.optimizers.Adam(name="adam"), "sparse_categorical_crossentropy")
        add, calls = model.optimizer.add_optimizer_variables, []

        def failing(*arguments, **settings):
            calls.append(arguments)
            if len(calls) <= times:
                raise MemoryError("Unable to allocate")
            return add(*arguments, **settings)

        object.__setattr__(model.optimizer, "add_optimizer_variables", failing)
        for _ in range(3):
            model.train_on_batch(*data(24))
        return state(model), [variable.path.rpartition("_")[2] for variable in model.optimizer.variables]

    (expected, names), (found, same_names) = trained(0), trained(1)
    assert names == same_names
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)
