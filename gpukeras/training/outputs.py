"""What `predict` returns: the outputs of batches, joined, in the caller's kind of array."""

from typing import Any

import numpy as np

from gpukeras.autograd.symbolic import flatten, map_structure
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices

__all__ = ["Outputs", "in_kind", "own_arrays"]

_WAITING_AT_MOST = 1 << 26  # bytes of outputs


class Outputs:
    """The outputs of batches, in the caller's kind of array.

    Reading an output from a GPU waits for all work that was launched, so they are read many at a time.

    Args:
        data: The opened data, which knows the kind of a batch's x when it has made the batch.
    """

    def __init__(self, data):
        self.data = data
        self.batches = []  # of which the first `read` have crossed
        self.read = 0
        self.waiting = 0
        self.is_crossing = False
        self.convert: Any = None

    def add(self, outputs):
        if not self.batches:
            kind = self.data.kind
            self.is_crossing = kind is not devices.default_module() and devices.is_module(kind)
            self.convert = _converter(kind)
        if self.data.may_reuse:  # the memory of a batch, of which an output may be a view
            self.batches.append(own_arrays(outputs))
        elif type(outputs) is Tensor:
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
                self.batches[i] = _converted(self.batches[i], self.convert)
            self.read, self.waiting = len(self.batches), 0
        return self.batches

    def last(self):
        """The last batch's outputs, as callbacks get them."""
        return {"outputs": _converted(self.all()[-1], self.convert)}

    def joined(self):
        """The outputs for all samples."""
        return _converted(_concatenated(self.all()), self.convert)


def in_kind(outputs, kind):
    """The outputs of one batch, Tensors, as arrays of a library."""
    return _converted(own_arrays(outputs), _converter(kind))


def own_arrays(outputs):
    """Arrays of the caller's own: an output may be a view of what the model keeps or was given."""
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
        joined = [_concatenated(list(parts)) for parts in zip(*batches, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    if len(batches) == 1:
        return own_arrays(first)
    return devices.array_module(first).concatenate(batches, axis=0)


def _converter(kind):
    """What makes of the default device's arrays those of a library."""
    if kind is np:
        return devices.to_numpy
    return kind.asarray if devices.is_module(kind) else kind.from_dlpack


def _converted(outputs, convert):
    return map_structure(lambda y: convert(y) if devices.is_array(y) else y, outputs)
