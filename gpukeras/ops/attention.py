"""Scaled dot-product attention, forward and backward, with the scores worked on in place."""

import math
from typing import Any

from gpukeras.autograd.op import op
from gpukeras.backend import blas, devices, dtypes
from gpukeras.kernels import activation as kernels
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
    wide: Any = dtypes.as_dtype("float32") if dtype.itemsize < 4 else dtype
    batch, length, heads, dim = query.shape
    key_heads = key.shape[2]
    scale = dim**-0.5 if scale is None else scale
    xp = devices.array_module(query)

    # Views (batch, key heads, time, dim); queries whose heads share a key head stand in one column.
    q = _by_head(query.astype(wide, copy=False) * scale, key_heads)
    k = _by_head(key.astype(wide, copy=False), key_heads)
    v = _by_head(value.astype(wide, copy=False), key_heads)

    scores = blas.matmul(q, k.swapaxes(-1, -2)).reshape(batch, heads, length, -1)
    if bias is not None:
        scores += bias.astype(wide, copy=False)
    hidden = _hidden(mask, is_causal, scores)
    if hidden is not None:
        xp.copyto(scores, -0.7 * float(xp.finfo(wide).max), where=hidden)
    p = kernels.softmax(scores, scores)
    p_by_key_head = p.reshape(batch, key_heads, -1, p.shape[-1])
    y = _by_time(blas.matmul(p_by_key_head, v), heads)

    def backward(dy, needs):
        dy = _by_head(dy.astype(wide, copy=False), key_heads)
        dquery = dkey = dvalue = dbias = None
        if needs.value:
            dv = blas.matmul(p_by_key_head.swapaxes(-1, -2), dy)
            dvalue = _by_time(dv, key_heads).astype(value.dtype, copy=False)
        if needs.query or needs.key or needs.bias:
            ds = blas.matmul(dy, v.swapaxes(-1, -2)).reshape(p.shape)
            kernels.softmax_backward(p, ds, ds)
            if mask is not None:  # rows that see nothing have p > 0, but no gradient
                xp.copyto(ds, 0.0, where=hidden)
            if needs.bias:
                dbias = unbroadcast(ds, bias)
            ds = ds.reshape(p_by_key_head.shape)
            if needs.query:
                dq = blas.matmul(ds, k)
                dq *= scale
                dquery = _by_time(dq, heads).astype(query.dtype, copy=False)
            if needs.key:
                dk = blas.matmul(ds.swapaxes(-1, -2), q)
                dkey = _by_time(dk, key_heads).astype(key.dtype, copy=False)
        return dquery, dkey, dvalue, dbias, None

    return y.astype(dtype, copy=False), backward


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
    y = blas.matmul(rows, matrix)
    if bias is not None:
        y += bias.reshape(-1)  # y is fresh: nobody else holds it yet

    def backward(dy, needs):
        drows = dy.reshape(-1, matrix.shape[1])
        dx = dkernel = dbias = None
        if needs.x:
            dx = unbroadcast(blas.matmul(drows, matrix.T).reshape(x.shape), x)
        if needs.kernel:
            dkernel = unbroadcast(blas.matmul(rows.T, drows).reshape(kernel.shape), kernel)
        if needs.bias and bias is not None:
            dbias = unbroadcast(drows.sum(axis=0).reshape(bias.shape), bias)
        return dx, dkernel, dbias

    return y.reshape(*x.shape[: x.ndim - axes], *m), backward


def _by_head(x, key_heads):
    """(batch, time, heads, dim) as (batch, key heads, heads per key head · time, dim)."""
    batch, time, heads, dim = x.shape
    if heads == key_heads:
        return x.transpose(0, 2, 1, 3)
    x = x.reshape(batch, time, key_heads, heads // key_heads, dim).transpose(0, 2, 3, 1, 4)
    return x.reshape(batch, key_heads, -1, dim)


def _by_time(x, heads):
    """The way back from `_by_head`."""
    batch, _, _, dim = x.shape
    return x.reshape(batch, heads, -1, dim).transpose(0, 2, 1, 3)


def _hidden(mask, is_causal, scores):
    """Where the scores do not count, to be broadcast to them; None where all do."""
    hidden = None
    if mask is not None:
        if mask.ndim == 3:  # (batch, queries, keys)
            mask = mask[:, None]
        hidden = mask == 0
    if is_causal:
        xp = devices.array_module(scores)
        queries, keys = scores.shape[-2:]
        later = xp.arange(keys)[None, :] > xp.arange(queries)[:, None]
        hidden = later if hidden is None else hidden | later
    return hidden
