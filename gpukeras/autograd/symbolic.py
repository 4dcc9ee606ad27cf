"""Placeholders for functional models: `KerasTensor`, the graph's `Node`, and shape inference.

The shape an op gives is found by running the op's own body on two small dummy sizes for every
unknown axis: axes that come out different are unknown.
"""

from typing import Any

import numpy as np

from gpukeras.autograd.scope import current, setting
from gpukeras.autograd.tensor import Tensor, _numpy_function
from gpukeras.backend import devices, dtypes

__all__ = [
    "KerasTensor",
    "Node",
    "Operation",
    "any_symbolic",
    "auto_name",
    "clear_names",
    "flatten",
    "infer",
    "map_structure",
]

# Two fillings of unknown axes. The first axis is most often the batch, which may be small; the others
# must be larger than the windows that slide over them.
_FILLINGS = ((2, 83), (3, 89))

_name_counts: dict[str, int] = {}


def auto_name(prefix):
    """``"dense"``, ``"dense_1"``, ...: the prefix with a number that was not used before."""
    count = _name_counts.get(prefix, 0)
    _name_counts[prefix] = count + 1
    return f"{prefix}_{count}" if count else prefix


def clear_names():
    """Start numbering from the beginning."""
    _name_counts.clear()


class KerasTensor:
    """A Tensor to be: shape and dtype are known, values are not.

    Calling layers and ops on KerasTensors records the graph that `Model(inputs, outputs)` reads.

    Args:
        shape: Sizes of the axes; None where unknown.
        dtype: Name of the dtype.
        sparse, ragged: Not supported.
        record_history: Kept for programs written for Keras.
        name: A name for messages.

    Example:
        >>> (KerasTensor((None, 3), name="x") * 2.0).shape
        (None, 3)
    """

    __array_priority__ = 1000

    def __init__(
        self,
        shape,
        dtype="float32",
        sparse=False,
        ragged=False,
        record_history=True,
        name=None,
        **kwargs,
    ):
        if sparse or ragged:
            raise NotImplementedError("KerasTensor: sparse=True and ragged=True are not supported; use dense arrays.")
        if kwargs:
            raise TypeError(f"KerasTensor got unknown arguments {sorted(kwargs)}.")
        self.shape = tuple(None if size is None else int(size) for size in shape)
        self.dtype = dtypes.name_of(dtype)
        self.name = name or auto_name("keras_tensor")
        self.record_history = record_history
        self.sparse = self.ragged = False
        self._keras_history: Any = None
        self._keras_mask: Any = None

    @property
    def ndim(self):
        """Number of axes."""
        return len(self.shape)

    def __repr__(self):
        return f"<KerasTensor shape={self.shape}, dtype={self.dtype}, sparse=False, ragged=False, name={self.name}>"

    def __hash__(self):
        return id(self)

    def __array__(self, dtype=None, copy=None):
        raise ValueError(
            "A KerasTensor has no values: it stands for data that the model will see. Use functions of "
            "keras.ops on it, or put NumPy code into a layer's call()."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **settings):
        return _numpy_function(ufunc)(*inputs, **settings)

    def __array_function__(self, function, types, args, kwargs):
        return _numpy_function(function)(*args, **kwargs)

    def __iter__(self):
        raise TypeError("Iterating over a KerasTensor is not supported; use ops.unstack or ops.split.")

    def __bool__(self):
        raise TypeError("A KerasTensor has no truth value; use ops.where or ops.cond instead of `if`.")

    def __float__(self):
        raise TypeError("A KerasTensor has no values, so float() of it is not possible.")

    def __int__(self):
        raise TypeError("A KerasTensor has no values, so int() of it is not possible.")

    __index__ = __int__


class Node:
    """One call of an operation on KerasTensors: an edge of the functional graph.

    Attributes:
        operation: The layer or `Operation` that was called.
        args, kwargs: What it was called with, KerasTensors among it.
        outputs: The KerasTensors that came out, flat.
        index: The number of this call among the operation's calls.
    """

    def __init__(self, operation, args, kwargs, outputs):
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.inputs = [leaf for leaf in flatten((args, kwargs)) if isinstance(leaf, KerasTensor)]
        self.structured_inputs = args[0] if len(args) == 1 and not kwargs else self.inputs
        self.outputs = flatten(outputs)
        self.structured_outputs = outputs
        self.index = len(operation._inbound_nodes)
        operation._inbound_nodes.append(self)
        for i, tensor in enumerate(self.outputs):
            tensor._keras_history = (operation, self.index, i)

    @property
    def is_input(self):
        """Whether the node is where data enters: the one of an InputLayer."""
        return not self.inputs

    @property
    def parent_nodes(self):
        """The nodes whose outputs this one reads."""
        return [
            tensor._keras_history[0]._inbound_nodes[tensor._keras_history[1]]
            for tensor in self.inputs
            if tensor._keras_history is not None
        ]


class Operation:
    """An op in a functional graph: a function with a name, where a layer would be an object of its own."""

    def __init__(self, function, name=None):
        self.function = function
        self.name = name or auto_name(function.__name__.lstrip("_"))
        self._inbound_nodes = []

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)

    def __repr__(self):
        return f"<Operation {self.function.__name__}, name={self.name}>"


def any_symbolic(args, kwargs):
    """Whether a KerasTensor is anywhere among the arguments."""
    return any(isinstance(leaf, KerasTensor) for leaf in flatten((args, kwargs)))


def flatten(structure) -> list[Any]:
    """The leaves of nested lists, tuples and dictionaries, in order (dictionaries by sorted key)."""
    if isinstance(structure, (list, tuple)):
        return [leaf for item in structure for leaf in flatten(item)]
    if isinstance(structure, dict):
        return [leaf for key in _sorted_keys(structure) for leaf in flatten(structure[key])]
    return [structure]


def map_structure(function, structure) -> Any:
    """The same nesting with `function` applied to every leaf."""
    if isinstance(structure, dict):
        made = {key: map_structure(function, structure[key]) for key in _sorted_keys(structure)}
        return {key: made[key] for key in structure}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_structure(function, item) for item in structure))
    if isinstance(structure, (list, tuple)):
        return type(structure)(map_structure(function, item) for item in structure)
    return function(structure)


def _sorted_keys(dictionary):
    try:
        return sorted(dictionary)
    except TypeError:
        return list(dictionary)


def infer(function, args, kwargs):
    """The KerasTensors that an op's raw `function` would give for `args`, without recording a node."""
    results = []
    leaves = [leaf for leaf in flatten((args, kwargs)) if isinstance(leaf, KerasTensor)]
    has_unknown = any(size is None for leaf in leaves for size in leaf.shape)
    with setting(tapes=(), undo=None, symbolic=True), np.errstate(all="ignore"):
        for filling in _FILLINGS if has_unknown else _FILLINGS[:1]:

            def fill(leaf, filling=filling):
                return _dummy(leaf, filling) if isinstance(leaf, KerasTensor) else leaf

            results.append(function(*map_structure(fill, args), **map_structure(fill, dict(kwargs))))
    return _merge(results[0], results[-1])


def _dummy(tensor, filling):
    sizes = [
        (filling[0] if axis == 0 else filling[1]) if size is None else size for axis, size in enumerate(tensor.shape)
    ]
    return Tensor(devices.default_module().ones(sizes, dtypes.as_dtype(tensor.dtype)))


def _merge(first, second):
    if isinstance(first, (list, tuple)):
        return type(first)(_merge(a, b) for a, b in zip(first, second, strict=True))
    if not isinstance(first, Tensor):
        return first
    if first.ndim != second.ndim:
        raise ValueError("The result's number of axes depends on the size of an unknown axis.")
    shape = [a if a == b else None for a, b in zip(first.shape, second.shape, strict=True)]
    return KerasTensor(shape, first.array.dtype)


def call_op(function, args, kwargs):
    """Apply a public op to KerasTensors: infer its outputs and, outside a layer's call, record a node."""
    try:
        outputs = infer(function, args, kwargs)
    except (ValueError, TypeError, IndexError) as error:
        shapes = [leaf.shape for leaf in flatten((args, kwargs)) if isinstance(leaf, KerasTensor)]
        raise type(error)(f"{function.__name__} cannot take KerasTensors of shapes {shapes}: {error}") from error
    if not current.symbolic:
        Node(Operation(function), args, kwargs, outputs)
    return outputs


operations: dict[str, Any] = {}  # op name -> public op; filled by the @op decorator
