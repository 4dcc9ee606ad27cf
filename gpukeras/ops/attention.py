"""Scaled dot-product attention, forward and backward, with the scores worked on in place."""

import math
from typing import Any

from gpukeras.autograd.op import op
from gpukeras.autograd.scope import gradient_place
from gpukeras.backend import cuda, devices, dtypes
from gpukeras.kernels import attention as kernels
from gpukeras.kernels import linear
from gpukeras.ops.elementwise import as_float, promote, unbroadcast

__all__ = ["dot_product_attention", "projection"]


def dot_product_attention(
    query,
    key,
    value,
    bias=None,
    mask=None,
    scale=None,
    is_causal=False,
    flash_attention=None,
    attn_logits_soft_cap=None,
):
    """Every query takes the mean of the values, weighted by how well their keys answer it.

        p = softmax(scale · query · keyᵀ + bias),  y = p · value       for every example and head
        dvalue = pᵀ · dy,  dp = dy · valueᵀ,  ds = p · (dp - Σ p · dp)
        dquery = scale · ds · key,  dkey = scale · dsᵀ · query,  dbias = ds

    Args:
        query: Array (batch, queries, heads, dim).
        key: Array (batch, keys, key heads, dim); the number of key heads divides that of heads.
        value: Array (batch, keys, key heads, dim of values).
        bias: Array that broadcasts to (batch, heads, queries, keys), or None.
        mask: Boolean array that broadcasts likewise, false where a key is hidden from a query; or
            None.
        scale: Number; None for 1 / sqrt(dim).
        is_causal: Whether query i sees only keys up to i.
        flash_attention: None or False.
        attn_logits_soft_cap: None.

    Shapes:
        y (batch, queries, heads, dim of values)

    Keeps the softmax (batch, heads, queries, keys) until the backward pass. A query from which all
    keys are hidden takes the plain mean of all values, as in Keras.

    Reference: Vaswani et al., "Attention Is All You Need" (2017).

    Example:
        >>> x = np.ones((2, 5, 3, 4), "float32")
        >>> dot_product_attention(x, x, x, is_causal=True).shape
        (2, 5, 3, 4)
    """
    if flash_attention:
        raise NotImplementedError(
            "dot_product_attention: flash_attention=True is not supported. "
            "Leave it at None, which computes the same values."
        )
    if attn_logits_soft_cap is not None:
        raise NotImplementedError(
            "dot_product_attention: attn_logits_soft_cap is not supported (in Keras only on TPUs). "
            "Pass None, or cap the scores in ops of your own."
        )
    _check_shapes(query, key, value)
    return _attention(query, key, value, bias, mask, scale=scale, is_causal=is_causal)


def _check_shapes(query, key, value):
    shapes: list[Any] = [tuple(getattr(x, "shape", ())) for x in (query, key, value)]
    q, k, v = shapes
    if not len(q) == len(k) == len(v) == 4:
        raise ValueError(
            f"dot_product_attention takes query, key and value of four axes (batch, time, heads, "
            f"dim), but got shapes {q}, {k} and {v}."
        )
    if k[:3] != v[:3] or q[0] != k[0] or q[3] != k[3] or q[2] % k[2]:
        raise ValueError(
            f"dot_product_attention got query {q}, key {k} and value {v}. The batch must be the "
            f"same in all three, time and heads the same in key and value, dim the same in query "
            f"and key, and the heads of key and value must divide those of query."
        )


@op
def _attention(query, key, value, bias=None, mask=None, /, scale=None, is_causal=False):
    dtype = dtypes.result_type(*(as_float(x).dtype for x in (query, key, value)))
    wide: Any = cuda.dtype_of_work(query, dtype)
    batch, queries, heads, dim = query.shape
    keys, key_heads, n = value.shape[1:]
    scale = dim**-0.5 if scale is None else scale
    xp = devices.array_module(query)

    # Views (batch, key heads, time, dim); queries whose heads share a key head stand in one column.
    q = _by_head(query.astype(wide, copy=False), key_heads)
    k = _by_head(key.astype(wide, copy=False), key_heads)
    v = _by_head(value.astype(wide, copy=False), key_heads)
    offset = is_sighted = None
    if bias is not None or mask is not None or heads != key_heads:
        hidden = _hidden(mask, is_causal, queries, keys, xp)
        is_causal = False
        offset = _offset(bias, hidden, wide, heads, key_heads, queries, xp)
        if mask is not None:
            is_sighted = _per_query((~hidden).any(axis=-1, keepdims=True).astype(wide), heads, key_heads, queries)
    y = xp.empty((batch, queries, heads, n) if heads == key_heads else (batch, q.shape[2], key_heads, n), wide)
    y = y.transpose(0, 2, 1, 3)
    weights, share = kernels.attention(q, k, v, offset, y, scale, is_causal)

    def backward(dy, needs):
        dy = _by_head(dy.astype(wide, copy=False), key_heads)
        dq, dk, dv = (
            xp.empty((a.shape[0], a.shape[2], a.shape[1], a.shape[3]), wide).transpose(0, 2, 1, 3) if needed else None
            for a, needed in ((q, needs.query), (k, needs.key), (v, needs.value))
        )
        dscores = xp.empty_like(weights) if needs.bias else None
        kernels.attention_backward(
            *(q, k, v, y, weights, share, dy, is_sighted, scale, is_causal),
            *(dq, dk, dv, dscores),
        )
        if dscores is not None:
            dscores = dscores.reshape(batch, key_heads, keys, heads // key_heads, queries)
            dscores = dscores.transpose(0, 1, 3, 4, 2).reshape(batch, heads, queries, keys)
        return (
            _by_time(dq, heads).astype(query.dtype, copy=False) if needs.query else None,
            _by_time(dk, key_heads).astype(key.dtype, copy=False) if needs.key else None,
            _by_time(dv, key_heads).astype(value.dtype, copy=False) if needs.value else None,
            unbroadcast(dscores, bias) if needs.bias else None,
            None,
        )

    return _by_time(y, heads).astype(dtype, copy=False), backward


@op
def projection(x: Any, kernel: Any, bias: Any = None, /, axes=1):
    """Affine map from the last axes of x to the last axes of the kernel.

        y       = x · kernel + bias      sums over the last `axes` of x, the first of kernel
        dx      = dy · kernelᵀ
        dkernel = xᵀ · dy                summed over all batch axes
        dbias   = Σ dy                   likewise

    Shapes:
        x (batch, ..., *n), kernel (*n, *m), bias (*m,) or None  ->  y (batch, ..., *m)
        where n is `axes` sizes, and m the kernel's others

    Example:
        >>> projection(np.ones((2, 5, 3)), np.ones((3, 4, 6)), np.ones((4, 6))).shape
        (2, 5, 4, 6)
    """
    a, matrix = promote(x, kernel)
    n, m = kernel.shape[:axes], kernel.shape[axes:]
    if x.shape[x.ndim - axes :] != n:
        raise ValueError(
            f"A projection with a kernel of shape {kernel.shape} takes inputs that end with the axes "
            f"{n}, but got shape {x.shape}."
        )
    rows, matrix = a.reshape(-1, math.prod(n)), matrix.reshape(math.prod(n), math.prod(m))
    y = linear.linear(rows, matrix, None if bias is None else bias.reshape(-1))

    def backward(dy, needs):
        drows = dy.reshape(-1, matrix.shape[1])
        dx = dkernel = dbias = None
        if needs.x:
            dx = unbroadcast(linear.linear_input_gradient(drows, matrix).reshape(x.shape), x)
        if needs.kernel:
            at_kernel = gradient_place(kernel, rows, drows, takes_wider=True)
            at_bias = gradient_place(bias, drows, takes_wider=True) if needs.bias else None
            flat = (
                None if at_kernel is None else at_kernel.reshape(matrix.shape),
                None if at_bias is None else at_bias.reshape(-1),
            )
            dkernel, dbias = linear.linear_gradients(rows, drows, flat, needs.bias)
            # What was written into a place is that place, which has the variable's own shape.
            dkernel = _of_shape_of(kernel, dkernel) if dkernel is not flat[0] else at_kernel
            if needs.bias:
                dbias = _of_shape_of(bias, dbias) if dbias is not flat[1] else at_bias
        elif needs.bias:
            dbias = _of_shape_of(bias, linear.sum_of_rows(drows))
        return dx, dkernel, dbias

    return y.reshape(*x.shape[: x.ndim - axes], *m), backward


def _of_shape_of(x, dx):
    """A gradient with the axes of what it belongs to, and its type."""
    return dx.reshape(x.shape).astype(x.dtype, copy=False)


def _by_head(x, key_heads):
    """(batch, time, heads, dim) as (batch, key heads, heads per key head · time, dim)."""
    batch, time, heads, dim = x.shape
    if heads == key_heads:
        return x.transpose(0, 2, 1, 3)
    x = x.reshape(batch, time, key_heads, heads // key_heads, dim).transpose(0, 2, 3, 1, 4)
    return x.reshape(batch, key_heads, -1, dim)


def _by_time(x, heads):
    """The way back from `_by_head`."""
    batch, key_heads, _, dim = x.shape
    if heads == key_heads:
        return x.transpose(0, 2, 1, 3)
    x = x.reshape(batch, key_heads, heads // key_heads, -1, dim).transpose(0, 3, 1, 2, 4)
    return x.reshape(batch, -1, heads, dim)


def _hidden(mask, is_causal, queries, keys, xp):
    """Where the scores (..., queries, keys) do not count, to be broadcast to them; None where all do."""
    hidden: Any = None
    if mask is not None:
        if mask.ndim == 3:  # (batch, queries, keys)
            mask = mask[:, None]
        hidden = mask == 0
        hidden = hidden.reshape((1,) * (4 - hidden.ndim) + hidden.shape)
    if is_causal:
        later = xp.arange(keys) > xp.arange(queries)[:, None]
        hidden = later[None, None] if hidden is None else hidden | later
    return hidden


def _offset(bias, hidden, dtype, heads, key_heads, queries, xp):
    """What is added to the scores of keys and queries: the bias, and so much for hidden keys that they vanish."""
    if bias is None and hidden is None:
        return None
    offset: Any = 0.0
    if bias is not None:
        offset = bias.astype(dtype, copy=False)
        offset = offset.reshape((1,) * (4 - offset.ndim) + offset.shape)
    if hidden is not None:
        offset = xp.where(hidden, xp.asarray(kernels.hidden_in(dtype), dtype), offset).astype(dtype, copy=False)
    return _per_query(offset, heads, key_heads, queries).swapaxes(-1, -2)


def _per_query(x, heads, key_heads, queries):
    """(batch, heads, queries, n), with any axis of size 1, as (batch, key heads, heads per key head · queries, n)."""
    if heads == key_heads or x.shape[1:3] == (1, 1):
        return x
    xp = devices.array_module(x)
    x = x.reshape(x.shape[0], 1 if x.shape[1] == 1 else key_heads, -1, *x.shape[2:])
    x = xp.broadcast_to(x, (*x.shape[:2], heads // key_heads, queries, x.shape[4]))
    return x.reshape(*x.shape[:2], -1, x.shape[4])
