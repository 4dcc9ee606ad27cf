"""Steps of a model on a GPU as CUDA graphs: one launch a step, without a line of Python of the model's.

A step of each signature runs twice as it is written, is recorded the third time, and launched from then on. Its inputs
are copied into arrays of the graph's own, or gathered by the graph from data on the device (`feeds`); all else that it
reads or writes (weights, slots, metric sums, counters, learning rate) lies in arrays that stay where they are. What a
step decides in Python, it decides for good: changes to layers, to the optimizer's settings or to what is trainable make
it recorded anew (`stamps`). What a step itself sets on a layer is no such change: as wherever Keras compiles, it is set
as long as Python runs.
"""

import sys
import threading
import warnings
from typing import Any

from gpukeras.autograd.scope import setting
from gpukeras.autograd.symbolic import flatten, map_structure
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from gpukeras.backend.graphs import GraphCache
from gpukeras.training.feeds import Feed, places_for
from gpukeras.training.shortage import OutOfMemoryError
from gpukeras.training.stamps import Stamp

__all__ = ["can_capture", "can_feed", "forget", "graphs_of", "run", "run_fed", "steps_of", "tell_of_own"]

_MOST_WASTED = 4  # times in a row that graphs are dropped before one was launched, until the user is told

_lock = threading.RLock()  # one step at a time: threads share a graph's inputs, and the device anyway
_running: Any = None  # the graph whose step runs or is recorded, of which other steps may be parts


def can_feed(kind, model):
    """Whether a step of this kind may run from graphs that gather their inputs."""
    if model.run_eagerly or model.jit_compile is False or _running is not None:
        return False
    if kind != "train" or model.optimizer is None or not model.optimizer.calls_for_learning_rate:
        return True
    with _lock:
        _captures_of(model).tell(
            f"Steps of {model.name!r} run without CUDA graphs: the optimizer's learning_rate is a function, which "
            f"every step must call. A LearningRateSchedule can be recorded."
        )
    return False


def can_capture(kind, model, inputs):
    """Whether a step may run from graphs, and all inputs are plain Tensors on a device that records them."""
    leaves = [leaf for leaf in flatten(inputs) if leaf is not None]
    are_plain = all(
        type(leaf) is Tensor and getattr(leaf, "_keras_mask", None) is None and devices.can_record(leaf.array)
        for leaf in leaves
    )
    return bool(leaves) and are_plain and can_feed(kind, model)


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
            captures = _captures_of(model)
            captures.follow(model)
            graph = captures.graph(signature, lambda: _Step(model, function, inputs), model)
            graph.function.take(inputs)
        except MemoryError as error:
            raise OutOfMemoryError(str(error)) from error
        return captures.launched(graph, kind, model)


def run_fed(kind, model, function, batch):
    """``function(model, *batch)`` by its graph, which gathers the batch, a `data.RowsBatch`, itself."""
    with _lock:
        try:
            captures = _captures_of(model)
            captures.follow(model)
            feed = captures.feeds.get((kind, batch.layout))
            if feed is None:
                feed = captures.feeds[kind, batch.layout] = Feed(batch.epoch)
            signature = kind, batch.layout, batch.stop - batch.start
            graph = captures.graph(signature, lambda: _FedStep(model, function, feed, batch), model)
            feed.aim(batch)
        except MemoryError as error:
            raise OutOfMemoryError(str(error)) from error
        outputs = captures.launched(graph, kind, model)
        feed.has_gathered(batch)
        return outputs


class _Captures:
    """The graphs of a model's steps, and what is known about them.

    Attributes:
        graphs: A GraphCache.
        feeds: The Feeds that graphs read, by kind of step and layout of data.
        steps: How many steps have run from graphs, or towards being recorded.
    """

    def __init__(self):
        self.graphs = GraphCache()
        self.feeds = {}
        self.steps = 0
        self._stamp: Any = None
        self._wasted = 0
        self._told = set()

    def follow(self, model):
        """Drop the graphs after anything has changed that they take for granted."""
        stamp = Stamp(model, model.trainable_variables, model.optimizer)
        if self._stamp == stamp:
            return
        if self._stamp is not None and len(self.graphs):
            self._wasted = 0 if any(graph.graph is not None for graph in self.graphs) else self._wasted + 1
            if self._wasted == _MOST_WASTED:
                change = stamp.change_since(self._stamp, model)
                self.tell(
                    f"Steps of {model.name!r} run without CUDA graphs: before each of the last {_MOST_WASTED} could be "
                    f"recorded, something changed. The last time, {change}.",
                )
        self.clear()
        self._stamp = stamp

    def graph(self, signature, make, model):
        """The graph of a signature, or for more of them than are kept one that never records."""
        graph = self.graphs.get(signature, make)
        if signature not in self.graphs:
            self.tell(
                f"Steps of {model.name!r} have batches of more than {self.graphs.limit} shapes or kinds in turn: the "
                f"others run without CUDA graphs. Pad them to fewer shapes."
            )
        return graph

    def clear(self):
        """Free all graphs and their memory."""
        self.graphs.clear()
        self.feeds.clear()

    def launched(self, graph, kind, model):
        """The outputs of a step by its graph, or by its function as long as that is not recorded."""
        global _running
        self.steps += 1
        runs_python = graph.graph is None
        _running = graph
        try:
            outputs = graph()
        finally:
            _running = None
            if runs_python:
                self._stamp.allow_settings(model)
        if graph.reason is not None:
            self.tell(f"A {kind} step of {model.name!r} runs without a CUDA graph: {graph.reason}", graph.reason)
        return None if outputs is None else map_structure(_wrapped, outputs)

    def tell(self, message, reason=None):
        """Warn the user, once for each reason, at the line that called the library."""
        reason = reason or message
        if reason not in self._told:
            self._told.add(reason)
            warnings.warn(message, stacklevel=_frames_of_the_library())


def _frames_of_the_library():
    """The stacklevel, for a warning of the caller's, that names the innermost line outside the library."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("gpukeras."):
        level, frame = level + 1, frame.f_back
    return level


def _captures_of(model):
    captures = model.__dict__.get("_remembered_captures")
    if captures is None:
        captures = model.__dict__["_remembered_captures"] = _Captures()
    return captures


def steps_of(model):
    """How many steps of the model have run from graphs, or towards being recorded."""
    return _captures_of(model).steps


def tell_of_own(model, method, batch, steps):
    """Say so where a method of the user's in the place of a step has run none of the library's since `steps_of`."""
    if steps_of(model) == steps and can_capture("own", model, batch):
        name = method.__name__
        _captures_of(model).tell(
            f"{type(model).__name__}.{name} runs without CUDA graphs: it is no step of the library's, nor does it call "
            f"one, such as super().{name}."
        )


def forget(model):
    """Free the model's graphs and their memory."""
    with _lock:
        if "_remembered_captures" in model.__dict__:
            _captures_of(model).clear()


def graphs_of(model):
    """The model's graphs, those used last at the end."""
    return list(_captures_of(model).graphs)


class _Step:
    """A step on inputs of its own, as a function without arguments that returns arrays."""

    def __init__(self, model, function, inputs):
        self.model = model
        self.function = function
        self.inputs = map_structure(_own_place, inputs)

    def take(self, inputs):
        """Copy a batch into the step's inputs, on the device."""
        for own, given in zip(flatten(self.inputs), flatten(inputs), strict=True):
            if own is not None:
                own.array[...] = given.array

    def __call__(self):
        with setting(is_recording=_running.is_recording):
            outputs = self.function(self.model, *self.inputs)
        return None if outputs is None else map_structure(_unwrapped, outputs)


class _FedStep(_Step):
    """A step whose inputs are gathered by a `Feed`."""

    def __init__(self, model, function, feed, batch):
        self.model = model
        self.function = function
        self.feed = feed
        self.inputs, self.arrays = places_for(batch)

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


def _unwrapped(output):
    """The array of a step's output; logs of the user's own may hold numbers besides, which a graph cannot give."""
    if isinstance(output, Tensor):
        return output.array
    if _running.is_recording:
        raise TypeError(f"a {type(output).__name__} is among its results, where a graph gives Tensors alone")
    return output


def _wrapped(output):
    return Tensor(output) if hasattr(output, "strides") else output
