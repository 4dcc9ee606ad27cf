"""`Callback`: what a loop tells of its events."""

from typing import Any

__all__ = ["Callback"]


class Callback:
    """Something that is told of every event of `fit`, `evaluate` and `predict`.

    Override the methods of interest. ``self.model`` is the model, ``self.params`` a dictionary with `verbose`,
    `epochs` and `steps`. `logs` maps names of losses and metrics to numbers.

    Example:
        >>> class Stop(Callback):
        ...     def on_epoch_end(self, epoch, logs=None):
        ...         if logs["loss"] < 0.1:
        ...             self.model.stop_training = True
        >>> Stop().params is None
        True
    """

    def __init__(self):
        self.params: Any = None
        self._model: Any = None

    @property
    def model(self):
        """The model that is trained, evaluated or asked."""
        return self._model

    def set_params(self, params):
        """Take the parameters of the loop."""
        self.params = params

    def set_model(self, model):
        """Take the model."""
        self._model = model

    def on_batch_begin(self, batch, logs=None):
        """The same as `on_train_batch_begin`, by its old name."""

    def on_batch_end(self, batch, logs=None):
        """The same as `on_train_batch_end`, by its old name."""

    def on_epoch_begin(self, epoch, logs=None):
        """An epoch of training starts."""

    def on_epoch_end(self, epoch, logs=None):
        """An epoch of training has ended, validation included."""

    def on_train_batch_begin(self, batch, logs=None):
        """A training step starts."""
        self.on_batch_begin(batch, logs=logs)

    def on_train_batch_end(self, batch, logs=None):
        """A training step has ended."""
        self.on_batch_end(batch, logs=logs)

    def on_test_batch_begin(self, batch, logs=None):
        """An evaluation step starts."""

    def on_test_batch_end(self, batch, logs=None):
        """An evaluation step has ended."""

    def on_predict_batch_begin(self, batch, logs=None):
        """A prediction step starts."""

    def on_predict_batch_end(self, batch, logs=None):
        """A prediction step has ended; logs has the key "outputs"."""

    def on_train_begin(self, logs=None):
        """Training starts."""

    def on_train_end(self, logs=None):
        """Training has ended."""

    def on_test_begin(self, logs=None):
        """Evaluation, or validation, starts."""

    def on_test_end(self, logs=None):
        """Evaluation, or validation, has ended."""

    def on_predict_begin(self, logs=None):
        """Prediction starts."""

    def on_predict_end(self, logs=None):
        """Prediction has ended."""
