"""Steps that are run from the list of their ops do what steps do that are run as they are written, to the last bit."""

import copy
import pickle

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers, ops
from gpukeras.training import step
from gpukeras.training.data import to_batch

X = np.random.default_rng(0).normal(size=(26, 12)).astype("float32")
IMAGES = X[:, :, None, None] * np.ones((1, 1, 6, 2), "float32")
TOKENS = (abs(X) * 7).astype("int32") % 20
LABELS = np.arange(26) % 3
WEIGHTS = np.linspace(0.5, 2, 26, dtype="float32")


def perceptron():
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(8, activation="relu", kernel_regularizer="l2"),
            layers.Dense(8, activation="tanh", kernel_constraint="max_norm"),
            layers.Dense(3, activation="softmax"),
        ]
    )


def shared():
    """One layer used twice, branches that meet again, an output that ops of the user's choice make."""
    inputs = keras.Input((12,))
    once = layers.Dense(12, activation="gelu")
    x = layers.Concatenate()([once(inputs), once(once(inputs)) * 2.0])
    x = ops.reshape(layers.LayerNormalization()(x), (-1, 24))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Add()([x, x])))


def images():
    return keras.Sequential(
        [
            keras.Input((12, 6, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def sentences():
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs)
    x = x + layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def unbuilt():
    return keras.Sequential([layers.Dense(5, activation="relu"), layers.Dense(3, activation="softmax")])


def dropping():
    return keras.Sequential([keras.Input((12,)), layers.Dropout(0.5), layers.Dense(3, activation="softmax")])


def normalizing():
    return keras.Sequential([keras.Input((12,)), layers.BatchNormalization(), layers.Dense(3, activation="softmax")])


def penalizing():
    return keras.Sequential([keras.Input((12,)), layers.ActivityRegularization(l2=0.1), layers.Dense(3, "softmax")])


def recording_of(model, rows=8):
    """What is known about the steps with as many rows."""
    _, recordings = model.__dict__["_remembered_recordings"]
    (found,) = [recording for signature, recording in recordings.items() if signature[0][0] == rows]
    return found


def trained(make, x, settings, fit_settings):
    keras.utils.set_random_seed(3)
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **settings)
    history = model.fit(x, LABELS, batch_size=8, epochs=3, verbose=0, **fit_settings)
    return model, history.history


@pytest.mark.parametrize("fit_settings", [{}, {"sample_weight": WEIGHTS}, {"class_weight": {0: 2.0}}])
@pytest.mark.parametrize(
    ("make", "x", "reason"),
    [
        (perceptron, X, None),
        (shared, X, None),
        (images, IMAGES, None),
        (sentences, TOKENS, None),
        (unbuilt, X, None),
        (dropping, X, "made in the step|assigned"),
        (normalizing, X, "assigned"),
        (penalizing, X, "adds a loss"),
    ],
)
def test_listed_steps_equal_written_ones(make, x, reason, fit_settings):
    listed, history = trained(make, x, {}, fit_settings)
    written, expected = trained(make, x, {"run_eagerly": True}, fit_settings)
    assert history == expected
    for a, b in zip(
        listed.get_weights() + listed.optimizer.variables,
        written.get_weights() + written.optimizer.variables,
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    recording = recording_of(listed)
    if reason is None:
        assert recording.program is not None, recording.reason
        assert recording.sums is not None, recording.reason_of_sums
        assert recording_of(listed, rows=2).program is not None  # the partial batches
    else:
        assert recording.program is None
        assert any(part in recording.reason for part in reason.split("|"))
    assert "_remembered_recordings" not in vars(written)


def test_jit_compile_false_runs_every_step_as_it_is_written():
    model, _ = trained(perceptron, X, {"jit_compile": False}, {})
    assert "_remembered_recordings" not in vars(model)


class Counting(layers.Layer):
    """A layer of the user's, which does something that no op does."""

    calls = 0

    def call(self, x):
        type(self).calls += 1
        return x * 2.0


class TestTheUsersCode:
    def steps_and_calls(self, model, **settings):
        Counting.calls = 0
        model.compile("sgd", "mse", **settings)
        model.fit(X, X[:, :3], batch_size=13, epochs=3, verbose=0)
        return model.optimizer.iterations.numpy(), Counting.calls, recording_of(model, 13)

    def test_runs_in_every_step(self):
        steps, calls, recording = self.steps_and_calls(
            keras.Sequential([keras.Input((12,)), Counting(), layers.Dense(3)])
        )
        assert calls == steps == 6
        assert "Counting" in recording.reason

    def test_is_listed_where_jit_compile_asks_for_it(self):
        model = keras.Sequential([keras.Input((12,)), Counting(), layers.Dense(3)])
        steps, calls, recording = self.steps_and_calls(model, jit_compile=True)
        assert steps == 6 and calls == 2
        assert recording.reason is None

    def test_in_an_activation_or_a_loss_runs_in_every_step(self):
        calls = []

        def activation(x):
            calls.append(x)
            return ops.tanh(x)

        model = keras.Sequential([keras.Input((12,)), layers.Dense(3, activation=activation)])
        calls.clear()
        steps, _, recording = self.steps_and_calls(model)
        assert len(calls) == steps
        assert "activation" in recording.reason and __file__ in recording.reason

        def loss(y_true, y_pred):
            calls.append(y_true)
            return ops.mean(ops.square(y_true - y_pred), -1)

        calls.clear()
        model = keras.Sequential([keras.Input((12,)), layers.Dense(3)])
        model.compile("sgd", loss)
        model.fit(X, X[:, :3], batch_size=13, epochs=3, verbose=0)
        assert len(calls) == 6

    def test_that_makes_arrays_of_its_own_is_not_listed(self):
        class Shifting(layers.Layer):
            def call(self, x):
                return x + np.full(12, 0.5, "float32")

        model = keras.Sequential([keras.Input((12,)), layers.Dense(12), Shifting(), layers.Dense(3)])
        _, _, recording = self.steps_and_calls(model, jit_compile=True)
        assert recording.program is None and "made in the step" in recording.reason


class TestMetrics:
    """What metrics add up is listed, too, apart from the rest of the step."""

    def both(self, *metrics, **settings):
        """The recording and both histories: listed, and as it is written."""
        histories = []
        for is_eager in (False, True):
            keras.utils.set_random_seed(3)
            model = perceptron()
            made = [metric() if isinstance(metric, type) else metric for metric in metrics]
            eager = {"run_eagerly": True} if is_eager else settings
            model.compile("adam", "categorical_crossentropy", metrics=made, **eager)
            y = np.eye(3, dtype="float32")[LABELS]
            history = model.fit(X, y, batch_size=8, epochs=3, verbose=0).history
            histories.append([np.asarray(value) for values in history.values() for value in values])
            if not is_eager:
                recording = recording_of(model)
        for found, expected in zip(*histories, strict=True):
            np.testing.assert_array_equal(found, expected)
        return recording

    def test_of_the_library_give_the_same_values(self):
        names = ["accuracy", "mae", "binary_accuracy", "top_k_categorical_accuracy", "kl_divergence"]
        recording = self.both(*names)
        assert recording.sums is not None, recording.reason_of_sums

    @pytest.mark.parametrize(
        "metric",
        [
            keras.metrics.AUC,
            keras.metrics.Precision,
            keras.metrics.F1Score,
            keras.metrics.R2Score,
            keras.metrics.PearsonCorrelation,
        ],
    )
    def test_of_any_kind_give_the_same_values(self, metric):
        assert self.both(metric).program is not None

    def test_of_the_users_run_in_every_step(self):
        calls = []

        class Steps(keras.metrics.Metric):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.count = self.add_weight(name="count", initializer="zeros")

            def update_state(self, y_true, y_pred, sample_weight=None):
                calls.append(1)
                self.count.assign_add(1)

            def result(self):
                return self.count.value

        def error(y_true, y_pred):
            calls.append(1)
            return ops.abs(y_true - y_pred)

        for metric in (Steps, error):
            calls.clear()
            recording = self.both(metric)
            assert len(calls) == 24
            assert recording.sums is None and "no metric of the library's" in recording.reason_of_sums

    def test_of_the_users_are_listed_where_jit_compile_asks_for_it(self):
        calls = []

        def error(y_true, y_pred):
            calls.append(1)
            return ops.abs(y_true - y_pred)

        assert self.both(error, jit_compile=True).sums is not None
        assert len(calls) == 4 + 12  # the first two steps of either signature, and all as they are written

    def test_keep_their_sums_when_the_optimizer_refuses_a_step(self):
        model, _ = trained(perceptron, X, {}, {})
        before = [variable.numpy() for metric in model.metrics for variable in metric.variables]

        def refuse(*args):
            raise ValueError("not now")

        model.optimizer.__dict__["apply"] = refuse
        with pytest.raises(ValueError, match="not now"):
            step.train(model, *to_batch((X[:8], LABELS[:8])))
        after = [variable.numpy() for metric in model.metrics for variable in metric.variables]
        np.testing.assert_array_equal(after, before)


class TestChanges:
    """A list is written anew after anything has changed that it depends on."""

    def model(self):
        keras.utils.set_random_seed(1)
        model = perceptron()
        model.compile("sgd", "sparse_categorical_crossentropy")
        self.fit(model)
        assert recording_of(model).program is not None
        return model

    def fit(self, model):
        model.fit(X[:24], LABELS[:24], batch_size=8, epochs=2, verbose=0, shuffle=False)

    @pytest.mark.parametrize("owner", ["layer", "variable"])
    def test_of_what_is_trainable(self, owner):
        model = self.model()
        first = model.layers[0]
        if owner == "layer":
            first.trainable = False
        else:
            first.kernel.trainable = first.bias.trainable = False
        before = first.kernel.numpy()
        with pytest.warns(UserWarning, match="trainable") if owner == "layer" else nothing():
            self.fit(model)
        np.testing.assert_array_equal(first.kernel.numpy(), before)

    def test_of_a_layers_setting(self):
        model, other = self.model(), self.model()
        for changed in (model, other):
            changed.layers[1].activation = keras.activations.sigmoid
        other.run_eagerly = True
        self.fit(model)
        self.fit(other)
        for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_of_the_loss(self):
        model = self.model()
        model.compile("sgd", "mse")
        history = model.fit(X, np.ones((26, 3)), batch_size=26, epochs=4, verbose=0).history["loss"]
        assert history[-1] < history[0]

    def test_between_epochs_by_a_callback(self):
        def freeze(epoch, logs):
            model.layers[0].kernel.trainable = False
            frozen.append(model.layers[0].kernel.numpy())

        frozen, model = [], self.model()
        callback = keras.callbacks.LambdaCallback(on_epoch_end=freeze)
        model.fit(X[:24], LABELS[:24], batch_size=4, epochs=3, verbose=0, callbacks=[callback])
        np.testing.assert_array_equal(frozen[0], frozen[-1])


class nothing:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def test_at_most_eight_signatures_are_kept():
    model = perceptron()
    model.compile("sgd", "sparse_categorical_crossentropy")
    for rows in range(1, 13):
        model.fit(X[:rows], LABELS[:rows], batch_size=rows, epochs=3, verbose=0)
    assert [signature[0][0] for signature in model.__dict__["_remembered_recordings"][1]] == [*range(5, 13)]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_trains_apart(clone):
    model, _ = trained(perceptron, X, {}, {})
    other = clone(model)
    before = model.get_weights()
    settings = {"batch_size": 8, "epochs": 2, "verbose": 0, "shuffle": False}
    other.fit(X, LABELS, **settings)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    model.fit(X, LABELS, **settings)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_that_fails_leaves_no_half_written_list():
    calls = []

    def failing(x):
        calls.append(x)
        if len(calls) == 2:
            raise RuntimeError("now")
        return ops.tanh(x)

    model = keras.Sequential([keras.Input((12,)), layers.Dense(3, activation=failing)])
    calls.clear()
    model.compile("sgd", "mse", jit_compile=True)
    with pytest.raises(RuntimeError, match="now"):
        model.fit(X, X[:, :3], batch_size=13, verbose=0)
    model.fit(X, X[:, :3], batch_size=13, epochs=3, verbose=0)
    assert model.optimizer.iterations.numpy() == 7


def test_a_listed_step_reads_nothing_on_the_host():
    from gpukeras.backend import devices
    from tests import strict_device

    strict_device.install()
    with devices.use_device("strict"):
        keras.utils.set_random_seed(0)
        model = perceptron()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        x, y = ops.convert_to_tensor(X), ops.convert_to_tensor(LABELS)
        for _ in range(3):
            model.train_on_batch(x, y)
        assert recording_of(model, 26).program is not None
        with strict_device.forbid_host_reads():
            from gpukeras.training import step

            step.train(model, x, y, None)


def test_a_value_that_is_read_stands_in_the_way():
    """It may be another one the next time, also where the user has allowed lists of ops with code of theirs."""

    class Reading(keras.layers.Layer):
        def call(self, x):
            return x * float(keras.ops.max(x)) if hasattr(x, "array") else x

    def weights(**settings):
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((12,)), Reading(), keras.layers.Dense(3)])
        model.compile("sgd", "mse", **settings)
        x = np.random.default_rng(0).normal(size=(24, 12)).astype("float32")
        model.fit(x, x[:, :3], batch_size=4, epochs=2, verbose=0)
        return model.get_weights()

    for a, b in zip(weights(jit_compile=True), weights(run_eagerly=True), strict=True):
        np.testing.assert_array_equal(a, b)
