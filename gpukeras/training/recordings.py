"""Which steps of a model are run again from the list of their ops, without the layers that called them.

A step may be where all that it does are ops of the library: a small model's step is mostly the calls around them. The
first step of a signature runs as it is written, the second is written down, later ones are run from the list. Steps
that draw random numbers, write state (batch normalization), or call code of the user's run as they are written; with
``jit_compile=True`` code of the user's is taken to do nothing but what its ops do, as Keras takes it wherever it
compiles.
"""

import collections

from gpukeras.autograd.program import Trace
from gpukeras.autograd.scope import current
from gpukeras.autograd.tensor import Tensor
from gpukeras.optimizers import Optimizer
from gpukeras.training.stamps import Stamp

__all__ = ["find", "is_own"]

_LIMIT = 8  # signatures of a model


class Recording:
    """What is known about the steps of one signature.

    Attributes:
        count: How many of them have begun.
        program: The list of the ops from the inputs to the loss, once it is written; it returns outputs and loss.
        sums: The list of the ops that update the metrics from inputs, outputs and loss, once it is written.
        reason: What stands against the first, if anything does.
        reason_of_sums: What stands against the second.
    """

    def __init__(self):
        self.count = 0
        self.program = None
        self.sums = None
        self.reason = None
        self.reason_of_sums = None

    def trace(self, model, inputs, outermost):
        """A Trace for this step, if it is the one to be written down: the second, as the first may build things."""
        if self.count != 2:
            return None
        others = [layer for layer in model._flatten_layers() if not type(layer).__module__.startswith("gpukeras.")]
        if others and model.jit_compile is not True:
            self.reason = f"{type(others[0]).__name__} {others[0].name!r} is no layer of the library's"
            return None
        return Trace(inputs, outermost, takes_others_code=model.jit_compile is True)

    def trace_sums(self, model, inputs, outermost):
        """A Trace for the update of the metrics in the step whose ops have just been written down."""
        if self.program is None:
            return None
        metrics = model._compile_metrics.metrics if model._compile_metrics is not None else []
        others = [metric for metric in metrics if not is_own(metric)]
        if current.additions is not None:
            self.reason_of_sums = "on a GPU all sums are added at once"
        elif not model._has_default_metrics:
            self.reason_of_sums = "compute_metrics is not the library's"
        elif others and model.jit_compile is not True:
            self.reason_of_sums = f"{type(others[0]).__name__} {others[0].name!r} is no metric of the library's"
        else:
            return Trace(inputs, outermost, takes_others_code=model.jit_compile is True)
        return None

    def finish_sums(self, trace, written):
        """Keep what a Trace has written of the metrics' update, which wrote to so many arrays."""
        if written != len(trace.additions):
            trace.reason = trace.reason or "a metric does more than adding to its variables"
        self.sums = trace.finish()
        self.reason_of_sums = trace.reason

    def finish(self, trace, model, is_pure, *results):
        """Keep what a Trace has written, where it says all that the step did."""
        if not is_pure:
            trace.reason = trace.reason or "a variable is assigned in the forward pass"
        elif any(layer._losses for layer in model._all_layers()):
            trace.reason = trace.reason or "a layer adds a loss"
        elif any(getattr(result, "_keras_mask", None) is not None for result in results):
            trace.reason = trace.reason or "the output has a mask"
        self.program = trace.finish(*results)
        self.reason = trace.reason


def find(model, variables, x, y, sample_weight):
    """The Recording of steps like this one; None where steps of the model cannot be recorded at all."""
    optimizer = model.optimizer
    if (
        model.run_eagerly
        or model.jit_compile is False
        or type(x) is not Tensor
        or type(y) is not Tensor
        or not (sample_weight is None or type(sample_weight) is Tensor)
        or optimizer is None
        or type(optimizer).scale_loss is not Optimizer.scale_loss
        or optimizer.loss_scale_factor is not None
    ):
        return None
    stamp = Stamp(model, variables)
    known = model.__dict__.get("_remembered_recordings")
    if known is None or known[0] != stamp:
        known = model.__dict__["_remembered_recordings"] = stamp, collections.OrderedDict()
    recordings = known[1]
    weights = None if sample_weight is None else (sample_weight.array.shape, sample_weight.array.dtype)
    signature = x.array.shape, x.array.dtype, y.array.shape, y.array.dtype, weights, type(x.array)
    recording = recordings.get(signature)
    if recording is None:
        recording = recordings[signature] = Recording()
        if len(recordings) > _LIMIT:
            recordings.popitem(last=False)
    recording.count += 1
    return recording


def is_own(metric):
    """Whether a metric, and the function that it averages, are the library's."""
    function = getattr(metric, "_fn", metric)
    return all(str(getattr(made, "__module__", None)).startswith("gpukeras.") for made in (type(metric), function))
