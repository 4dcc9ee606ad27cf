"""Gradients that are computed where they are used: a few samples at a time, which stay in the cache, or with others."""

__all__ = ["Deferred", "as_array"]


class Deferred:
    """The gradient of an array, still to be computed from what the op kept.

    Writing a large array and reading it again takes longer than computing what is in it. An op may return one of these
    in the place of a gradient that is cheap to compute sample by sample; an op that walks over blocks of samples may
    take it: its backward function has an attribute ``takes_deferred``, or what `taker` names. All others get the array
    from the tape.

    Attributes:
        shape, dtype: Of the array.
        taker: Name of the attribute of the backward functions that take it.
    """

    taker = "takes_deferred"

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, dtype

    def array(self):
        """All of it."""
        raise NotImplementedError

    def write(self, samples, out):
        """``out[...] = array()[samples]`` for a slice, with the same bits."""
        raise NotImplementedError

    def after_rectifier(self, y):
        """The gradient of what became y by a rectifier, this being y's; None where that takes the array."""
        return None

    def through_softmax(self, y):
        """The gradient of what became y by a softmax over the last axis, this being y's; None as above."""
        return None

    def sum_of_rows(self):
        """Σ array over all axes but the last."""
        raise NotImplementedError


def as_array(gradient):
    """A gradient that was deferred is computed now; others, and None, are as they are."""
    return gradient.array() if isinstance(gradient, Deferred) else gradient
