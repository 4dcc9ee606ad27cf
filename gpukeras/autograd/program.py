"""A step as the list of its ops: written down while it runs once, and run again without the layers around them."""

import sys

import numpy as np

from gpukeras.autograd.scope import current
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices

__all__ = ["Program", "Trace"]

_CONSTANTS = (type(None), bool, int, float, str, np.dtype, type)


class _Place:
    """Stands for a Tensor in the entries of a tape."""

    __slots__ = ()


class Trace:
    """Writes down the ops that are called in a `with` block, and makes a Program of them.

    An op may depend on nothing but Tensors that are given, variables, and what other ops of the block have returned:
    whatever else may differ the next time. `reason` says what stands in the way, if anything does.

    Args:
        inputs: The Tensors that differ from run to run.
        outermost: Code of the function whose callers are not looked at.
        takes_others_code: Whether functions that are not the library's may call ops, or else stand in the way:
            they may do what no op does.
    """

    def __init__(self, inputs, outermost, takes_others_code=False):
        self.inputs = list(inputs)
        self.outermost = outermost
        self.takes_others_code = takes_others_code
        self.reason = None
        self.values = []  # what each slot holds at the beginning: a constant, or None
        self.variables = {}  # id of a Variable -> (its slot, the Variable)
        self.steps = []
        self.slots = {}  # id of a Tensor -> its slot
        self.places = {}  # id of a Tensor -> what stands for it in a tape; a Variable stands for itself
        self.kept = []  # the Tensors whose ids are in use
        for tensor in self.inputs:
            self._new_slot(tensor)

    def __enter__(self):
        current.trace = self
        return self

    def __exit__(self, *error):
        current.trace = None

    def add(self, function, values, rest, settings, outputs, backward, needs_type):
        """An op was called: its function, Tensors and settings, and what came of it."""
        if self.reason is not None:
            return
        if current.autocast is not None:
            self.reason = "variables are read in another dtype"
        if not self.takes_others_code:
            self._look_at_callers()
        for setting in (*rest, *settings.values()):
            if not _is_constant(setting):
                self.reason = f"ops.{function.__name__} was called with {type(setting).__name__} as a setting"
        arguments = tuple([self._slot_of(value, function) for value in (*values, *rest)])
        tracked = [self._is_tracked(value) for value in values]
        entry = None
        if backward is not None and True in tracked:
            parts = outputs if type(outputs) is tuple else (outputs,)
            for part in parts:
                self.places[id(part)] = _Place()
            inputs = tuple([self._place_of(value) for value in values])
            outs = tuple([self.places[id(part)] for part in parts])
            entry = inputs, outs if type(outputs) is tuple else outs[0], needs_type(tracked)
        if type(outputs) is tuple:
            slots = tuple([self._new_slot(part) for part in outputs])
        else:
            slots = self._new_slot(outputs)
        self.steps.append((function, arguments, settings, slots, entry))

    def finish(self, *results):
        """The program, whose `run` returns these Tensors; None where there is a reason against it."""
        for result in results:
            if type(result) is not Tensor or id(result) not in self.slots:
                self.reason = self.reason or "a result came from no op"
        return None if self.reason is not None else Program(self, results)

    def _new_slot(self, tensor):
        self.slots[id(tensor)] = len(self.values)
        self.kept.append(tensor)
        self.values.append(None)
        return len(self.values) - 1

    def _slot_of(self, value, function):
        slot = self.slots.get(id(value)) if isinstance(value, Tensor) else None
        if slot is not None:
            return slot
        if type(value) is Variable:
            slot = self._new_slot(value)
            self.variables[id(value)] = slot, value
        elif not _is_constant(value):
            self.reason = f"ops.{function.__name__} was called with an array that was made in the step"
        else:
            slot = len(self.values)
            self.values.append(float(value) if type(value) is np.float64 else value)
        return slot

    def _is_tracked(self, value):
        return id(value) in self.places or (type(value) is Variable and value.trainable)

    def _place_of(self, value):
        return value if type(value) is Variable else self.places.get(id(value))

    def _look_at_callers(self):
        frame = sys._getframe(3)  # above `add`, and the op
        while frame is not None and frame.f_code is not self.outermost:
            room = frame.f_globals.get("__name__", "").partition(".")[0]
            if room not in ("gpukeras", "numpy") and room not in sys.stdlib_module_names:
                self.reason = f"{frame.f_code.co_name} in {frame.f_code.co_filename} calls ops"
                return
            frame = frame.f_back


class Program:
    """What a Trace wrote down.

    Attributes:
        places: What stands for each of the results in a tape's entries; None for one that depends on no variable.
    """

    def __init__(self, trace, results):
        self.places = [trace.places.get(id(result)) for result in results]
        self._values = trace.values
        self._variables = list(trace.variables.values())
        self._steps = trace.steps
        self._results = [trace.slots[id(result)] for result in results]

    def run(self, tape, inputs):
        """Call the ops with these arrays and enter them on `tape`, as they would have been. Returns the results."""
        values = self._values.copy()
        values[: len(inputs)] = inputs
        for slot, variable in self._variables:
            values[slot] = variable.array
        record = tape.entries.append
        for function, arguments, settings, slots, entry in self._steps:
            y, backward = function(*[values[i] for i in arguments], **settings)
            if type(slots) is int:
                values[slots] = np.asarray(y) if isinstance(y, np.generic) else y
            else:
                for slot, part in zip(slots, y, strict=True):
                    values[slot] = np.asarray(part) if isinstance(part, np.generic) else part
            if entry is not None:
                ins, outs, needs = entry
                record((ins, outs, backward, needs))
        return [values[slot] for slot in self._results]


def _is_constant(value):
    """Whether a value is the same in every run: no array, nor anything that holds one."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_constant, value))
    if isinstance(value, dict):
        return all(map(_is_constant, value.values()))
    if isinstance(value, Tensor) or devices.is_array(value) or isinstance(value, np.ndarray):
        return False
    return isinstance(value, _CONSTANTS) or callable(value) or isinstance(value, np.float64)
