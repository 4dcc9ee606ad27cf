"""Steps of a model on a GPU as CUDA graphs: one launch a step, without a line of Python of the model's.

A step of each signature runs twice as it is written, is recorded the third time, and launched from then on. Its inputs
are copied into arrays of the graph's own, or gathered by the graph from data on the device (`feeds`); all else that it
reads or writes (weights, slots, metric sums, counters, learning rate) lies in arrays that stay where they are. What a
step decides in Python, it decides for good: changes to layers, to the optimizer's settings or to what is trainable make
it recorded anew.
"""

import threading
import warnings
from typing import Any

from gpukeras.autograd.scope import setting
from gpukeras.autograd.symbolic import flatten, map_structure
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.backend.graphs import GraphCache
from gpukeras.layers import _tracking as tracking
from gpukeras.optimizers.base import Optimizer
from gpukeras.training.feeds import Feed, places_for
from gpukeras.training.shortage import OutOfMemoryError

__all__ = ["can_capture", "can_feed", "forget", "run", "run_fed"]

_lock = threading.RLock()  # one step at a time: threads share a graph's inputs, and the device anyway
_running: Any = None  # the graph whose step runs or is recorded, of which other steps may be parts


def can_feed(model):
    """Whether the model may run from graphs that gather their inputs."""
    return not (model.run_eagerly or model.jit_compile is False or _running is not None)


def can_capture(model, inputs):
    """Whether the model may run from graphs, and all inputs are plain Tensors on a device that records them."""
    if not can_feed(model):
        return False
    leaves = [leaf for leaf in flatten(inputs) if leaf is not None]
    return bool(leaves) and all(
        type(leaf) is Tensor and getattr(leaf, "_keras_mask", None) is None and devices.can_record(leaf.array)
        for leaf in leaves
    )


def run(kind, model, function, *inputs):
    """``function(model, *inputs)`` by its graph, where there is one.

    Args:
        kind: The step's name, part of the signature.
        model: For which `can_capture` holds.
        function: Returns Tensors, None, or a nested structure of them.
        inputs: Tensors, None, or nested structures of them.
    """
    with _lock:
        signature = kind, *[_described(leaf) for leaf in flatten(inputs)], str(map_structure(_kind_of, inputs))
        try:
            graph = _graphs_of(model)[1].get(signature, lambda: _Step(model, function, inputs))
            graph.function.take(inputs)
        except MemoryError as error:
            raise OutOfMemoryError(str(error)) from error
        return _launched(graph, kind, model)


def run_fed(kind, model, function, batch):
    """``function(model, *batch)`` by its graph, which gathers the batch, a `data.RowsBatch`, itself."""
    with _lock:
        try:
            _, graphs, known = _graphs_of(model)
            feed = known.get((kind, batch.layout))
            if feed is None:
                feed = known[kind, batch.layout] = Feed(batch.epoch)
            signature = kind, batch.layout, batch.stop - batch.start
            graph = graphs.get(signature, lambda: _FedStep(model, function, feed, batch))
            feed.aim(batch)
        except MemoryError as error:
            raise OutOfMemoryError(str(error)) from error
        outputs = _launched(graph, kind, model)
        feed.has_gathered(batch)
        return outputs


def _launched(graph, kind, model):
    """The outputs of a step by its graph, or by its function as long as that is not recorded."""
    global _running
    step = graph.function
    _running = graph
    try:
        outputs = graph()
    finally:
        _running = None
    if graph.reason is not None and not step.has_told:
        step.has_told = True
        message = f"A {kind} step of {model.name!r} runs without a CUDA graph: {graph.reason}"
        warnings.warn(message, stacklevel=3)
    return None if outputs is None else map_structure(Tensor, outputs)


def forget(model):
    """Free the model's graphs and their memory."""
    with _lock:
        known = model.__dict__.pop("_remembered_captures", None)
        if known is not None:
            known[1].clear()


class _Step:
    """A step on inputs of its own, as a function without arguments that returns arrays."""

    def __init__(self, model, function, inputs):
        self.model = model
        self.function = function
        self.inputs = map_structure(_own_place, inputs)
        self.has_told = False

    def take(self, inputs):
        """Copy a batch into the step's inputs, on the device."""
        for own, given in zip(flatten(self.inputs), flatten(inputs), strict=True):
            if own is not None:
                own.array[...] = given.array

    def __call__(self):
        with setting(is_recording=_running.is_recording):
            outputs = self.function(self.model, *self.inputs)
        return None if outputs is None else map_structure(lambda y: y.array, outputs)


class _FedStep(_Step):
    """A step whose inputs are gathered by a `Feed`."""

    def __init__(self, model, function, feed, batch):
        self.model = model
        self.function = function
        self.feed = feed
        self.inputs, self.arrays = places_for(batch)
        self.has_told = False

    def __call__(self):
        self.feed.gather(self.arrays)
        return super().__call__()


def _own_place(tensor):
    if tensor is None:
        return None
    return Tensor(devices.array_module(tensor.array).empty_like(tensor.array))


def _described(tensor):
    return None if tensor is None else (tensor.array.shape, tensor.array.dtype)


def _kind_of(tensor):
    return "-" if tensor is None else "+"


def _settings_of(optimizer):
    """The numbers that an optimizer was set to, and those of one that it wraps."""
    found = []
    for value in vars(optimizer).values():
        if isinstance(value, (bool, int, float)):
            found.append(value)
        elif isinstance(value, Optimizer):
            found += _settings_of(value)
    return found


def _graphs_of(model):
    """The model's graphs, and the feeds they read; none after anything has changed that they depend on.

    Returns:
        A stamp of what they depend on, their GraphCache, and a dictionary of Feeds by kind of step and layout of data.
    """
    optimizer = model.optimizer
    settings = () if optimizer is None else _settings_of(optimizer)
    stamp = (
        *tracking.stamp(),
        id(model._compile_loss),
        id(model._compile_metrics),
        id(optimizer),
        *settings,
        *[id(variable) for variable in model.trainable_variables],
    )
    known = model.__dict__.get("_remembered_captures")
    if known is None or known[0] != stamp:
        if known is not None:
            known[1].clear()
        known = model.__dict__["_remembered_captures"] = stamp, GraphCache(), {}
    return known
