"""fit, evaluate, predict: what goes in, what comes out, and what is refused."""

import collections
import subprocess
import sys

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers, ops
from gpukeras.training.data import ArrayData
from tests.helpers import assert_close

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 4)).astype("float32")
Y = (X @ np.float32([[1.0], [2.0], [-1.0], [0.5]])).astype("float32")
LABELS = RANDOM.integers(0, 3, 40)


def model(units=1, loss="mse", **settings):
    made = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="tanh"), layers.Dense(units)])
    made.compile("adam", loss, **settings)
    return made


def classifier():
    made = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])
    made.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made


class TestData:
    @pytest.mark.parametrize("kind", ["list", "tensor", "float64", "int", "read-only", "fortran"])
    def test_kinds_of_arrays(self, kind):
        x = {
            "list": X.tolist(),
            "tensor": ops.convert_to_tensor(X),
            "float64": X.astype("float64"),
            "int": (X * 10).astype("int64"),
            "read-only": X.copy(),
            "fortran": np.asfortranarray(X),
        }[kind]
        if kind == "read-only":
            x.flags.writeable = False
        history = model().fit(x, Y, epochs=2, verbose=0)
        assert history.history["loss"][1] < history.history["loss"][0]

    def test_generators_iterators_and_sequences(self):
        def batches():
            for i in range(0, 40, 10):
                yield X[i : i + 10], Y[i : i + 10]

        class Restartable:
            def __iter__(self):
                return batches()

        class Indexed:
            def __len__(self):
                return 4

            def __getitem__(self, i):
                return X[i * 10 : i * 10 + 10], Y[i * 10 : i * 10 + 10]

        expected = model()
        weights = expected.get_weights()
        expected.fit(X, Y, batch_size=10, epochs=2, shuffle=False, verbose=0)
        for source in (Restartable(), Indexed()):
            m = model()
            m.set_weights(weights)
            m.fit(source, epochs=2, verbose=0)
            for a, b in zip(m.get_weights(), expected.get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
        m = model()
        m.fit(batches(), verbose=0)
        with pytest.raises(ValueError, match="no batches"):
            used_up = batches()
            list(used_up)
            m.fit(used_up, verbose=0)

    def test_memory_mapped_arrays_are_not_read_whole(self, tmp_path):
        path = tmp_path / "x.npy"
        np.save(path, X)
        mapped = np.load(path, mmap_mode="r")
        m = model()
        m.fit(mapped, Y, epochs=1, verbose=0)
        assert m.predict(mapped, verbose=0).shape == (40, 1)

    def test_last_batch_is_partial_and_predictions_are_in_order(self):
        m = model()
        assert_close(m.predict(X, batch_size=7, verbose=0), m(X))

    def test_predictions_are_the_callers_own(self):
        m = keras.Sequential([keras.Input((4,)), layers.Identity()])
        x = X.copy()
        result = m.predict(x, batch_size=64, verbose=0)
        result[...] = 0
        np.testing.assert_array_equal(x, X)

    def test_the_data_is_never_written(self):
        x, y = X.copy(), Y.copy()
        model().fit(x, y, epochs=2, verbose=0, validation_split=0.25)
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(y, Y)


class TestReproducibility:
    CODE = """
import sys
import numpy as np
import gpukeras as keras
from gpukeras import layers
keras.utils.set_random_seed(7)
x = np.linspace(-1, 1, 400, dtype="float32").reshape(100, 4)
if "stray" in sys.argv:
    np.random.random(13)
m = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dropout(0.5), layers.Dense(1)])
m.compile("adam", "mse")
if "stray" in sys.argv:
    np.random.random(5)
h = m.fit(x, x[:, :1], epochs=3, verbose=0)
import hashlib
print(hashlib.sha256(b"".join(w.tobytes() for w in m.get_weights())).hexdigest(), h.history["loss"])
"""

    def run(self, *arguments, hash_seed):
        import os

        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        result = subprocess.run(
            [sys.executable, "-c", self.CODE, *arguments], capture_output=True, text=True, env=environment, check=True
        )
        return result.stdout

    def test_one_seed_fixes_every_bit(self):
        first = self.run(hash_seed="0")
        assert first == self.run(hash_seed="1")
        assert first == self.run("stray", hash_seed="2")

    def test_shuffling_differs_by_epoch_and_run(self):
        from gpukeras.training.data import ArrayData

        keras.utils.set_random_seed(1)
        data = ArrayData(np.arange(50), None, None, 50, True, None, None)
        orders = [next(data.epoch(draw))[0].numpy().tolist() for draw in range(3)]
        assert orders[0] != orders[1] != orders[2]
        assert sorted(orders[0]) == list(range(50))
        assert next(data.epoch(0))[0].numpy().tolist() == orders[0]


class TestOverriding:
    def test_train_step_with_a_tape(self):
        class Custom(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(1)
                self.tracker = keras.metrics.Mean(name="my_loss")

            def call(self, x):
                return self.dense(x)

            def train_step(self, data):
                x, y = data
                with keras.GradientTape() as tape:
                    loss = ops.mean(ops.square(y - self(x, training=True)))
                gradients = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
                self.tracker.update_state(loss)
                return {"my_loss": self.tracker.result()}

            @property
            def metrics(self):
                return [self.tracker]

        m = Custom()
        m.compile(keras.optimizers.SGD(0.1))
        history = m.fit(X, Y, epochs=5, verbose=0).history
        assert list(history) == ["my_loss"] and history["my_loss"][-1] < history["my_loss"][0]

    def test_super_train_step_test_step_and_predict_step(self):
        seen = []

        class Custom(keras.Sequential):
            def train_step(self, data):
                seen.append("train")
                return {**super().train_step(data), "extra": 1.0}

            def test_step(self, data):
                seen.append("test")
                return super().test_step(data)

            def predict_step(self, data):
                seen.append("predict")
                return super().predict_step(data) * 0.0

        m = Custom([keras.Input((4,)), layers.Dense(1)])
        m.compile("sgd", "mse", metrics=["mae"])
        history = m.fit(X, Y, verbose=0, batch_size=40, validation_data=(X, Y)).history
        assert set(history) == {"loss", "mae", "extra", "val_loss", "val_mae"}
        assert not m.predict(X, verbose=0).any()
        assert seen[:2] == ["train", "test"] and seen[-1] == "predict"

    def test_compute_loss_and_compute_metrics(self):
        class Custom(keras.Sequential):
            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
                return ops.mean(ops.abs(y - y_pred)) * 3.0

            def compute_metrics(self, x, y, y_pred, sample_weight=None):
                return {**super().compute_metrics(x, y, y_pred, sample_weight), "seven": 7.0}

        m = Custom([keras.Input((4,)), layers.Dense(1)])
        m.compile("sgd", metrics=["mae"])
        logs = m.evaluate(X, Y, verbose=0, return_dict=True)
        assert logs["loss"] == pytest.approx(3 * logs["mae"], rel=1e-5) and logs["seven"] == 7.0

    def test_a_hand_written_loop(self):
        m = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        optimizer, loss = keras.optimizers.Adam(0.1), keras.losses.MeanSquaredError()
        values = []
        for _ in range(20):
            with keras.GradientTape() as tape:
                value = loss(Y, m(X, training=True))
            optimizer.apply(tape.gradient(value, m.trainable_variables), m.trainable_variables)
            values.append(float(value))
        assert values[-1] < 0.5 * values[0]

    def test_layer_metrics_and_stop_training(self):
        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = epoch == 1

        assert len(model().fit(X, Y, epochs=9, verbose=0, callbacks=[Stop()]).epoch) == 2


def test_accuracy_resolves_by_the_shapes():
    for units, y, kind in [
        (1, (Y > 0).astype("float32"), keras.metrics.BinaryAccuracy),
        (3, LABELS, keras.metrics.SparseCategoricalAccuracy),
        (3, np.eye(3)[LABELS], keras.metrics.CategoricalAccuracy),
    ]:
        m = model(units, loss="mse", metrics=["accuracy"])
        m._compile_metrics.update_state(ops.convert_to_tensor(y), m(X))
        assert type(m._compile_metrics.metrics[0]) is kind


def test_a_step_reads_nothing_back_to_the_host():
    from gpukeras.backend import devices
    from gpukeras.training import step
    from gpukeras.training.data import to_batch
    from tests import strict_device

    strict_device.install()
    with devices.use_device("strict"):
        m = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(8, activation="relu", kernel_regularizer="l2"),
                layers.BatchNormalization(),
                layers.Dropout(0.3),
                layers.Dense(3, activation="softmax"),
            ]
        )
        m.compile(keras.optimizers.Adam(clipnorm=1.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
        batch = to_batch((X, LABELS))
        step.train(m, *batch)  # builds the optimizer
        arrays = [v.array for v in m.variables + m.optimizer.variables]
        with strict_device.forbid_host_reads():
            step.train(m, *batch)
            step.test(m, *batch)
        assert all(v.array is a for v, a in zip(m.variables + m.optimizer.variables, arrays, strict=True))


class TestBadInput:
    def test_not_compiled(self):
        m = keras.Sequential([layers.Dense(1)])
        for method in ("fit", "evaluate", "train_on_batch", "test_on_batch"):
            with pytest.raises(ValueError, match="must be compiled"):
                getattr(m, method)(X, Y)

    def test_unknown_names_list_the_closest(self):
        m = keras.Sequential([layers.Dense(1)])
        with pytest.raises(ValueError, match="'adam'"):
            m.compile("adamm", "mse")
        with pytest.raises(ValueError, match="mean_squared_error"):
            m.compile("adam", "mean_squared_eror")
        with pytest.raises(ValueError, match="'accuracy'|binary_accuracy"):
            m.compile("adam", "mse", metrics=["acuracy"])
        assert not m.compiled

    def test_lengths_that_differ(self):
        with pytest.raises(ValueError, match=r"x: 40, y: 39"):
            model().fit(X, Y[:-1], verbose=0)

    def test_empty_data(self):
        with pytest.raises(ValueError, match="empty"):
            model().fit(X[:0], Y[:0], verbose=0)
        with pytest.raises(ValueError, match="x is None"):
            model().fit(None, Y, verbose=0)

    def test_labels_out_of_range(self):
        m = classifier()
        before = m.get_weights()
        for bad in (LABELS + 1, LABELS - 1):
            for call in (m.fit, m.evaluate, m.train_on_batch):
                with pytest.raises(ValueError, match=r"has 3 classes, so labels must lie in 0..2"):
                    call(X, bad, **({} if call == m.train_on_batch else {"verbose": 0}))
        for a, b in zip(before, m.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_shape_of_data(self):
        with pytest.raises(ValueError, match=r"expected shape \(None, 4\)|4 on the last axis"):
            model().fit(X[:, :3], Y, verbose=0)
        with pytest.raises(ValueError, match="shape"):
            model(3).fit(X, np.ones((40, 7)), verbose=0)

    def test_text(self):
        with pytest.raises(TypeError, match="not numeric"):
            model().fit(np.array(["a"] * 40), Y, verbose=0)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"batch_size": 0}, "batch_size"),
            ({"epochs": -1}, "epochs"),
            ({"validation_split": 1.5}, "validation_split"),
            ({"class_weight": [1, 2]}, "class_weight"),
            ({"class_weight": {0: 1.0}, "sample_weight": np.ones(40)}, "cannot both"),
            ({"callbacks": ["early"]}, "callbacks"),
            ({"steps_per_epoch": 0}, "steps"),
            ({"validation_data": (X, Y, Y, Y)}, "batch is x"),
            ({"shuffle": "yes"}, "shuffle"),
        ],
    )
    def test_settings(self, settings, message):
        m = model()
        before = m.get_weights()
        with pytest.raises((ValueError, TypeError), match=message):
            m.fit(X, Y, verbose=0, **settings)
        for a, b in zip(before, m.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_nan_does_not_crash(self):
        x = X.copy()
        x[3, 2] = np.nan
        history = model().fit(x, Y, verbose=0).history
        assert np.isnan(history["loss"][0])

    def test_losses_for_unknown_outputs(self):
        x = keras.Input((4,))
        m = keras.Model(x, [layers.Dense(1, name="a")(x), layers.Dense(1, name="b")(x)])
        m.compile("sgd", {"a": "mse", "c": "mse"})
        with pytest.raises(ValueError, match="'c'"):
            m.fit(X, [Y, Y], verbose=0)
        m.compile("sgd", "mse")
        with pytest.raises(ValueError, match="2 outputs"):
            m.fit(X, Y, verbose=0)

    def test_a_failing_step_changes_nothing(self):
        class Fails(layers.Layer):
            def call(self, x, training=None):
                if training and Fails.armed:
                    raise RuntimeError("broken")
                return x

        Fails.armed = False
        m = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), Fails(), layers.Dense(1)])
        m.compile("adam", "mse")
        m.fit(X, Y, verbose=0)
        before = [v.numpy() for v in m.variables + m.optimizer.variables]
        Fails.armed = True
        with pytest.raises(RuntimeError, match="broken"):
            m.fit(X, Y, verbose=0)
        for a, v in zip(before, m.variables + m.optimizer.variables, strict=True):
            np.testing.assert_array_equal(a, v.numpy())

    def test_changed_trainable_warns(self):
        m = model()
        m.layers[0].trainable = False
        with pytest.warns(UserWarning, match="after compile"):
            m.fit(X, Y, verbose=0)

    def test_nothing_trainable(self):
        m = keras.Sequential([keras.Input((4,)), layers.Dense(1, trainable=False)])
        m.compile("sgd", "mse")
        with pytest.raises(ValueError, match="no trainable weights"):
            m.fit(X, Y, verbose=0)


def test_progress_bar_on_a_pipe(capsys):
    m = model(metrics=["mae"])
    m.fit(X, Y, epochs=2, verbose=1, batch_size=20)
    text = capsys.readouterr().out
    assert "Epoch 1/2" in text and "Epoch 2/2" in text and "2/2" in text and "mae: " in text and "loss: " in text
    m.fit(X, Y, verbose=2, validation_data=(X, Y))
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1 and "val_mae" in lines[0]
    m.fit(X, Y, verbose=0)
    m.evaluate(X, Y, verbose=0)
    m.predict(X, verbose=0)
    assert capsys.readouterr().out == ""


def test_predictions_do_not_change_with_the_memory_of_a_generators_batch():
    buffer = np.zeros((2, 3), "float32")

    def batches():
        for value in range(3):
            buffer[...] = value
            yield (buffer,)

    for last in (keras.layers.Identity(), keras.layers.Flatten(), keras.layers.Dropout(0.5)):
        model = keras.Sequential([keras.Input((3,)), last])
        assert model.predict(batches(), verbose=0)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_outputs_may_be_a_named_tuple():
    pair = collections.namedtuple("pair", "first second")

    class Two(keras.Model):
        def call(self, x):
            return pair(x, x * 2.0)

    found = Two().predict(np.ones((5, 2), "float32"), batch_size=2, verbose=0)
    assert type(found) is pair and found.second.shape == (5, 2)


@pytest.mark.parametrize("view", [lambda x: x[:, ::2], lambda x: x[::2], lambda x: x[::-1], np.asfortranarray])
def test_views_are_shuffled_without_a_copy_of_all(view, monkeypatch):
    x = view(np.random.default_rng(0).normal(size=(40, 6)).astype("float32"))
    whole = ArrayData(np.ascontiguousarray(x), x[:, 0].copy(), None, 8, True, None, None)
    data = ArrayData(x, x[:, 0].copy(), None, 8, True, None, None)
    assert np.shares_memory(data.structure[0], x)
    for batch, expected in zip(data.epoch(1), whole.epoch(1), strict=True):
        np.testing.assert_array_equal(batch[0].numpy(), expected[0].numpy())
        assert batch[0].array.flags.c_contiguous
