"""Arrays from nothing: zeros, ones, ranges, grids, triangles."""

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.backend import devices, dtypes
from gpukeras.ops.elementwise import as_array
from gpukeras.ops.shaping import _sizes, broadcast_to, reshape

__all__ = [
    "arange",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "identity",
    "linspace",
    "logspace",
    "meshgrid",
    "ones",
    "ones_like",
    "tri",
    "zeros",
    "zeros_like",
]


def zeros(shape, dtype=None):
    """A Tensor of zeros.

    Args:
        shape: Sizes of the axes.
        dtype: None for floatx.

    Example:
        >>> zeros((2, 3)).shape
        (2, 3)
    """
    return Tensor(devices.default_module().zeros(_sizes(shape), dtypes.as_dtype(dtype)))


def ones(shape, dtype=None):
    """A Tensor of ones.

    Args:
        shape: Sizes of the axes.
        dtype: None for floatx.

    Example:
        >>> ones(2).numpy()
        array([1., 1.], dtype=float32)
    """
    return Tensor(devices.default_module().ones(_sizes(shape), dtypes.as_dtype(dtype)))


def empty(shape, dtype=None):
    """A Tensor of a shape, whose values do not matter: zeros.

    Args:
        shape: Sizes of the axes.
        dtype: None for floatx.

    Example:
        >>> empty((2, 3)).shape
        (2, 3)
    """
    return zeros(shape, dtype)


def full(shape, fill_value, dtype=None):
    """A Tensor filled with one value.

    Args:
        shape: Sizes of the axes.
        fill_value: A number, or an array that broadcasts to the shape.
        dtype: None for floatx.

    Example:
        >>> full(2, 7).numpy()
        array([7., 7.], dtype=float32)
    """
    dtype = dtypes.as_dtype(dtype)
    if isinstance(fill_value, (bool, int, float)):
        return Tensor(devices.default_module().full(_sizes(shape), fill_value, dtype))
    return Tensor(broadcast_to(convert_to_array(fill_value, dtype), shape).array.copy())


@op
def zeros_like(x, /, dtype=None):
    """Zeros in the shape and dtype of x.

    Args:
        dtype: None for that of x.

    Example:
        >>> zeros_like(np.ones(2)).numpy()
        array([0., 0.])
    """
    x = as_array(x)
    return devices.array_module(x).zeros(x.shape, _dtype(dtype, x)), None


@op
def ones_like(x, /, dtype=None):
    """Ones in the shape and dtype of x.

    Args:
        dtype: None for that of x.

    Example:
        >>> ones_like(np.zeros(2)).numpy()
        array([1., 1.])
    """
    x = as_array(x)
    return devices.array_module(x).ones(x.shape, _dtype(dtype, x)), None


def empty_like(x, dtype=None):
    """A Tensor in the shape and dtype of x, whose values do not matter: zeros.

    Args:
        x: What gives shape and dtype.
        dtype: None for that of x.

    Example:
        >>> empty_like(np.ones(2)).shape
        (2,)
    """
    return zeros_like(x, dtype=dtype)


@op
def full_like(x, fill_value, /, dtype=None):
    """One value in the shape and dtype of x.

    Args:
        fill_value: A number, or an array that broadcasts to the shape.
        dtype: None for that of x.

    Example:
        >>> full_like(np.zeros(2), 7).numpy()
        array([7., 7.])
    """
    x = as_array(x)
    xp = devices.array_module(x)
    dtype = _dtype(dtype, x)
    if not hasattr(fill_value, "dtype"):
        return xp.full(x.shape, fill_value, dtype), None
    return xp.broadcast_to(fill_value.astype(dtype), x.shape).copy(), None


def _dtype(dtype, x):
    return x.dtype if dtype is None else dtypes.as_dtype(dtype)


def eye(N, M=None, k=0, dtype=None):
    """A matrix with ones on one diagonal and zeros elsewhere.

    Args:
        N, M: Numbers of rows and columns; M is N where None.
        k: Which diagonal: 0 the main one, above it positive.
        dtype: None for floatx.

    Example:
        >>> eye(2).numpy()
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    M = N if M is None else M
    return Tensor(devices.default_module().eye(int(N), int(M), int(k), dtype=dtypes.as_dtype(dtype)))


def identity(n, dtype=None):
    """The square matrix with ones on its diagonal.

    Args:
        n: Number of rows and columns.
        dtype: None for floatx.

    Example:
        >>> identity(2).numpy()
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    return eye(n, dtype=dtype)


def tri(N, M=None, k=0, dtype=None):
    """A matrix with ones on and below a diagonal, zeros above.

    Args:
        N, M: Numbers of rows and columns; M is N where None.
        k: Which diagonal: 0 the main one, above it positive.
        dtype: None for floatx.

    Example:
        >>> tri(2).numpy()
        array([[1., 0.],
               [1., 1.]], dtype=float32)
    """
    M = N if M is None else M
    return Tensor(devices.default_module().tri(int(N), int(M), int(k), dtype=dtypes.as_dtype(dtype)))


def arange(start, stop=None, step=None, dtype=None):
    """Numbers from start up to, but without, stop.

    Args:
        start: The first number; the end where it is the only argument, counting from 0.
        stop: The end, which is left out.
        step: From one number to the next; None for 1.
        dtype: None for int32, or floatx where an argument is a float.

    Example:
        >>> arange(3).numpy()
        array([0, 1, 2], dtype=int32)
    """
    given = [_number(v) for v in (start, stop, step) if v is not None]
    if dtype is None:
        kinds = [getattr(v, "dtype", type(v)) for v in (start, stop, step) if v is not None]
        dtype = dtypes.result_type(*kinds)
        if all(kind in (int, bool) for kind in kinds):
            dtype = dtypes.as_dtype("int32")
    if stop is None:
        first, last = 0, given[0]
    else:
        first, last = given[0], given[1]
    increment = 1 if step is None else given[-1]
    if increment == 0:
        raise ValueError("arange needs a step that is not 0.")
    xp = devices.default_module()
    values = xp.arange(first, last, increment)
    return Tensor(values.astype(dtypes.as_dtype(dtype)))


def _number(value):
    """A Python number of a number, or of a Tensor or array of shape ()."""
    return value if isinstance(value, (bool, int, float)) else devices.to_numpy(convert_to_array(value)).item()


def linspace(start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0):
    """Numbers in equal steps from start to stop.

    Args:
        start, stop: Numbers, or arrays that broadcast to one shape.
        num: How many.
        endpoint: Whether stop is the last of them.
        retstep: Whether the step is returned too, as ``(numbers, step)``.
        dtype: None for floatx, or that of start and stop where they have one.
        axis: Where in the result the new axis stands.

    Example:
        >>> linspace(0, 1, 3).numpy()
        array([0. , 0.5, 1. ], dtype=float32)
    """
    if dtype is None:
        kinds = [getattr(v, "dtype", type(v)) for v in (start, stop)]
        dtype = dtypes.result_type(*kinds, float)
    dtype = dtypes.as_dtype(dtype)
    values, step = _spaced(start, stop, num, endpoint, axis)
    if dtype.kind in "iu":
        values = devices.array_module(values).floor(values)
    values = Tensor(values.astype(dtype))
    return (values, Tensor(step.astype(dtype))) if retstep else values


def _spaced(start, stop, num, endpoint, axis):
    """The numbers of `linspace` and their step, as float64 arrays."""
    first, last = (convert_to_array(v).astype(np.float64) for v in (start, stop))
    xp = devices.default_module()
    count = num - 1 if endpoint else num
    step = (last - first) / count if count > 0 else (last - first) * float("nan")
    places = xp.arange(num, dtype=np.float64).reshape((-1,) + (1,) * (first + last).ndim)
    values = first + places * (step if count > 0 else 0.0)
    if endpoint and num > 1:
        values[-1] = last
    return xp.moveaxis(values, 0, axis), xp.asarray(step)


def logspace(start, stop, num=50, endpoint=True, base=10, dtype=None, axis=0):
    """Numbers whose logarithms stand in equal steps: base to the power of `linspace`.

    Args:
        start, stop, num, endpoint, axis: Of the exponents, as in `linspace`.
        base: What is raised.
        dtype: None for floatx, or that of start and stop where they have one.

    Example:
        >>> logspace(0, 2, 3).numpy()
        array([  1.,  10., 100.], dtype=float32)
    """
    if dtype is None:
        kinds = [getattr(v, "dtype", type(v)) for v in (start, stop)]
        dtype = dtypes.result_type(*kinds, float)
    exponents, _ = _spaced(start, stop, num, endpoint, axis)
    return Tensor((float(base) ** exponents).astype(dtypes.as_dtype(dtype)))


def meshgrid(*x, indexing="xy"):
    """Coordinate arrays of a grid, from the coordinates along each axis.

    Args:
        x: Vectors.
        indexing: ``"xy"``: the first vector runs along axis 1; ``"ij"``: along axis 0.

    Example:
        >>> [g.shape for g in meshgrid(np.arange(2), np.arange(3))]
        [(3, 2), (3, 2)]
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing must be 'xy' or 'ij', but got {indexing!r}.")
    places = list(range(len(x)))
    if indexing == "xy" and len(x) > 1:
        places[:2] = 1, 0
    shapes = [tuple(v.shape) if hasattr(v, "shape") else np.shape(v) for v in x]
    sizes = [1] * len(x)
    for place, shape in zip(places, shapes, strict=True):
        sizes[place] = shape[0] if shape else 1
    grids = []
    for vector, place in zip(x, places, strict=True):
        shape = [1] * len(x)
        shape[place] = -1
        grids.append(broadcast_to(reshape(vector, shape), sizes))
    return grids
