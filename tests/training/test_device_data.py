"""Data on the device: equal batches, no needless crossing, and the caller's kind of array back."""

import gc
import sys
import types
import weakref

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers
from gpukeras.autograd.symbolic import flatten
from gpukeras.backend import devices, memory, transfer
from gpukeras.training import step
from gpukeras.training.data import ArrayData, IterableData, open_data, split_validation
from tests import strict_device
from tests.fake_transfer import FakeCuda
from tests.helpers import assert_close
from tests.strict_device import StrictArray

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(42, 4)).astype("float32")
Y = (X @ np.float32([[1.0], [2.0], [-1.0], [0.5]])).astype("float32")
LABELS = RANDOM.integers(0, 3, 42)
WEIGHTS = RANDOM.random(42)


@pytest.fixture(autouse=True)
def strict():
    strict_device.install()
    with devices.use_device("strict"):
        yield


@pytest.fixture
def crossings(monkeypatch):
    """Counts of copies to the device ("up") and of values read from it ("down"), made by whatever means."""
    counts = {"up": 0, "down": 0}

    def asarray(value, dtype=None):
        if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
            counts["up"] += 1
        return type(strict_device.strict).asarray(value, dtype)

    def read():
        counts["down"] += 1

    for name in ("asarray", "array"):
        monkeypatch.setattr(strict_device.strict, name, asarray, raising=False)
    monkeypatch.setattr(strict_device, "_read", read)
    return counts


def perceptron(loss="mse", units=1):
    made = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="relu"), layers.Dense(units)])
    made.compile("adam", loss)
    return made


class Frame:
    """The manners of a cuDF frame or column: rows by `iloc`, a way to each side, and no silent one to the host."""

    def __init__(self, values, home="cupy"):
        self.iloc = None
        self.shape = values.shape
        self._values = values
        if home == "cupy":
            self.to_cupy = lambda: StrictArray(self._values)
        elif home == "values":
            self.values = StrictArray(self._values)
        self.reads = 0

    def __len__(self):
        return len(self._values)

    def __iter__(self):
        return iter(["a", "b"])

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a host NumPy array is not allowed.")

    def to_numpy(self):
        self.reads += 1
        return np.array(self._values)


class OnGPU:
    """An array of someone else's library on the GPU."""

    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = {}

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")


class DLPackOnGPU:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **settings):
        raise AssertionError("the stand-in's from_dlpack is to be called")

    def __dlpack_device__(self):
        return 2, 0


@pytest.fixture
def foreign(monkeypatch):
    """Let the strict device take the stand-ins of foreign arrays, as CuPy would take their likes."""

    def asarray(value, dtype=None):
        if isinstance(value, OnGPU):
            value = StrictArray(value.array)
        return type(strict_device.strict).asarray(value, dtype)

    monkeypatch.setattr(strict_device.strict, "asarray", asarray, raising=False)
    monkeypatch.setattr(strict_device.strict, "from_dlpack", lambda value: StrictArray(value.array), raising=False)


def epochs(arguments, device, count=2):
    """Batches of some epochs, every leaf as a NumPy array."""
    with devices.use_device(device):
        keras.utils.set_random_seed(3)
        data = open_data(*arguments[:3], **arguments[3])
        assert isinstance(data, ArrayData)
        batches = [batch for draw in range(count) for batch in data.epoch(draw)]
        modules = {devices.array_module(t.array) for batch in batches for t in flatten(list(batch)) if t is not None}
        assert modules == {devices.default_module()}
        return [[None if t is None else devices.to_numpy(t.array) for t in flatten(list(batch))] for batch in batches]


ARGUMENTS = {
    "in order": (X, Y, None, {}),
    "shuffled": (X, Y, None, {"shuffle": True}),
    "weights": (X, Y, WEIGHTS, {"shuffle": True}),
    "classes": (X, LABELS, None, {"class_weight": {0: 2.0, 2: 0.5}, "shuffle": True}),
    "one-hot classes": (X, np.eye(3)[LABELS], None, {"class_weight": {0: 2.0, 2: 0.5}}),
    "classes in a column": (X, LABELS[:, None], None, {"class_weight": {0: 2.0, 2: 0.5}}),
    "nested": ({"b": X, "a": [Y, (LABELS, X[:, :2])]}, [Y, LABELS], [None, WEIGHTS], {"shuffle": True}),
    "float64": (X.astype("float64"), Y.astype("float64"), None, {"shuffle": True}),
    "integers": ((X * 9).astype("uint8"), LABELS, None, {"shuffle": True}),
    "lists": (X.tolist(), LABELS.tolist(), None, {"shuffle": True}),
    "one pass over two epochs": (X, Y, None, {"shuffle": True, "steps": 3}),
    "fortran": (np.asfortranarray(X), Y, None, {"shuffle": True}),
}


@pytest.mark.parametrize("way", ["resident", "streamed"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_batches_have_the_bits_that_they_have_on_numpy(name, way, monkeypatch):
    if way == "streamed":
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
        monkeypatch.setattr(transfer, "_cuda", lambda: FakeCuda(is_synchronous=True, rng=np.random.default_rng(0)))
    arguments = (*ARGUMENTS[name][:3], {"batch_size": 8, **ARGUMENTS[name][3]})
    for batch, expected in zip(epochs(arguments, "strict"), epochs(arguments, "numpy"), strict=True):
        for one, other in zip(batch, expected, strict=True):
            assert (one is None and other is None) or one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("free", [None, 0])
def test_mapped_targets_with_class_weights(tmp_path, free, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    np.save(tmp_path / "y.npy", LABELS)
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    settings = {"batch_size": 8, "class_weight": {0: 2.0, 2: 0.5}, "shuffle": True}
    expected = epochs((X, LABELS, None, settings), "numpy")
    for device in ("numpy", "strict"):
        for batch, other in zip(epochs((X, mapped, None, settings), device), expected, strict=True):
            for one, another in zip(batch, other, strict=True):
                np.testing.assert_array_equal(one, another)


def test_structures_are_kept():
    batch = next(iter(ArrayData({"b": X, "a": (Y, [LABELS])}, [Y, None], None, 8, False, None, None).epoch()))
    assert list(batch[0]) == ["b", "a"] and type(batch[0]["a"]) is tuple and type(batch[0]["a"][1]) is list
    assert batch[0]["a"][1][0].shape == (8,) and batch[1][1] is None and batch[2] is None


@pytest.mark.parametrize("steps", [None, 2])
def test_memory_is_given_back_at_once(steps):
    data = ArrayData(X, Y, None, 8, True, None, steps)
    assert len(list(data.epoch())) == (steps or 6)
    rows = weakref.ref(data._rows)
    gc.disable()
    try:
        del data
        assert rows() is None
    finally:
        gc.enable()


def test_a_streamed_training_is_the_same(monkeypatch):
    def trained():
        keras.utils.set_random_seed(1)
        model = perceptron()
        history = model.fit(X, Y, sample_weight=WEIGHTS, batch_size=8, epochs=4, verbose=0, steps_per_epoch=3)
        return model.get_weights(), history.history["loss"]

    weights, losses = trained()
    cuda = FakeCuda(is_synchronous=True)
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    monkeypatch.setattr(transfer, "_cuda", lambda: cuda)
    streamed, same_losses = trained()
    assert cuda.log.count("upload") == 3 * 12 and losses == same_losses
    for one, other in zip(streamed, weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("group", [1, 4])
def test_streamed_batches_may_be_kept(monkeypatch, group):
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    monkeypatch.setattr(transfer, "_cuda", lambda: FakeCuda(is_synchronous=True))
    model = keras.Sequential([keras.Input((4,)), layers.Identity()])
    model.compile(steps_per_execution=group)
    np.testing.assert_array_equal(model.predict(X, batch_size=4, verbose=0), X)


class TestCrossings:
    def steps(self, crossings, monkeypatch, model, x, y, **settings):
        """Counts after each step of training, from the first on."""
        after = []
        train = step.train

        def train_and_note(*arguments):
            result = train(*arguments)
            after.append(dict(crossings))
            return result

        monkeypatch.setattr(step, "train", train_and_note)
        model.fit(x, y, batch_size=8, verbose=0, **settings)
        return after

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"shuffle": False},
            {"sample_weight": WEIGHTS},
            {"class_weight": {0: 2.0}},
            {"validation_split": 0.2},
        ],
        ids=lambda settings: next(iter(settings), "shuffled"),
    )
    def test_none_in_a_step_after_the_first(self, crossings, monkeypatch, settings):
        model = perceptron("sparse_categorical_crossentropy", 3)
        counts = self.steps(crossings, monkeypatch, model, X, LABELS, epochs=3, **settings)
        per_epoch = len(counts) // 3
        for epoch in range(3):
            within = counts[epoch * per_epoch : (epoch + 1) * per_epoch]
            assert within[0] == within[-1]
        if "validation_split" not in settings:  # which makes epochs shorter
            assert counts[2 * per_epoch]["up"] == counts[per_epoch]["up"]

    def test_data_goes_up_once_for_all_epochs(self, crossings):
        model = perceptron()
        model.fit(X[:8], Y[:8], verbose=0)  # builds
        before = crossings["up"]
        model.fit(X, Y, sample_weight=WEIGHTS, validation_data=(X, Y), epochs=4, verbose=0, batch_size=8)
        assert crossings["up"] - before == 3 + 2  # training and validation data; epochs are shuffled on the device
        before = crossings["up"]
        model.evaluate(X, Y, verbose=0, batch_size=8)
        assert crossings["up"] - before == 2
        before = dict(crossings)
        model.predict(X, verbose=0, batch_size=8)
        assert crossings["up"] - before["up"] == 1

    def test_arrays_on_the_device_never_come_down(self, crossings):
        model = perceptron("sparse_categorical_crossentropy", 3)
        x, y = StrictArray(X), StrictArray(LABELS)
        before = dict(crossings)
        data = open_data(x, y, batch_size=8, class_weight={0: 2.0, 1: 3.0}, shuffle=True)
        assert len(list(data.epoch())) == 6
        assert crossings == before
        before = crossings["down"]
        assert type(model.predict(x, verbose=0, batch_size=8)) is StrictArray
        assert crossings["down"] == before

    def test_the_progress_bar_reads_ten_times_a_second(self, crossings, monkeypatch, capsys):
        from gpukeras.callbacks import logs

        class Clock:
            now = 1000.0

            def time(self):
                return self.now

        clock = Clock()
        monkeypatch.setattr(logs, "time", clock)
        reads, read = [], keras.Model._logs_of

        def noted(self, result):
            get = read(self, result)

            def count_and_get():
                reads.append(clock.now)
                return get()

            return count_and_get

        class Ticking(keras.callbacks.Callback):
            reads_logs_itself = True  # and does not

            def on_train_batch_end(self, batch, logs=None):
                clock.now += 0.01

        monkeypatch.setattr(keras.Model, "_logs_of", noted)
        model = perceptron()
        x, y = np.tile(X, (10, 1)), np.tile(Y, (10, 1))
        model.fit(x, y, batch_size=1, verbose=1, callbacks=[Ticking()])  # 420 steps, 4.2 seconds
        capsys.readouterr()
        *during, end = reads
        assert 35 <= len(during) <= 43 and end == pytest.approx(1004.2)
        assert all(later - earlier >= 0.1 - 1e-9 for earlier, later in zip(during, during[1:], strict=False))
        assert crossings["down"] <= 5 * (len(reads) + 2)

    def test_predictions_are_read_many_at_a_time(self, crossings):
        model = perceptron()
        before = crossings["down"]
        seen = []
        model.predict(X, verbose=0, batch_size=8, callbacks=[keras.callbacks.LambdaCallback()])
        assert crossings["down"] - before == 6  # one array per batch, all of them at the end

        class Watching(keras.callbacks.Callback):
            def on_predict_batch_end(self, batch, logs=None):
                seen.append(logs["outputs"])

        result = model.predict(X, verbose=0, batch_size=8, callbacks=[Watching()])
        assert all(type(one) is np.ndarray for one in seen)
        np.testing.assert_array_equal(np.concatenate(seen), result)


class TestKindsOfArrays:
    def test_frames_on_the_gpu_stay_there(self, crossings):
        for home in ("cupy", "values"):
            x, y = Frame(X, home), Frame(Y[:, 0], home)
            model = perceptron()
            losses = model.fit(x, y, epochs=3, verbose=0, batch_size=8).history["loss"]
            assert losses[-1] < losses[0]
            before = crossings["down"]
            result = model.predict(x, verbose=0, batch_size=8)
            assert type(result) is StrictArray and crossings["down"] == before
            model.evaluate(x, y, verbose=0)
            assert x.reads == y.reads == 0

    def test_a_frame_on_the_host_is_uploaded(self):
        x = Frame(X, home="host")
        assert type(perceptron().predict(x, verbose=0)) is np.ndarray and x.reads == 1

    @pytest.mark.parametrize("kind", [OnGPU, DLPackOnGPU])
    def test_arrays_of_others_on_the_gpu_stay_there(self, foreign, kind):
        model = perceptron()
        model.fit(kind(X), kind(Y), epochs=2, verbose=0)
        result = model.predict(kind(X), verbose=0)
        assert type(result) is StrictArray
        assert_close(result, model.predict(X, verbose=0))

    def test_what_speaks_dlpack_on_the_host_is_uploaded(self):
        class OnHost:
            def __dlpack__(self, **settings):
                return X.__dlpack__(**settings)

            def __dlpack_device__(self):
                return X.__dlpack_device__()

        model = perceptron()
        result = model.predict(OnHost(), verbose=0)
        assert type(result) is np.ndarray
        assert_close(result, model(OnHost()))

    def test_some_here_and_some_there(self):
        model = perceptron()
        model.fit(StrictArray(X), Y, sample_weight=WEIGHTS, verbose=0)
        model.fit(X, StrictArray(Y), verbose=0)
        assert model.evaluate(X, StrictArray(Y), verbose=0) == model.evaluate(StrictArray(X), Y, verbose=0)
        x = keras.Input((4,)), keras.Input((4,))
        model = keras.Model(list(x), layers.Add()(x))
        assert type(model.predict([X, StrictArray(X)], verbose=0)) is np.ndarray
        assert type(model.predict([StrictArray(X), StrictArray(X)], verbose=0)) is StrictArray

    def test_predictions_on_the_device_are_the_callers_own(self):
        model = keras.Sequential([keras.Input((4,)), layers.Identity()])
        for size in (64, 8):
            x = StrictArray(X.copy())
            result = model.predict(x, batch_size=size, verbose=0)
            result[...] = 0
            np.testing.assert_array_equal(x._array, X)

    def test_labels_on_the_host_are_checked_before_they_are_uploaded(self, crossings):
        model = perceptron("sparse_categorical_crossentropy", 3)
        for bad in (LABELS + 2, (LABELS + 2).tolist()):
            before = dict(crossings)
            with pytest.raises(ValueError, match="has 3 classes"):
                model.fit(X, bad, verbose=0)
            assert crossings == before

    def test_frames_of_a_generator_and_of_single_batches(self):
        model = perceptron()
        model.fit(((Frame(X), Frame(Y)) for _ in range(3)), verbose=0)
        model.train_on_batch(Frame(X), Frame(Y))
        assert_close(model.predict_on_batch(Frame(X)), model.predict(X, verbose=0))

    @pytest.mark.parametrize(
        ("convert", "kind"),
        [(np.array, np.ndarray), (StrictArray, StrictArray), (Frame, StrictArray), (OnGPU, StrictArray)],
    )
    def test_predictions_for_generators_and_single_batches_are_of_the_callers_kind(
        self, crossings, foreign, convert, kind
    ):
        model = perceptron()
        batches = [convert(X[start : start + 8]) for start in range(0, 42, 8)]
        before = crossings["down"]
        results = model.predict((x for x in batches), verbose=0), model.predict_on_batch(convert(X))
        assert crossings["down"] == before or kind is np.ndarray
        for result in results:
            assert type(result) is kind
            assert_close(result, model.predict(X, verbose=0))

    def test_predictions_for_arrays_of_a_library_that_takes_dlpack_are_its_own(self, crossings, foreign, monkeypatch):
        class Theirs(OnGPU):
            __module__ = "theirs.arrays"

        library = types.ModuleType("theirs")
        library.from_dlpack = lambda array: Theirs(array._array)
        monkeypatch.setitem(sys.modules, "theirs", library)
        model, seen = perceptron(), []
        watching = keras.callbacks.LambdaCallback(on_predict_batch_end=lambda batch, logs: seen.append(logs["outputs"]))
        before = crossings["down"]
        results = [
            model.predict(Theirs(X), verbose=0, batch_size=8, callbacks=[watching]),
            model.predict((Theirs(X[start : start + 8]) for start in range(0, 42, 8)), verbose=0),
            model.predict_on_batch(Theirs(X)),
        ]
        assert crossings["down"] == before
        for result in results:
            assert type(result) is Theirs
            assert_close(result.array, model.predict(X, verbose=0))
        assert len(seen) == 6 and {type(y) for y in seen} == {Theirs}
        both = keras.Input((4,)), keras.Input((4,))
        model = keras.Model(list(both), layers.Add()(both))
        assert type(model.predict([Theirs(X), X], verbose=0)) is np.ndarray  # of several kinds

    def test_generators_of_either_kind(self):
        model = perceptron("sparse_categorical_crossentropy", 3)

        def batches(convert):
            for start in range(0, 42, 8):
                yield convert(X[start : start + 8]), convert(LABELS[start : start + 8])

        for convert in (np.array, StrictArray):
            model.fit(batches(convert), verbose=0, class_weight={0: 2.0})
        data = IterableData(batches(StrictArray), class_weight={0: 2.0})
        with strict_device.forbid_host_reads():
            weights = [batch[2].array._array for batch in data.epoch()]
        np.testing.assert_array_equal(np.concatenate(weights), np.where(LABELS == 0, 2.0, 1.0))

    def test_validation_split_takes_views(self, crossings):
        x, y = StrictArray(X), Frame(Y)
        before = dict(crossings)
        (x1, y1, _), (x2, y2, _) = split_validation(x, y, None, 0.25)
        assert x1.shape == (31, 4) and x2.shape == (11, 4) and crossings == before
        for part, whole in ((x1, X), (x2, X), (y1, Y), (y2, Y)):
            assert type(part) is StrictArray and np.shares_memory(part._array, whole)
        perceptron().fit(x, y, validation_split=0.25, verbose=0)
        assert y.reads == 0


class TestOnNumPy:
    """A GPU's arrays where NumPy computes."""

    @pytest.fixture(autouse=True)
    def numpy(self, strict):
        with devices.use_device("numpy"):
            yield

    def test_arrays_are_copied_with_a_warning(self, crossings):
        model = perceptron()
        with pytest.warns(RuntimeWarning, match=r"^x is on the GPU \(StrictArray\), but gpukeras computes with NumPy"):
            model.fit(StrictArray(X), Y, epochs=3, verbose=0, batch_size=8)
        assert crossings["down"] == 1
        with pytest.warns(RuntimeWarning, match=r"set_backend\('cupy'\)"):
            result = model.predict(StrictArray(X), verbose=0, batch_size=8)
        assert type(result) is StrictArray
        assert_close(result, model.predict(X, verbose=0, batch_size=8))

    def test_single_batches_and_those_of_generators_are_copied_with_a_warning(self):
        model, text = perceptron(), r"^the data is on the GPU \(StrictArray\), but gpukeras computes with NumPy"
        with pytest.warns(RuntimeWarning, match=text):
            model.train_on_batch(StrictArray(X), Y)
        with pytest.warns(RuntimeWarning, match=text):
            model.fit(((X, StrictArray(Y)) for _ in range(2)), verbose=0)

    def test_frames_are_copied_with_a_warning(self):
        x, y = Frame(X), Frame(Y)
        with pytest.warns(RuntimeWarning, match="on the GPU \\(Frame\\)"):
            perceptron().fit(x, y, verbose=0)
        assert x.reads == y.reads == 1

    def test_frames_of_the_host_are_not_spoken_of(self):
        x = Frame(X, home="host")
        assert type(perceptron().predict(x, verbose=0)) is np.ndarray and x.reads == 1

    def test_what_cannot_be_copied_is_refused_with_the_cure(self):
        with pytest.raises(TypeError, match=r"x is on the GPU \(DLPackOnGPU\).*set_backend\('cupy'\)"):
            perceptron().fit(DLPackOnGPU(X), Y, verbose=0)
        with pytest.raises(TypeError, match=r"Tensor.cpu\(\)"):
            perceptron().fit(OnGPU(X), Y, verbose=0)

    def test_single_arrays_take_the_short_way(self):
        assert ArrayData(X, Y, None, 8, True, None, None).is_plain
        assert ArrayData(X, LABELS, None, 8, True, {0: 2.0}, None).is_plain
        assert not ArrayData([X, X], Y, None, 8, True, None, None).is_plain

    def test_arrays_stay_as_they_are_given(self):
        wide = np.asfortranarray(X)
        for shuffle in (True, False):
            data = ArrayData(wide, Y[::-1], None, 8, shuffle, None, None)
            assert data.is_plain and data.structure[0] is wide
            assert ArrayData(X, Y, None, 8, shuffle, None, None).structure[0] is X
