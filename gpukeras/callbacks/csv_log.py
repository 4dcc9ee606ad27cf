"""The logs of every epoch as a table in a file."""

import collections.abc
import csv
import os
from typing import Any

import numpy as np

from gpukeras.callbacks.base import Callback

__all__ = ["CSVLogger"]


class CSVLogger(Callback):
    """Writes a line of comma-separated values for every epoch.

    The columns are the epoch, counted from 0, and the names in the first epoch's logs, sorted. Where
    that epoch was not validated, columns with "val_" stand ready for later ones.

    Args:
        filename: Path of the file.
        separator: Text between two values.
        append: Whether to go on with a file that is there, instead of starting anew.

    Example:
        >>> model = keras.Sequential([keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((4, 3)), np.ones((4, 1))
        >>> history = model.fit(x, y, callbacks=[CSVLogger("log.csv")], verbose=0)
        >>> with open("log.csv") as file:
        ...     file.readline().strip()
        'epoch,loss,val_loss'
    """

    def __init__(self, filename, separator=",", append=False):
        super().__init__()
        self.filename = os.fspath(filename)
        self.sep = separator
        self.append = append
        self.writer: Any = None
        self.keys: Any = None
        self.append_header = True
        self.csv_file: Any = None

    def on_train_begin(self, logs=None):
        if self.append and os.path.exists(self.filename):
            with open(self.filename, encoding="utf-8") as file:
                self.append_header = not file.readline()
        self._close()
        # newline="": the csv module ends lines itself
        self.csv_file = open(self.filename, "a" if self.append else "w", encoding="utf-8", newline="")
        self.writer = None
        self.keys = None

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if self.writer is None:
            self._write_header(logs)
        row = {key: _cell(logs.get(key, "NA")) for key in self.keys}
        writer: Any = self.writer
        writer.writerow({"epoch": epoch, **row})
        self.csv_file.flush()

    def _write_header(self, logs):
        self.keys = sorted(logs)
        if not any(key.startswith("val_") for key in self.keys):
            self.keys += [f"val_{key}" for key in self.keys]
        self.writer = csv.DictWriter(self.csv_file, ["epoch", *self.keys], delimiter=self.sep)
        if self.append_header:
            self.writer.writeheader()

    def on_train_end(self, logs=None):
        self._close()
        self.writer = None

    def _close(self):
        if self.csv_file is not None:
            self.csv_file.close()


def _cell(value):
    is_number = isinstance(value, np.ndarray) and value.ndim == 0
    if isinstance(value, str) or is_number or not isinstance(value, collections.abc.Iterable):
        return value
    return f'"[{", ".join(map(str, value))}]"'
