"""Callbacks against Keras: the same scripted metrics, the same decisions, texts and warnings."""

import csv
import warnings

import numpy as np
import pytest

pytest.importorskip("keras")
import gpukeras
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

X = np.ones((4, 2), "float32")
Y = np.ones((4, 1), "float32")
LIBRARIES = (gpukeras, oracle_keras)
BATCHES = 3


def make_model(keras, learning_rate=0.5, metrics=()):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(learning_rate), "mse", metrics=[m(keras) for m in metrics])
    if metrics:
        model.train_on_batch(X, Y)  # metrics know their names and directions once they are built
    return model


def train(model, callback, values, name):
    """The events of `fit`, with scripted logs and with weights that say after which batch they are."""
    model.stop_training = False
    epochs, rates = [], []
    logs = {}
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch)
        for batch in range(BATCHES):
            callback.on_train_batch_begin(batch)
            model.set_weights([np.full((2, 1), epoch * BATCHES + batch, "float32"), np.zeros(1)])
            logs = {"loss": 10.0 * epoch + batch}
            callback.on_train_batch_end(batch, logs)
        if value is not None:
            logs[name] = value
        callback.on_epoch_end(epoch, logs)
        epochs.append(epoch)
        rates.append(logs.get("learning_rate"))
        if model.stop_training:
            break
    callback.on_train_end(logs)
    return epochs, rates


def run(keras, values, make, capsys, name="val_loss", metrics=(), fits=1):
    """What a callback does while `values` pass by: epochs, texts, warnings, its own state, weights."""
    model = make_model(keras, metrics=metrics)
    callback = make(keras)
    callback.set_params({"epochs": len(values), "steps": BATCHES, "verbose": 0})
    callback.set_model(model)
    capsys.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen = [train(model, callback, values, name) for _ in range(fits)]
    kept = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")
    state = {key: value for key, value in vars(callback).items() if key in kept}
    texts = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    rate = float(np.asarray(model.optimizer.learning_rate))
    return seen, capsys.readouterr().out, texts, state, model.get_weights()[0].tolist(), rate


def assert_alike(values, make, capsys, **settings):
    ours, theirs = (run(keras, values, make, capsys, **settings) for keras in LIBRARIES)
    assert ours == theirs
    return ours


FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
BUMPY = [1.0, 0.8, 0.85, 0.79, 0.9, 0.95, 0.7, 0.71, 0.72, 0.73, 0.74, 0.75]


@pytest.mark.parametrize("values", [FALLING, BUMPY, BUMPY[::-1], [0.5] * 8], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"patience": 2},
        {"patience": 2, "min_delta": 0.1},
        {"patience": 2, "min_delta": -0.02},
        {"patience": 2, "mode": "max"},
        {"patience": 1, "baseline": 0.75},
        {"patience": 3, "start_from_epoch": 4},
        {"patience": 2, "restore_best_weights": True},
        {"patience": 3, "restore_best_weights": True, "start_from_epoch": 2, "baseline": 0.1},
    ],
    ids=str,
)
def test_early_stopping(values, settings, capsys):
    def make(keras):
        return keras.callbacks.EarlyStopping(verbose=1, **settings)

    assert_alike(values, make, capsys)


def test_early_stopping_twice(capsys):
    def make(keras):
        return keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True, verbose=1)

    (first, second), *_ = assert_alike(BUMPY, make, capsys, fits=2)
    assert first == second


@pytest.mark.parametrize("values", [[None, None], [1.0, float("nan"), 0.5, 0.6], [1.0, float("inf"), 2.0]])
def test_early_stopping_without_numbers(values, capsys):
    _, _, texts, *_ = assert_alike(values, lambda keras: keras.callbacks.EarlyStopping(patience=2), capsys)
    assert (values[0] is None) == bool(texts)


@pytest.mark.parametrize(
    "name, metric",
    [
        ("val_accuracy", lambda keras: "accuracy"),
        ("auc", lambda keras: keras.metrics.AUC(name="auc")),
        ("val_mae", lambda keras: keras.metrics.MeanAbsoluteError(name="mae")),
        ("mean_squared_error", lambda keras: "mean_squared_error"),
    ],
)
def test_direction_of_a_metric(name, metric, capsys):
    def make(keras):
        return keras.callbacks.EarlyStopping(name, patience=2, verbose=1)

    assert_alike(BUMPY, make, capsys, name=name, metrics=[metric])


def test_direction_that_nobody_knows(capsys):
    for keras in LIBRARIES:
        with pytest.raises(ValueError, match="Pass .?mode='max'"):
            run(keras, BUMPY, lambda k: k.callbacks.EarlyStopping("noise"), capsys, name="noise")


def test_unknown_mode():
    texts = []
    for keras in LIBRARIES:
        with pytest.warns(UserWarning) as caught:
            keras.callbacks.EarlyStopping(mode="best")
        texts.append(str(caught[0].message))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("values", [BUMPY, [0.5] * 9, [None, None]], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"patience": 1},
        {"patience": 2, "factor": 0.5},
        {"patience": 1, "cooldown": 2},
        {"patience": 1, "min_lr": 0.03},
        {"patience": 1, "min_delta": 0.2},
        {"patience": 1, "mode": "max"},
        {"patience": 0},
    ],
    ids=str,
)
def test_reduce_on_plateau(values, settings, capsys):
    assert_alike(values, lambda keras: keras.callbacks.ReduceLROnPlateau(verbose=1, **settings), capsys)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda epoch, rate: rate * 0.9 if epoch else rate,
        lambda epoch: 0.1 / (epoch + 1),
        lambda epoch, rate: np.float32(0.25),
        lambda epoch, rate: np.float64(rate) / 3,
    ],
)
def test_scheduler(schedule, capsys):
    _, out, *_ = assert_alike(FALLING, lambda keras: keras.callbacks.LearningRateScheduler(schedule, verbose=1), capsys)
    assert "\nEpoch 6: LearningRateScheduler setting learning rate to" in out


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, of inf
@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1.0])
@pytest.mark.parametrize("raise_error", [False, True])
def test_terminate_on_nan(loss, raise_error, capsys):
    outcomes = []
    for keras in LIBRARIES:
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        targets = np.array([[0], [0], [loss], [0]], "float32")
        callback = keras.callbacks.TerminateOnNaN(raise_error=raise_error)
        capsys.readouterr()
        try:
            history = model.fit(X, targets, batch_size=2, epochs=2, callbacks=[callback], shuffle=False, verbose=0)
            end = history.epoch
        except RuntimeError as error:
            end = str(error)
        outcomes.append((end, capsys.readouterr().out))
    assert outcomes[0] == outcomes[1]


def checkpoint_files(keras, folder, values, capsys, **settings):
    """The files that a checkpoint leaves, what it says, and the weights in each file."""
    folder.mkdir()

    def make(keras):
        path = settings.pop("path")
        return keras.callbacks.ModelCheckpoint(folder / path, verbose=1, **settings)

    settings = dict(settings)
    _, out, texts, state, *_ = run(keras, values, make, capsys)
    kernels = {}
    for file in folder.rglob("*.*"):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.load_weights(file)
        kernels[str(file.relative_to(folder))] = model.get_weights()[0].tolist()
    return kernels, out.replace(str(folder), "FOLDER"), texts, state


@pytest.mark.parametrize(
    "settings",
    [
        {"path": "model.keras"},
        {"path": "{epoch:02d}-{val_loss:.2f}.keras"},
        {"path": "in/a/folder/{epoch}.weights.h5", "save_weights_only": True},
        {"path": "best-{epoch}.keras", "save_best_only": True},
        {"path": "best-{epoch}.keras", "save_best_only": True, "mode": "max"},
        {"path": "best-{epoch}.keras", "save_best_only": True, "initial_value_threshold": 0.8},
        {"path": "best-{epoch}.keras", "save_best_only": True, "monitor": "loss"},
        {"path": "b-{batch}-{epoch}.weights.h5", "save_weights_only": True, "save_freq": 2},
        {"path": "b-{epoch}.weights.h5", "save_weights_only": True, "save_freq": 1},
    ],
    ids=str,
)
def test_checkpoint(settings, tmp_path, capsys):
    values = [0.9, 0.7, 0.8, 0.6]
    ours, theirs = (
        checkpoint_files(keras, tmp_path / keras.__name__, values, capsys, **settings) for keras in LIBRARIES
    )
    assert ours == theirs
    assert ours[0]


def test_checkpoint_without_its_metric(tmp_path, capsys):
    ours, theirs = (
        checkpoint_files(
            keras, tmp_path / keras.__name__, [None, None], capsys, path="{epoch}.keras", save_best_only=True
        )
        for keras in LIBRARIES
    )
    assert ours == theirs
    assert ours[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"filepath": "model.txt"},
        {"filepath": "model.keras", "save_weights_only": True},
        {"filepath": "model.keras", "save_freq": "batch"},
    ],
    ids=str,
)
def test_checkpoint_refuses(settings):
    texts = []
    for keras in LIBRARIES:
        with pytest.raises(ValueError) as caught:
            keras.callbacks.ModelCheckpoint(**settings)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("validation_freq", [1, 2])
def test_csv_logger(append, validation_freq, tmp_path):
    tables = []
    for keras in LIBRARIES:
        path = tmp_path / f"{keras.__name__}.csv"
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "relu", False, "ones")])
        model.compile(keras.optimizers.SGD(0.125), "mse", metrics=["mae"])
        logger = keras.callbacks.CSVLogger(path, separator=";", append=append)
        for _ in range(2):
            model.fit(
                X, Y, epochs=2, callbacks=[logger], validation_data=(X, Y), validation_freq=validation_freq, verbose=0
            )
        with open(path, newline="") as file:
            text = file.read()
        rows = list(csv.reader(text.splitlines(), delimiter=";"))
        assert text.endswith("\r\n")
        tables.append([[_rounded(cell) for cell in row] for row in rows])
    assert tables[0] == tables[1]
    assert len(tables[0]) == (5 if append else 3)


def _rounded(cell):
    try:
        return round(float(cell), 4)
    except ValueError:
        return cell


def test_csv_logger_with_lists(tmp_path):
    texts = []
    for keras in LIBRARIES:
        logger = keras.callbacks.CSVLogger(tmp_path / f"{keras.__name__}.csv")
        logger.on_train_begin()
        logger.on_epoch_end(0, {"b": [1, 2], "a": "text", "c": np.array(3.5), "d": np.arange(2)})
        logger.on_epoch_end(1, {"a": "x,y"})
        logger.on_train_end()
        texts.append((tmp_path / f"{keras.__name__}.csv").read_bytes())
    assert texts[0] == texts[1]


def hooks_that_append(keras, events):
    """Functions for all events of a callback."""

    def hook(name):
        if name.endswith(("train_begin", "train_end", "test_begin", "test_end", "predict_begin", "predict_end")):
            return lambda logs=None: events.append((name,))
        return lambda number, logs=None: events.append((name, number))

    return {name: hook(name) for name in dir(keras.callbacks.Callback) if name.startswith("on_")}


def test_lambda_callback_events():
    """All events, in the same order, with the same batches and epochs."""
    outcomes = []
    for keras in LIBRARIES:
        events = []
        callback = keras.callbacks.LambdaCallback(**hooks_that_append(keras, events))
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(X, Y, batch_size=2, epochs=2, validation_data=(X, Y), callbacks=[callback], verbose=0)
        model.evaluate(X, Y, callbacks=[callback], verbose=0)
        model.predict(X, callbacks=[callback], verbose=0)
        outcomes.append(events)
    assert outcomes[0] == outcomes[1]
    # on_batch_begin and on_batch_end are called by the hooks that were replaced.
    assert len({name for name, *_ in outcomes[0]}) == 14
