"""Where ops write the gradients of weights on a GPU."""

from gpukeras.autograd.scope import current, gradient_place
from gpukeras.backend import cuda

__all__ = ["places_on_gpu"]


def places_on_gpu(weights, *operands):
    """The places of weights' gradients in the optimizer's buffer, of the type that kernels add up in; else None each.

    Args:
        weights: Arrays as the op got them; None where no gradient is wanted.
        operands: The arrays of which the gradients will be made.
    """
    if current.places is None or not cuda.runs_on(operands[0]):
        return [None for _ in weights]
    found = [None if weight is None else gradient_place(weight, *operands, takes_wider=True) for weight in weights]
    wide = cuda.wide_dtype(operands[0].dtype)
    return [place if place is None or place.dtype == wide else None for place in found]
