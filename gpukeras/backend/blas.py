"""Matrix products, reached in one place so that a faster library can stand behind all of them."""

import numpy as np

__all__ = ["matmul"]


def matmul(a, b, out=None):
    """Matrix product of the last two axes, broadcast over the others; transposed views cost no copy."""
    if type(a) is np.ndarray:
        # np.dot is the cheapest way into BLAS, and takes transposed operands as they are.
        if a.ndim == 2 and b.ndim == 2:
            return np.dot(a, b) if out is None else np.dot(a, b, out=out)
        return np.matmul(a, b) if out is None else np.matmul(a, b, out=out)
    product = a @ b
    if out is None:
        return product
    out[...] = product
    return out
