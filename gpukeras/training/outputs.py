"""What `predict` returns: the outputs of batches, joined, in the caller's kind of array."""

from typing import Any

import numpy as np

from gpukeras.autograd.symbolic import flatten, map_structure
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices

__all__ = ["Outputs", "own_arrays"]

_WAITING_AT_MOST = 1 << 26  # bytes of outputs


class Outputs:
    """The outputs of batches, in the caller's kind of array.

    Reading an output from a GPU waits for all work that was launched, so they are read many at a time.

    Args:
        x: What the caller gave, in whatever structure.
        data: The opened data.
    """

    def __init__(self, x, data):
        module = _module_of(x, data)
        self.batches = []  # of which the first `read` are of the caller's kind
        self.read = 0
        self.waiting = 0
        self.is_crossing = module is not devices.default_module()
        self.convert: Any = devices.to_numpy if module is np else module.asarray

    def add(self, outputs):
        if type(outputs) is Tensor:
            self.batches.append(outputs.array)
        else:
            self.batches.append(map_structure(lambda y: y.array if isinstance(y, Tensor) else y, outputs))
        if self.is_crossing:
            self.waiting += sum(getattr(y, "nbytes", 0) for y in flatten(self.batches[-1]))
            if self.waiting > _WAITING_AT_MOST:
                self.all()

    def all(self):
        """Every batch's outputs."""
        if self.is_crossing:
            for i in range(self.read, len(self.batches)):
                self.batches[i] = map_structure(
                    lambda y: self.convert(y) if devices.is_array(y) else y, self.batches[i]
                )
            self.read, self.waiting = len(self.batches), 0
        return self.batches

    def last(self):
        """The last batch's outputs, as callbacks get them."""
        return {"outputs": self.all()[-1]}

    def joined(self):
        """The outputs for all samples."""
        return _concatenated(self.all())


def own_arrays(outputs):
    """NumPy arrays of the caller's own: an output may be a view of what the model keeps or was given."""
    if type(outputs) is Tensor:
        return outputs.array.copy()
    return map_structure(
        lambda y: y.array.copy() if isinstance(y, Tensor) else y.copy() if devices.is_array(y) else y, outputs
    )


def _concatenated(batches):
    first = batches[0]
    if isinstance(first, dict):
        return {key: _concatenated([batch[key] for batch in batches]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_concatenated(list(parts)) for parts in zip(*batches, strict=True))
    if len(batches) == 1:
        return own_arrays(first)
    return devices.array_module(first).concatenate(batches, axis=0)


def _module_of(x, data):
    """The array library of the caller's x: NumPy, unless all of x is on the GPU."""
    given = x if devices.default_module() is np else getattr(data, "structure", [None])[0]
    modules = {devices.array_module(leaf.array if isinstance(leaf, Tensor) else leaf) for leaf in flatten(given)}
    return modules.pop() if len(modules) == 1 else np
