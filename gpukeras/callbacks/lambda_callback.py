"""A callback made of functions."""

from gpukeras import registry
from gpukeras.callbacks.base import Callback

__all__ = ["LambdaCallback"]


class LambdaCallback(Callback):
    """Calls the given functions at their events.

    Args:
        on_epoch_begin, on_epoch_end: Functions of ``(epoch, logs)``.
        on_train_begin, on_train_end: Functions of ``(logs)``.
        on_train_batch_begin, on_train_batch_end: Functions of ``(batch, logs)``.
        **kwargs: Functions for any other method of Callback, by its name.

    Example:
        >>> seen = []
        >>> callback = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
        >>> callback.on_epoch_end(3, {})
        >>> seen
        [3]
    """

    def __init__(
        self,
        on_epoch_begin=None,
        on_epoch_end=None,
        on_train_begin=None,
        on_train_end=None,
        on_train_batch_begin=None,
        on_train_batch_end=None,
        **kwargs,
    ):
        super().__init__()
        for name in kwargs:
            if name.startswith("on_") and not hasattr(Callback, name):
                known = [known for known in dir(Callback) if known.startswith("on_")]
                raise TypeError(f"LambdaCallback: no event is called {name!r}. {registry.suggest(name, known)}")
        vars(self).update(kwargs)
        events = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
        }
        vars(self).update({name: function for name, function in events.items() if function is not None})
