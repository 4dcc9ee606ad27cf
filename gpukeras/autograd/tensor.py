"""The values that users hold: `Tensor`, and `Variable`, a named Tensor that can be assigned.

Operators, indexing and NumPy's functions are put on Tensor by `gpukeras.ops`, which knows them.
"""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukeras.autograd.scope import current, variables_change
from gpukeras.backend import devices, dtypes
from gpukeras.kernels import casts

__all__ = ["Tensor", "Variable", "convert_to_array", "increase", "numpy_functions"]

numpy_functions: dict[Any, Any] = {}  # NumPy function or ufunc -> op; filled by gpukeras.ops.numpy_protocol


class Tensor:
    """An array that ops can record.

    ``tensor.array`` is the NumPy or CuPy array; `numpy()` and ``numpy.asarray`` copy it to the host
    where it is not there already. A Tensor's values never change.

    Example:
        >>> x = keras.ops.convert_to_tensor([[1.0, 2.0]])
        >>> (x * 2).numpy()
        array([[2., 4.]], dtype=float32)
    """

    __slots__ = ("__weakref__", "_keras_mask", "array")
    __array_priority__ = 1000

    if TYPE_CHECKING:  # put on the class by gpukeras.ops.operators
        T: Any
        _keras_mask: Any
        _snapshot: Callable[[], "Tensor"]
        reshape: Callable[..., "Tensor"]
        transpose: Callable[..., "Tensor"]

        def __getitem__(self, index: Any) -> "Tensor": ...
        def __add__(self, other: Any) -> "Tensor": ...
        def __radd__(self, other: Any) -> "Tensor": ...
        def __sub__(self, other: Any) -> "Tensor": ...
        def __rsub__(self, other: Any) -> "Tensor": ...
        def __mul__(self, other: Any) -> "Tensor": ...
        def __rmul__(self, other: Any) -> "Tensor": ...
        def __truediv__(self, other: Any) -> "Tensor": ...
        def __rtruediv__(self, other: Any) -> "Tensor": ...
        def __floordiv__(self, other: Any) -> "Tensor": ...
        def __mod__(self, other: Any) -> "Tensor": ...
        def __pow__(self, other: Any) -> "Tensor": ...
        def __rpow__(self, other: Any) -> "Tensor": ...
        def __matmul__(self, other: Any) -> "Tensor": ...
        def __rmatmul__(self, other: Any) -> "Tensor": ...
        def __neg__(self) -> "Tensor": ...
        def __abs__(self) -> "Tensor": ...
        def __lt__(self, other: Any) -> "Tensor": ...
        def __le__(self, other: Any) -> "Tensor": ...
        def __gt__(self, other: Any) -> "Tensor": ...
        def __ge__(self, other: Any) -> "Tensor": ...

    def __init__(self, array):
        self.array = array

    @property
    def shape(self):
        """Sizes of the axes."""
        return self.array.shape

    @property
    def dtype(self):
        """The NumPy dtype, which compares equal to its name."""
        return self.array.dtype

    @property
    def ndim(self):
        """Number of axes."""
        return self.array.ndim

    @property
    def size(self):
        """Number of elements."""
        return self.array.size

    @property
    def device(self):
        """Name of the device that holds the values: ``"numpy"`` or ``"cupy"``."""
        return devices.array_module(self.array).__name__

    def numpy(self):
        """The values as a NumPy array of the caller's own."""
        return np.array(_read(self.array))

    def item(self):
        """The only element as a Python number."""
        return _read(self.array).item()

    def tolist(self):
        """The values as nested Python lists."""
        return _read(self.array).tolist()

    def __array__(self, dtype=None, copy=None):
        values = _read(self.array)
        if copy or (dtype is not None and dtype != values.dtype):
            return np.array(values, dtype=dtype)
        if values is self.array:  # the caller may look, but a Tensor's values never change
            values = values.view()
            values.flags.writeable = False
        return values

    @property
    def __cuda_array_interface__(self):
        return self.array.__cuda_array_interface__  # AttributeError on NumPy: then it is not on a GPU

    def __dlpack__(self, **settings):
        return self.array.__dlpack__(**settings)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **settings):
        if method != "__call__" or out is not None:
            raise TypeError(
                f"np.{ufunc.__name__}.{method}(..., out=...) does not work on a Tensor. "
                f"Use keras.ops, whose functions return new Tensors."
            )
        return _numpy_function(ufunc)(*inputs, **settings)

    def __array_function__(self, function, types, args, kwargs):
        return _numpy_function(function)(*args, **kwargs)

    def __len__(self):
        if not self.shape:
            raise TypeError("A Tensor of shape () has no len().")
        return self.shape[0]

    def __iter__(self):
        for i in range(len(self)):
            yield self[i]

    def __bool__(self):
        if self.size != 1:
            raise ValueError(
                f"The truth value of a Tensor of shape {self.shape} is ambiguous. Use keras.ops.any or .all."
            )
        return bool(self.item())

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __index__(self):
        return self.item().__index__()

    def __format__(self, spec):
        return format(self.item(), spec) if spec and self.shape == () else format(str(self), spec)

    def __repr__(self):
        values = np.array2string(devices.to_numpy(self.array), separator=" ")
        start = "\n" if "\n" in values else ""
        return f"Tensor({start}{values}, shape={self.shape}, dtype={self.dtype.name})"

    def __hash__(self):
        return id(self)

    def __copy__(self):
        return type(self)(self.array.copy())

    def __deepcopy__(self, memo):
        return Tensor(self.array.copy())

    def __reduce__(self):
        return convert_from_numpy, (self.numpy(),)


def convert_from_numpy(array):
    """A Tensor of a NumPy array, on the default device."""
    return Tensor(devices.to_device(array))


def _numpy_function(function):
    try:
        return numpy_functions[function]
    except KeyError:
        raise TypeError(
            f"np.{function.__name__} has no derivative in gpukeras, so it cannot be applied to a Tensor. "
            f"Use a function of keras.ops, or np.{function.__name__}(x.numpy()) outside of training."
        ) from None


class Variable(Tensor):
    """A named Tensor whose values are assigned in place; layers, optimizers and metrics own them.

    Args:
        initializer: An array or Tensor of values, or a function of ``(shape, dtype)``.
        shape: Sizes of the axes, where `initializer` is a function.
        dtype: Name of the dtype; None for the values' own, or floatx.
        trainable: Whether tapes follow it and optimizers update it.
        autocast: Whether a layer of a mixed policy reads it in its compute dtype.
        aggregation: How copies on several devices would be merged: "none", "mean", "sum",
            "only_first_replica". Kept for configs; there is one copy.
        name: Last part of `path`.

    Example:
        >>> v = Variable(np.zeros(2, "float32"), name="v")
        >>> v.assign_add([1.0, 2.0]).numpy()
        array([1., 2.], dtype=float32)
    """

    def __init__(
        self,
        initializer,
        shape=None,
        dtype=None,
        trainable=True,
        autocast=True,
        aggregation="none",
        name=None,
    ):
        if callable(initializer) and not isinstance(initializer, Tensor):
            if shape is None:
                raise ValueError(f"Variable {name!r}: an initializer function needs a shape, but got None.")
            values = initializer(tuple(shape), dtype=dtypes.name_of(dtype))
        else:
            values = initializer
        array = convert_to_array(values, dtype)
        if shape is not None and tuple(shape) != array.shape:
            raise ValueError(
                f"Variable {name!r} was declared with shape {tuple(shape)}, but its initial values have "
                f"shape {array.shape}."
            )
        # The variable owns its memory: nobody else may write into it or see it change.
        self.array = array.copy()
        self.initializer = initializer if callable(initializer) else None
        self.trainable = trainable
        self.autocast = autocast
        self.aggregation = aggregation
        self.name = name or "variable"
        self.path = self.name
        self.regularizer: Any = None
        self.constraint: Any = None
        self.overwrite_with_gradient = False
        self._place: Any = None  # the flat buffer that `array` is a view of, and its number there
        self._starts_trainable = trainable

    @property
    def dtype(self):
        """Name of the dtype."""
        return self.array.dtype.name

    @property
    def value(self):
        """The values now, as a Tensor that stays as it is; gradients flow through it to the variable."""
        return self._snapshot()

    def assign(self, value):
        """Set the values in place.

        Raises:
            ValueError: where the shape is not the variable's.
        """
        if current.symbolic:
            return self
        array = value.array if isinstance(value, Tensor) else convert_to_array(value, self.array.dtype)
        if array.shape != self.array.shape:
            raise ValueError(
                f"Variable {self.path!r} has shape {self.array.shape}, but was assigned values of shape {array.shape}."
            )
        self._write(array)
        return self

    def assign_add(self, value):
        """Add to the values in place."""
        return self if current.symbolic else self.assign(self.array + convert_to_array(value, self.array.dtype))

    def assign_sub(self, value):
        """Subtract from the values in place."""
        return self if current.symbolic else self.assign(self.array - convert_to_array(value, self.array.dtype))

    def _write(self, array):
        if current.undo is not None:
            current.undo.append((self.array, self.array.copy()))
        self.array[...] = array
        if self._place is not None:
            variables_change()

    def in_dtype(self, dtype):
        """The array as an op reads it: cast to `dtype` where the variable follows the layer's policy.

        While a tape records, variables that lie side by side in an optimizer's buffer are cast together, by one kernel,
        when the first of them is read. Every later step has its copies in the same arrays.
        """
        array = self.array
        if not self.autocast or array.dtype == dtype or not dtypes.is_float(array.dtype):
            return array
        reading, place = current.reading, self._place
        if reading is not None and place is not None:
            buffer, position = place
            if buffer.views[position] is array:
                return buffer.cast(dtype, reading, casts.cast_into).views[position]
        return casts.cast(array, dtype)

    def __array__(self, dtype=None, copy=None):
        return np.array(_read(self.array), dtype=dtype)

    def __repr__(self):
        return (
            f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}, value={devices.to_numpy(self.array)}>"
        )

    def __copy__(self):
        return self.__deepcopy__({})

    def __deepcopy__(self, memo):
        made = Variable(self.array, trainable=self.trainable, autocast=self.autocast, name=self.name)
        made.path = self.path
        made.regularizer = self.regularizer
        made.constraint = self.constraint
        made.overwrite_with_gradient = self.overwrite_with_gradient
        return made

    def __reduce__(self):
        return _restore_variable, (
            self.numpy(),
            self.trainable,
            self.autocast,
            self.name,
            self.path,
        )


def increase(array, value):
    """array ← array + value, in place; the value is a number or an array that fits."""
    if type(array) is np.ndarray and not array.ndim:
        # As numbers of NumPy's: 0.2 microseconds, where += takes 1.5 for an array of shape ().
        array[()] += value[()] if type(value) is np.ndarray else value
    else:
        array += value


def _read(array):
    """The values on the host; a step in which somebody looks at them cannot be run from the list of its ops."""
    trace = current.trace
    if trace is not None:
        trace.reason = trace.reason or "a value is read, on which what follows may depend"
    return devices.to_numpy(array)


def _restore_variable(values, trainable, autocast, name, path):
    made = Variable(values, trainable=trainable, autocast=autocast, name=name)
    made.path = path
    return made


def convert_to_array(value, dtype=None):
    """The device array of a Tensor, an array of either library, a number or a nested sequence.

    Python floats become floatx and Python integers int32, as in Keras; NumPy arrays keep their dtype.
    """
    if dtype is not None and not isinstance(dtype, np.dtype):
        dtype = dtypes.as_dtype(dtype)
    if isinstance(value, Tensor):
        array = value.array
        return array if dtype is None or array.dtype == dtype else array.astype(dtype)
    if dtype is None and isinstance(value, (bool, int, float, list, tuple)):
        value, dtype = _of_python(value)
    try:
        array = devices.to_device(value, dtype)
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"Cannot make a Tensor of {_describe(value)}: {error}. Pass numbers, nested lists of equal "
            f"lengths, or a NumPy, CuPy or DLPack array."
        ) from error
    if not dtypes.is_numeric(array.dtype):
        raise TypeError(
            f"Cannot make a Tensor of {_describe(value)}: its dtype {array.dtype} is not numeric. "
            f"Convert it first, for instance with .astype('float32')."
        )
    return array


def _of_python(value):
    """A Python number or nested list with the dtype Keras gives it."""
    if isinstance(value, bool):
        return value, np.dtype(bool)
    if isinstance(value, int):
        return value, np.dtype("int32" if -(2**31) <= value < 2**31 else "int64")
    if isinstance(value, float):
        return value, dtypes.as_dtype(dtypes.floatx())
    leaves = []
    value = _unwrap_nested(value, leaves)
    if any(isinstance(leaf, float) for leaf in leaves) or not leaves:
        return value, dtypes.as_dtype(dtypes.floatx())
    if all(isinstance(leaf, bool) for leaf in leaves):
        return value, np.dtype(bool)
    if all(isinstance(leaf, (bool, int)) for leaf in leaves):
        return value, np.dtype("int32" if all(-(2**31) <= leaf < 2**31 for leaf in leaves) else "int64")
    return value, None


def _unwrap_nested(value, leaves):
    """Nested lists with Tensors and arrays brought to the host, and every leaf collected."""
    if isinstance(value, (list, tuple)):
        return [_unwrap_nested(item, leaves) for item in value]
    if isinstance(value, Tensor) or devices.is_array(value):
        value = np.asarray(devices.to_numpy(value.array if isinstance(value, Tensor) else value))
    leaves.append(value)
    return value


def _describe(value):
    with contextlib.suppress(AttributeError, TypeError):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
