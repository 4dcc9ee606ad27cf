"""`CallbackList`: the callbacks that a loop talks to."""

from typing import Any

from gpukeras.autograd.symbolic import flatten
from gpukeras.callbacks.base import Callback
from gpukeras.callbacks.history import History
from gpukeras.callbacks.logs import ProgbarLogger

__all__ = ["CallbackList"]


class CallbackList:
    """Callbacks that are told together.

    Reading the logs stops a GPU's stream. A loop therefore hands over, after each batch, a function that reads
    them; it is called at most once, and only for callbacks that override the method. A callback with
    ``reads_logs_itself = True`` (the progress bar) gets the function.

    Args:
        callbacks: One callback or a list of them.
        add_history, add_progbar: Whether a History and a progress bar are added.
        model: The model.
        params: `verbose`, `epochs`, `steps`.

    Example:
        >>> ends = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs))
        >>> CallbackList([ends]).on_epoch_end(0, {"loss": 0.5})
        0 {'loss': 0.5}
    """

    def __init__(self, callbacks=None, add_history=False, add_progbar=False, model: Any = None, **params):
        self.callbacks = [c for c in flatten(callbacks) if c is not None]
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks must be keras.callbacks.Callback objects, but got {callback!r} "
                    f"({type(callback).__name__})."
                )
        if add_progbar and not any(isinstance(c, ProgbarLogger) for c in self.callbacks):
            self.callbacks.append(ProgbarLogger())
        if add_history:
            history = next((c for c in self.callbacks if isinstance(c, History)), None)
            if history is None:
                history = History()
                self.callbacks.append(history)
            model.history = history
        self.params = params
        self.set_params(params)
        if model is not None:
            self.set_model(model)
        self._listeners = {name: self._who_overrides(name) for name in _BATCH_HOOKS}

    def _who_overrides(self, name):
        """The callbacks that listen to an event: by a method of their class, or a function of their own."""
        old_name = {
            "on_train_batch_begin": "on_batch_begin",
            "on_train_batch_end": "on_batch_end",
        }.get(name)
        names = [name, old_name] if old_name else [name]
        return [
            c
            for c in self.callbacks
            if any(getattr(getattr(c, n), "__func__", None) is not getattr(Callback, n) for n in names)
        ]

    def append(self, callback):
        """Add a callback."""
        self.callbacks.append(callback)
        self._listeners = {name: self._who_overrides(name) for name in _BATCH_HOOKS}

    def set_params(self, params):
        """Hand the parameters to all."""
        self.params = params
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model):
        """Hand the model to all."""
        for callback in self.callbacks:
            callback.set_model(model)

    def __iter__(self):
        return iter(self.callbacks)

    def _tell(self, name, *args):
        for callback in self.callbacks:
            getattr(callback, name)(*args)

    def _tell_batch(self, name, batch, logs):
        read = None
        for callback in self._listeners[name]:
            if getattr(callback, "reads_logs_itself", False):
                getattr(callback, name)(batch, logs)
                continue
            if read is None:
                read = logs() if callable(logs) else logs
            getattr(callback, name)(batch, logs=read)

    def on_train_begin(self, logs=None):
        """Training starts."""
        self._tell("on_train_begin", logs)

    def on_train_end(self, logs=None):
        """Training has ended."""
        self._tell("on_train_end", logs)

    def on_epoch_begin(self, epoch, logs=None):
        """An epoch starts."""
        self._tell("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        """An epoch has ended."""
        self._tell("on_epoch_end", epoch, logs)

    def on_test_begin(self, logs=None):
        """Evaluation starts."""
        self._tell("on_test_begin", logs)

    def on_test_end(self, logs=None):
        """Evaluation has ended."""
        self._tell("on_test_end", logs)

    def on_predict_begin(self, logs=None):
        """Prediction starts."""
        self._tell("on_predict_begin", logs)

    def on_predict_end(self, logs=None):
        """Prediction has ended."""
        self._tell("on_predict_end", logs)

    def on_train_batch_begin(self, batch, logs=None):
        """A training step starts."""
        self._tell_batch("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        """A training step has ended; `logs` a dictionary or a function that reads one."""
        self._tell_batch("on_train_batch_end", batch, logs)

    def on_test_batch_begin(self, batch, logs=None):
        """An evaluation step starts."""
        self._tell_batch("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        """An evaluation step has ended; `logs` a dictionary or a function that reads one."""
        self._tell_batch("on_test_batch_end", batch, logs)

    def on_predict_batch_begin(self, batch, logs=None):
        """A prediction step starts."""
        self._tell_batch("on_predict_batch_begin", batch, logs)

    def on_predict_batch_end(self, batch, logs=None):
        """A prediction step has ended."""
        self._tell_batch("on_predict_batch_end", batch, logs)


_BATCH_HOOKS = [f"on_{loop}_batch_{when}" for loop in ("train", "test", "predict") for when in ("begin", "end")]
