"""Matrix products, reached in one place so that a faster library can stand behind all of them."""

import numpy as np

__all__ = ["matmul"]


def matmul(a, b, out=None):
    """Matrix product of the last two axes, broadcast over the others; transposed views cost no copy."""
    if type(a) is np.ndarray:
        if a.dtype.kind == "V":  # bfloat16: NumPy has no product of its own for it
            product = np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
        elif a.ndim == 2 and b.ndim == 2:
            # np.dot is the cheapest way into BLAS, and takes transposed operands as they are.
            return np.dot(a, b) if out is None else np.dot(a, b, out=out)
        else:
            return np.matmul(a, b) if out is None else np.matmul(a, b, out=out)
    else:
        product = a @ b
    if out is None:
        return product
    out[...] = product
    return out
