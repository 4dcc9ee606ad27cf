"""Callbacks that end training. Keras's own behaviour stands in tests/parity."""

import numpy as np
import pytest

import gpukeras as keras
from gpukeras.callbacks import EarlyStopping, TerminateOnNaN

X = np.ones((4, 2), "float32")


class Scripted(keras.Sequential):
    """A model whose loss follows a script; its kernel counts the epochs."""

    losses_to_come = ()

    def train_step(self, data):
        step = int(self.get_weights()[0][0, 0])
        self.set_weights([np.full((2, 1), step + 1.0), np.zeros(1)])
        # Logs of the metrics' own names would give way to the metrics.
        return {"loss": self.losses_to_come[step], "step": step}


def make_model(losses):
    model = Scripted([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.losses_to_come = losses
    model.compile("sgd", "mse")
    return model


def test_stops_and_restores():
    model = make_model([3.0, 2.0, 1.0, 1.5, 1.6, 0.1])
    stop = EarlyStopping("loss", patience=2, restore_best_weights=True)
    history = model.fit(X, epochs=6, callbacks=[stop], verbose=0)
    assert history.history["loss"] == [3.0, 2.0, 1.0, 1.5, 1.6]
    assert stop.stopped_epoch == 4
    assert (stop.best, stop.best_epoch) == (1.0, 2)
    assert model.get_weights()[0][0, 0] == 3


def test_restores_after_all_epochs():
    model = make_model([1.0, 2.0])
    stop = EarlyStopping("loss", patience=9, restore_best_weights=True)
    assert model.fit(X, epochs=2, callbacks=[stop], verbose=0).epoch == [0, 1]
    assert stop.stopped_epoch == 0
    assert model.get_weights()[0][0, 0] == 1


def test_differences_are_those_of_floatx():
    # Among Python's floats 0.7 + 0.1 is less than 0.8.
    stop = EarlyStopping("loss", min_delta=0.1, mode="min")
    stop._set_monitor_op()
    assert 0.7 + 0.1 < 0.8
    assert not stop._is_improvement(0.7, 0.8)
    assert stop._is_improvement(0.69, 0.8)


def test_nan_stops_at_once(capsys):
    model = make_model([1.0, float("nan"), 1.0])
    history = model.fit(X, batch_size=1, epochs=2, callbacks=[TerminateOnNaN()], verbose=0)
    assert history.epoch == [0]
    assert model.get_weights()[0][0, 0] == 2
    assert capsys.readouterr().out == "Batch 1: Invalid loss, terminating training\n"


def test_nan_raises():
    model = make_model([float("inf")])
    with pytest.raises(RuntimeError, match="NaN or Inf loss encountered at batch 0"):
        model.fit(X, callbacks=[TerminateOnNaN(raise_error=True)], verbose=0)


def test_nothing_to_watch_for_nan():
    callback = TerminateOnNaN()
    assert callback.on_batch_end(0, {"accuracy": 1.0}) is None
    assert callback.on_batch_end(0) is None
