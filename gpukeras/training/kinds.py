"""In which kind of array `predict` answers: in the caller's."""

import sys

import numpy as np

from gpukeras.autograd.symbolic import flatten
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices

__all__ = ["kind_of"]


def kind_of(x, arrays=None):
    """The library whose arrays all of x are: NumPy's where they are not of one kind.

    That of an array on the GPU is CuPy's; another library's, such as PyTorch's, if it has a ``from_dlpack`` that takes
    ours. Frames and columns on the GPU count as CuPy's arrays, as those on the host do as NumPy's.

    Args:
        x: What the caller gave, in whatever structure.
        arrays: What was made of it where it was, if that is known.
    """
    leaves = flatten(x)
    made = [None] * len(leaves) if arrays is None else flatten(arrays)
    found = {_kind_of(leaf, array) for leaf, array in zip(leaves, made, strict=True) if leaf is not None}
    return found.pop() if len(found) == 1 else np


def _kind_of(leaf, array):
    leaf = leaf.array if isinstance(leaf, Tensor) else leaf
    if devices.is_array(leaf):
        return devices.array_module(leaf)
    if devices.default_module() is np:
        return np
    if hasattr(leaf, "iloc"):
        if hasattr(leaf, "to_cupy"):
            return devices.default_module()
        return devices.array_module(getattr(leaf, "values", None) if array is None else array)
    if not devices.is_on_gpu(leaf):
        return np
    library = sys.modules.get(type(leaf).__module__.partition(".")[0])
    return library if hasattr(library, "from_dlpack") else devices.default_module()
