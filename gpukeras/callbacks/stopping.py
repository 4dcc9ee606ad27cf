"""Callbacks that end training early."""

import math
import warnings

from gpukeras.callbacks.base import Callback
from gpukeras.callbacks.logs import print_line
from gpukeras.callbacks.monitor import MonitorCallback

__all__ = ["EarlyStopping", "TerminateOnNaN"]


class EarlyStopping(MonitorCallback):
    """Ends training when a metric has stopped getting better.

    Args:
        monitor: Name of the metric in the logs.
        min_delta: How much better a value must be to count.
        patience: Number of epochs without improvement after which training ends.
        verbose: 0 silent, 1 says when it acts.
        mode: "min" or "max", which of two values is better; "auto" asks the metric.
        baseline: Value that must be beaten within `patience` epochs.
        restore_best_weights: Whether the model gets the weights of its best epoch back.
        start_from_epoch: Number of first epochs that do not count.

    Example:
        >>> model = keras.Sequential([keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> stop = EarlyStopping("loss", patience=2, min_delta=1e9)
        >>> x, y = np.ones((4, 3)), np.ones((4, 1))
        >>> history = model.fit(x, y, epochs=10, callbacks=[stop], verbose=0)
        >>> history.epoch
        [0, 1, 2]
    """

    def __init__(
        self,
        monitor="val_loss",
        min_delta=0,
        patience=0,
        verbose=0,
        mode="auto",
        baseline=None,
        restore_best_weights=False,
        start_from_epoch=0,
    ):
        super().__init__(monitor, mode, min_delta=min_delta)
        self.patience = patience
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self.wait = 0
        self.stopped_epoch = 0
        self.best_epoch = 0
        self.best_weights = None

    def on_train_begin(self, logs=None):
        self.wait = 0
        self.stopped_epoch = 0
        self.best = None
        self.best_epoch = 0
        self.best_weights = None

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor_op is None:
            self._set_monitor_op()
        value = self.get_monitor_value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep_weights(epoch)
        self.wait += 1
        if self._is_improvement(value, self.best):
            self.best = value
            self.best_epoch = epoch
            if self.restore_best_weights:
                self._keep_weights(epoch)
            if self.baseline is None or self._is_improvement(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _keep_weights(self, epoch):
        self.best_weights = self.model.get_weights()
        self.best_epoch = epoch

    def on_train_end(self, logs=None):
        if self.stopped_epoch > 0 and self.verbose > 0:
            print_line(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose > 0:
                print_line(f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)

    def get_monitor_value(self, logs):
        """The watched value, None with a warning where the logs lack it."""
        logs = logs or {}
        value = logs.get(self.monitor)
        if value is None:
            warnings.warn(
                f"Early stopping conditioned on metric `{self.monitor}` which is not available. "
                f"Available metrics are: {','.join(logs)}",
                stacklevel=2,
            )
        return value


class TerminateOnNaN(Callback):
    """Ends training as soon as the loss is NaN or infinite.

    It reads the loss after every batch, which on a GPU waits for the batch to be finished.

    Args:
        raise_error: Whether to raise RuntimeError instead of stopping in good order.

    Example:
        >>> TerminateOnNaN().raise_error
        False
    """

    def __init__(self, raise_error=False):
        super().__init__()
        self.raise_error = raise_error

    def on_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(
                f"NaN or Inf loss encountered at batch {batch}. Loss value: {loss}. Terminating training immediately."
            )
        print_line(f"Batch {batch}: Invalid loss, terminating training")
        self.model.stop_training = True
