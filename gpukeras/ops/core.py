"""What is no mathematics: conversion, casts, shapes, loops, gradients of one's own."""

import builtins
import functools
import math
from typing import Any

import numpy as np

from gpukeras.autograd import symbolic
from gpukeras.autograd.op import _record, op
from gpukeras.autograd.scope import current, setting
from gpukeras.autograd.symbolic import KerasTensor, map_structure
from gpukeras.autograd.tensor import Tensor, Variable, convert_to_array
from gpukeras.backend import devices, dtypes
from gpukeras.kernels import casts
from gpukeras.ops.elementwise import as_array
from gpukeras.ops.joining import stack

__all__ = [
    "array",
    "cast",
    "cond",
    "convert_to_numpy",
    "convert_to_tensor",
    "copy",
    "custom_gradient",
    "dtype",
    "fori_loop",
    "is_tensor",
    "map",
    "ndim",
    "saturate_cast",
    "scan",
    "shape",
    "size",
    "stop_gradient",
    "switch",
    "vectorized_map",
    "while_loop",
]


def convert_to_tensor(x, dtype=None, sparse=None, ragged=None):
    """A Tensor of numbers, nested lists, arrays of either library, Variables or Tensors.

    Args:
        x: What is converted; Python floats become floatx, Python integers int32.
        dtype: Of the result; None for that of x.
        sparse, ragged: Not supported, except for None and False.

    Example:
        >>> convert_to_tensor([1.0, 2.0]).dtype.name
        'float32'
    """
    if sparse or ragged:
        raise NotImplementedError(
            "convert_to_tensor: sparse=True and ragged=True are not supported; pass dense arrays."
        )
    if isinstance(x, (Tensor, KerasTensor)):
        if dtype is not None and dtypes.name_of(dtype) != dtypes.name_of(x.dtype):
            return cast(x, dtype)
        return x.value if isinstance(x, Variable) else x
    return Tensor(convert_to_array(x, dtype))


def array(x, dtype=None):
    """A Tensor: `convert_to_tensor` under NumPy's name.

    Example:
        >>> array([1, 2]).shape
        (2,)
    """
    return convert_to_tensor(x, dtype)


def convert_to_numpy(x):
    """The values as a NumPy array of the caller's own.

    Example:
        >>> convert_to_numpy(convert_to_tensor([1, 2]))
        array([1, 2], dtype=int32)
    """
    if isinstance(x, KerasTensor):
        return np.asarray(x)  # says that there are no values
    return np.array(devices.to_numpy(convert_to_array(x)))


def is_tensor(x):
    """Whether x is a Tensor; a Variable, a KerasTensor or a NumPy array is none.

    Example:
        >>> is_tensor(convert_to_tensor(1.0)), is_tensor(np.ones(1))
        (True, False)
    """
    return isinstance(x, Tensor) and not isinstance(x, Variable)


@op
def cast(x, /, dtype):
    """The values in another dtype.

    dx = dy in the dtype of x, where both are float types.

    Example:
        >>> cast(np.array([1.7]), "int32").numpy()
        array([1], dtype=int32)
    """
    x = as_array(x)
    dtype = dtypes.as_dtype(dtype)
    if x.dtype == dtype:
        return x, lambda dy, needs: (dy,)
    is_smooth = dtypes.is_float(dtype) and dtypes.is_float(x.dtype)
    return casts.cast(x, dtype), (lambda dy, needs: (casts.cast(dy, x.dtype),)) if is_smooth else None


@op
def saturate_cast(x, /, dtype):
    """The values in another dtype, held to what it can represent.

    dx = dy where x was representable, 0 elsewhere, where both are float types.

    Example:
        >>> saturate_cast(np.array([300.0, -1.0]), "uint8").numpy()
        array([255,   0], dtype=uint8)
    """
    x = as_array(x)
    dtype = dtypes.as_dtype(dtype)
    if dtype.kind == "b":
        return x != 0, None
    low, high = _limits(dtype)
    xp = devices.array_module(x)
    if x.dtype.kind in "biu" and dtype.kind in "iu":
        there = _limits(x.dtype) if x.dtype.kind in "iu" else (0, 1)
        y = xp.clip(x, max(low, there[0]), min(high, there[1]))
    elif x.dtype.kind in "biu":
        y = x
    else:
        if dtype.kind in "iu" and dtype.itemsize >= x.dtype.itemsize:
            # The largest integers have no float of their own; the next one down can be converted.
            low, high = float(low), float(np.nextafter(np.asarray(high, x.dtype), x.dtype.type(0)))
        y = xp.clip(x, low, high)
    is_smooth = dtypes.is_float(dtype) and dtypes.is_float(x.dtype)

    def backward(dy, needs):
        return ((dy * (y == x)).astype(x.dtype),)

    return y.astype(dtype), backward if is_smooth else None


def _limits(dtype):
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    if dtype.kind == "V":
        import ml_dtypes

        return float(ml_dtypes.finfo(dtype).min), float(ml_dtypes.finfo(dtype).max)
    return float(np.finfo(dtype).min), float(np.finfo(dtype).max)


@op
def copy(x, /):
    """A Tensor with the same values.

    dx = dy.

    Example:
        >>> copy(np.ones(2)).numpy()
        array([1., 1.])
    """
    return as_array(x).copy(), lambda dy, needs: (dy,)


def stop_gradient(variable):
    """The same values, through which no gradient flows.

    Example:
        >>> stop_gradient(np.ones(2)).numpy()
        array([1., 1.])
    """
    return _stop_gradient(variable)


@op
def _stop_gradient(x, /):
    return as_array(x), None


def shape(x):
    """The sizes of the axes as a tuple, None where a KerasTensor does not know them.

    Example:
        >>> shape(np.ones((2, 3)))
        (2, 3)
    """
    return tuple(x.shape) if hasattr(x, "shape") else convert_to_array(x).shape


def ndim(x):
    """The number of axes.

    Example:
        >>> ndim(np.ones((2, 3)))
        2
    """
    return len(shape(x))


def size(x):
    """The number of elements, None where a KerasTensor does not know it.

    Example:
        >>> size(np.ones((2, 3)))
        6
    """
    sizes = shape(x)
    return None if None in sizes else math.prod(sizes)


def dtype(x):
    """The name of the dtype.

    Example:
        >>> dtype(np.ones(2))
        'float64'
    """
    return dtypes.name_of(x.dtype if hasattr(x, "dtype") else convert_to_array(x).dtype)


def cond(pred, true_fn, false_fn):
    """What one of two functions returns: `true_fn` where `pred` is true, else `false_fn`.

    The condition is read on the host; `where` chooses element by element without that.

    Args:
        pred: A boolean, or a Tensor with one element.
        true_fn, false_fn: Functions without arguments.

    Example:
        >>> cond(True, lambda: 1, lambda: 2)
        1
    """
    if isinstance(pred, KerasTensor):
        raise NotImplementedError(
            "cond on a KerasTensor is not supported: use ops.where, or call cond in a layer's call()."
        )
    return true_fn() if pred else false_fn()


def switch(index, branches, *operands):
    """What one of several functions returns, the index held to their number.

    Args:
        index: An integer, or a Tensor with one element.
        branches: Functions of the operands.
        operands: What the chosen function is called with.

    Example:
        >>> switch(1, [abs, lambda x: x + 1], 2)
        3
    """
    return branches[max(0, min(int(index), len(branches) - 1))](*operands)


def while_loop(cond, body, loop_vars, maximum_iterations=None):
    """Apply `body` to the loop variables as long as `cond` of them is true.

    Args:
        cond: Function of the variables that returns a boolean.
        body: Function of the variables that returns their next values.
        loop_vars: Their first values; a tuple, a list, or one value.
        maximum_iterations: Where to stop at the latest; None for nowhere.

    Example:
        >>> while_loop(lambda i: i < 5, lambda i: (i + 2,), (0,))
        (6,)
    """
    is_sequence = isinstance(loop_vars, (tuple, list))
    values = tuple(loop_vars) if is_sequence else (loop_vars,)
    done = 0
    while (maximum_iterations is None or done < maximum_iterations) and bool(cond(*values)):
        values = body(*values)
        values = tuple(values) if isinstance(values, (tuple, list)) else (values,)
        done += 1
    return type(loop_vars)(values) if is_sequence else values[0]


def fori_loop(lower, upper, body_fun, init_val):
    """Apply ``body_fun(i, value)`` for i from `lower` up to, but without, `upper`.

    Example:
        >>> fori_loop(0, 4, lambda i, total: total + i, 0)
        6
    """
    value = init_val
    for i in range(int(lower), int(upper)):
        value = body_fun(i, value)
    return value


def scan(f, init, xs=None, length=None, reverse=False, unroll=1):
    """Carry a value along the first axis: ``carry, y = f(carry, x)`` for each slice x.

    Args:
        f: The function.
        init: The first carry.
        xs: Tensors with one first axis, in any nesting; None for no x.
        length: Number of steps, where xs does not give it.
        reverse: Whether it runs from the end.
        unroll: Accepted; every step is computed as it comes.

    Returns:
        The last carry, and the y's stacked.

    Example:
        >>> last, sums = scan(lambda c, x: (c + x, c + x), 0.0, np.array([1.0, 2.0]))
        >>> sums.numpy()
        array([1., 3.])
    """
    if not callable(f):
        raise TypeError(f"scan needs a function f(carry, x), but got {f!r}.")
    leaves = [] if xs is None else symbolic.flatten(xs)
    count = shape(leaves[0])[0] if leaves else length
    if count is None:
        raise ValueError("scan needs xs or length to know the number of steps.")
    if builtins.any(shape(leaf)[0] != count for leaf in leaves) or length not in (None, count):
        raise ValueError(
            f"scan needs xs of one length, but got {[shape(leaf)[0] for leaf in leaves]} and length={length}."
        )
    leaves_as_tensors = xs if xs is None else map_structure(convert_to_tensor, xs)
    step: Any = f
    carry, found = init, []
    for i in reversed(range(count)) if reverse else range(count):
        x = None if xs is None else map_structure(lambda leaf, i=i: leaf[i], leaves_as_tensors)
        carry, y = step(carry, x)
        found.append(y)
    return carry, _stacked(found[::-1] if reverse else found)


def map(f, xs):
    """f of every slice along the first axis, the results stacked.

    Args:
        f: The function.
        xs: Tensors with one first axis, in any nesting.

    Example:
        >>> map(lambda x: x * 2, np.array([1.0, 2.0])).numpy()
        array([2., 4.])
    """
    xs = map_structure(convert_to_tensor, xs)
    count = shape(symbolic.flatten(xs)[0])[0]
    return _stacked([f(map_structure(lambda leaf, i=i: leaf[i], xs)) for i in range(count)])


def vectorized_map(function, elements):
    """f of every slice along the first axis, the results stacked; the slices are computed one by one.

    Args:
        function: The function.
        elements: Tensors with one first axis, in any nesting.

    Example:
        >>> vectorized_map(lambda x: x * 2, np.array([1.0, 2.0])).numpy()
        array([2., 4.])
    """
    return map(function, elements)


def _stacked(results):
    """Results of one nesting, joined leaf by leaf along a new first axis."""
    if not results or results[0] is None:
        return None
    columns = zip(*[symbolic.flatten(result) for result in results], strict=True)
    joined = iter([stack(column) for column in columns])
    return map_structure(lambda leaf: next(joined), results[0])


def custom_gradient(f):
    """A function with a gradient of one's own.

    Args:
        f: Takes tensors and returns ``(output, grad)``, where ``grad(upstream)`` returns the
            gradients of the inputs, given that of the output (of several outputs, one argument each).

    Example:
        >>> @custom_gradient
        ... def doubled_gradient(x):
        ...     return x, lambda upstream: upstream * 2
        >>> doubled_gradient(convert_to_tensor([1.0])).numpy()
        array([1.], dtype=float32)
    """

    @functools.wraps(f)
    def call(*args, **kwargs):
        if symbolic.any_symbolic(args, kwargs):
            return symbolic.call_op(call, args, kwargs)
        args = tuple([Tensor(a) if devices.is_array(a) else a for a in args])
        with setting(tapes=()):
            outputs, gradient = f(*args, **kwargs)
        # New Tensors: an output that is an input would otherwise be its own origin.
        if isinstance(outputs, (tuple, list)):
            outputs = tuple([Tensor(convert_to_array(y)) for y in outputs])
        else:
            outputs = Tensor(convert_to_array(outputs))
        if current.tapes:
            _record(args, outputs, _backward_by(gradient, args, outputs, f), tuple)
        return outputs

    return call


def _backward_by(gradient, args, outputs, f):
    def backward(dy, needs):
        dys = dy if type(dy) is tuple else (dy,)
        ys = outputs if type(outputs) is tuple else (outputs,)
        upstream = [
            Tensor(devices.array_module(y.array).zeros_like(y.array) if d is None else _as_own(d))
            for d, y in zip(dys, ys, strict=True)
        ]
        found = gradient(*upstream)
        found = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        places = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        if len(found) == len(places) != len(args):  # gradients of the tensors alone
            by_place = dict(zip(places, found, strict=True))
            found = tuple([by_place.get(i) for i in range(len(args))])
        if len(found) != len(args):
            raise ValueError(
                f"custom_gradient: the gradient function of {f.__name__} returned {len(found)} "
                f"gradients for {len(args)} inputs. Return one for each, None where there is none."
            )
        return [None if d is None else _like(convert_to_array(d), a, f) for d, a in zip(found, args, strict=True)]

    return backward


def _as_own(d):
    return np.asarray(d) if isinstance(d, np.generic) else d


def _like(d, x, f):
    if not isinstance(x, Tensor):
        return None
    if d.shape != x.shape:
        raise ValueError(
            f"custom_gradient: the gradient function of {f.__name__} returned a gradient of shape "
            f"{d.shape} for an input of shape {x.shape}."
        )
    return d if d.dtype == x.array.dtype else d.astype(x.array.dtype)
