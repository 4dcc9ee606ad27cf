"""Diagonals and triangles of matrices."""

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import devices
from gpukeras.ops import reduction

__all__ = [
    "diag",
    "diagonal",
    "trace",
    "tril",
    "triu",
]


@op
def tril(x, /, k=0):
    """The lower triangle of the last two axes, zero above.

    dx = dy's lower triangle.

    Args:
        k: The highest diagonal that is kept: 0 the main one, above it positive.

    Example:
        >>> tril(np.ones((2, 2))).numpy()
        array([[1., 0.],
               [1., 1.]])
    """
    xp = devices.array_module(x)
    return xp.tril(x, k), lambda dy, needs: (xp.tril(dy, k),)


@op
def triu(x, /, k=0):
    """The upper triangle of the last two axes, zero below.

    dx = dy's upper triangle.

    Args:
        k: The lowest diagonal that is kept: 0 the main one, above it positive.

    Example:
        >>> triu(np.ones((2, 2))).numpy()
        array([[1., 1.],
               [0., 1.]])
    """
    xp = devices.array_module(x)
    return xp.triu(x, k), lambda dy, needs: (xp.triu(dy, k),)


@op
def diagonal(x, /, offset=0, axis1=0, axis2=1):
    """The diagonal of two axes, as a last axis.

    dx = dy on the diagonal, 0 elsewhere.

    Args:
        offset: Which diagonal: 0 the main one, above it positive.
        axis1, axis2: The two axes.

    Example:
        >>> diagonal(np.array([[1, 2], [3, 4]])).numpy()
        array([1, 4])
    """
    if x.ndim < 2:
        raise ValueError(f"diagonal needs at least two axes, but got shape {x.shape}.")
    xp = devices.array_module(x)
    y = x.diagonal(offset, axis1, axis2)

    def backward(dy, needs):
        dx = xp.zeros_like(x)
        rows = np.arange(y.shape[-1]) + max(-offset, 0)
        columns = np.arange(y.shape[-1]) + max(offset, 0)
        view = xp.moveaxis(dx, (axis1, axis2), (-2, -1))
        view[..., xp.asarray(rows), xp.asarray(columns)] = dy
        return (dx,)

    return y.copy(), backward


@op
def diag(x, /, k=0):
    """The diagonal of a matrix, or a matrix with a vector on its diagonal.

    dx = dy on the diagonal, or the diagonal of dy.

    Args:
        k: Which diagonal: 0 the main one, above it positive.

    Example:
        >>> diag(np.array([1, 2])).numpy()
        array([[1, 0],
               [0, 2]])
    """
    if x.ndim not in (1, 2):
        raise ValueError(f"diag needs a vector or a matrix, but got shape {x.shape}.")
    if x.ndim == 2:
        return diagonal.function(x, k)
    xp = devices.array_module(x)
    return xp.diag(x, k), lambda dy, needs: (dy.diagonal(k).copy(),)


def trace(x, offset=0, axis1=0, axis2=1):
    """Sum of the diagonal of two axes.

    Args:
        x: The values.
        offset: Which diagonal: 0 the main one, above it positive.
        axis1, axis2: The two axes.

    Example:
        >>> trace(np.ones((2, 2))).numpy()
        array(2.)
    """
    return reduction.sum(diagonal(x, offset, axis1, axis2), axis=-1)
