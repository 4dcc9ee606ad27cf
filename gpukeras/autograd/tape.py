"""The tape: what was computed, in order, and the walk back along it."""

import numpy as np

from gpukeras.autograd.scope import current
from gpukeras.kernels import arithmetic
from gpukeras.kernels.deferred import Deferred, as_array

__all__ = ["Tape", "add_gradient", "as_taken", "in_dtype_of"]


class Tape:
    """Records ops in execution order; `gradients` walks the record in reverse.

    An op is recorded when one of its inputs is tracked: a trainable Variable, a watched Tensor, or
    the output of a recorded op. Recording happens between ``__enter__`` and ``__exit__``.
    """

    __slots__ = ("entries", "kept", "tracked", "watches_variables")

    def __init__(self, watches_variables=True):
        self.entries = []  # (inputs, outputs, backward, needs); outputs a Tensor or a tuple of them
        self.tracked = set()  # ids of Tensors; whoever is in here is held by `entries` or `kept`
        self.kept = []
        self.watches_variables = watches_variables

    def __enter__(self):
        if not current.tapes:
            current.reading = object()
        current.tapes = (*current.tapes, self)
        return self

    def __exit__(self, *error):
        self.pause()

    def pause(self):
        """Stop recording."""
        current.tapes = tuple(tape for tape in current.tapes if tape is not self)
        if not current.tapes:
            current.reading = None

    def watch(self, tensor):
        """Track a Tensor from here on."""
        self.tracked.add(id(tensor))
        self.kept.append(tensor)

    def record(self, inputs, outputs, backward, needs):
        """Add an op: its Tensors in and out, its backward function, and which gradients it needs."""
        self.entries.append((inputs, outputs, backward, needs))
        if type(outputs) is tuple:
            for output in outputs:
                self.tracked.add(id(output))
        else:
            self.tracked.add(id(outputs))

    def gradients(self, targets, sources, places=None):
        """d(sum of targets · seeds)/d(source) for each source, as arrays; None where there is no path.

        Args:
            targets: List of ``(tensor, seed array)``.
            sources: Tensors or Variables.
            places: Dictionary from the id of a variable's array to an array that may become its gradient, and from the
                id of its copy in another dtype to the id of its array.
        """
        current.places = places
        try:
            return self._gradients(targets, sources)
        finally:
            current.places = None

    def _gradients(self, targets, sources):
        known = {}  # id of a Tensor -> its gradient so far
        owned = set()  # ids whose gradient array is ours alone, so that more may be added in place
        for tensor, seed in targets:
            if id(tensor) in known:
                add_gradient(known, owned, id(tensor), seed)
            else:
                known[id(tensor)] = seed
        wanted = {id(source) for source in sources}

        for inputs, outputs, backward, needs in reversed(self.entries):
            # A gradient is taken out once it is used, for nothing earlier can ask for it: that frees the memory.
            if type(outputs) is tuple:
                dy = tuple([as_array(known.get(id(output))) for output in outputs])
                if all([d is None for d in dy]):
                    continue
                for output in outputs:
                    if id(output) not in wanted:
                        known.pop(id(output), None)
            else:
                key = id(outputs)
                dy = known.get(key) if key in wanted else known.pop(key, None)
                if dy is None:
                    continue
            if isinstance(dy, Deferred):
                dy = as_taken(dy, backward)
            for tensor, needed, d in zip(inputs, needs, backward(dy, needs), strict=True):
                if needed and d is not None:
                    key = id(tensor)
                    if key in known:
                        add_gradient(known, owned, key, d)
                    else:
                        known[key] = d
        return [in_dtype_of(source.array.dtype, known.get(id(source))) for source in sources]


def add_gradient(known, owned, key, d):
    """Add to a gradient that is there already."""
    before, d = as_array(known[key]), as_array(d)
    if before.dtype.itemsize != d.dtype.itemsize:  # 16 bits, and float32 that an op wrote where the optimizer wants it
        dtype = max(before.dtype, d.dtype, key=lambda dtype: dtype.itemsize)
        before, d = before.astype(dtype, copy=False), d.astype(dtype, copy=False)
    is_owned = key in owned and before.dtype == d.dtype
    if type(before) is not type(d) or type(before) is np.ndarray:
        if is_owned:
            before += d  # NumPy gives scalars for shape (), which += does not change
        else:
            before = before + d
    else:
        before = arithmetic.add_to(before, d) if is_owned else arithmetic.add(before, d)
    known[key] = before
    owned.add(key)


def as_taken(gradient, backward):
    """A deferred gradient as a backward function takes it."""
    return gradient if getattr(backward, gradient.taker, False) else gradient.array()


def in_dtype_of(dtype, gradient):
    """A variable read in another dtype (mixed precision) gets its gradient in its own."""
    gradient = as_array(gradient)
    if gradient is None:
        return None
    if isinstance(gradient, np.generic):
        gradient = np.asarray(gradient)
    return gradient if gradient.dtype is dtype or gradient.dtype == dtype else gradient.astype(dtype)
