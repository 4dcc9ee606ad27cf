"""Saving the model while it trains."""

import os
import warnings

from gpukeras.callbacks.logs import print_line
from gpukeras.callbacks.monitor import MonitorCallback

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(MonitorCallback):
    """Saves the model, or its weights, after every epoch or every few batches.

    A file is written beside its place and then moved there: whenever training dies, the last
    checkpoint is whole.

    Args:
        filepath: Where to save: ends in ``.keras``, or in ``.weights.h5`` with `save_weights_only`. May
            hold ``{epoch:02d}``, counted from 1, ``{batch}`` with a number as `save_freq`, and names of
            the logs such as ``{val_loss:.2f}``.
        monitor: Name of the metric that says which model is best.
        verbose: 0 silent, 1 says when it acts.
        save_best_only: Whether to save only when `monitor` has got better.
        save_weights_only: Whether to save the weights instead of the whole model.
        mode: "min" or "max", which of two values is better; "auto" asks the metric.
        save_freq: "epoch", or a number of batches.
        initial_value_threshold: Value that the first saved model must beat, with `save_best_only`.

    Example:
        >>> checkpoint = ModelCheckpoint("{epoch:02d}.keras")
        >>> model = keras.Sequential([keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((4, 3)), np.ones((4, 1))
        >>> history = model.fit(x, y, epochs=2, callbacks=[checkpoint], verbose=0)
        >>> keras.models.load_model("02.keras").predict(x, verbose=0).shape
        (4, 1)
    """

    def __init__(
        self,
        filepath,
        monitor="val_loss",
        verbose=0,
        save_best_only=False,
        save_weights_only=False,
        mode="auto",
        save_freq="epoch",
        initial_value_threshold=None,
    ):
        super().__init__(monitor, mode, initial_value_threshold)
        self.filepath = os.fspath(filepath)
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self._current_epoch = 0
        self._batches_seen_since_last_saving = 0
        self._last_batch_seen = None
        if save_freq != "epoch" and not isinstance(save_freq, int):
            raise ValueError(f"Unrecognized save_freq: {save_freq}. Expected save_freq are 'epoch' or integer values")
        self._check_ending()

    def _check_ending(self):
        path = self.filepath
        if self.save_weights_only:
            if not path.endswith(".weights.h5"):
                raise ValueError(
                    "When using `save_weights_only=True` in `ModelCheckpoint`, the filepath provided must end in "
                    f"`.weights.h5` (Keras weights format). Received: filepath={path}"
                )
        elif path.endswith(".h5"):
            raise NotImplementedError(
                f"ModelCheckpoint: whole models in `.h5` files are not supported; let the filepath end in `.keras`, or "
                f"in `.weights.h5` with save_weights_only=True. Received: filepath={path}"
            )
        elif not path.endswith(".keras"):
            raise ValueError(
                f"The filepath provided must end in `.keras` (Keras model format). Received: filepath={path}"
            )

    @property
    def reads_logs_itself(self):
        """Whether batch hooks get a function instead of logs: most batches need none."""
        return type(self) is ModelCheckpoint

    def on_train_batch_end(self, batch, logs=None):
        if self._should_save_on_batch(batch):
            self._save_model(self._current_epoch, batch, logs() if callable(logs) else logs)

    def on_epoch_begin(self, epoch, logs=None):
        self._current_epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor_op is None:
            self._set_monitor_op()
        if self.save_freq == "epoch":
            self._save_model(epoch, None, logs)

    def _should_save_on_batch(self, batch):
        if self.save_freq == "epoch":
            return False
        is_new_epoch = self._last_batch_seen is None or batch <= self._last_batch_seen
        self._batches_seen_since_last_saving += batch + 1 if is_new_epoch else batch - self._last_batch_seen
        self._last_batch_seen = batch
        if self._batches_seen_since_last_saving < self.save_freq:
            return False
        self._batches_seen_since_last_saving = 0
        return True

    def _should_save_model(self, epoch, logs, filepath):
        if not self.save_best_only:
            self._say(epoch, f"saving model to {filepath}")
            return True
        value = logs.get(self.monitor)
        if value is None:
            warnings.warn(f"Can save best model only with {self.monitor} available.", stacklevel=4)
            return True
        if getattr(value, "shape", ()):
            warnings.warn(
                f"Can save best model only when `monitor` is a scalar value. Received: {value}. Falling back to "
                f"`save_best_only=False`.",
                stacklevel=4,
            )
            return True
        best = "None" if self.best is None else f"{self.best:.5f}"
        if not self._is_improvement(value, self.best):
            self._say(epoch, f"{self.monitor} did not improve from {best}")
            return False
        self._say(epoch, f"{self.monitor} improved from {best} to {value:.5f}, saving model to {filepath}")
        self.best = value
        return True

    def _say(self, epoch, text):
        if self.verbose > 0:
            print_line(f"\nEpoch {epoch + 1}: {text}")

    def _save_model(self, epoch, batch, logs):
        logs = logs or {}
        filepath = self._get_file_path(epoch, batch, logs)
        if not self._should_save_model(epoch, logs, filepath):
            return
        folder = os.path.dirname(filepath)
        try:
            if folder:
                os.makedirs(folder, exist_ok=True)
            save = self.model.save_weights if self.save_weights_only else self.model.save
            save(filepath, overwrite=True)
        except OSError as error:
            if os.path.isdir(filepath):
                raise OSError(
                    "Please specify a non-directory filepath for ModelCheckpoint. Filepath used is an existing "
                    f"directory: {filepath}"
                ) from error
            raise
        self._say(epoch, f"finished saving model to {filepath}")

    def _get_file_path(self, epoch, batch, logs):
        numbers = {"epoch": epoch + 1} if batch is None or "batch" in logs else {"epoch": epoch + 1, "batch": batch + 1}
        try:
            return self.filepath.format(**numbers, **logs)
        except KeyError as error:
            raise KeyError(
                f'Failed to format this callback filepath: "{self.filepath}". Reason: {error}. '
                f"The logs have {sorted(logs)}."
            ) from error
