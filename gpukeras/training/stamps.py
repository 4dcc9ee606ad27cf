"""What a step that is kept, as a list of ops or as a graph, takes for granted."""

import operator

from gpukeras.backend.cublaslt import is_tf32_enabled
from gpukeras.backend.cudnn import is_cudnn_enabled
from gpukeras.backend.dtypes import epsilon, floatx
from gpukeras.layers._tracking import last_set, stamp_of
from gpukeras.optimizers._settings import settings_of

__all__ = ["Stamp"]


class Stamp:
    """What Python can change about a model's steps without their noticing; equal to another as long as it has not.

    These are the model's layers and their public attributes, what is trainable, the compiled loss and metrics, an
    optimizer's settings and its schedule's, and settings of the process.

    Args:
        model: The model.
        variables: Its trainable variables.
        optimizer: The optimizer, where its update is part of what is kept.
    """

    __slots__ = ("_objects", "_of_optimizer", "_of_process", "_variables", "settings", "state")

    def __init__(self, model, variables, optimizer=None):
        self.state, self.settings = stamp_of(model)
        self._of_process = epsilon(), floatx(), is_tf32_enabled(), is_cudnn_enabled()
        self._of_optimizer = None if optimizer is None else settings_of(optimizer)
        self._objects = model._compile_loss, model._compile_metrics, optimizer  # kept: an id alone may come again
        self._variables = variables

    def __eq__(self, other):
        return (
            isinstance(other, Stamp)
            and self.settings == other.settings
            and self.state == other.state
            and self._of_process == other._of_process
            and (self._of_optimizer is other._of_optimizer or self._of_optimizer == other._of_optimizer)
            and _are_same(self._objects, other._objects)
            and _are_same(self._variables, other._variables)
        )

    def allow_settings(self, model):
        """Take the attributes of layers as they are now: a step has set them itself."""
        _, self.settings = stamp_of(model)

    def change_since(self, earlier, model):
        """In words, what has changed since an earlier stamp."""
        if self.settings != earlier.settings:
            layer, name = last_set(model)
            return f"{name!r} of {type(layer).__name__} {layer.name!r} was set"
        if (self._of_process, self._of_optimizer) != (earlier._of_process, earlier._of_optimizer):
            return "a setting of the optimizer or in keras.config was changed"
        if not _are_same(self._objects, earlier._objects):
            return "the model was compiled"
        return "layers or variables came or went"


def _are_same(some, others):
    return len(some) == len(others) and all(map(operator.is_, some, others))
