"""The ways of the data into `fit`, `evaluate` and `predict`: arrays, generators and other iterables.

Every source yields batches ``(x, y, sample_weight)`` of Tensors on the default device.
"""

import functools
import math
import types
import warnings
from typing import Any

import numpy as np

from gpukeras.autograd.symbolic import flatten, map_structure
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.backend import devices, dtypes, random
from gpukeras.backend.transfer import Rows
from gpukeras.training import feeds
from gpukeras.training.kinds import kind_of

__all__ = [
    "ArrayData",
    "IterableData",
    "RowsBatch",
    "is_one_batch",
    "open_data",
    "plain_batch",
    "split_validation",
    "to_batch",
    "unpack",
]

_FLOAT64 = np.dtype("float64")
_SHUFFLING = 0x53485546  # sets the key of shuffling apart from that of the global generator


def unpack(data):
    """A batch as ``(x, y, sample_weight)``; what is missing is None."""
    if isinstance(data, list):
        data = tuple(data)
    if not isinstance(data, tuple):
        return data, None, None
    if len(data) > 3 or not data:
        raise ValueError(
            f"A batch is x, (x, y) or (x, y, sample_weight), but got a tuple of {len(data)}. "
            f"Wrap several inputs in a list or dictionary: ([x1, x2], y)."
        )
    return (*data, *([None] * (3 - len(data))))


def open_data(x, y=None, sample_weight=None, *, batch_size=None, shuffle=False, class_weight=None, steps=None):
    """The right source for what `fit`, `evaluate` or `predict` was given."""
    if x is None:
        raise ValueError("There is no data: x is None. Pass arrays, or an iterable of batches.")
    if _is_batch_source(x):
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(
                    f"{name} cannot be given beside {type(x).__name__}: "
                    f"the iterable yields (x, y) or (x, y, sample_weight)."
                )
        if batch_size is not None:
            raise ValueError(f"batch_size cannot be given beside {type(x).__name__}, which decides on its batches.")
        return IterableData(x, class_weight=class_weight, steps=steps)
    return ArrayData(x, y, sample_weight, batch_size, shuffle, class_weight, steps)


def is_one_batch(x, batch_size):
    """Whether x is a NumPy array of numbers that is one batch of a model on NumPy as it stands."""
    return (
        type(x) is np.ndarray
        and x.ndim > 0
        and 0 < len(x) <= (32 if batch_size is None else batch_size)
        and x.dtype.kind in "fiub"
        and devices.default_module() is np
    )


def plain_batch(x):
    """The Tensor of an array for which `is_one_batch` holds."""
    return Tensor(_in_floatx(x))


def _is_batch_source(x):
    if isinstance(x, (types.GeneratorType, Tensor, str)) or devices.is_array(x):
        return isinstance(x, types.GeneratorType)
    if isinstance(x, (list, tuple, dict)) or hasattr(x, "iloc"):
        return False
    if hasattr(x, "__array__") or hasattr(x, "__dlpack__") or hasattr(x, "__cuda_array_interface__"):
        return False
    return hasattr(x, "__iter__") or hasattr(x, "__next__") or hasattr(x, "__getitem__")


class _Batches:
    """Epochs over a source that `_pass` runs through once.

    Without a limit an epoch is one pass. With one, an epoch takes as many batches as the limit says from a pass
    that goes on in the next epoch, as in Keras.
    """

    def __init__(self, limit, length):
        if limit is not None and (not isinstance(limit, (int, np.integer)) or limit < 1):
            raise ValueError(f"The number of steps must be a whole number of at least 1, but got {limit!r}.")
        self.limit = limit
        self.length = length  # batches in a pass, None if unknown
        self.steps = length if limit is None else limit
        self._running: Any = None
        self._taken = 0

    def _pass(self, draw):
        """One run through the source, batch by batch."""
        raise NotImplementedError

    def epoch(self, draw=0):
        """Batches of one epoch; `draw` numbers the shuffling."""
        if self.limit is None:
            count = 0
            for batch in self._pass(draw):
                count += 1
                yield batch
            self.steps = self.length = count
            return
        for _ in range(self.limit):
            if self._running is None:
                self._running, self._taken = self._pass(draw), 0
            batch = next(self._running, None)
            if batch is None:
                self._running = None
                warnings.warn(
                    f"The data ran out before {self.limit} steps; the epoch ends early. A generator must yield at "
                    f"least steps_per_epoch * epochs batches.",
                    stacklevel=2,
                )
                return
            self._taken += 1
            yield batch
        if self._taken == self.length:
            self._running = None


class ArrayData(_Batches):
    """Arrays that are in memory (or mapped into it), cut into batches; the last may be partial.

    Where a GPU computes, arrays may be on the host or on the GPU, also some here and some there: what is on the host is
    moved, as Keras users expect of any array they pass. It crosses once for all epochs, not once per step, if it fits
    (`Rows`). Where NumPy computes, arrays on the GPU are copied to the host, with a warning.

    Attributes:
        structure: x, y and sample_weight as arrays, where the caller left them.
        kind: The library of the caller's x (`kinds.kind_of`).
        is_plain: Whether they are single NumPy arrays for a model on NumPy.
    """

    may_reuse = False

    def __init__(self, x, y, sample_weight, batch_size, shuffle, class_weight, steps):
        if class_weight is not None and sample_weight is not None:
            raise ValueError("class_weight and sample_weight cannot both be given; multiply them yourself.")
        self.structure = (_arrays(x, "x"), _arrays(y, "y"), _arrays(sample_weight, "sample_weight"))
        self.kind = np if _is_nested_numbers(x) else kind_of(x, self.structure[0])
        self.size = self._common_length()
        self.batch_size = 32 if batch_size is None else batch_size
        if not isinstance(self.batch_size, (int, np.integer)) or self.batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, but got {batch_size!r}.")
        if not isinstance(shuffle, (bool, np.bool_)):
            raise ValueError(f"shuffle must be True or False for arrays, but got {shuffle!r}.")
        self.shuffle = shuffle
        if class_weight is not None:
            _check_class_weight(class_weight, self.structure[1])
            y = flatten(self.structure[1])[0]
            if not isinstance(y, np.memmap):  # else batch by batch: it may be larger than the memory
                self.structure = (*self.structure[:2], _weights_by_class(y, class_weight))
                class_weight = None
        self.class_weight = class_weight
        is_on_host = devices.default_module() is np
        # Single NumPy arrays for a model on NumPy, the usual case, take the short way in `_batch`.
        self.is_plain = (
            class_weight is None
            and all(part is None or type(part) is np.ndarray for part in self.structure)
            and is_on_host
        )
        self._rows = None
        if not is_on_host:
            leaves = [array for array in flatten(self.structure) if array is not None]
            self._rows = Rows(leaves, [_dtype_of_batch(array) for array in leaves], int(self.batch_size))
        super().__init__(steps, math.ceil(self.size / self.batch_size))

    def _common_length(self):
        lengths = {}
        for name, part in zip(("x", "y", "sample_weight"), self.structure, strict=True):
            for array in flatten(part):
                if array is not None:
                    lengths.setdefault(array.shape[0], []).append(name)
        if len(lengths) > 1:
            listed = ", ".join(f"{'/'.join(sorted(set(names)))}: {length}" for length, names in lengths.items())
            raise ValueError(f"All arrays must have the same number of samples, but got {listed}.")
        size = next(iter(lengths), 0)
        if size == 0:
            raise ValueError("The data is empty: x has 0 samples.")
        return size

    def _pass(self, draw):
        if self._rows is None:
            return self._host_batches(self._order(draw))
        order = functools.partial(_permutation, draw, self.size) if self.shuffle else None
        return _device_batches(self._rows, order, list(self.structure), self.class_weight)

    def _host_batches(self, order):
        for start in range(0, self.size, self.batch_size):
            yield self._batch(order, start, min(start + self.batch_size, self.size))

    def _order(self, draw):
        return _permutation(draw, self.size, np) if self.shuffle else None

    def _batch(self, order, start, stop):
        rows = slice(start, stop) if order is None else order[start:stop]
        if self.is_plain:
            return [None if array is None else Tensor(_in_floatx(_rows(array, rows))) for array in self.structure]
        x, y, weight = [map_structure(lambda array: _rows(array, rows), part) for part in self.structure]
        return _finish_batch(x, y, weight, self.class_weight)


def _permutation(draw, size, xp):
    return random.permutation(random.process_seed()[0] ^ _SHUFFLING, draw, size, xp)


def _device_batches(rows, order, structure, class_weight):
    """One pass through an ArrayData.

    No method of it: a pass that goes on in the next epoch would keep it, and the device's memory, until Python looks
    for cycles.
    """
    epoch = rows.epoch(order)
    if epoch is not None and class_weight is None and feeds.can_feed(epoch):
        layout = feeds.layout_of(epoch, structure)
        for start in range(0, epoch.size, rows.batch_size):
            yield RowsBatch(epoch, structure, layout, start, min(start + rows.batch_size, epoch.size))
        return
    for batch in rows.batches(order, epoch):
        x, y, weight = _packed(structure, batch)
        yield (x, y, weight) if class_weight is None else _finish_batch(x, y, weight, class_weight)


class RowsBatch:
    """A batch ``(x, y, sample_weight)`` of arrays on the device, which is gathered when it is looked at.

    A step that is a graph gathers it itself (`feeds`).

    Attributes:
        epoch: The `transfer.Epoch` of which it has the rows `start` to `stop`.
        structure: The nesting of x, y and sample_weight.
        layout: What batches have in common that one graph can take.
    """

    __slots__ = ("_tensors", "epoch", "layout", "start", "stop", "structure")

    def __init__(self, epoch, structure, layout, start, stop):
        self.epoch = epoch
        self.structure = structure
        self.layout = layout
        self.start = start
        self.stop = stop
        self._tensors: Any = None

    def __iter__(self):
        if self._tensors is None:
            self._tensors = _packed(self.structure, self.epoch.gather(self.start, self.stop))
        return iter(self._tensors)

    def __getitem__(self, index):
        return list(self)[index]

    def __len__(self):
        return len(self.structure)


class IterableData(_Batches):
    """Batches that someone else makes: a generator, an iterator, a dataset, a data loader.

    What can be iterated again is started anew for each epoch; a generator goes on where it was.

    Attributes:
        kind: The library of the last batch's x (`kinds.kind_of`).
        may_reuse: Whether the memory of a batch may be that of the next one.
    """

    may_reuse = True

    def __init__(self, source, class_weight=None, steps=None):
        self.source = source
        self.class_weight = class_weight
        self.is_indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
        self.can_restart = not hasattr(source, "__next__")
        self.kind: Any = np
        super().__init__(steps, self._length())

    def _length(self):
        try:
            length = getattr(self.source, "num_batches", None)
            return len(self.source) if length is None else length
        except TypeError:
            return None

    def _pass(self, draw):
        if self.is_indexed and hasattr(self.source, "on_epoch_begin"):
            self.source.on_epoch_begin()
        for data in self._start():
            self.kind = kind_of(unpack(data)[0])
            yield to_batch(data, self.class_weight)
        if self.is_indexed and hasattr(self.source, "on_epoch_end"):
            self.source.on_epoch_end()

    def _start(self):
        if self.is_indexed and not hasattr(self.source, "__iter__"):
            return iter(self.source[i] for i in range(len(self.source)))
        return iter(self.source)


def to_batch(data, class_weight=None):
    """What an iterable yields as ``(x, y, sample_weight)`` of Tensors."""
    x, y, weight = unpack(data)
    return _finish_batch(x, y, weight, class_weight)


def _finish_batch(x, y, weight, class_weight):
    if class_weight is not None and y is not None:
        weight = _weights_by_class(flatten(y)[0], class_weight)
    return (
        map_structure(_to_tensor, x),
        map_structure(_to_tensor, y),
        map_structure(_to_tensor, weight),
    )


def _to_tensor(value):
    if value is None or isinstance(value, Tensor):
        return value
    if type(value) is not np.ndarray and (hasattr(value, "iloc") or _is_elsewhere(value)):
        value = _array(value, "the data")
    return Tensor(_in_floatx(convert_to_array(value)))


def _is_elsewhere(value):
    """Whether a value is an array on the GPU for a model on NumPy."""
    return devices.default_module() is np and devices.is_array(value) and devices.array_module(value) is not np


def _in_floatx(array):
    """As Keras: data comes in floatx, whatever NumPy made of it."""
    return array.astype(dtypes.as_dtype(dtypes.floatx())) if array.dtype == _FLOAT64 else array


def _packed(structure, arrays):
    """Tensors of the arrays, nested as the structure from which `flatten` took them; it goes through in one order."""
    rest = iter(arrays)
    return map_structure(lambda leaf: None if leaf is None else Tensor(next(rest)), structure)


def _dtype_of_batch(array):
    if array.dtype == _FLOAT64:
        return dtypes.as_dtype(dtypes.floatx())
    return array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")


def _rows(array, rows):
    if array is None:
        return None
    if isinstance(rows, slice):
        return array[rows]
    if type(array) is np.ndarray and array.flags.c_contiguous:
        return array.take(rows, axis=0, mode="clip")  # a mode spares NumPy a buffer; rows are in range
    # Memory-mapped, or a view such as the values of a pandas frame, all of which `take` would copy: 32 rows of
    # 20000 x 784 took 8.4 ms, and 0.05 so.
    return np.ascontiguousarray(array[rows])


def _arrays(structure, name):
    """Every leaf as an array with a first axis of samples."""
    if isinstance(structure, (list, tuple)) and structure and _is_nested_numbers(structure):
        structure = _in_floatx(np.asarray(structure))
    return map_structure(lambda leaf: _array(leaf, name), structure)


def _is_nested_numbers(value):
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (bool, int, float, np.generic))


def _array(leaf, name):
    if leaf is None:
        return None
    if isinstance(leaf, Tensor):
        leaf = leaf.array
    leaf = _on_host(leaf, name) if devices.default_module() is np else _where_it_is(leaf)
    if leaf.ndim == 0:
        raise ValueError(f"{name} must have a first axis of samples, but got a single number.")
    if not dtypes.is_numeric(leaf.dtype):
        raise TypeError(
            f"{name} has dtype {leaf.dtype}, which is not numeric. Encode it as numbers first, for instance with "
            f"np.unique(..., return_inverse=True)."
        )
    if not devices.takes(leaf.dtype):
        raise TypeError(
            f"{name} has dtype {leaf.dtype}, which no GPU computes with. Convert it: {name}.astype('float32')."
        )
    return leaf


def _on_host(leaf: Any, name) -> Any:
    """An array, column or frame for a model on NumPy."""
    is_foreign = devices.array_module(leaf) is not np
    if is_foreign or hasattr(leaf, "to_cupy"):
        warnings.warn(
            f"{name} is on the GPU ({type(leaf).__name__}), but gpukeras computes with NumPy: it is copied to the "
            f"host. keras.config.set_backend('cupy') computes where it is.",
            RuntimeWarning,
            stacklevel=2,
        )
    if is_foreign:
        return devices.to_numpy(leaf)
    if hasattr(leaf, "iloc") and hasattr(leaf, "to_numpy"):  # a pandas or cuDF column or frame
        leaf = leaf.to_numpy()
    if devices.is_array(leaf):
        return leaf
    if not hasattr(leaf, "__array__") and devices.is_on_gpu(leaf):
        raise TypeError(
            f"{name} is on the GPU ({type(leaf).__name__}), but gpukeras computes with NumPy, and it has no __array__ "
            f"that would copy it to the host. Copy it there yourself, or use keras.config.set_backend('cupy')."
        )
    return convert_to_array(leaf)


def _where_it_is(leaf: Any) -> Any:
    """An array, column or frame as an array of the default device's or of NumPy's, without a copy between them."""
    if hasattr(leaf, "iloc"):
        if hasattr(leaf, "to_cupy"):  # a cuDF column or frame
            return leaf.to_cupy()
        values = getattr(leaf, "values", None)
        leaf = values if devices.is_array(values) else leaf.to_numpy()
    if devices.is_array(leaf):
        return leaf
    if not devices.is_on_gpu(leaf):
        if hasattr(leaf, "__array__"):
            return np.asarray(leaf)
        if hasattr(leaf, "__dlpack__"):
            return np.from_dlpack(leaf)
    return convert_to_array(leaf)


def _check_class_weight(class_weight, y):
    if not isinstance(class_weight, dict):
        raise ValueError(f"class_weight must be a dictionary from class to weight, but got {class_weight!r}.")
    if y is None:
        raise ValueError("class_weight needs targets y, but y is None.")
    if len(flatten(y)) > 1:
        raise ValueError("class_weight works with one output only; use sample_weight for a model with several.")


def _weights_by_class(y, class_weight):
    """The weight of each sample's class, where y is; classes that are not named weigh 1."""
    y = y.array if isinstance(y, Tensor) else y if devices.is_array(y) else np.asarray(y)
    xp = devices.array_module(y)
    if y.ndim > 1:
        y = y.argmax(axis=-1) if y.shape[-1] != 1 else y[..., 0]
    labels = xp.round(y).astype(np.int64)
    weights = xp.ones(labels.shape, dtypes.as_dtype(dtypes.floatx()))
    for label, weight in class_weight.items():
        # Not by a mask: a GPU would count its elements and stop.
        weights = xp.where(labels == label, weights.dtype.type(weight), weights)
    return weights


def split_validation(x, y, sample_weight, fraction):
    """The last `fraction` of the samples as validation data, as in Keras: ``(training, validation)``."""
    if not 0 < fraction < 1:
        raise ValueError(f"validation_split must lie between 0 and 1, but got {fraction}.")
    if _is_batch_source(x):
        raise ValueError("validation_split needs arrays; pass validation_data beside an iterable.")
    parts = [_arrays(part, name) for part, name in ((x, "x"), (y, "y"), (sample_weight, "sample_weight"))]
    size = next(array.shape[0] for part in parts for array in flatten(part) if array is not None)
    cut = math.floor(size * (1 - fraction))
    if cut in (0, size):
        raise ValueError(
            f"validation_split={fraction} of {size} samples leaves {cut} for training and {size - cut} for validation."
        )
    training = [map_structure(lambda a: None if a is None else a[:cut], part) for part in parts]
    validation = [map_structure(lambda a: None if a is None else a[cut:], part) for part in parts]
    return tuple(training), tuple(validation)
