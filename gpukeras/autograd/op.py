"""The `@op` decorator: the one place where Tensors become arrays and arrays become Tensors."""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from gpukeras.autograd import symbolic
from gpukeras.autograd.scope import current
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tensor import Tensor, Variable, convert_to_array
from gpukeras.backend import devices

__all__ = ["op"]

_PLAIN = frozenset({type(None), int, float, bool})


def op(function) -> Callable[..., Any]:
    """Make a differentiable op of a function on raw arrays.

    The function takes its arrays before the slash and its settings after it, and returns
    ``y, backward``; both y and what backward gets may be tuples. With no derivative, `backward` is None:

        @op
        def multiply(x1, x2, /):
            def backward(dy, needs):
                dx1 = unbroadcast(dy * x2, x1) if needs.x1 else None
                dx2 = unbroadcast(dy * x1, x2) if needs.x2 else None
                return dx1, dx2

            return x1 * x2, backward

    An op over a list of arrays takes ``*xs``; its public form takes the list as its first argument.

    What the function receives: arrays of the default device, or Python scalars as they are (which
    NumPy treats as weakly typed), or None. `backward(dy, needs)` gets a read-only `dy` (for a tuple y a
    tuple, with None where an output has no gradient) and `needs`, a named tuple of booleans; it returns one
    gradient per array, each of its array's shape and dtype, or None where it is not needed.

    The undecorated function stays reachable as ``op.function``.
    """
    code = inspect.unwrap(function).__code__  # inspect.signature is slow, and there are hundreds of ops
    if code.co_posonlyargcount == 0 and code.co_flags & inspect.CO_VARARGS:
        call = _list_call(function, code.co_varnames[: code.co_kwonlyargcount])
    else:
        call = _plain_call(function, code.co_varnames[: code.co_posonlyargcount])
    functools.update_wrapper(call, function)
    call.function = function
    symbolic.operations.setdefault(function.__name__, call)
    return call


def _needs_type(names):
    """A tuple of booleans with names; a namedtuple would cost a compilation per op."""
    fields = {name: property(operator.itemgetter(i)) for i, name in enumerate(names)}
    return type("Needs", (tuple,), {"__slots__": (), "_fields": names, **fields})


def _plain_call(function, names):
    count = len(names)
    needs_type = _needs_type(names)
    defaults = _defaults_of(inspect.unwrap(function))

    def call(*args, **settings):
        if len(args) < count:
            args = _positional(function.__name__, names, defaults, args, settings)
        values = args if len(args) == count else args[:count]
        arrays = []
        is_fresh = True
        scope = vars(current)  # one look for the thread's own fields; those that are not set are None
        for value in values:
            kind = type(value)
            if kind is Tensor:
                arrays.append(value.array)
            elif kind is Variable:
                is_fresh = False
                autocast = scope.get("autocast")
                arrays.append(value.array if autocast is None else value.in_dtype(autocast))
            elif kind in _PLAIN:
                arrays.append(value)
            elif kind is KerasTensor:
                return symbolic.call_op(call, args, settings)
            elif kind is np.float64:  # a Python float too: np.sqrt(d) must not widen a float32 tensor
                arrays.append(float(value))
            else:
                arrays.append(convert_to_array(value))
                if isinstance(value, Variable):
                    is_fresh = False
        if values is not args:
            arrays += args[count:]
        try:
            y, backward = function(*arrays, **settings)
        except TypeError:
            _check_home(function, values, arrays)
            raise
        is_result = type(y) is np.ndarray and (is_fresh or scope.get("layer") is not None)
        outputs = Tensor(y) if is_result else _wrap(y, arrays, is_fresh)
        if backward is not None and scope.get("tapes"):
            _record(values, outputs, backward, needs_type)
        trace = scope.get("trace")
        if trace is not None:
            trace.add(function, values, args[count:], settings, outputs, backward, needs_type)
        return outputs

    return call


def _list_call(function, setting_names):
    def call(xs, *positional, **settings):
        settings.update(zip(setting_names, positional, strict=False))
        given, xs = xs, tuple(xs)
        arrays = []
        for value in xs:
            kind = type(value)
            if kind is Tensor:
                arrays.append(value.array)
            elif kind is KerasTensor:
                return symbolic.call_op(call, (given,), settings)
            elif kind is Variable and current.autocast is not None:
                arrays.append(value.in_dtype(current.autocast))
            else:
                arrays.append(convert_to_array(value))
        try:
            y, backward = function(*arrays, **settings)
        except TypeError:
            _check_home(function, xs, arrays)
            raise
        outputs = _wrap(y, arrays, not any(isinstance(x, Variable) for x in xs))
        if backward is not None and current.tapes:
            _record(xs, outputs, backward, tuple)
        if current.trace is not None:
            current.trace.add(function, xs, (), settings, outputs, backward, tuple)
        return outputs

    return call


def _defaults_of(function):
    code, values = function.__code__, function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    return dict(zip(positional[len(positional) - len(values) :], values, strict=True))


def _positional(op_name, names, defaults, args, settings):
    """Arrays that were passed by keyword, or left at their defaults, put into their places."""
    args = list(args)
    for name in names[len(args) :]:
        if name in settings:
            args.append(settings.pop(name))
        elif name in defaults:
            args.append(defaults[name])
        else:
            raise TypeError(f"ops.{op_name} needs the argument {name!r}.")
    return args


def _check_home(function, values, arrays):
    """Say so where an op's arrays lie on several devices: array libraries' own words do not."""
    here = devices.default_module()
    for value, array in zip(values, arrays, strict=False):
        if devices.is_array(array) and devices.array_module(array) is not here:
            home = devices.array_module(array).__name__
            what = f"variable {value.path or value.name!r}" if isinstance(value, Variable) else "Tensor"
            raise TypeError(
                f"ops.{function.__name__.lstrip('_')}: the {what} of shape {array.shape} lies on the backend {home!r}, "
                f"but {devices.default_device()!r} computes now. Go back with keras.config.set_backend({home!r}), "
                f"or make it anew: a model is built where it is first called."
            )


def _wrap(y, arrays, is_fresh):
    if type(y) is tuple:
        return tuple([_wrap(part, arrays, is_fresh) for part in y])
    if isinstance(y, np.generic):
        y = np.asarray(y)  # NumPy turns arrays of shape () into scalars
    elif not is_fresh and current.layer is None and not current.tapes and (y.base is not None or _is_one_of(y, arrays)):
        y = y.copy()  # a view of a variable would change with it
    return Tensor(y)


def _is_one_of(y, arrays):
    return any(y is array for array in arrays)


def _record(values, outputs, backward, needs_type):
    for tape in current.tapes:
        tracked = tape.tracked
        watches = tape.watches_variables
        flags = [id(v) in tracked or (type(v) is Variable and watches and v.trainable) for v in values]
        if True in flags:
            tape.record(values, outputs, backward, needs_type(flags))
