"""A step as the list of its ops: written down while it runs once, and run again without the layers around them."""

import operator
import sys

import numpy as np

from gpukeras.autograd.scope import current
from gpukeras.autograd.tape import add_gradient, as_taken, in_dtype_of
from gpukeras.autograd.tensor import Tensor, Variable, increase
from gpukeras.backend import devices
from gpukeras.kernels.deferred import Deferred, as_array

__all__ = ["Program", "Trace"]

_CONSTANTS = (type(None), bool, int, float, str, np.dtype, type)


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
        self.tracked = set()  # slots of what depends on a trainable variable
        self.additions = []  # (variable, slot of what is added to it)
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
        what = f"ops.{function.__name__} was called with"
        arguments = tuple([self._slot_of(value, what) for value in (*values, *rest)])
        if type(outputs) is tuple:
            slots = tuple([self._new_slot(part) for part in outputs])
        else:
            slots = self._new_slot(outputs)
        needs = None
        flags = [slot in self.tracked for slot in arguments[: len(values)]]
        if backward is not None and True in flags:
            needs = needs_type(flags)
            self.tracked.update(slots if type(slots) is tuple else (slots,))
        self.steps.append((function, arguments, settings, slots, needs))

    def add_to(self, variable, value):
        """Something was added to a variable: a Tensor that came from an op, or a number."""
        if self.reason is None:
            self.additions.append((variable, self._slot_of(value, f"{variable.name!r} is added to by")))

    def finish(self, *results):
        """The program, whose `run` returns these Tensors; None where there is a reason against it."""
        for result in results:
            if type(result) is not Tensor or id(result) not in self.slots:
                self.reason = self.reason or "a result came from no op"
        return None if self.reason is not None else Program(self, [self.slots[id(result)] for result in results])

    def _new_slot(self, tensor):
        self.slots[id(tensor)] = len(self.values)
        self.kept.append(tensor)
        self.values.append(None)
        return len(self.values) - 1

    def _slot_of(self, value, what):
        slot = self.slots.get(id(value)) if isinstance(value, Tensor) else None
        if slot is not None:
            return slot
        if type(value) is Variable:
            slot = self._new_slot(value)
            self.variables[id(value)] = slot, value
            if value.trainable:
                self.tracked.add(slot)
        elif not _is_constant(value):
            self.reason = f"{what} an array that was made in the step"
        else:
            slot = len(self.values)
            self.values.append(float(value) if type(value) is np.float64 else value)
        return slot

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

    It works on the list of its slots: those of the inputs, of constants and variables, and of what the ops return.
    """

    def __init__(self, trace, results):
        self._values = trace.values
        self._variables = list(trace.variables.values())
        self._steps = [
            (function, _getter(arguments), settings, slots) for function, arguments, settings, slots, _ in trace.steps
        ]
        # The way back: the number of the step, the slots of its results, which gradients it needs, and for each of
        # those its number among the op's arguments and its slot.
        self._way_back = [
            (number, slots, needs, [(i, arguments[i]) for i, needed in enumerate(needs) if needed])
            for number, (_, arguments, _, slots, needs) in reversed(list(enumerate(trace.steps)))
            if needs is not None
        ]
        self._additions = trace.additions
        self._results = [*results, *[slot for _, slot in trace.additions]]

    def run(self, inputs):
        """Call the ops with these arrays.

        Returns:
            The results, those to be added to variables behind the others, and every op's backward function.
        """
        if not self._way_back:
            return self._run(inputs)
        before, current.tapes = current.tapes, (self,)  # some ops keep more where there will be a way back
        try:
            return self._run(inputs)
        finally:
            current.tapes = before

    def _run(self, inputs):
        values = self._values.copy()
        values[: len(inputs)] = inputs
        for slot, variable in self._variables:
            values[slot] = variable.array
        backwards = []
        for function, arguments, settings, slots in self._steps:
            y, backward = function(*arguments(values), **settings)
            backwards.append(backward)
            if type(slots) is int:
                values[slots] = np.asarray(y) if isinstance(y, np.generic) else y
            else:
                for slot, part in zip(slots, y, strict=True):
                    values[slot] = np.asarray(part) if isinstance(part, np.generic) else part
        return [values[slot] for slot in self._results], backwards

    def gradients(self, backwards, number, seed, sources, places=None):
        """d(result · seed)/d(source) for each source, as arrays: what `Tape.gradients` gives for the same ops.

        Args:
            backwards: What `run` returned, which is used up.
            number: Of the result.
            seed: Array of its shape.
            sources: Variables.
            places: As `Tape.gradients` takes them.
        """
        current.places = places
        try:
            known = self._walk_back(backwards, self._results[number], seed)
        finally:
            current.places = None
        variables = {id(variable): known[slot] for slot, variable in self._variables}
        return [in_dtype_of(source.array.dtype, variables.get(id(source))) for source in sources]

    def _walk_back(self, backwards, target, seed):
        """The gradient of every variable in its slot."""
        known: list = [None] * len(self._values)
        known[target] = seed
        owned = set()
        for number, slots, needs, wanted in self._way_back:
            # A gradient is taken out once it is used, and a function forgotten: that frees the memory.
            backward, backwards[number] = backwards[number], None
            if type(slots) is int:
                dy, known[slots] = known[slots], None
                if dy is None:
                    continue
            else:
                dy = tuple([as_array(known[slot]) for slot in slots])
                if all([d is None for d in dy]):
                    continue
                for slot in slots:
                    known[slot] = None
            if isinstance(dy, Deferred):
                dy = as_taken(dy, backward)
            gradients = backward(dy, needs)
            for i, slot in wanted:
                d = gradients[i]
                if d is None:
                    continue
                if known[slot] is None:
                    known[slot] = d
                else:
                    add_gradient(known, owned, slot, d)
        return known

    def add(self, results):
        """Add to the variables what `run` returned for them."""
        first = len(results) - len(self._additions)
        for i, (variable, _) in enumerate(self._additions):
            increase(variable.array, results[first + i])


def _getter(numbers):
    """A function that takes the items with these numbers out of a list."""
    if len(numbers) == 1:
        return lambda values: (values[numbers[0]],)
    return operator.itemgetter(*numbers) if numbers else lambda values: ()


def _is_constant(value):
    """Whether a value is the same in every run: no array, nor anything that holds one."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_constant, value))
    if isinstance(value, dict):
        return all(map(_is_constant, value.values()))
    if isinstance(value, Tensor) or devices.is_array(value) or isinstance(value, np.ndarray):
        return False
    return isinstance(value, _CONSTANTS) or callable(value) or isinstance(value, np.float64)
