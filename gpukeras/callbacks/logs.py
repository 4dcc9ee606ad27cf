"""What the loops print: the progress bar."""

import os
import sys
import time
from typing import Any

from gpukeras.callbacks.base import Callback

__all__ = ["Progbar", "ProgbarLogger"]

_BOLD, _GREEN, _GREY, _PLAIN = "\x1b[1m", "\x1b[32m", "\x1b[37m", "\x1b[0m"


class Progbar:
    """A line that shows how far a loop is, with time per step and metrics.

    On a terminal or in a notebook the line is rewritten in place; in a pipe each state is a line of its own.

    Args:
        target: Number of steps, None if unknown.
        width: Characters of the bar.
        verbose: 0 silent, 1 a bar, 2 one line at the end.
        interval: Seconds between two drawings.
        stateful_metrics: Names whose values are shown as they come; all others are averaged over the steps.
        stateless_metrics: The names that are averaged, if given instead.
        unit_name: What is counted.

    Example:
        >>> Progbar(target=2, verbose=0).update(1, [("loss", 0.5)])
    """

    def __init__(
        self,
        target,
        width=20,
        verbose=1,
        interval=0.05,
        stateful_metrics=None,
        stateless_metrics=None,
        unit_name="step",
    ):
        if stateful_metrics is not None and stateless_metrics is not None:
            raise ValueError("Progbar takes stateful_metrics or stateless_metrics, but got both.")
        self.target = target
        self.width = width
        self.verbose = verbose
        self.interval = interval
        self.unit_name = unit_name
        self.stateful_metrics = None if stateful_metrics is None else set(stateful_metrics)
        self.stateless_metrics = None if stateless_metrics is None else set(stateless_metrics)
        self._rewrites = _can_rewrite_lines()
        self._values = {}  # name -> (sum of values, number of steps)
        self._seen = 0
        self._start = time.time()
        self._after_first_step = None
        self._last_drawn = 0.0
        self._last_length = 0

    @property
    def is_due(self):
        """Whether the interval since the last drawing is over."""
        return time.time() - self._last_drawn >= self.interval

    def update(self, current, values=None, finalize=None):
        """Draw the state after step `current`; `values` are pairs of name and value."""
        if finalize is None:
            finalize = self.target is not None and current >= self.target
        for name, value in values or ():
            self._take(name, value, current, finalize)
        self._seen = current
        now = time.time()
        seconds = self._seconds_per_step(current, now)
        if self.verbose == 1:
            if now - self._last_drawn < self.interval and not finalize:
                return
            self._draw(current, now, seconds, finalize)
        elif self.verbose == 2 and finalize and self.target:
            head = f"{current:{len(str(self.target))}d}/{self.target} - {now - self._start:.0f}s"
            _print(f"{head} -{self._pace(seconds)}{self._metrics()}\n")
        self._last_drawn = now

    def add(self, n, values=None):
        """Draw the state `n` steps later."""
        self.update(self._seen + n, values)

    def _take(self, name, value, current, finalize):
        if self.stateful_metrics is not None:
            is_averaged = name not in self.stateful_metrics
        else:
            is_averaged = self.stateless_metrics is None or name in self.stateless_metrics
        if not is_averaged or finalize:
            self._values[name] = (value, 1)
            return
        steps = max(current - self._seen, 1)
        total, count = self._values.get(name, (0.0, 0))
        self._values[name] = (total + value * steps, count + steps)

    def _draw(self, current, now, seconds, finalize):
        plain, styled = self._bar(current)
        if self.target and not finalize:
            clock = _clock(seconds * (self.target - current))
        else:
            clock = f"{now - self._start:.0f}s"
        rest = f"{self._pace(seconds)}{self._metrics()}"
        length = len(plain) + 1 + len(clock) + len(rest)
        start = "\b" * self._last_length + "\r" if self._rewrites else "\n"
        tail = " " * max(self._last_length - length, 0)
        _print(f"{start}{styled} {_BOLD}{clock}{_PLAIN}{rest}{tail}" + ("\n" if finalize else ""))
        self._last_length = length

    def _bar(self, current):
        """The counter and the bar, without and with colours."""
        if not self.target:
            text = f"{current:7d}/Unknown"
            return text, text
        counter = f"{current:{len(str(self.target))}d}/{self.target}"
        done = int(self.width * min(current / self.target, 1.0))
        green = f"{_GREEN}{'━' * done}{_PLAIN}" if done else ""
        grey = f"{_GREY}{'━' * (self.width - done)}{_PLAIN}"
        return f"{counter} {'━' * self.width}", f"{_BOLD}{counter}{_PLAIN} {green}{grey}"

    def _pace(self, seconds):
        if seconds >= 1 or seconds == 0:
            return f" {seconds:.0f}s/{self.unit_name}"
        if seconds >= 1e-3:
            return f" {seconds * 1e3:.0f}ms/{self.unit_name}"
        return f" {seconds * 1e6:.0f}us/{self.unit_name}"

    def _metrics(self):
        text = ""
        for name, (total, count) in self._values.items():
            try:
                mean = float(total) / max(count, 1)
            except TypeError:
                text += f" - {name}: {total}"
                continue
            text += f" - {name}: {mean:.4f}" if abs(mean) > 1e-3 else f" - {name}: {mean:.4e}"
        return text

    def _seconds_per_step(self, current, now):
        """The mean duration; the first step, which builds and warms up, is left out once there are others."""
        if not current:
            return 0.0
        if self._after_first_step is not None and current > 1:
            seconds = (now - self._after_first_step) / (current - 1)
        else:
            seconds = (now - self._start) / current
        if current == 1:
            self._after_first_step = now
        return seconds


class ProgbarLogger(Callback):
    """Shows a progress bar during `fit`, `evaluate` and `predict`; validation within `fit` is silent.

    Example:
        >>> ProgbarLogger().verbose
        1
    """

    reads_logs_itself = True  # and only when the bar is due to be drawn

    def __init__(self):
        super().__init__()
        self.progbar: Any = None
        self.target = None
        self.verbose = 1
        self.epochs = 1
        self.seen = 0
        self._is_in_fit = False

    def set_params(self, params):
        super().set_params(params)
        verbose = params.get("verbose", 1)
        self.verbose = 1 if verbose == "auto" else int(verbose)
        self.epochs = params.get("epochs", 1)
        self.target = params.get("steps")

    def _new_bar(self):
        self.seen = 0
        # Ten times a second is often enough for the eye; each drawing reads the metrics from the device.
        self.progbar = Progbar(self.target, verbose=self.verbose, stateless_metrics=(), interval=0.1)

    def _advance(self, batch, logs):
        self.seen = batch + 1
        if self.verbose == 1 and self.progbar.is_due:
            read: Any = logs() if callable(logs) else logs
            self.progbar.update(self.seen, list((read or {}).items()), finalize=False)
        elif self.seen == 1:
            self.progbar._seconds_per_step(1, time.time())

    def _finish(self, logs):
        if self.target is None:
            self.target = self.seen
            self.progbar.target = self.seen
        self.progbar.update(self.target, list((logs or {}).items()), finalize=True)

    def on_train_begin(self, logs=None):
        self._is_in_fit = True

    def on_train_end(self, logs=None):
        self._is_in_fit = False

    def on_epoch_begin(self, epoch, logs=None):
        self._new_bar()
        if self.verbose and self.epochs > 1:
            _print(f"Epoch {epoch + 1}/{self.epochs}\n")

    def on_train_batch_end(self, batch, logs=None):
        self._advance(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._finish(logs)

    def on_test_begin(self, logs=None):
        if not self._is_in_fit:
            self._new_bar()

    def on_test_batch_end(self, batch, logs=None):
        if not self._is_in_fit:
            self._advance(batch, logs)

    def on_test_end(self, logs=None):
        if not self._is_in_fit:
            self._finish(logs)

    def on_predict_begin(self, logs=None):
        self._new_bar()

    def on_predict_batch_end(self, batch, logs=None):
        self._advance(batch, None)

    def on_predict_end(self, logs=None):
        self._finish(None)


def _clock(seconds):
    seconds = int(seconds)
    if seconds > 3600:
        return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
    if seconds > 60:
        return f"{seconds // 60}:{seconds % 60:02d}"
    return f"{seconds}s"


def _can_rewrite_lines():
    return (
        (hasattr(sys.stdout, "isatty") and sys.stdout.isatty())
        or "ipykernel" in sys.modules
        or "PYCHARM_HOSTED" in os.environ
    )


def print_line(text):
    """Print a line, as the progress bar prints."""
    _print(f"{text}\n")


def _print(text):
    """Write to the standard output; characters that its encoding lacks are replaced."""
    if sys.stdout is None:  # a program without a console has none
        return
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.replace("━", "=").encode(encoding, errors="replace").decode(encoding))
    sys.stdout.flush()
