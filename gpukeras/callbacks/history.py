"""What happened in each epoch."""

from gpukeras.callbacks.base import Callback

__all__ = ["History"]


class History(Callback):
    """Keeps the logs of every epoch; `fit` returns one.

    Attributes:
        epoch: Numbers of the epochs.
        history: Name -> list of values, one per epoch.

    Example:
        >>> History().history
        {}
    """

    def __init__(self):
        super().__init__()
        self.history: dict[str, list] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs=None):
        self.epoch = []

    def on_epoch_end(self, epoch, logs=None):
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
        self.model.history = self
