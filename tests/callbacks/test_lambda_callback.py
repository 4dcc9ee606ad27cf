"""A callback made of functions."""

import numpy as np
import pytest

import gpukeras as keras
from gpukeras.callbacks import LambdaCallback


def test_functions_are_called_in_training():
    seen = []
    callback = LambdaCallback(
        on_train_begin=lambda logs: seen.append("begin"),
        on_epoch_begin=lambda epoch, logs: seen.append(epoch),
        on_train_batch_end=lambda batch, logs: seen.append(sorted(logs)),
        on_test_end=lambda logs: seen.append("test"),
        note="kept",
    )
    x = np.ones((4, 2), "float32")
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(x, x[:, :1], validation_data=(x, x[:, :1]), callbacks=[callback], verbose=0)
    assert seen == ["begin", 0, ["loss"], "test"]
    assert callback.note == "kept"


def test_an_event_that_does_not_exist():
    with pytest.raises(TypeError, match="no event is called 'on_epoch_edn'.*on_epoch_end"):
        LambdaCallback(on_epoch_edn=print)
