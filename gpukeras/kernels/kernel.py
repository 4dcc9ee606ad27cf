"""The `@kernel` decorator: a reference in plain array code, with faster forms for one kind of array under it."""

import functools
import inspect
from typing import Any

import numpy as np

from gpukeras.backend import cuda, devices
from gpukeras.kernels.deferred import Deferred

__all__ = ["kernel", "registered_kernels"]

_kernels = {}  # qualified name -> Kernel


class Kernel:
    """A function of raw arrays with one meaning and several forms; the array's home chooses the form.

        @kernel
        def scale(x, factor):              the reference: plain array code, any device
            x *= factor

        @scale.cpu                         for NumPy arrays: blocked or threaded
        @scale.cuda                        for CuPy arrays: a CUDA kernel
        @scale.samples                     arguments on which all forms must agree
        def scale(random, dtype):
            yield random((33, 7), dtype), 0.5

    ``scale.reference`` stays callable. The form is chosen by the first argument.
    """

    def __init__(self, reference):
        functools.update_wrapper(self, reference)
        self.reference = reference
        self.on_numpy: Any = reference
        self.on_cuda: Any = None
        self.strided: frozenset[str] = frozenset()
        self.wide: frozenset[str] = frozenset()
        self.parameters = tuple(inspect.signature(reference).parameters)
        self.sample_function: Any = None
        self.meaning_of: Any = lambda result: result

    def __call__(self, first, *args, **kwargs):
        if type(first) is np.ndarray:  # many times in a step, hence without a look at the devices
            return self.on_numpy(first, *args, **kwargs)
        if isinstance(first, Deferred) or devices.array_module(first) is np:
            return self.on_numpy(first, *args, **kwargs)
        # The one place where CUDA C gives way to the reference: where no such form is, where the arrays are not plain
        # or of several dtypes, and where the form itself declines because of its other arguments.
        if self.on_cuda is not None and cuda.takes(self._names((first, *args), kwargs), self.strided, self.wide):
            result = self.on_cuda(first, *args, **kwargs)
            if result is not NotImplemented:
                return result
        return self.reference(first, *args, **kwargs)

    def cpu(self, form):
        """Use `form` for NumPy arrays."""
        self.on_numpy = form
        return self

    def cuda(self, form=None, *, strided=(), wide=()):
        """Use `form` for CuPy arrays that `backend.cuda.takes`; it may return NotImplemented to decline.

        Args:
            form: The function.
            strided: Names of the parameters whose arrays may have any layout: it makes nothing but matrix products or
                copies of them.
            wide: Names of the parameters whose arrays have the type that is computed in: float32 beside 16 bits.
        """
        if form is None:
            return functools.partial(self.cuda, strided=strided, wide=wide)
        self.on_cuda, self.strided, self.wide = form, frozenset(strided), frozenset(wide)
        return self

    def typed(self, args, dtype):
        """Arguments with the arrays of `wide` parameters in their type, where the others' is `dtype`."""
        wide = cuda.wide_dtype(np.dtype(dtype))
        names = (*self.parameters, *[""] * len(args))
        return tuple(_astype(arg, wide) if name in self.wide else arg for name, arg in zip(names, args, strict=False))

    def _names(self, args, kwargs):
        return {**dict(zip(self.parameters, args, strict=False)), **kwargs}

    def meaning(self, function):
        """For forms that keep different things for the way back: ``function(result)`` is what all of them agree on."""
        self.meaning_of = function
        return self

    def samples(self, function):
        """Register the kernel, with a generator of argument tuples ``(random, dtype) -> yield args``."""
        self.sample_function = function
        _kernels[f"{self.reference.__module__}.{self.reference.__name__}"] = self
        return self


def _astype(arg, dtype):
    """An array, those in a tuple, or None, in another dtype."""
    if isinstance(arg, tuple):
        return tuple(_astype(part, dtype) for part in arg)
    return None if arg is None else arg.astype(dtype)


def kernel(reference):
    """Make a kernel of its reference; `.samples` completes it."""
    return Kernel(reference)


def registered_kernels():
    """Every kernel that has samples, by qualified name."""
    return dict(_kernels)
