"""Matrix products and what is built from them."""

from typing import Any

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.autograd.scope import gradient_place
from gpukeras.autograd.tensor import convert_to_array
from gpukeras.backend import blas, cuda, devices
from gpukeras.backend.graphs import aside
from gpukeras.kernels import linear as kernels
from gpukeras.kernels.activation import relu_backward
from gpukeras.kernels.convolution import rectifier_gradient
from gpukeras.ops import elementwise, exponential, reduction, shaping
from gpukeras.ops._places import places_on_gpu
from gpukeras.ops.elementwise import as_array, as_float, promote, unbroadcast

__all__ = [
    "cholesky",
    "cross",
    "det",
    "dot",
    "inner",
    "inv",
    "linear",
    "matmul",
    "norm",
    "normalize",
    "outer",
    "solve",
    "tensordot",
    "vdot",
]


@op
def linear(x, kernel, bias=None, /, is_rectified=False):
    """Affine map of the last axis, and the rectifier after it where `is_rectified`.

        y       = x · kernel + bias,  or max(x · kernel + bias, 0), which passes dy on only where y > 0
        dx      = dy · kernelᵀ
        dkernel = xᵀ · dy          summed over all batch axes
        dbias   = Σ dy             likewise

    Shapes:
        x (batch, ..., n), kernel (n, m), bias (m,) or None  ->  y (batch, ..., m)

    Keeps x and kernel until the backward pass, and y where `is_rectified`.

    Example:
        >>> linear(np.ones((2, 3)), np.ones((3, 4))).shape
        (2, 4)
    """
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    y = kernels.linear(rows, kernel, bias, is_rectified)

    def backward(dy, needs):
        drows = dy if dy.ndim == 2 else dy.reshape(-1, dy.shape[-1])
        needs_bias, dbias = needs.bias, None
        if is_rectified and needs_bias and type(drows) is not np.ndarray and cuda.runs_on(drows):
            # On a GPU one pass makes both, and no product has to sum the bias's gradient.
            (at_bias,) = places_on_gpu((bias,), drows)
            drows, dbias = rectifier_gradient(drows, y, True, at_bias)
            needs_bias = False
        elif is_rectified:
            drows = relu_backward(drows, y)

        def of_weights():
            if needs.kernel:
                at_kernel = gradient_place(kernel, rows, drows, takes_wider=True)
                at_bias = gradient_place(bias, drows, takes_wider=True) if needs_bias else None
                dkernel, summed = kernels.linear_gradients(rows, drows, (at_kernel, at_bias), needs_bias)
                return dkernel, summed if needs_bias else dbias
            return None, kernels.sum_of_rows(drows) if needs_bias else dbias

        if not needs.x:
            return None, *of_weights()
        join = aside(of_weights)
        dx = kernels.linear_input_gradient(drows, kernel).reshape(x.shape)
        return dx, *join()

    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], kernel.shape[-1]), backward


@op
def matmul(x1, x2, /):
    """Matrix product of the last two axes, broadcast over the others; vectors as in NumPy.

        dx1 = dy · x2ᵀ,  dx2 = x1ᵀ · dy, summed over the axes that were broadcast

    Shapes:
        x1 (..., n, k), x2 (..., k, m)  ->  y (..., n, m)

    Example:
        >>> matmul(np.ones((2, 3)), np.ones((3, 4))).shape
        (2, 4)
    """
    a, b = promote(x1, x2)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul needs at least one axis on both sides, but got shapes {a.shape} and {b.shape}.")
    left = a[None, :] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(
            f"matmul multiplies the last axis of x1 with the second last of x2, but got shapes "
            f"{x1.shape} and {x2.shape}. Transpose one of them."
        )
    y = blas.matmul(left, right)

    def backward(dy, needs):
        dy = dy.reshape(y.shape)
        dx1 = blas.matmul(dy, right.swapaxes(-1, -2)) if needs.x1 else None
        dx2 = blas.matmul(left.swapaxes(-1, -2), dy) if needs.x2 else None
        return _to_operand(dx1, left, x1), _to_operand(dx2, right, x2)

    shape = y.shape
    if a.ndim == 1:
        shape = (*shape[:-2], shape[-1])
    if b.ndim == 1:
        shape = shape[:-1]
    return y.reshape(shape), backward


def _to_operand(d, operand, x):
    """The gradient of a (perhaps widened, broadcast, cast) operand as a gradient of what came in."""
    if d is None:
        return None
    return unbroadcast(unbroadcast(d, operand).reshape(x.shape), x)


def tensordot(x1, x2, axes: Any = 2):
    """Sum of products over some axes of both.

    Args:
        x1, x2: The operands.
        axes: A number n: the last n axes of x1 with the first n of x2. Or two sequences of axes.

    Example:
        >>> tensordot(np.ones((2, 3)), np.ones((3, 4)), axes=1).shape
        (2, 4)
    """
    if isinstance(axes, int):
        ndim = _ndim(x1)
        if not 0 <= axes <= min(ndim, _ndim(x2)):
            raise ValueError(f"tensordot: axes={axes} is more than x1 ({ndim} axes) or x2 ({_ndim(x2)}) have.")
        left, right = range(ndim - axes, ndim), range(axes)
    else:
        left, right = axes
    return _sum_of_products(x1, x2, left=_listed(left), right=_listed(right))


def _ndim(x):
    return len(x.shape) if hasattr(x, "shape") else convert_to_array(x).ndim


def _listed(axes):
    return (axes,) if isinstance(axes, int) else tuple(axes)


@op
def _sum_of_products(x1, x2, /, left, right):
    """Σ over pairs of axes; dx1 = dy · x2ᵀ, dx2 = x1ᵀ · dy, with the axes back in place."""
    a, b = promote(as_array(x1), as_array(x2))
    left = [axis % a.ndim for axis in left]
    right = [axis % b.ndim for axis in right]
    if len(left) != len(right) or any(a.shape[i] != b.shape[j] for i, j in zip(left, right, strict=True)):
        raise ValueError(
            f"tensordot needs as many axes on both sides, of equal sizes, but got axes {left} of shape "
            f"{a.shape} and axes {right} of shape {b.shape}."
        )
    order1 = [i for i in range(a.ndim) if i not in left] + left
    order2 = right + [i for i in range(b.ndim) if i not in right]
    free1 = [a.shape[i] for i in order1[: a.ndim - len(left)]]
    free2 = [b.shape[i] for i in order2[len(right) :]]
    rows = a.transpose(order1).reshape(_product(free1), _product(a.shape[i] for i in left))
    columns = b.transpose(order2).reshape(rows.shape[1], _product(free2))
    y = blas.matmul(rows, columns).reshape((*free1, *free2))

    def backward(dy, needs):
        dy = dy.reshape(rows.shape[0], columns.shape[1])
        dx1 = dx2 = None
        if needs.x1:
            dx1 = blas.matmul(dy, columns.T).reshape([a.shape[i] for i in order1])
            dx1 = unbroadcast(dx1.transpose(_undone(order1)), x1)
        if needs.x2:
            dx2 = blas.matmul(rows.T, dy).reshape([b.shape[i] for i in order2])
            dx2 = unbroadcast(dx2.transpose(_undone(order2)), x2)
        return dx1, dx2

    return y, backward


def _product(sizes):
    product = 1
    for size in sizes:
        product *= size
    return product


def _undone(order):
    return sorted(range(len(order)), key=order.__getitem__)


def dot(x1, x2):
    """Σ over the last axis of x1 and the second last of x2 (its only one, if it is a vector).

    Where one of them is a number, their product.

    Example:
        >>> dot(np.ones(3), np.ones(3)).numpy()
        array(3.)
    """
    ndim1, ndim2 = _ndim(x1), _ndim(x2)
    if ndim1 == 0 or ndim2 == 0:
        return elementwise.multiply(x1, x2)
    return _sum_of_products(x1, x2, left=(-1,), right=(-1 if ndim2 == 1 else -2,))


def inner(x1, x2):
    """Σ over the last axis of both; where one of them is a number, their product.

    Example:
        >>> inner(np.ones((2, 3)), np.ones(3)).shape
        (2,)
    """
    if _ndim(x1) == 0 or _ndim(x2) == 0:
        return elementwise.multiply(x1, x2)
    return _sum_of_products(x1, x2, left=(-1,), right=(-1,))


def vdot(x1, x2):
    """Σ of all products of two arrays of equal size, flat.

    Example:
        >>> vdot(np.ones((2, 3)), np.ones((2, 3))).numpy()
        array(6.)
    """
    return _sum_of_products(shaping.ravel(x1), shaping.ravel(x2), left=(0,), right=(0,))


def outer(x1, x2):
    """Every element of x1 times every element of x2, both flat.

    Example:
        >>> outer(np.ones(2), np.ones(3)).shape
        (2, 3)
    """
    return elementwise.multiply(shaping.reshape(x1, (-1, 1)), shaping.reshape(x2, (1, -1)))


def norm(x, ord=None, axis=None, keepdims=False):
    """Norm of vectors or matrices.

    Args:
        x: The values.
        ord: For vectors a number p: (Σ |x|^p)^(1/p), `np.inf` the largest, ``-np.inf`` the smallest,
            0 the count of non-zeros; None is 2. For matrices None or "fro": √Σ x²; 1, -1, `np.inf`
            and ``-np.inf``: the largest or smallest sum over columns or rows.
        axis: An axis (vectors), a pair of axes (matrices), or None for the whole of x.
        keepdims: Whether the axes stay, with size 1.

    Example:
        >>> norm(np.array([3.0, 4.0])).numpy()
        array(5.)
    """
    if axis is None and ord is None:
        return _euclidean(x, None, keepdims)
    if axis is None:
        axis = tuple(range(_ndim(x)))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if len(axes) == 1:
        return _vector_norm(x, ord, axes[0], keepdims)
    if len(axes) != 2:
        raise ValueError(f"norm is taken over one axis or two, but got axis={axis}.")
    if ord in (None, "fro"):
        return _euclidean(x, axes, keepdims)
    infinity = float("inf")
    if ord not in (1, -1, infinity, -infinity):
        raise NotImplementedError(
            f"norm: ord={ord!r} of matrices needs singular values, which are not supported; use 'fro', "
            f"1, -1, np.inf or -np.inf."
        )
    rows, columns = (a % _ndim(x) for a in axes)
    summed, chosen = (rows, columns) if ord in (1, -1) else (columns, rows)
    sums = reduction.sum(elementwise.absolute(x), axis=summed, keepdims=True)
    extreme = reduction.max if ord > 0 else reduction.min
    y = extreme(sums, axis=chosen, keepdims=True)
    return y if keepdims else shaping.squeeze(y, axis=axes)


def _vector_norm(x, ord, axis, keepdims):
    if ord in (None, 2):
        return _euclidean(x, axis, keepdims)
    if isinstance(ord, str):
        raise ValueError(f"norm: ord={ord!r} is for matrices; give axis a pair of axes.")
    size = elementwise.absolute(_float(x))
    if ord == float("inf"):
        return reduction.max(size, axis=axis, keepdims=keepdims)
    if ord == float("-inf"):
        return reduction.min(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        is_something = elementwise.sign(size)
        return reduction.sum(is_something, axis=axis, keepdims=keepdims)
    if ord == 1:
        return reduction.sum(size, axis=axis, keepdims=keepdims)
    total = reduction.sum(elementwise.power(size, ord), axis=axis, keepdims=keepdims)
    return elementwise.power(total, 1.0 / ord)


@op
def _float(x, /):
    return as_float(x), lambda dy, needs: (dy,)


@op
def _euclidean(x, /, axis, keepdims):
    """√Σ x²; dx = dy · x / y."""
    x = as_float(x)
    axes = reduction._axes(axis, x.ndim, "norm")
    kept = devices.array_module(x).sqrt((x * x).sum(axis=axes, keepdims=True))
    y = kept if keepdims else kept.reshape([s for a, s in enumerate(x.shape) if a not in axes])
    return y, lambda dy, needs: (x * (dy.reshape(kept.shape) / kept),)


def normalize(x, axis=-1, order=2, epsilon=None):
    """x divided by its norm along an axis.

    Args:
        x: The values.
        axis: Along which.
        order: The norm's, as `ord` in `norm`.
        epsilon: The least norm that is divided by; None for 1e-7.

    Example:
        >>> normalize(np.array([3.0, 4.0])).numpy()
        array([0.6, 0.8])
    """
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"normalize: order must be a whole number from 1, but got {order!r}.")
    epsilon = 1e-7 if epsilon is None else epsilon
    x = _float(x)
    if order == 2:
        # The largest of the squares, so that the root is never taken of 0.
        total = reduction.sum(elementwise.square(x), axis=axis, keepdims=True)
        return elementwise.multiply(x, exponential.rsqrt(elementwise.maximum(total, epsilon**2)))
    total = norm(x, ord=order, axis=axis, keepdims=True)
    return elementwise.divide(x, elementwise.maximum(total, epsilon))


def cross(x1, x2, axisa=-1, axisb=-1, axisc=-1, axis=None):
    """Vector product of vectors with three elements.

    Args:
        x1, x2: The vectors.
        axisa, axisb: Where x1 and x2 have their three elements.
        axisc: Where the result has them.
        axis: One number for all three.

    Example:
        >>> cross(np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])).numpy()
        array([0., 0., 1.])
    """
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = shaping.moveaxis(x1, axisa, -1), shaping.moveaxis(x2, axisb, -1)
    if a.shape[-1] != 3 or b.shape[-1] != 3:
        raise NotImplementedError(
            f"cross takes vectors of three elements, but got shapes {tuple(x1.shape)} and "
            f"{tuple(x2.shape)}; give a plane's vectors a third element 0."
        )
    y = elementwise.subtract(
        elementwise.multiply(shaping.roll(a, -1, -1), shaping.roll(b, 1, -1)),
        elementwise.multiply(shaping.roll(a, 1, -1), shaping.roll(b, -1, -1)),
    )
    return shaping.moveaxis(y, -1, axisc)


@op
def inv(x, /):
    """Inverse of square matrices.

    dx = -yᵀ · dy · yᵀ.

    Shapes:
        x (..., n, n)  ->  y (..., n, n)

    Example:
        >>> inv(np.array([[2.0]])).numpy()
        array([[0.5]])
    """
    x = _square(as_float(x), "inv")
    y = devices.array_module(x).linalg.inv(x)

    def backward(dy, needs):
        t = y.swapaxes(-1, -2)
        return (-blas.matmul(blas.matmul(t, dy), t),)

    return y, backward


@op
def det(x, /):
    """Determinant of square matrices.

    dx = dy · y · (x⁻¹)ᵀ.

    Shapes:
        x (..., n, n)  ->  y (...)

    Example:
        >>> det(np.array([[2.0]])).numpy()
        array(2.)
    """
    x = _square(as_float(x), "det")
    xp = devices.array_module(x)
    y = xp.asarray(xp.linalg.det(x))

    def backward(dy, needs):
        return (xp.linalg.inv(x).swapaxes(-1, -2) * (dy * y)[..., None, None],)

    return y, backward


@op
def solve(a, b, /):
    """The x for which a · x = b.

    db = a⁻ᵀ · dy, da = -db · yᵀ.

    Shapes:
        a (..., n, n), b (n,) or (..., n, m)  ->  y of the shape of b

    Example:
        >>> solve(np.array([[2.0]]), np.array([4.0])).numpy()
        array([2.])
    """
    a = _square(as_float(a), "solve")
    a, right = promote(a, as_float(b))
    is_vector = right.ndim == a.ndim - 1
    xp = devices.array_module(a)
    if is_vector:
        right = right[..., None]
    y = xp.linalg.solve(a, right)

    def backward(dy, needs):
        dright = xp.linalg.solve(a.swapaxes(-1, -2), dy.reshape(y.shape))
        da = -blas.matmul(dright, y.swapaxes(-1, -2)) if needs.a else None
        return da, unbroadcast(dright, right).reshape(b.shape) if needs.b else None

    return y[..., 0] if is_vector else y, backward


@op
def cholesky(x, /, upper=False):
    """The triangular root of symmetric positive definite matrices: x = y · yᵀ.

    dx = y⁻ᵀ · Φ(yᵀ · dy) · y⁻¹, made symmetric, where Φ takes the lower triangle, half its diagonal.

    Args:
        upper: Whether yᵀ is returned instead.

    Example:
        >>> cholesky(np.array([[4.0]])).numpy()
        array([[2.]])
    """
    x = _square(as_float(x), "cholesky")
    xp = devices.array_module(x)
    try:
        y = xp.linalg.cholesky(x)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"cholesky needs positive definite matrices, but x of shape {x.shape} holds one that is not."
        ) from error

    def backward(dy, needs):
        dlower = dy.swapaxes(-1, -2) if upper else dy
        inverse = xp.linalg.inv(y)
        middle = xp.tril(blas.matmul(y.swapaxes(-1, -2), dlower))
        middle = middle - middle * xp.eye(x.shape[-1], dtype=x.dtype) * 0.5
        dx = blas.matmul(blas.matmul(inverse.swapaxes(-1, -2), middle), inverse)
        return ((dx + dx.swapaxes(-1, -2)) * 0.5,)

    return y.swapaxes(-1, -2) if upper else y, backward


def _square(x, name):
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"{name} needs square matrices on the last two axes, but got shape {x.shape}.")
    return x
