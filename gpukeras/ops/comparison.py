"""Comparisons, logic on booleans and bits, and the choice between two values."""

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import devices, dtypes
from gpukeras.ops.elementwise import as_array, as_number, promote, unbroadcast

__all__ = [
    "allclose",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_not",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "equal",
    "greater",
    "greater_equal",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "left_shift",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "nan_to_num",
    "not_equal",
    "right_shift",
    "where",
]


@op
def equal(x1, x2, /):
    """Whether x1 == x2, element by element.

    Example:
        >>> equal(np.array([1, 2]), 2).numpy()
        array([False,  True])
    """
    a, b = promote(x1, x2)
    return a == b, None


@op
def not_equal(x1, x2, /):
    """Whether x1 != x2, element by element.

    Example:
        >>> not_equal(np.array([1, 2]), 2).numpy()
        array([ True, False])
    """
    a, b = promote(x1, x2)
    return a != b, None


@op
def less(x1, x2, /):
    """Whether x1 < x2, element by element.

    Example:
        >>> less(np.array([1, 2]), 2).numpy()
        array([ True, False])
    """
    a, b = promote(x1, x2)
    return a < b, None


@op
def less_equal(x1, x2, /):
    """Whether x1 <= x2, element by element.

    Example:
        >>> less_equal(np.array([1, 2]), 2).numpy()
        array([ True,  True])
    """
    a, b = promote(x1, x2)
    return a <= b, None


@op
def greater(x1, x2, /):
    """Whether x1 > x2, element by element.

    Example:
        >>> greater(np.array([1, 2]), 2).numpy()
        array([False, False])
    """
    a, b = promote(x1, x2)
    return a > b, None


@op
def greater_equal(x1, x2, /):
    """Whether x1 >= x2, element by element.

    Example:
        >>> greater_equal(np.array([1, 2]), 2).numpy()
        array([False,  True])
    """
    a, b = promote(x1, x2)
    return a >= b, None


@op
def logical_and(x1, x2, /):
    """Whether both elements are true, that is, not zero.

    Example:
        >>> logical_and(np.array([True, False]), True).numpy()
        array([ True, False])
    """
    a, b = _as_bool(x1), _as_bool(x2)
    return a & b, None


@op
def logical_or(x1, x2, /):
    """Whether one of the elements or both are true, that is, not zero.

    Example:
        >>> logical_or(np.array([True, False]), True).numpy()
        array([ True,  True])
    """
    a, b = _as_bool(x1), _as_bool(x2)
    return a | b, None


@op
def logical_xor(x1, x2, /):
    """Whether just one of the elements is true, that is, not zero.

    Example:
        >>> logical_xor(np.array([True, False]), True).numpy()
        array([False,  True])
    """
    a, b = _as_bool(x1), _as_bool(x2)
    return a ^ b, None


@op
def logical_not(x, /):
    """Whether an element is false, that is, zero.

    Example:
        >>> logical_not(np.array([True, False])).numpy()
        array([False,  True])
    """
    return ~_as_bool(x), None


def _as_bool(x):
    x = as_array(x)
    return x if x.dtype.kind == "b" else x != 0


@op
def isfinite(x, /):
    """Whether an element is neither infinite nor NaN.

    Example:
        >>> isfinite(np.array([1.0, np.inf, np.nan])).numpy()
        array([ True, False, False])
    """
    x = as_array(x)
    return devices.array_module(x).isfinite(x), None


@op
def isinf(x, /):
    """Whether an element is infinite.

    Example:
        >>> isinf(np.array([1.0, np.inf, np.nan])).numpy()
        array([False,  True, False])
    """
    x = as_array(x)
    return devices.array_module(x).isinf(x), None


@op
def isnan(x, /):
    """Whether an element is NaN.

    Example:
        >>> isnan(np.array([1.0, np.inf, np.nan])).numpy()
        array([False, False,  True])
    """
    x = as_array(x)
    return devices.array_module(x).isnan(x), None


@op
def isclose(x1, x2, /, rtol=1e-5, atol=1e-8, equal_nan=False):
    """Whether |x1 - x2| <= atol + rtol · |x2|, or both are the same infinity.

    Args:
        rtol, atol: Relative and absolute tolerance.
        equal_nan: Whether two NaNs are close.

    Example:
        >>> isclose(np.array([1.0, 2.0]), np.array([1.0, 2.1])).numpy()
        array([ True, False])
    """
    a, b = promote(x1, x2)
    a, b = as_number(a), as_number(b)
    xp = devices.array_module(a)
    is_close = (a == b) | ((xp.absolute(a - b) <= atol + rtol * xp.absolute(b)) & xp.isfinite(b))
    if equal_nan:
        is_close = is_close | (xp.isnan(a) & xp.isnan(b))
    return is_close, None


def allclose(x1, x2, rtol=1e-5, atol=1e-8, equal_nan=False):
    """Whether all elements are close, as a Tensor of shape ().

    Args:
        x1, x2: What is compared.
        rtol, atol, equal_nan: As in `isclose`.

    Example:
        >>> bool(allclose(np.ones(2), np.ones(2)))
        True
    """
    return _all(isclose(x1, x2, rtol=rtol, atol=atol, equal_nan=equal_nan))


@op
def _all(x, /):
    return x.all(), None


def where(condition, x1=None, x2=None):
    """x1 where the condition holds, x2 elsewhere; with the condition alone, the indices that hold.

    dx1 = dy where the condition holds, dx2 = dy elsewhere, summed over the broadcast axes.

    Example:
        >>> where(np.array([True, False]), 1.0, np.zeros(2)).numpy()
        array([1., 0.])
    """
    if (x1 is None) != (x2 is None):
        raise ValueError("where needs both x1 and x2, or neither of them, but got one.")
    return _nonzero(condition) if x1 is None else _where(condition, x1, x2)


@op
def _nonzero(x, /):
    return tuple(i.astype(dtypes.as_dtype("int32")) for i in as_array(x).nonzero()), None


@op
def _where(condition, x1, x2, /):
    condition = _as_bool(condition)
    xp = devices.array_module(condition)
    a, b = promote(x1, x2)
    dtype = a.dtype if hasattr(a, "dtype") else b.dtype
    y = xp.where(condition, a, b)
    if y.dtype != dtype:  # NumPy takes a Python number beside bfloat16 for a float32
        y = y.astype(dtype)

    def backward(dy, needs):
        zero = dy.dtype.type(0)
        return (
            None,
            unbroadcast(xp.where(condition, dy, zero), x1) if needs.x1 else None,
            unbroadcast(xp.where(condition, zero, dy), x2) if needs.x2 else None,
        )

    return y, backward


@op
def nan_to_num(x, /, nan=0.0, posinf=None, neginf=None):
    """x with NaN and the infinities replaced.

    dx = dy where x is finite, 0 elsewhere.

    Args:
        nan: What stands for NaN.
        posinf, neginf: What stands for the infinities; None for the dtype's largest numbers.

    Example:
        >>> nan_to_num(np.array([1.0, np.nan])).numpy()
        array([1., 0.])
    """
    x = as_array(x)
    if x.dtype.kind in "biu":
        return x, lambda dy, needs: (dy,)
    xp = devices.array_module(x)
    largest = float(_largest(x.dtype))
    y = x
    for is_replaced, number in (
        (xp.isnan(x), nan),
        (x == float("inf"), largest if posinf is None else posinf),
        (x == float("-inf"), -largest if neginf is None else neginf),
    ):
        y = xp.where(is_replaced, xp.asarray(number, x.dtype), y)
    return y, lambda dy, needs: (dy * xp.isfinite(x),)


def _largest(dtype):
    if dtype.kind == "V":
        import ml_dtypes

        return ml_dtypes.finfo(dtype).max
    return np.finfo(dtype).max


@op
def bitwise_and(x, y, /):
    """The bits that both integers have.

    Example:
        >>> bitwise_and(np.array([6]), np.array([3])).numpy()
        array([2])
    """
    a, b = promote(x, y)
    return a & b, None


@op
def bitwise_or(x, y, /):
    """The bits that one of the integers or both have.

    Example:
        >>> bitwise_or(np.array([6]), np.array([3])).numpy()
        array([7])
    """
    a, b = promote(x, y)
    return a | b, None


@op
def bitwise_xor(x, y, /):
    """The bits that just one of the integers has.

    Example:
        >>> bitwise_xor(np.array([6]), np.array([3])).numpy()
        array([5])
    """
    a, b = promote(x, y)
    return a ^ b, None


@op
def bitwise_left_shift(x, y, /):
    """x with its bits moved y places up: x · 2^y.

    Example:
        >>> bitwise_left_shift(np.array([6]), np.array([3])).numpy()
        array([48])
    """
    a, b = promote(x, y)
    xp = devices.array_module(a if hasattr(a, "dtype") else b)
    return xp.left_shift(a, b), None


@op
def bitwise_right_shift(x, y, /):
    """x with its bits moved y places down.

    Example:
        >>> bitwise_right_shift(np.array([6]), np.array([3])).numpy()
        array([0])
    """
    a, b = promote(x, y)
    xp = devices.array_module(a if hasattr(a, "dtype") else b)
    return xp.right_shift(a, b), None


left_shift = bitwise_left_shift
right_shift = bitwise_right_shift


@op
def bitwise_not(x, /):
    """x with every bit turned over.

    Example:
        >>> bitwise_not(np.array([0, 1])).numpy()
        array([-1, -2])
    """
    return ~as_array(x), None


bitwise_invert = bitwise_not
