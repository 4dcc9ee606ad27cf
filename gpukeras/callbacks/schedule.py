"""Callbacks that change the learning rate."""

import inspect
import warnings

import numpy as np

from gpukeras.autograd.tensor import Tensor
from gpukeras.callbacks.base import Callback
from gpukeras.callbacks.logs import print_line
from gpukeras.callbacks.monitor import MonitorCallback

__all__ = ["LearningRateScheduler", "ReduceLROnPlateau"]


class LearningRateScheduler(Callback):
    """Sets the learning rate at the start of every epoch.

    Args:
        schedule: Function of the epoch, counted from 0, and the learning rate; returns the new one.
        verbose: 0 silent, 1 says when it acts.

    Example:
        >>> callback = LearningRateScheduler(lambda epoch, rate: rate / 2)
        >>> model = keras.Sequential([keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(0.5), "mse")
        >>> x, y = np.ones((4, 3)), np.ones((4, 1))
        >>> model.fit(x, y, epochs=2, callbacks=[callback], verbose=0).history["learning_rate"]
        [0.25, 0.125]
    """

    def __init__(self, schedule, verbose=0):
        super().__init__()
        self.schedule = schedule
        self.verbose = verbose

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        if not hasattr(optimizer, "learning_rate"):
            raise ValueError('Optimizer must have a "learning_rate" attribute.')
        if _takes_rate(self.schedule):
            rate = self.schedule(epoch, float(optimizer.learning_rate))
        else:
            rate = self.schedule(epoch)
        if isinstance(rate, Tensor) and rate.shape == ():
            rate = float(rate)
        if not isinstance(rate, (float, np.floating)):
            raise ValueError(f"The output of the `schedule` function should be a float. Got: {rate}")
        optimizer.learning_rate = rate
        if self.verbose > 0:
            print_line(f"\nEpoch {epoch + 1}: LearningRateScheduler setting learning rate to {rate}.")

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)


def _takes_rate(schedule):
    """Whether a schedule is a function of epoch and learning rate; older ones take the epoch only."""
    try:
        inspect.signature(schedule).bind(0, 0.1)
    except TypeError:
        return False
    except ValueError:  # a builtin without signature
        return True
    return True


class ReduceLROnPlateau(MonitorCallback):
    """Lowers the learning rate when a metric has stopped getting better.

        learning_rate ← max(learning_rate · factor, min_lr)

    Args:
        monitor: Name of the metric in the logs.
        factor: What the learning rate is multiplied by, below 1.
        patience: Number of epochs without improvement after which to act.
        verbose: 0 silent, 1 says when it acts.
        mode: "min" or "max", which of two values is better; "auto" asks the metric.
        min_delta: How much better a value must be to count.
        cooldown: Number of epochs after each reduction that do not count.
        min_lr: The learning rate does not fall below this.

    Example:
        >>> ReduceLROnPlateau("loss", factor=0.5, patience=3).patience
        3
    """

    def __init__(
        self,
        monitor="val_loss",
        factor=0.1,
        patience=10,
        verbose=0,
        mode="auto",
        min_delta=1e-4,
        cooldown=0,
        min_lr=0.0,
        **kwargs,
    ):
        super().__init__(monitor, mode, min_delta=min_delta)
        if factor >= 1.0:
            raise ValueError(f"ReduceLROnPlateau does not support a factor >= 1.0. Received factor={factor}")
        if kwargs:
            warnings.warn(f"ReduceLROnPlateau does not know {sorted(kwargs)}: without effect.", stacklevel=2)
        self.factor = factor
        self.patience = patience
        self.verbose = verbose
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.cooldown_counter = 0
        self.wait = 0

    def on_train_begin(self, logs=None):
        self.best = None
        self.cooldown_counter = 0
        self.wait = 0

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor_op is None:
            self._set_monitor_op()
        logs = {} if logs is None else logs
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        value = logs.get(self.monitor)
        if value is None:
            warnings.warn(
                f"Learning rate reduction is conditioned on metric `{self.monitor}` which is not available. Available "
                f"metrics are: {','.join(logs)}.",
                stacklevel=2,
            )
            return
        if self.in_cooldown():
            self.cooldown_counter -= 1
            self.wait = 0
        if self._is_improvement(value, self.best):
            self.best = value
            self.wait = 0
        elif not self.in_cooldown():
            self.wait += 1
            if self.wait >= self.patience and self._reduce(epoch):
                self.cooldown_counter = self.cooldown
                self.wait = 0

    def _reduce(self, epoch):
        """Lower the learning rate; False where it has reached its bound."""
        optimizer = self.model.optimizer
        before = float(optimizer.learning_rate)
        if before <= np.float32(self.min_lr):
            return False
        rate = max(before * self.factor, self.min_lr)
        optimizer.learning_rate = rate
        if self.verbose > 0:
            print_line(f"\nEpoch {epoch + 1}: ReduceLROnPlateau reducing learning rate to {rate}.")
        return True

    def in_cooldown(self):
        """Whether epochs do not count just now."""
        return self.cooldown_counter > 0
