"""What callbacks that watch a metric have in common: which of two values is better."""

import operator
import warnings
from typing import Any

from gpukeras.backend import dtypes
from gpukeras.callbacks.base import Callback

__all__ = ["MonitorCallback"]


class MonitorCallback(Callback):
    """A callback that watches one entry of the logs.

    Args:
        monitor: Name of the entry, such as "val_loss".
        mode: "min" or "max", which of two values is better; "auto" asks the metric.
        baseline: The best value before the first; None for none.
        min_delta: How much better a value must be to count.

    Example:
        >>> MonitorCallback("val_loss").best is None
        True
    """

    def __init__(self, monitor="val_loss", mode="auto", baseline=None, min_delta: float = 0):
        super().__init__()
        if mode not in ("auto", "min", "max"):
            warnings.warn(
                f"{type(self).__name__} mode '{mode}' is unknown, fallback to auto mode.",
                stacklevel=3,
            )
            mode = "auto"
        self.monitor = monitor
        self.mode = mode
        self.best = baseline
        self.min_delta = abs(min_delta)
        self.monitor_op: Any = None  # less or greater; metrics know which only once they are built

    def _set_monitor_op(self):
        if self.mode == "auto":
            direction = self._find_direction()
        else:
            direction = {"min": "down", "max": "up"}[self.mode]
        if direction is None:
            raise ValueError(
                f"{type(self).__name__} cannot tell whether a larger or a smaller monitor={self.monitor!r} is better. "
                f"Pass mode='max' or mode='min'."
            )
        self.monitor_op = operator.gt if direction == "up" else operator.lt

    def _find_direction(self):
        name = self.monitor.removeprefix("val_")
        metrics = []
        for metric in getattr(self.model, "metrics", ()):
            metrics.extend(getattr(metric, "metrics", [metric]))
        found = "down" if name == "loss" else None
        for metric in metrics:
            if metric.name == name and getattr(metric, "_direction", None) is not None:
                found = metric._direction
        return found

    def _is_improvement(self, value, reference):
        """Whether `value` is better than `reference` by more than `min_delta`."""
        if reference is None:
            return True
        if self.monitor_op is None:
            self._set_monitor_op()
        sign = -1 if self.monitor_op is operator.lt else 1
        # Compared as floatx, as in Keras: 0.7 + 0.1 is 0.8 there, but not among Python's floats.
        number: Any = dtypes.as_dtype(dtypes.floatx()).type
        is_better: Any = self.monitor_op
        return bool(is_better(number(value - sign * self.min_delta), number(reference)))
