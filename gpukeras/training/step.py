"""One step: forward, backward, update. The only file that knows whether a step is captured."""

import contextlib
import functools

import numpy as np

from gpukeras.autograd.additions import gathered
from gpukeras.autograd.scope import commit, current, setting, transaction
from gpukeras.autograd.symbolic import flatten
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices, memory, process
from gpukeras.training import captures, recordings, shortage

__all__ = ["call", "fed", "own", "test", "train", "undoable"]

undoable = transaction


def _quiet():
    """NaN and infinity are values that metrics and TerminateOnNaN see; NumPy need not warn of them."""
    return np.errstate(all="ignore")


@functools.lru_cache(maxsize=8)  # made once: a captured step may not copy from the host
def _one(xp, dtype):
    return xp.ones((), dtype)


def call(model, x, training):
    """The model's outputs for x, in training or inference mode."""
    if x is None:
        raise ValueError(f"{type(model).__name__} {model.name!r} got no input data: x is None.")
    process.prepare()
    try:
        if devices.default_module() is not np and captures.can_capture("predict", model, x):
            return captures.run(f"call, training={training},", model, lambda model, x: _call(model, x, training), x)
        return _call(model, x, training)
    except MemoryError as error:
        if current.undo is not None or current.is_recording:  # a part of a step, which is tried again
            raise
        failure = shortage.OutOfMemoryError(str(error))
    except TypeError:
        _check_home(model)
        raise
    return _again("predict", lambda model, x: _call(model, x, training), model, x, failure=failure)


def _call(model, x, training):
    scope = vars(current)
    before = scope.get("training")
    scope["training"] = training  # as `setting` would, in a third of the time: one row is predicted in 50 microseconds
    try:
        with _quiet():
            return model(x)
    finally:
        scope["training"] = before


def _again(kind, function, model, *batch, failure):
    """A step that has failed, once more with all memory given back that is free; else an error that says what helps."""
    captures.forget(model)
    memory.release()
    if kind != "predict" or _writes_nothing(model):
        try:
            return function(model, *batch)
        except MemoryError as error:
            if type(error) is not shortage.OutOfMemoryError and kind != "predict":
                raise
            failure = shortage.OutOfMemoryError(str(error))
        memory.release()

    def forward(x, y=None, sample_weight=None):
        with _quiet():
            model._clear_losses()
            y_pred = model(x)
            if kind != "predict":
                _loss_of(model, x, y, y_pred, sample_weight, kind == "train")

    raise shortage.error_of(kind, model, str(failure), forward, batch)  # which holds no array of the failed step


def _check_home(model):
    """Say so where weights lie on another device than the one that computes: array libraries' own words do not."""
    module = devices.default_module()
    strangers = [v for v in model.variables if devices.array_module(v.array) is not module]
    if strangers:
        raise ValueError(
            f"{type(model).__name__} {model.name!r} was built on the backend {strangers[0].device!r} (its variable "
            f"{strangers[0].path!r} lies there), but {devices.default_device()!r} computes now. Go back with "
            f"keras.config.set_backend({strangers[0].device!r}), or build the model anew and load_weights()."
        )


def _writes_nothing(model):
    """Whether a call in inference mode may be repeated: it changes nothing."""
    return not any(
        getattr(layer, "stateful", False) or not type(layer).__module__.startswith("gpukeras.")
        for layer in model._flatten_layers()
    )


def train(model, x, y, sample_weight):
    """One update of the model's weights from a batch; metrics are updated on the device.

    All of it is one transaction: it happens whole or not at all. Where memory runs out before weights are written, it
    is tried once more with all memory given back that is free, and then an error says what would fit. Returns what
    `test` returns.
    """
    process.prepare()
    try:
        return _by_graph("train", _train, model, x, y, sample_weight)
    except shortage.OutOfMemoryError as error:
        failure = error.without_arrays()
    except TypeError:
        _check_home(model)
        raise
    return _again("train", _train, model, x, y, sample_weight, failure=failure)


def _by_graph(kind, function, model, *batch):
    """``function(model, *batch)``, as a CUDA graph where that is possible."""
    if devices.default_module() is np or not captures.can_capture(kind, model, batch):
        return function(model, *batch)
    return captures.run(kind, model, function, *batch)


def _train(model, x, y, sample_weight):
    undo = transaction()
    try:
        return _update(undo, model, x, y, sample_weight)
    except MemoryError as error:
        if not undo.has_undone:
            raise
        raise shortage.OutOfMemoryError(str(error)) from error


def _update(undo, model, x, y, sample_weight):
    optimizer = model.optimizer
    with undo, _quiet():
        model._clear_losses()
        variables = model.trainable_variables
        recording = recordings.find(model, variables, x, y, sample_weight)
        if recording is not None and recording.program is not None:
            with gathered():
                return _replay(recording, model, variables, x, y, sample_weight)
        if current.is_recording:  # into a graph, where nothing is computed
            recording = None
        with Tape() as tape, setting(training=True):
            y_pred, loss = _forward(recording, model, x, y, sample_weight)
            target = loss if optimizer is None else optimizer.scale_loss(loss)
        with gathered():
            logs = _add_to_metrics(recording, model, x, y, y_pred, sample_weight, loss)
            if optimizer is None:
                return logs
            variables = model.trainable_variables  # anew: the call may have made them
            if not variables:
                raise ValueError(
                    f"{type(model).__name__} {model.name!r} has no trainable weights. Set "
                    f"layer.trainable = True, or use evaluate()."
                )
            plan = optimizer.plan_of(variables)
            places = None if plan is None else plan.places()
            gradients = tape.gradients([(target, _seed(loss.array))], variables, places)
            optimizer.apply(gradients, variables)  # commits the transaction once everything is checked
    return logs


def _seed(loss):
    """d(loss)/d(loss)."""
    return _one(devices.array_module(loss), loss.dtype)


def _forward(recording, model, x, y, sample_weight):
    """Outputs and loss of a batch; where a recording wants it, they are written down."""
    given = [tensor for tensor in (x, y, sample_weight) if tensor is not None]
    trace = None if recording is None else recording.trace(model, given, _forward.__code__)
    with trace or contextlib.nullcontext():
        y_pred = model(x)
        loss = _loss_of(model, x, y, y_pred, sample_weight, True)
    if recording is not None and trace is not None:
        recording.finish(trace, model, not current.undo, y_pred, loss)
    return y_pred, loss


def _add_to_metrics(recording, model, x, y, y_pred, sample_weight, loss):
    """`_update_metrics`; where the step has just been written down, this is, too."""
    given = [tensor for tensor in (x, y, sample_weight, y_pred, loss) if tensor is not None]
    trace = None if recording is None else recording.trace_sums(model, given, _add_to_metrics.__code__)
    if recording is None or trace is None:
        return _update_metrics(model, x, y, y_pred, sample_weight, loss)
    with trace:
        _update_metrics(model, x, y, y_pred, sample_weight, loss)
    recording.finish_sums(trace, len(current.undo))
    return None


def _replay(recording, model, variables, x, y, sample_weight):
    """The step from the lists of its ops. All is computed before anything is written: nothing need be undone."""
    optimizer, program, sums = model.optimizer, recording.program, recording.sums
    arrays = [tensor.array for tensor in (x, y, sample_weight) if tensor is not None]
    (y_pred, loss), backwards = program.run(arrays)
    logs = amounts = None
    if sums is not None:
        amounts, _ = sums.run([*arrays, y_pred, loss])
    else:
        logs = _update_metrics(model, x, y, Tensor(y_pred), sample_weight, Tensor(loss))
    plan = optimizer.plan_of(variables)
    gradients = program.gradients(backwards, 1, _seed(loss), variables, None if plan is None else plan.places())
    if plan is not None and plan.takes(gradients):
        optimizer.apply_plan(plan, gradients)
    else:
        optimizer.apply(gradients, variables)
    if sums is not None:
        commit()
        sums.add(amounts)
    return logs


def test(model, x, y, sample_weight):
    """Loss and metrics of a batch, in inference mode."""
    process.prepare()
    try:
        return _by_graph("test", _test, model, x, y, sample_weight)
    except shortage.OutOfMemoryError as error:
        failure = error.without_arrays()
    except TypeError:
        _check_home(model)
        raise
    return _again("test", _test, model, x, y, sample_weight, failure=failure)


def _test(model, x, y, sample_weight):
    undo = transaction()
    try:
        return _evaluate(undo, model, x, y, sample_weight)
    except MemoryError as error:
        if not undo.has_undone:
            raise
        raise shortage.OutOfMemoryError(str(error)) from error


def _evaluate(undo, model, x, y, sample_weight):
    model._clear_losses()
    with undo, _quiet(), setting(training=False):
        y_pred = model(x)
        loss = _loss_of(model, x, y, y_pred, sample_weight, False)
        with gathered():
            return _update_metrics(model, x, y, y_pred, sample_weight, loss)


def _predict(model, x, y=None, sample_weight=None):
    return _call(model, x, False)


_BY_NAME = {"train": (_train, train), "test": (_test, test)}


def fed(kind, model, batch):
    """`train` or `test` of a `data.RowsBatch`, or the prediction for it, which its graph gathers, if there is one."""
    function, plain = _BY_NAME.get(kind, (_predict, None))
    if not captures.can_feed(kind, model):
        return call(model, batch[0], False) if plain is None else plain(model, *batch)
    process.prepare()
    try:
        return captures.run_fed(kind, model, function, batch)
    except shortage.OutOfMemoryError as error:
        failure = error.without_arrays()
    except MemoryError as error:
        if plain is not None:
            raise
        failure = shortage.OutOfMemoryError(str(error))
    except TypeError:
        _check_home(model)
        raise
    return _again(kind, function, model, *batch, failure=failure)


def own(model, method, batch):
    """What a method of the user's in the place of a step returns for a batch, of which it is given what is there."""
    x, y, sample_weight = batch
    data = (x, y, sample_weight) if sample_weight is not None else (x, y) if y is not None else (x,)
    if devices.default_module() is np:
        return method(data)
    steps = captures.steps_of(model)
    result = method(data)
    captures.tell_of_own(model, method, data, steps)
    return result


def _loss_of(model, x, y, y_pred, sample_weight, training):
    settings = {"training": training} if model._loss_takes_training else {}
    return model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, **settings)


def _update_metrics(model, x, y, y_pred, sample_weight, loss):
    """Add the batch to all metrics; returns logs only where the model's own compute_metrics makes them."""
    model._loss_tracker.add_mean(loss, flatten(x)[0].shape[0])
    if not model._has_default_metrics:
        with setting(additions=None):  # what it reads must be there
            return model.compute_metrics(x, y, y_pred, sample_weight)
    metrics = model._compile_metrics
    if metrics is None:
        return None
    if current.additions is not None and not all(map(recordings.is_own, metrics.metrics)):
        with setting(additions=None):
            metrics.update_state(y, y_pred, sample_weight)
    else:
        metrics.update_state(y, y_pred, sample_weight)
    return None
