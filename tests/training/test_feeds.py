"""Steps whose graphs gather their batch themselves: the bits of eager steps, and nothing but launches in an epoch."""

import gc
import weakref

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers, ops
from gpukeras.backend import devices
from gpukeras.training import captures, step
from gpukeras.training.data import ArrayData, RowsBatch
from tests.emulator import compile as emulator
from tests.fake_cuda import nodes_of

pytest_plugins = ["tests.fake_gpu"]
pytestmark = pytest.mark.skipif(emulator.reason_to_skip() is not None, reason=str(emulator.reason_to_skip()))

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(46, 12)).astype("float32")
LABELS = RANDOM.integers(0, 3, 46)
WEIGHTS = RANDOM.random(46)


def perceptron():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.3),
            layers.BatchNormalization(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], weighted_metrics=["accuracy"])
    return model


def state(model):
    return [devices.to_numpy(v.array) for v in model.variables + model.optimizer.variables]


def fitted(is_eager=False, x=X, y=LABELS, group=1, **settings):
    model = perceptron()
    model.run_eagerly, model.steps_per_execution = is_eager, group
    history = model.fit(x, y, **{"batch_size": 8, "epochs": 5, "verbose": 0, **settings}).history
    results = [model.evaluate(x, y, batch_size=8, verbose=0), model.predict(x, batch_size=8, verbose=0)]
    return [*history.values(), *results, *state(model)]


WAYS = {
    "shuffled": {},
    "as they stand": {"shuffle": False},
    "sample weights": {"sample_weight": WEIGHTS},
    "class weights": {"class_weight": {0: 2.0, 2: 0.5}},
    "validation split": {"validation_split": 0.25},
    "validation data": {"validation_data": (X, LABELS, WEIGHTS)},
    "whole batches": {"x": X[:40], "y": LABELS[:40]},
    "one pass over two epochs": {"steps_per_epoch": 3, "epochs": 4},
    "several at a time": {"group": 3},
    "bytes": {"x": (X[:, :5] * 50).astype("int8").astype("uint8").repeat(3, 1)[:, :12], "y": LABELS.astype("uint8")},
    "doubles, and a column": {"x": X.astype("float64"), "y": LABELS[:, None]},
}


@pytest.mark.parametrize("way", WAYS)
def test_fed_steps_equal_eager_ones(gpu_with_kernels, way):
    settings = WAYS[way]
    found = fitted(**settings)
    assert gpu_with_kernels.names().count("launch") > 10
    for a, b in zip(found, fitted(is_eager=True, **settings), strict=True):
        np.testing.assert_array_equal(a, b)


def test_arrays_on_the_device_and_several_inputs(gpu_with_kernels):
    def trained(is_eager):
        keras.utils.set_random_seed(1)
        a, b = keras.Input((12,), name="a"), keras.Input((2, 3), name="b")
        y = layers.Dense(4, activation="tanh")(layers.concatenate([a, layers.Flatten()(b)]))
        model = keras.Model({"a": a, "b": b}, [layers.Dense(1)(y), layers.Dense(2)(y)])
        model.compile("adam", "mse")
        model.run_eagerly = is_eager
        x = {"a": ops.convert_to_tensor(X), "b": X[:, :6].reshape(46, 2, 3)}
        history = model.fit(x, [X[:, :1], ops.convert_to_tensor(X[:, :2])], batch_size=16, epochs=6, verbose=0)
        return [*history.history.values(), *state(model)]

    found = trained(False)
    assert gpu_with_kernels.names().count("launch") >= 10
    for a, b in zip(found, trained(True), strict=True):
        np.testing.assert_array_equal(a, b)


class Watched:
    """What reaches CUDA in each step: calls of the fake, and functions of arrays that run outside of graphs."""

    def __init__(self, cuda, monkeypatch):
        self.cuda, self.steps = cuda, []
        self.functions = 0
        kernel = cuda.kernel

        def counted(run):
            self.functions += cuda.current.recording is None
            kernel(run)

        monkeypatch.setattr(cuda, "kernel", counted)
        for cls, name in (
            (devices.default_module().ndarray, "__setitem__"),
            (devices.default_module().ndarray, "take"),
        ):
            monkeypatch.setattr(cls, name, self._counted(getattr(cls, name, None), name), raising=False)
        fed, train = step.fed, step.train
        monkeypatch.setattr(step, "fed", self._noted(fed))
        monkeypatch.setattr(step, "train", self._noted(train))

    def _counted(self, function, name):
        def call(array, *arguments, **settings):
            self.functions += self.cuda.current.recording is None
            if function is None:
                return array.__getattr__(name)(*arguments, **settings)
            return function(array, *arguments, **settings)

        return call

    def _noted(self, function):
        def noted(*arguments):
            calls, functions = len(self.cuda.log), self.functions
            result = function(*arguments)
            self.steps.append((self.cuda.names()[calls:], self.functions - functions))
            return result

        noted.__name__ = function.__name__
        return noted


LAUNCH = ["launch"]


def test_a_step_is_one_launch(gpu_with_kernels, monkeypatch):
    model = perceptron()
    model.fit(X, LABELS, batch_size=8, epochs=3, verbose=0)
    watched = Watched(gpu_with_kernels, monkeypatch)
    model.fit(X, LABELS, batch_size=8, epochs=2, verbose=0)
    assert len(watched.steps) == 12
    first = ["set", *LAUNCH]  # the table, where an epoch begins
    for number, (calls, functions) in enumerate(watched.steps):
        assert calls == (LAUNCH if number % 6 else first) and functions == 0

    watched.steps.clear()
    x, y = ops.convert_to_tensor(X[:8]), ops.convert_to_tensor(LABELS[:8])
    for _ in range(4):
        step.train(model, x, y, None)
    assert watched.steps[-1] == (LAUNCH, 2)  # a batch of the caller's is copied, x and y


def test_the_graph_has_one_node_more(gpu_with_kernels):
    model = perceptron()
    x, y = ops.convert_to_tensor(X), ops.convert_to_tensor(LABELS)
    for _ in range(4):
        step.train(model, x, y, None)
    model.fit(X, LABELS, batch_size=46, epochs=3, verbose=0)
    copied, fed = map(nodes_of, captures.graphs_of(model))
    assert fed == ["gather_rows", *copied]


def test_the_next_data_are_trained_on_by_the_same_graphs(gpu_with_kernels):
    def trained(is_eager):
        model = perceptron()
        model.run_eagerly = is_eager
        for k in range(5):
            model.fit(X * (k + 1), LABELS, batch_size=8, verbose=0)
        return state(model)

    found = trained(False)
    assert gpu_with_kernels.names().count("begin_capture") == 2  # of a whole batch, and of the partial one
    for a, b in zip(found, trained(True), strict=True):
        np.testing.assert_array_equal(a, b)


def test_data_go_when_the_training_is_over(gpu_with_kernels):
    model = perceptron()
    model.compile("adam", "sparse_categorical_crossentropy")
    data = ArrayData(X, LABELS, None, 8, True, None, None)
    for _ in range(4):
        for batch in data.epoch():
            step.fed("train", model, batch)
    epoch, rows = weakref.ref(batch.epoch), weakref.ref(data._rows)
    gc.disable()
    try:
        del data, batch
        assert epoch() is None and rows() is None
    finally:
        gc.enable()


def test_steps_in_any_order_get_their_batches(gpu_with_kernels):
    def trained(run):
        model = perceptron()
        data = ArrayData(X, LABELS, None, 8, True, None, None)
        for _ in range(3):
            batches = list(data.epoch(1))
            for number in (0, 1, 4, 2, 2, 5, 0):
                run(model, batches[number])
        return state(model)

    def now_so_now_so(model, batch):
        now_so_now_so.count += 1
        step.train(model, *batch) if now_so_now_so.count % 3 == 0 else step.fed("train", model, batch)

    now_so_now_so.count = 0
    found, mixed = trained(lambda model, batch: step.fed("train", model, batch)), trained(now_so_now_so)
    expected = trained(lambda model, batch: step.train(model, *batch))
    for a, b, c in zip(found, mixed, expected, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, c)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError("Unable to allocate")])
def test_a_step_that_fails_is_followed_by_the_right_batch(gpu_with_kernels, monkeypatch, failure):
    model, other = perceptron(), perceptron()
    data = [ArrayData(X, LABELS, None, 8, True, None, None) for _ in range(2)]
    apply, calls = model.layers[0].call, []

    def failing(x, **settings):
        calls.append(x)
        if len(calls) == 2:
            raise failure
        return apply(x, **settings)

    monkeypatch.setattr(model.layers[0], "call", failing)
    for batch, same in zip(data[0].epoch(1), data[1].epoch(1), strict=True):
        try:
            step.fed("train", model, batch)
        except KeyboardInterrupt:
            step.fed("train", model, batch)
        step.train(other, *same)
    for a, b in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


class TestOtherWays:
    """Where a graph cannot gather, batches are gathered as ever."""

    def test_a_train_step_of_the_users(self, gpu_with_kernels):
        seen = []

        class Own(keras.Sequential):
            def train_step(self, data):
                x, y = data
                seen.append(x.shape)
                return super().train_step(data)

        model = Own([keras.Input((12,)), layers.Dense(3, activation="softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(X, LABELS, batch_size=8, epochs=2, verbose=0)
        assert seen == 2 * [*5 * [(8, 12)], (6, 12)]

    @pytest.mark.parametrize("settings", [{"run_eagerly": True}, {"jit_compile": False}])
    def test_models_that_are_not_recorded(self, gpu_with_kernels, settings):
        model = perceptron()
        model.compile("adam", "sparse_categorical_crossentropy", **settings)
        model.fit(X, LABELS, batch_size=8, epochs=4, verbose=0)
        model.predict(X, verbose=0)
        assert "launch" not in gpu_with_kernels.names()

    def test_a_gpu_without_cuda_c(self, gpu):
        batch = next(iter(ArrayData(X, LABELS, None, 8, True, None, None).epoch()))
        assert type(batch) is not RowsBatch
        fitted()
        assert gpu.names().count("launch") > 10

    def test_batches_that_are_looked_at(self, gpu_with_kernels):
        batches = list(ArrayData(X, LABELS, None, 8, True, None, None).epoch(1))
        with devices.use_device("numpy"):
            expected = list(ArrayData(X, LABELS, None, 8, True, None, None).epoch(1))
        assert all(type(batch) is RowsBatch and len(batch) == 3 for batch in batches)
        for batch, other in zip(batches[::-1], expected[::-1], strict=True):
            assert batch[2] is None and batch[0] is batch[0]
            for one, wanted in zip(list(batch)[:2], other, strict=False):
                np.testing.assert_array_equal(devices.to_numpy(one.array), wanted.array)
