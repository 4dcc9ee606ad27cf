"""Who is told of what, and when logs are read."""

import numpy as np
import pytest

import gpukeras as keras
from gpukeras.callbacks import Callback, CallbackList

X, Y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")


def test_a_function_put_on_an_instance_listens():
    seen = []
    callback = Callback()
    callback.on_train_batch_end = lambda batch, logs=None: seen.append(batch)
    callback.on_predict_batch_begin = lambda batch, logs=None: seen.append(-1)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, Y, batch_size=2, callbacks=[callback], verbose=0)
    model.predict(X, callbacks=[callback], verbose=0)
    assert seen == [0, 1, -1]


def test_old_names_listen():
    seen = []

    class Old(Callback):
        def on_batch_begin(self, batch, logs=None):
            seen.append(("begin", batch))

        def on_batch_end(self, batch, logs=None):
            seen.append(("end", batch, logs))

    callbacks = CallbackList([Old()])
    callbacks.on_train_batch_begin(3)
    callbacks.on_train_batch_end(3, lambda: {"loss": 1.0})
    assert seen == [("begin", 3), ("end", 3, {"loss": 1.0})]


def test_logs_are_read_once_and_only_for_listeners():
    reads = []

    def read():
        reads.append(1)
        return {"loss": 1.0}

    class Listener(Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert logs == {"loss": 1.0}

    CallbackList([Callback(), keras.callbacks.History()]).on_train_batch_end(0, read)
    assert reads == []
    CallbackList([Listener(), Callback(), Listener()]).on_train_batch_end(0, read)
    assert reads == [1]


@pytest.mark.parametrize("wrong", ["history", print, keras.callbacks.History])
def test_what_is_no_callback_is_refused(wrong):
    with pytest.raises(TypeError, match="must be keras.callbacks.Callback objects"):
        CallbackList([wrong])
