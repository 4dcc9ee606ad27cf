"""What NumPy's own functions do with a Tensor: the op that stands for each of them.

``np.maximum(x @ w + b, 0)`` on Tensors records and stays on the device. A function that is not in the
table fails by name.
"""

import numpy as np

from gpukeras.autograd.tensor import numpy_functions
from gpukeras.ops import (
    comparison,
    core,
    creation,
    diagonals,
    einstein,
    elementwise,
    exponential,
    indexing,
    joining,
    linalg,
    reduction,
    selection,
    shaping,
    trigonometry,
)

__all__ = []

# Ufuncs, and functions that take what the op takes.
for _module, _names in (
    (
        elementwise,
        "absolute add ceil divide floor floor_divide maximum minimum mod multiply negative power "
        "reciprocal round sign square subtract true_divide trunc",
    ),
    (exponential, "exp expm1 log log10 log1p log2 logaddexp sqrt"),
    (
        trigonometry,
        "arccos arccosh arcsin arcsinh arctan arctan2 arctanh cos cosh deg2rad rad2deg sin sinh tan tanh",
    ),
    (
        comparison,
        "bitwise_and bitwise_not bitwise_or bitwise_xor equal greater greater_equal isclose "
        "isfinite isinf isnan left_shift less less_equal logical_and logical_not logical_or "
        "logical_xor not_equal right_shift where",
    ),
    (linalg, "cross dot inner matmul outer tensordot vdot"),
    (reduction, "average count_nonzero"),
    (selection, "argsort diff median quantile sort"),
    (
        shaping,
        "broadcast_to expand_dims flip moveaxis ravel repeat roll rot90 squeeze swapaxes tile transpose",
    ),
    (joining, "append array_split dstack hstack split vstack"),
    (diagonals, "diag diagonal trace tril triu"),
    (indexing, "nonzero take_along_axis"),
    (core, "ndim shape size"),
    (creation, "meshgrid"),
    (einstein, "einsum"),
):
    for _name in _names.split():
        numpy_functions[getattr(np, _name)] = getattr(_module, _name)


def _stands_for(*functions):
    """Enter an adapter, which has NumPy's signature, for some of NumPy's functions."""

    def enter(adapter):
        for function in functions:
            numpy_functions[function] = adapter
        return adapter

    return enter


def _refuse(name, **settings):
    """An error for settings of a NumPy function that no op has."""
    for setting, value in settings.items():
        if value is not None:
            raise TypeError(
                f"np.{name}(..., {setting}=...) does not work on a Tensor. Leave {setting} out, or use ops.{name}."
            )


def _reduction(name, operation, takes_initial=False):
    def adapter(a, axis=None, dtype=None, out=None, keepdims=False, initial=None, where=None, ddof=0):
        _refuse(name, out=out, where=where, ddof=ddof or None)
        settings = {}
        if takes_initial:
            settings["initial"] = initial
        else:
            _refuse(name, initial=initial)
        if dtype is not None:
            a = core.cast(a, dtype)
        return operation(a, axis=axis, keepdims=keepdims, **settings)

    return adapter


for _name in ("sum", "mean", "prod", "std", "var"):
    numpy_functions[getattr(np, _name)] = _reduction(_name, getattr(reduction, _name))


def _extreme(name, operation, **extra):
    general = _reduction(name, operation, **extra)

    def adapter(a, axis=None, out=None, keepdims=False, initial=None, where=None):
        return general(a, axis, None, out, keepdims, initial, where)

    return adapter


for _name, _operation in (("max", reduction.max), ("min", reduction.min)):
    for _function in {getattr(np, _name), getattr(np, f"a{_name}")}:
        numpy_functions[_function] = _extreme(_name, _operation, takes_initial=True)
for _name in ("any", "all"):
    numpy_functions[getattr(np, _name)] = _extreme(_name, getattr(reduction, _name))


@_stands_for(np.argmax)
def _argmax(a, axis=None, out=None, *, keepdims=False):
    _refuse("argmax", out=out)
    return reduction.argmax(a, axis=axis, keepdims=keepdims)


@_stands_for(np.argmin)
def _argmin(a, axis=None, out=None, *, keepdims=False):
    _refuse("argmin", out=out)
    return reduction.argmin(a, axis=axis, keepdims=keepdims)


@_stands_for(np.cumsum)
def _cumsum(a, axis=None, dtype=None, out=None):
    _refuse("cumsum", out=out)
    return reduction.cumsum(a, axis=axis, dtype=dtype)


@_stands_for(np.cumprod)
def _cumprod(a, axis=None, dtype=None, out=None):
    _refuse("cumprod", out=out)
    return reduction.cumprod(a, axis=axis, dtype=dtype)


@_stands_for(np.reshape)
def _reshape(a, /, shape=None, order="C", *, newshape=None, copy=None):
    if order != "C":
        raise TypeError(f"np.reshape(..., order={order!r}) does not work on a Tensor; leave order out.")
    return shaping.reshape(a, newshape if shape is None else shape)


@_stands_for(np.concatenate)
def _concatenate(arrays, /, axis=0, out=None, *, dtype=None, casting=None):
    _refuse("concatenate", out=out, dtype=dtype, casting=casting)
    if axis is None:
        return joining.concatenate([shaping.ravel(x) for x in arrays])
    return joining.concatenate(arrays, axis=axis)


@_stands_for(np.stack)
def _stack(arrays, axis=0, out=None, *, dtype=None, casting=None):
    _refuse("stack", out=out, dtype=dtype, casting=casting)
    return joining.stack(arrays, axis=axis)


@_stands_for(np.clip)
def _clip(a, a_min=None, a_max=None, out=None, *, min=None, max=None, **settings):
    _refuse("clip", out=out, **settings)
    return elementwise.clip(a, a_min if min is None else min, a_max if max is None else max)


@_stands_for(np.nan_to_num)
def _nan_to_num(x, copy=True, nan=0.0, posinf=None, neginf=None):
    return comparison.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)


@_stands_for(np.take)
def _take(a, indices, axis=None, out=None, mode="raise"):
    _refuse("take", out=out, mode=None if mode == "raise" else mode)
    return indexing.take(a, indices, axis=axis)


@_stands_for(np.pad)
def _pad(array, pad_width, mode="constant", *, constant_values=None, **settings):
    _refuse("pad", **settings)
    return shaping.pad(array, pad_width, mode=mode, constant_values=constant_values)


@_stands_for(np.linalg.norm)
def _norm(x, ord=None, axis=None, keepdims=False):
    return linalg.norm(x, ord=ord, axis=axis, keepdims=keepdims)


@_stands_for(np.fliplr)
def _fliplr(m):
    return shaping.flip(m, 1)


@_stands_for(np.flipud)
def _flipud(m):
    return shaping.flip(m, 0)


@_stands_for(np.copy)
def _copy(a, order="K", subok=False):
    return core.copy(a)


@_stands_for(np.zeros_like, np.empty_like)
def _zeros_like(a, dtype=None, order="K", subok=True, shape=None, *, device=None):
    _refuse("zeros_like", shape=shape, device=device)
    return creation.zeros_like(a, dtype=dtype)


@_stands_for(np.ones_like)
def _ones_like(a, dtype=None, order="K", subok=True, shape=None, *, device=None):
    _refuse("ones_like", shape=shape, device=device)
    return creation.ones_like(a, dtype=dtype)


@_stands_for(np.full_like)
def _full_like(a, fill_value, dtype=None, order="K", subok=True, shape=None, *, device=None):
    _refuse("full_like", shape=shape, device=device)
    return creation.full_like(a, fill_value, dtype=dtype)


@_stands_for(np.allclose)
def _allclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=False):
    return bool(comparison.allclose(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan))


@_stands_for(np.array_equal)
def _array_equal(a1, a2, equal_nan=False):
    return np.array_equal(np.asarray(a1), np.asarray(a2), equal_nan=equal_nan)


for _name in ("inv", "det", "solve"):
    numpy_functions[getattr(np.linalg, _name)] = getattr(linalg, _name)


def _as_text(function):
    """A function that shows values to people, of the values on the host."""

    def adapter(a, *args, **settings):
        return function(np.asarray(a), *args, **settings)

    return adapter


for _name in ("array2string", "array_repr", "array_str"):
    numpy_functions[getattr(np, _name)] = _as_text(getattr(np, _name))
