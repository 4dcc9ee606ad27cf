"""Whether integer labels are classes that the model has."""

import numpy as np

from gpukeras import losses as losses_room
from gpukeras.autograd.symbolic import flatten
from gpukeras.autograd.tensor import Tensor

__all__ = ["check", "check_data"]


def check_data(model, data):
    """`check` for all of a data set that lies in memory: its labels are read once, before anything runs."""
    check(model, getattr(data, "structure", (None, None, None))[1])


def check(model, targets):
    """Raise a ValueError where targets on the host are no classes of a model with a sparse crossentropy.

    Args:
        model: A compiled model.
        targets: Arrays or Tensors in the structure of its outputs; None checks nothing.
    """
    if targets is None or model._compile_loss is None:
        return
    for label_array, count, loss in _sparse_class_counts(model, targets):
        labels = label_array.array if isinstance(label_array, Tensor) else label_array
        if not isinstance(labels, np.ndarray) or labels.size == 0:
            continue
        low, high = labels.min(), labels.max()
        ignored = getattr(loss, "ignore_class", None)
        if ignored is not None and ignored in (low, high):
            kept = labels[labels != ignored]
            if kept.size == 0:
                continue
            low, high = kept.min(), kept.max()
        if low < 0 or high >= count:
            raise ValueError(
                f"{type(model).__name__} {model.name!r} has {count} classes, so labels must lie in 0..{count - 1}, "
                f"but y holds {int(low)}..{int(high)}. Renumber the labels, or give the last layer "
                f"{int(high) + 1} units."
            )


def _sparse_class_counts(model, targets):
    """``(labels, number of classes, loss)`` for every output with a sparse crossentropy, as far as known."""
    compiled = model._compile_loss
    outputs = getattr(model, "outputs", None) if _has_outputs(model) else None
    flat = flatten(targets)
    found = []
    if compiled.built:
        for entry in compiled.entries:
            if _is_sparse(entry.loss) and outputs is not None and entry.index < min(len(flat), len(outputs)):
                found.append((flat[entry.index], outputs[entry.index].shape[-1], entry.loss))
    elif outputs is not None and len(outputs) == len(flat) == 1 and _is_sparse(compiled.user_loss):
        found.append((flat[0], outputs[0].shape[-1], compiled.user_loss))
    return [item for item in found if item[1] is not None and item[0] is not None]


def _has_outputs(model):
    try:
        return bool(model.outputs)
    except AttributeError:
        return False


def _is_sparse(loss):
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")
    is_class = isinstance(loss, losses_room.SparseCategoricalCrossentropy)
    return is_class or name == "sparse_categorical_crossentropy"
