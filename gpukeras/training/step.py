"""One step: forward, backward, update. The only file that knows whether a step is captured."""

import contextlib
import functools

import numpy as np

from gpukeras.autograd.scope import current, setting, transaction
from gpukeras.autograd.symbolic import flatten
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices, memory, process
from gpukeras.training import captures, recordings

__all__ = ["call", "test", "train", "undoable"]

undoable = transaction


def _quiet():
    """NaN and infinity are values that metrics and TerminateOnNaN see; NumPy need not warn of them."""
    return np.errstate(all="ignore")


@functools.lru_cache(maxsize=8)  # made once: a captured step may not copy from the host
def _one(xp, dtype):
    """d(loss)/d(loss)."""
    return xp.ones((), dtype)


def call(model, x, training):
    """The model's outputs for x, in training or inference mode."""
    if x is None:
        raise ValueError(f"{type(model).__name__} {model.name!r} got no input data: x is None.")
    process.prepare()
    if devices.default_module() is not np and captures.can_capture(model, x):
        return captures.run(f"call, training={training},", model, lambda model, x: _call(model, x, training), x)
    return _call(model, x, training)


def _call(model, x, training):
    scope = vars(current)
    before = scope.get("training")
    scope["training"] = training  # as `setting` would, in a third of the time: one row is predicted in 50 microseconds
    try:
        with _quiet():
            return model(x)
    finally:
        scope["training"] = before


class _OutOfMemoryError(MemoryError):
    """A step ran out of memory, and nothing of it is left."""


def train(model, x, y, sample_weight):
    """One update of the model's weights from a batch; metrics are updated on the device.

    All of it is one transaction: it happens whole or not at all. Where memory runs out before weights are written, it
    is tried once more with all memory given back that is free. Returns what `test` returns.
    """
    process.prepare()
    try:
        return _by_graph("train", _train, model, x, y, sample_weight)
    except _OutOfMemoryError:
        pass
    memory.release()  # here, where the error no longer holds the arrays of the failed step
    return _train(model, x, y, sample_weight)


def _by_graph(kind, function, model, *batch):
    """``function(model, *batch)``, as a CUDA graph where that is possible."""
    if devices.default_module() is np or not model._has_default_metrics or not captures.can_capture(model, batch):
        return function(model, *batch)
    return captures.run(kind, model, function, *batch)


def _train(model, x, y, sample_weight):
    undo = transaction()
    try:
        return _update(undo, model, x, y, sample_weight)
    except MemoryError as error:
        if not undo.has_undone:
            raise
        raise _OutOfMemoryError(*error.args) from error


def _update(undo, model, x, y, sample_weight):
    optimizer = model.optimizer
    with undo, _quiet():
        model._clear_losses()
        with Tape() as tape, setting(training=True):
            variables, y_pred, loss, target = _forward(tape, model, x, y, sample_weight)
        logs = _update_metrics(model, x, y, y_pred, sample_weight, loss)
        if optimizer is None:
            return logs
        if not variables:
            raise ValueError(
                f"{type(model).__name__} {model.name!r} has no trainable weights. Set "
                f"layer.trainable = True, or use evaluate()."
            )
        seed = _one(devices.array_module(loss.array), loss.array.dtype)
        gradients = tape.gradients([(target, seed)], variables, optimizer.gradient_places(variables))
        optimizer.apply(gradients, variables)  # commits the transaction once everything is checked
    return logs


def _forward(tape, model, x, y, sample_weight):
    """Trainable variables, outputs and loss of a batch, and what stands for the loss on the tape."""
    variables = model.trainable_variables
    recording = recordings.find(model, variables, x, y, sample_weight)
    if recording is not None and recording.program is not None:
        arrays = [tensor.array for tensor in (x, y, sample_weight) if tensor is not None]
        y_pred, loss = recording.program.run(tape, arrays)
        return variables, Tensor(y_pred), Tensor(loss), recording.program.places[1]
    given = [tensor for tensor in (x, y, sample_weight) if tensor is not None]
    if current.is_recording:  # into a graph, where nothing is computed
        recording = None
    trace = recording.trace(model, given, _forward.__code__) if recording is not None else None
    with trace or contextlib.nullcontext():
        y_pred = model(x)
        loss = _loss_of(model, x, y, y_pred, sample_weight, True)
    if recording is not None and trace is not None:
        recording.finish(trace, model, not current.undo, y_pred, loss)
    target = loss if model.optimizer is None else model.optimizer.scale_loss(loss)
    return model.trainable_variables, y_pred, loss, target  # the variables anew: the call may have made them


def test(model, x, y, sample_weight):
    """Loss and metrics of a batch, in inference mode."""
    process.prepare()
    return _by_graph("test", _test, model, x, y, sample_weight)


def _test(model, x, y, sample_weight):
    model._clear_losses()
    with _quiet(), setting(training=False):
        y_pred = model(x)
        loss = _loss_of(model, x, y, y_pred, sample_weight, False)
        return _update_metrics(model, x, y, y_pred, sample_weight, loss)


def _loss_of(model, x, y, y_pred, sample_weight, training):
    settings = {"training": training} if model._loss_takes_training else {}
    return model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, **settings)


def _update_metrics(model, x, y, y_pred, sample_weight, loss):
    """Add the batch to all metrics; returns logs only where the model's own compute_metrics makes them."""
    model._loss_tracker.add_mean(loss, flatten(x)[0].shape[0])
    if not model._has_default_metrics:
        return model.compute_metrics(x, y, y_pred, sample_weight)
    if model._compile_metrics is not None:
        model._compile_metrics.update_state(y, y_pred, sample_weight)
    return None
