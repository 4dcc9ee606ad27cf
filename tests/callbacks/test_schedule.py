"""Learning rates by callback. Keras's own behaviour stands in tests/parity."""

import numpy as np
import pytest

import gpukeras as keras
from gpukeras.callbacks import LearningRateScheduler, ReduceLROnPlateau

X, Y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")


def fit(callback, learning_rate=0.5, epochs=2):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(learning_rate), "mse")
    return model.fit(X, Y, epochs=epochs, callbacks=[callback], verbose=0).history


def test_schedule_of_ops():
    history = fit(LearningRateScheduler(lambda epoch, rate: rate * keras.ops.exp(-1.0)))
    np.testing.assert_allclose(history["learning_rate"], [0.5 * np.exp(-1), 0.5 * np.exp(-2)], rtol=1e-6)


def test_errors_within_a_schedule_surface():
    def schedule(epoch, rate):
        return "rate" + rate

    with pytest.raises(TypeError, match="can only concatenate str"):
        fit(LearningRateScheduler(schedule))


@pytest.mark.parametrize("wrong", [1, "0.1", None, np.ones(2)])
def test_schedule_must_return_a_float(wrong):
    with pytest.raises(ValueError, match="output of the `schedule` function should be a float"):
        fit(LearningRateScheduler(lambda epoch, rate: wrong))


def test_no_learning_rate():
    callback = LearningRateScheduler(lambda epoch: 0.1)
    callback.set_model(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match='must have a "learning_rate" attribute'):
        callback.on_epoch_begin(0)


def test_plateau_lowers_the_rate_in_training():
    history = fit(ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9), epochs=4)
    assert history["learning_rate"] == [0.5, 0.5, 0.25, 0.125]


def test_plateau_refuses_a_factor_that_raises():
    with pytest.raises(ValueError, match="does not support a factor >= 1.0. Received factor=2"):
        ReduceLROnPlateau(factor=2)


def test_plateau_says_what_it_ignores():
    with pytest.warns(UserWarning, match=r"does not know \['epsilon'\]"):
        ReduceLROnPlateau(epsilon=0.1)


def test_rate_of_a_schedule_object_cannot_be_set():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    with pytest.raises(TypeError, match="learning rate is not settable"):
        fit(LearningRateScheduler(lambda epoch: 0.1), learning_rate=schedule)
