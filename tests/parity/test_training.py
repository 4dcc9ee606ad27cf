"""Whole training runs against Keras: same weights, same data, same History."""

import warnings

import numpy as np
import pytest

pytest.importorskip("keras")
import gpukeras
from tests.helpers import assert_close
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(50, 4)).astype("float32")
Y = RANDOM.normal(size=(50, 2)).astype("float32")
LABELS = RANDOM.integers(0, 3, 50)
BINARY = (X.sum(1, keepdims=True) > 0).astype("float32")


def assert_history(ours, theirs):
    """The same keys in the same order, and the same numbers."""
    assert list(ours.history) == list(theirs.history)
    for name, values in theirs.history.items():
        np.testing.assert_allclose(ours.history[name], values, rtol=2e-4, atol=2e-5, err_msg=name)  # ten steps add up
    assert ours.epoch == theirs.epoch


def both(make, **compile_settings):
    """The same model in both libraries, with the same weights, compiled alike."""
    models = []
    for keras in (gpukeras, oracle_keras):
        model = make(keras)
        settings = {
            k: v(keras) if callable(v) and getattr(v, "per_library", False) else v for k, v in compile_settings.items()
        }
        model.compile(**settings)
        models.append(model)
    ours, theirs = models
    theirs.set_weights(ours.get_weights())
    return ours, theirs


def per_library(function):
    """Mark a compile argument that is made from the library."""
    function.per_library = True
    return function


def mlp(units, activation):
    def make(keras):
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(8, activation="tanh"),
                keras.layers.Dense(units, activation=activation),
            ]
        )

    return make


CASES = {
    "regression": (mlp(2, None), {"optimizer": "sgd", "loss": "mse", "metrics": ["mae", "mse"]}, Y),
    "sparse": (
        mlp(3, "softmax"),
        {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
        LABELS,
    ),
    "one-hot": (
        mlp(3, "softmax"),
        {
            "optimizer": "rmsprop",
            "loss": "categorical_crossentropy",
            "metrics": ["accuracy", "acc"],
        },
        np.eye(3, dtype="float32")[LABELS],
    ),
    "binary": (
        mlp(1, "sigmoid"),
        {
            "optimizer": "adagrad",
            "loss": "binary_crossentropy",
            "metrics": ["accuracy", "auc", "precision"],
        },
        BINARY,
    ),
    "crossentropy by shape": (
        mlp(3, "softmax"),
        {"optimizer": "sgd", "loss": "crossentropy"},
        LABELS,
    ),
    "weighted metrics": (
        mlp(1, "sigmoid"),
        {
            "optimizer": "sgd",
            "loss": "bce",
            "metrics": ["accuracy"],
            "weighted_metrics": ["accuracy"],
        },
        BINARY,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "fit",
    [
        {},
        {"validation_split": 0.2},
        {"validation_data": (X[:10],), "validation_freq": 2},
        {"sample_weight": np.linspace(0, 2, 50).astype("float32")},
        {"class_weight": {0: 0.5, 1: 2.0}},
        {"initial_epoch": 1, "steps_per_epoch": 2},
        {"batch_size": 7},
    ],
    ids=lambda fit: ",".join(fit) or "plain",
)
def test_history_equals_keras(case, fit):
    make, compile_settings, y = CASES[case]
    if "class_weight" in fit and case not in ("sparse", "binary", "one-hot"):
        fit = {}
    if "validation_data" in fit:
        fit = {**fit, "validation_data": (X[:10], y[:10])}
    ours, theirs = both(make, **compile_settings)
    settings = {"epochs": 3, "batch_size": 16, "shuffle": False, "verbose": 0, **fit}
    assert_history(ours.fit(X, y, **settings), theirs.fit(X, y, **settings))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(a, b, scale=50)  # after a dozen updates
    np.testing.assert_allclose(ours.evaluate(X, y, verbose=0), theirs.evaluate(X, y, verbose=0), rtol=2e-4, atol=2e-5)
    assert_close(ours.predict(X, verbose=0), theirs.predict(X, verbose=0), scale=50)


def two_outputs(keras):
    a = keras.Input((4,), name="a")
    b = keras.Input((4,), name="b")
    both_inputs = keras.layers.Concatenate()([a, b])
    hidden = keras.layers.Dense(6, activation="relu", name="hidden")(both_inputs)
    first = keras.layers.Dense(2, name="first")(hidden)
    second = keras.layers.Dense(3, activation="softmax", name="second")(hidden)
    return keras.Model([a, b], [first, second])


@pytest.mark.parametrize(
    ("settings", "as_dict"),
    [
        ({"loss": ["mse", "sparse_categorical_crossentropy"]}, False),
        ({"loss": {"first": "mse", "second": "sparse_categorical_crossentropy"}}, True),
        (
            {
                "loss": {"first": "mse", "second": "sparse_categorical_crossentropy"},
                "loss_weights": {"first": 0.3, "second": 2.0},
                "metrics": {"second": ["accuracy"], "first": ["mae"]},
            },
            True,
        ),
        (
            {
                "loss": ["mae", "sparse_categorical_crossentropy"],
                "loss_weights": [1.0, 0.5],
                "metrics": [["mse"], ["accuracy"]],
            },
            False,
        ),
        ({"loss": [None, "sparse_categorical_crossentropy"]}, False),
    ],
    ids=["list", "dict", "weights", "nested metrics", "partial"],
)
def test_several_inputs_and_outputs(settings, as_dict):
    ours, theirs = both(two_outputs, optimizer="sgd", **settings)
    if settings["loss"][0:1] == [None] if isinstance(settings["loss"], list) else False:
        warnings.simplefilter("ignore")  # the output without a loss has weights without gradients
    x = {"a": X, "b": X[::-1].copy()} if as_dict else [X, X[::-1].copy()]
    y = {"first": Y, "second": LABELS} if as_dict else [Y, LABELS]
    fit = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0, "validation_data": (x, y)}
    assert_history(ours.fit(x, y, **fit), theirs.fit(x, y, **fit))
    np.testing.assert_allclose(ours.evaluate(x, y, verbose=0), theirs.evaluate(x, y, verbose=0), rtol=2e-4, atol=2e-5)
    for a, b in zip(ours.predict(x, verbose=0), theirs.predict(x, verbose=0), strict=True):
        assert_close(a, b, scale=50)
    assert (
        ours.evaluate(x, y, verbose=0, return_dict=True).keys()
        == theirs.evaluate(x, y, verbose=0, return_dict=True).keys()
    )


def test_single_batches():
    ours, theirs = both(mlp(2, None), optimizer="adam", loss="mse", metrics=["mae"])
    for _ in range(3):
        np.testing.assert_allclose(ours.train_on_batch(X, Y), theirs.train_on_batch(X, Y), rtol=1e-4)
    np.testing.assert_allclose(ours.test_on_batch(X, Y), theirs.test_on_batch(X, Y), rtol=1e-4)
    assert ours.train_on_batch(X, Y, return_dict=True).keys() == theirs.train_on_batch(X, Y, return_dict=True).keys()
    assert_close(ours.predict_on_batch(X), theirs.predict_on_batch(X), scale=50)


def test_regularizers_and_activity_losses():
    def make(keras):
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(5, kernel_regularizer="l2", bias_regularizer="l1", activity_regularizer="l2"),
                keras.layers.Dense(2),
            ]
        )

    ours, theirs = both(make, optimizer="sgd", loss="mse", metrics=["mae"])
    fit = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0, "validation_split": 0.2}
    assert_history(ours.fit(X, Y, **fit), theirs.fit(X, Y, **fit))


def test_generator_and_custom_functions():
    def my_loss(y_true, y_pred):
        return (y_true - y_pred) ** 2

    def my_metric(y_true, y_pred):
        return abs(y_true - y_pred)

    ours, theirs = both(mlp(2, None), optimizer="sgd", loss=my_loss, metrics=[my_metric])

    def batches():
        while True:
            for i in range(0, 48, 16):
                yield X[i : i + 16], Y[i : i + 16]

    fit = {"epochs": 3, "steps_per_epoch": 3, "verbose": 0, "shuffle": False}
    assert_history(ours.fit(batches(), **fit), theirs.fit(batches(), **fit))


def test_summary_of_every_kind_of_model_equals_keras():
    def lines(model):
        text = []
        model.summary(print_fn=text.append, line_length=100)
        return "\n".join(text)

    gpukeras.utils.clear_session()
    oracle_keras.utils.clear_session()
    for make in (mlp(3, "softmax"), two_outputs):
        ours, theirs = both(make, optimizer="adam", loss="mse")
        assert lines(ours) == lines(theirs)
    nested = []
    for keras in (gpukeras, oracle_keras):
        inner = keras.Sequential([keras.Input((4,), name="i"), keras.layers.Dense(3, name="d")], name="inner")
        x = keras.Input((4,), name="x")
        outer = keras.Model(x, keras.layers.Dense(1, name="e")(inner(x)), name="outer")
        inner.trainable = False
        text = []
        outer.summary(print_fn=text.append, expand_nested=True, show_trainable=True, line_length=100)
        nested.append("\n".join(text))
    assert nested[0] == nested[1]
