"""A second device on NumPy memory that is as strict as CuPy, so that device code is tested without a GPU.

`StrictArray` refuses what CuPy refuses: meeting a NumPy array in an operator or a function, and becoming one
by `numpy.asarray`. It also refuses what would stop a GPU's stream while `forbid_host_reads` is active:
`float()`, `bool()`, `.item()` and the copy to the host. Reductions give arrays of shape (), never scalars.
"""

import contextlib
import types
import weakref

import numpy as np

_host_reads_are_errors = False
_recording = None  # None, or a function that returns the list of what the current stream records, None if it does not


def _run(function, args, kwargs, writes=False):
    """Call a function of NumPy arrays; while a stream records, have it called at each launch instead.

    What makes a new array is called at once too, for its shape, and at a launch writes into that array. What writes
    into an array that is there is not: a recording computes nothing.
    """
    steps = _recording() if _recording is not None else None
    if steps is None:
        return function(*args, **kwargs)
    if writes:

        def write():
            function(*args, **kwargs)

        write.label = function.__name__
        steps.append(write)
        return None
    with np.errstate(all="ignore"):  # of values that are not there yet
        result = function(*args, **kwargs)
    made = result if isinstance(result, (tuple, list)) else [result]
    result = type(result)(map(np.asarray, made)) if isinstance(result, (tuple, list)) else np.asarray(result)
    made = result if isinstance(result, (tuple, list)) else [result]
    given = [a for a in (getattr(function, "__self__", None), *args) if isinstance(a, np.ndarray)]
    if all(any(np.may_share_memory(one, a) for a in given) for one in made):
        return result  # views: what they show is there at each launch

    def again():
        values = function(*args, **kwargs)
        for one, value in zip(made, values if isinstance(values, (tuple, list)) else [values], strict=True):
            one[...] = value

    again.label = function.__name__
    steps.append(again)
    return result


_known = weakref.WeakValueDictionary()  # id of a NumPy array -> the StrictArray of it


class StrictArray:
    """A NumPy array behind the manners of a CuPy array."""

    __array_ufunc__ = None  # NumPy's operators give way to ours, which refuse

    def __init__(self, array):
        self._array = array
        _known[id(array)] = self

    @property
    def base(self):
        """The array whose memory a view shows: one object, however often it is asked for."""
        base = self._array.base
        known = _known.get(id(base))
        return known if known is not None or base is None else StrictArray(base)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._array, name)
        return _wrap_function(value) if callable(value) else _wrap(value)

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._array.ctypes.data)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __getitem__(self, index):
        return _wrap(_run(self._array.__getitem__, (_unwrap(index),), {}))

    def __setitem__(self, index, value):
        _run(self._array.__setitem__, (_unwrap(index), _unwrap(value)), {}, writes=True)

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        for i in range(len(self)):
            yield self[i]

    def __bool__(self):
        _read()
        return bool(self._array)

    def __float__(self):
        _read()
        return float(self._array)

    def __int__(self):
        _read()
        return int(self._array)

    def __index__(self):
        _read()
        return self._array.__index__()

    def item(self):
        _read()
        return self._array.item()

    def tolist(self):
        _read()
        return self._array.tolist()

    def __repr__(self):
        return f"Strict{self._array!r}"

    __hash__ = None


def _read():
    if _recording is not None and _recording() is not None:
        raise RuntimeError("A copy to the host: the stream is capturing.")
    if _host_reads_are_errors:
        raise RuntimeError("A device value was read on the host where a captured step may not.")


def _operator(name):
    is_in_place = name.startswith("__i") and name != "__invert__"

    def operate(self, *others):
        result = _run(getattr(self._array, name), [_unwrap(o) for o in others], {}, is_in_place)
        if result is NotImplemented:
            return result
        return self if is_in_place else _wrap(result)

    return operate


for _name in (
    "add sub mul truediv floordiv mod pow matmul radd rsub rmul rtruediv rfloordiv rmod rpow rmatmul iadd isub imul "
    "itruediv ifloordiv imod ipow and or xor rand ror rxor iand ior ixor lshift rshift ilshift irshift "
    "lt le gt ge eq ne neg pos abs invert"
).split():
    setattr(StrictArray, f"__{_name}__", _operator(f"__{_name}__"))


def _wrap(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return StrictArray(np.asarray(value))
    if isinstance(value, (tuple, list)):
        return type(value)(_wrap(v) for v in value)
    return value


def _unwrap(value):
    if isinstance(value, StrictArray):
        return value._array
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: move it to the device first.")
    if isinstance(value, (tuple, list)):
        return type(value)(_unwrap(v) for v in value)
    if isinstance(value, dict):
        return {k: _unwrap(v) for k, v in value.items()}
    return value


def _wrap_function(function):
    def call(*args, **kwargs):
        out = kwargs.get("out")
        writes = out is not None or getattr(function, "__name__", None) in ("at", "copyto", "fill", "sort", "partition")
        result = _run(function, [_unwrap(a) for a in args], _unwrap(kwargs), writes)
        return out if out is not None else _wrap(result)

    return call


class _StrictModule(types.ModuleType):
    """NumPy's functions over StrictArrays."""

    ndarray = StrictArray
    generic = np.generic

    def __getattr__(self, name):
        value = getattr(np, name)
        if isinstance(value, types.ModuleType):
            return _Namespace(value)
        if isinstance(value, type) or not callable(value):
            return value
        wrapped = _wrap_function(value)
        if isinstance(value, np.ufunc):
            wrapped.reduce, wrapped.at = _wrap_function(value.reduce), _wrap_function(value.at)
        return wrapped

    @staticmethod
    def asarray(value, dtype=None):
        if isinstance(value, StrictArray):
            return value if dtype is None or value.dtype == dtype else value.astype(dtype)
        if _recording is not None and _recording() is not None:
            raise RuntimeError("A copy from the host: the stream is capturing.")
        return StrictArray(np.array(value, dtype=dtype))  # a copy: device memory is never the host's

    array = asarray


class _Namespace:
    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        value = getattr(self.module, name)
        return _wrap_function(value) if callable(value) else value


strict = _StrictModule("strict")


def to_numpy(array):
    _read()
    return np.array(array._array)


@contextlib.contextmanager
def forbid_host_reads():
    """Within the block, reading a device value on the host is an error, as in a captured step."""
    global _host_reads_are_errors
    before, _host_reads_are_errors = _host_reads_are_errors, True
    try:
        yield
    finally:
        _host_reads_are_errors = before


def install():
    """Make the device known as ``"strict"``."""
    from gpukeras.backend import devices

    devices.register_device("strict", strict, StrictArray, to_numpy)
