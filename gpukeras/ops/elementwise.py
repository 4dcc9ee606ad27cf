"""Arithmetic, powers, exponentials and rounding: ops that treat every element alike."""

from typing import Any

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import devices, dtypes
from gpukeras.kernels import arithmetic

__all__ = [
    "abs",
    "absolute",
    "add",
    "as_float",
    "ceil",
    "clip",
    "divide",
    "divide_no_nan",
    "floor",
    "floor_divide",
    "maximum",
    "minimum",
    "mod",
    "multiply",
    "negative",
    "power",
    "promote",
    "promote_float",
    "reciprocal",
    "round",
    "sign",
    "square",
    "subtract",
    "true_divide",
    "trunc",
    "unbroadcast",
]


_results = {}  # two dtypes -> the dtype of their result


def unbroadcast(dy, x) -> Any:
    """Sum `dy` over the axes along which `x` was broadcast, so that it has the shape of `x` again.

    Also gives it the dtype of `x`, and None where x is a Python scalar, which has no gradient.

    Example:
        >>> unbroadcast(np.ones((3, 2)), np.ones(2))
        array([3., 3.])
    """
    if not hasattr(x, "shape"):
        return None
    if dy.shape != x.shape:
        extra = dy.ndim - x.ndim
        axes = tuple(range(extra))
        for axis, size in enumerate(x.shape, extra):
            if size == 1 and dy.shape[axis] != 1:
                axes += (axis,)
        dy = dy.sum(axis=axes, keepdims=True).reshape(x.shape)
    return dy if dy.dtype == x.dtype else dy.astype(x.dtype)


def promote(x1, x2) -> tuple[Any, Any]:
    """Both operands ready for an operator whose result has the dtype that Keras gives it.

    Python scalars are weak and stay what they are, so that no array is made of them.

    Example:
        >>> a, b = promote(np.arange(2, dtype="int32"), 0.5)
        >>> a.dtype.name, b
        ('float32', 0.5)
    """
    d1, d2 = getattr(x1, "dtype", None), getattr(x2, "dtype", None)
    if d1 is d2 and d1 is not None:
        return x1, x2
    if d1 is None or d2 is None:
        return _promote_scalars(x1, x2, d1, d2)
    dtype = _results.get((d1, d2))
    if dtype is None:
        dtype = _results[d1, d2] = dtypes.result_type(d1, d2)
    return (
        x1 if d1 == dtype else x1.astype(dtype),
        x2 if d2 == dtype else x2.astype(dtype),
    )


def _promote_scalars(x1, x2, d1, d2):
    if x1 is None or x2 is None:
        raise TypeError(f"An operator needs two tensors or numbers, but got {_kind(x1)} and {_kind(x2)}.")
    if d1 is None and d2 is None:
        dtype = dtypes.result_type(type(x1), type(x2))
        xp = devices.default_module()
        return xp.asarray(x1, dtype), xp.asarray(x2, dtype)
    if d1 is None:
        b, a = _promote_scalars(x2, x1, d2, d1)
        return a, b
    if d1.kind in "biu":
        if type(x2) is float:
            return x1.astype(dtypes.as_dtype(dtypes.floatx())), x2
        if type(x2) is int and d1.kind == "b":
            return x1.astype(dtypes.as_dtype("int32")), x2
    elif d1.kind == "V":  # NumPy takes bfloat16 beside a Python float for float32
        return x1, d1.type(x2)
    return x1, x2


def _kind(x):
    return f"shape {tuple(x.shape)}" if hasattr(x, "shape") else repr(x)


def promote_float(x1, x2) -> tuple[Any, Any]:
    """Both operands as `promote` gives them, integers in floatx.

    Example:
        >>> promote_float(np.arange(2), 1)[0].dtype.name
        'float32'
    """
    a, b = promote(x1, x2)
    return (
        as_float(a) if hasattr(a, "dtype") else a,
        as_float(b) if hasattr(b, "dtype") else b,
    )


def as_float(x):
    """The array in its own float type; integers, booleans and Python scalars in floatx.

    Example:
        >>> as_float(np.arange(2)).dtype.name
        'float32'
    """
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        return devices.default_module().asarray(x, dtypes.as_dtype(dtypes.floatx()))
    return x.astype(dtypes.as_dtype(dtypes.floatx())) if dtype.kind in "biu" else x


def as_array(x):
    """The array as it is; a Python scalar as an array of the dtype Keras gives it."""
    if hasattr(x, "dtype"):
        return x
    return devices.default_module().asarray(x, dtypes.result_type(type(x)))


def as_number(x):
    """The array as it is, booleans in int32: for arithmetic that booleans do not have."""
    x = as_array(x)
    return x.astype(dtypes.as_dtype("int32")) if x.dtype.kind == "b" else x


def _no_boolean(a, b):
    """Promoted operands with booleans in int32; Python numbers stay what they are."""
    return (
        as_number(a) if hasattr(a, "dtype") else a,
        as_number(b) if hasattr(b, "dtype") else b,
    )


@op
def add(x1, x2, /):
    """x1 + x2.

    dx1 = dx2 = dy, summed over the axes that were broadcast.

    Example:
        >>> add(np.ones(2), 1.0).numpy()
        array([2., 2.])
    """
    a, b = promote(x1, x2)

    def backward(dy, needs):
        return (
            unbroadcast(dy, x1) if needs.x1 else None,
            unbroadcast(dy, x2) if needs.x2 else None,
        )

    by_operator = type(a) is np.ndarray or type(a) is not type(b)
    return a + b if by_operator else arithmetic.add(a, b), backward


@op
def subtract(x1, x2, /):
    """x1 - x2.

    dx1 = dy, dx2 = -dy, summed over the axes that were broadcast.

    Example:
        >>> subtract(np.ones(2), 1.0).numpy()
        array([0., 0.])
    """
    a, b = promote(x1, x2)

    def backward(dy, needs):
        return (
            unbroadcast(dy, x1) if needs.x1 else None,
            unbroadcast(-dy, x2) if needs.x2 else None,
        )

    by_operator = type(a) is np.ndarray or type(a) is not type(b)
    return a - b if by_operator else arithmetic.subtract(a, b), backward


@op
def multiply(x1, x2, /):
    """x1 · x2.

    dx1 = dy · x2, dx2 = dy · x1, summed over the axes that were broadcast.

    Example:
        >>> multiply(np.ones(2), 3.0).numpy()
        array([3., 3.])
    """
    a, b = promote(x1, x2)
    by_operator = type(a) is np.ndarray or type(a) is not type(b)

    def backward(dy, needs):
        return (
            unbroadcast(dy * b if by_operator else arithmetic.multiply(dy, b), x1) if needs.x1 else None,
            unbroadcast(dy * a if by_operator else arithmetic.multiply(dy, a), x2) if needs.x2 else None,
        )

    return a * b if by_operator else arithmetic.multiply(a, b), backward


@op
def divide(x1, x2, /):
    """x1 / x2, in floats also for integers.

    dx1 = dy / x2, dx2 = -dy · x1 / x2², summed over the axes that were broadcast.

    Example:
        >>> divide(np.ones(2), 2.0).numpy()
        array([0.5, 0.5])
    """
    a, b = promote_float(x1, x2)
    y = a / b

    def backward(dy, needs):
        share = dy / b
        return (
            unbroadcast(share, x1) if needs.x1 else None,
            unbroadcast(-share * y, x2) if needs.x2 else None,
        )

    return y, backward


true_divide = divide


@op
def divide_no_nan(x1, x2, /):
    """x1 / x2, and 0 where x2 is 0.

    dx1 = dy / x2, dx2 = -dy · x1 / x2², both 0 where x2 is 0.

    Example:
        >>> divide_no_nan(np.ones(2), np.array([0.0, 2.0])).numpy()
        array([0. , 0.5])
    """
    a, b = promote_float(x1, x2)
    xp = devices.array_module(a if hasattr(a, "dtype") else b)
    b = xp.asarray(b, getattr(a, "dtype", None))
    is_zero = b == 0
    inverse = xp.where(is_zero, xp.zeros_like(b), 1 / xp.where(is_zero, xp.ones_like(b), b))
    y = a * inverse

    def backward(dy, needs):
        share = dy * inverse
        return (
            unbroadcast(share, x1) if needs.x1 else None,
            unbroadcast(-share * y, x2) if needs.x2 else None,
        )

    return y, backward


@op
def floor_divide(x1, x2, /):
    """The largest whole number not above x1 / x2; its derivative is zero.

    Example:
        >>> floor_divide(np.array([7, -7]), 2).numpy()
        array([ 3, -4])
    """
    a, b = _no_boolean(*promote(x1, x2))
    return a // b, None


@op
def mod(x1, x2, /):
    """The remainder of x1 / x2, with the sign of x2.

    dx1 = dy, dx2 = -dy · floor(x1 / x2), summed over the axes that were broadcast.

    Example:
        >>> mod(np.array([5.0, -5.0]), 3.0).numpy()
        array([2., 1.])
    """
    a, b = _no_boolean(*promote(x1, x2))

    def backward(dy, needs):
        return (
            unbroadcast(dy, x1) if needs.x1 else None,
            unbroadcast(-dy * (a // b), x2) if needs.x2 else None,
        )

    return a % b, backward


@op
def power(x1, x2, /):
    """x1 to the power x2.

    dx1 = dy · x2 · x1^(x2 - 1), dx2 = dy · log(x1) · x1^x2, the latter 0 where x1 is 0.

    Example:
        >>> power(np.array([1.0, 2.0]), 3).numpy()
        array([1., 8.])
    """
    a, b = promote(x1, x2)
    if hasattr(a, "dtype") and not hasattr(b, "dtype"):
        if a.dtype.kind in "bV":  # booleans have no powers; bfloat16 has none with Python numbers
            a = as_number(a)
            b = devices.array_module(a).asarray(b, a.dtype)
        else:
            return _power_of_number(a, b, x1)
    a, b = _no_boolean(a, b)
    xp = devices.array_module(b)
    if b.dtype.kind == "V":  # bfloat16 has no powers with Python numbers
        a = xp.asarray(a, b.dtype)
    y = a**b

    def backward(dy, needs):
        dx1 = dx2 = None
        if needs.x1:
            # Where x2 is 0 the product is 0, also at x1 = 0, where x1^-1 is not finite.
            slope = b * a ** xp.where(b == 0, xp.ones_like(b), b - 1)
            dx1 = unbroadcast(dy * slope, x1)
        if needs.x2:
            base = xp.asarray(a, b.dtype)
            base = xp.where(base == 0, xp.ones_like(base), base)
            dx2 = unbroadcast(dy * xp.log(base) * y, x2)
        return dx1, dx2

    return y, backward


def _power_of_number(a, number, x1):
    """Powers by a Python number; products, where they do, are ten times as fast as `**`."""

    def backward(dy, needs):
        if number == 0:
            slope = 0 * a
        else:
            slope = a if number == 2 else _raised(a, number - 1)
        return unbroadcast(dy * slope * number, x1), None

    return _raised(a, number), backward


def _raised(a, number):
    if number == 1:
        return a.copy()
    if number == 2:
        return a * a
    if number == 3:
        return a * a * a
    if number == -1 and a.dtype.kind == "f":
        return 1 / a
    if number == 0.5 and a.dtype.kind == "f":
        return devices.array_module(a).sqrt(a)
    return a**number


@op
def negative(x, /):
    """-x.

    dx = -dy.

    Example:
        >>> negative(np.ones(2)).numpy()
        array([-1., -1.])
    """
    return -as_array(x), lambda dy, needs: (-dy,)


@op
def absolute(x, /):
    """|x|.

    dx = dy where x >= 0, -dy elsewhere: at 0 the slope is 1, as in Keras on JAX.

    Example:
        >>> absolute(np.array([-1.5, 2.0])).numpy()
        array([1.5, 2. ])
    """
    x = as_array(x)
    xp = devices.array_module(x)
    return xp.absolute(x), lambda dy, needs: (xp.where(x < 0, -dy, dy),)


abs = absolute


@op
def sign(x, /):
    """-1, 0 or 1 by the sign of every element; its derivative is zero.

    Example:
        >>> sign(np.array([-1.5, 0.0, 2.0])).numpy()
        array([-1.,  0.,  1.])
    """
    x = as_array(x)
    return devices.array_module(x).sign(x), None


@op
def square(x, /):
    """x².

    dx = 2 · dy · x.

    Example:
        >>> square(np.array([3.0])).numpy()
        array([9.])
    """
    x = as_number(x)
    return x * x, lambda dy, needs: (dy * x * 2,)


@op
def reciprocal(x, /):
    """1 / x.

    dx = -dy · y².

    Example:
        >>> reciprocal(np.array([4.0])).numpy()
        array([0.25])
    """
    y = 1 / as_float(x)
    return y, lambda dy, needs: (-dy * y * y,)


@op
def maximum(x1, x2, /):
    """The larger of two elements.

    dy goes to the larger one; where they are equal, half to each.

    Example:
        >>> maximum(np.array([-1.0, 2.0]), 0).numpy()
        array([0., 2.])
    """
    a, b = promote(x1, x2)
    xp = devices.array_module(a if hasattr(a, "dtype") else b)
    return xp.maximum(a, b), _to_the_chosen(xp, x1, x2, lambda: a > b, lambda: a == b)


@op
def minimum(x1, x2, /):
    """The smaller of two elements.

    dy goes to the smaller one; where they are equal, half to each.

    Example:
        >>> minimum(np.array([-1.0, 2.0]), 0).numpy()
        array([-1.,  0.])
    """
    a, b = promote(x1, x2)
    xp = devices.array_module(a if hasattr(a, "dtype") else b)
    return xp.minimum(a, b), _to_the_chosen(xp, x1, x2, lambda: a < b, lambda: a == b)


def _to_the_chosen(xp, x1, x2, is_first, is_equal):
    """The backward of maximum and minimum."""

    def backward(dy, needs):
        # 1 where x1 was chosen, 1/2 where both were: two booleans averaged.
        first, equal = is_first(), is_equal()
        share = (first.astype(dy.dtype) + (first | equal).astype(dy.dtype)) * 0.5
        to_first = dy * share
        return (
            unbroadcast(to_first, x1) if needs.x1 else None,
            unbroadcast(dy - to_first, x2) if needs.x2 else None,
        )

    return backward


@op
def clip(x, x_min, x_max, /):
    """x held between x_min and x_max: min(max(x, x_min), x_max).

    dx = dy inside, 0 outside and half of it where x is at a bound; a bound gets what x loses.

    Example:
        >>> clip(np.array([-1.0, 0.5, 2.0]), 0, 1).numpy()
        array([0. , 0.5, 1. ])
    """
    x = as_array(x)
    if x.dtype.kind == "b":
        x = x.astype(dtypes.as_dtype("int32"))
    xp = devices.array_module(x)
    value, low = (x, None) if x_min is None else promote(x, x_min)
    raised = value if low is None else xp.maximum(value, low)
    top, high = (raised, None) if x_max is None else promote(raised, x_max)
    y = top if high is None else xp.minimum(top, high)

    def backward(dy, needs):
        dmin = dmax = None
        dx = dy
        if high is not None:
            share = ((top < high).astype(dy.dtype) + (top <= high).astype(dy.dtype)) * 0.5
            dx = dy * share
            dmax = unbroadcast(dy - dx, x_max) if needs.x_max else None
        if low is not None:
            share = ((value > low).astype(dy.dtype) + (value >= low).astype(dy.dtype)) * 0.5
            inside = dx * share
            dmin = unbroadcast(dx - inside, x_min) if needs.x_min else None
            dx = inside
        return unbroadcast(dx, x) if needs.x else None, dmin, dmax

    return y, backward


@op
def floor(x, /):
    """The largest whole number not above x; its derivative is zero.

    Example:
        >>> floor(np.array([1.7, -1.2])).numpy()
        array([ 1., -2.])
    """
    x = as_float(x)
    return devices.array_module(x).floor(x), None


@op
def ceil(x, /):
    """The smallest whole number not below x; its derivative is zero.

    Example:
        >>> ceil(np.array([1.2, -1.7])).numpy()
        array([ 2., -1.])
    """
    x = as_float(x)
    return devices.array_module(x).ceil(x), None


@op
def trunc(x, /):
    """The whole number next to x towards zero; its derivative is zero.

    Example:
        >>> trunc(np.array([1.7, -1.7])).numpy()
        array([ 1., -1.])
    """
    x = as_array(x)
    return x if x.dtype.kind in "biu" else devices.array_module(x).trunc(x), None


@op
def round(x, /, decimals=0):
    """The nearest number with that many decimals, halves to the even one; its derivative is zero.

    Example:
        >>> round(np.array([1.5, 2.5, -0.7])).numpy()
        array([ 2.,  2., -1.])
    """
    x = as_number(x)
    if decimals == 0 and x.dtype.kind in "iu":
        return x, None
    return devices.array_module(x).round(x, decimals), None
