"""Scaled dot-product attention of every head, forward and backward.

Scores lie transposed, (keys, queries): maxima and sums over the keys then run along columns, whole rows at a time,
which NumPy does twice as fast as along rows. The softmax is kept without its division, which is done where it is
cheaper: on the outputs, whose last axis is the short one of a head. On a GPU a warp or a block has a whole row of
scores (queries, keys) in its cache, and leaves the softmax itself, of which the others see the transposed view. The
optional library cuDNN keeps no scores at all: it computes them again on the way back.

On the CPU the work goes in blocks of pairs (example, head), for long sequences of queries too: the scores of a block
are multiplied out, turned into weights and multiplied with the values before the next block comes.
"""

from typing import Any, NamedTuple

import numpy as np

from gpukeras.backend import blas, cuda, cudnn, devices, memory, threads
from gpukeras.kernels.kernel import kernel

__all__ = ["HIDDEN", "attention", "attention_backward", "hidden_in"]

_CUDA = cuda.Source("attention")


class LogSums(NamedTuple):
    """What cuDNN keeps in place of the softmax: log Σ exp of each query's scores."""

    array: Any


HIDDEN = -0.7 * float(np.finfo(np.float32).max)  # the score of a key that is hidden from a query, in any dtype


@kernel
def attention(q, k, v, offset, y, scale, is_causal=False):
    """y ← softmax(scale · q · kᵀ + offsetᵀ) · v for every example and head.

    Args:
        q: Array (batch, heads, queries, dim), as all arrays of any strides.
        k: Array (batch, heads, keys, dim).
        v: Array (batch, heads, keys, n).
        offset: Array that broadcasts to (batch, heads, keys, queries), or None.
        y: Array (batch, heads, queries, n).
        scale: Number.
        is_causal: Whether query i sees only keys up to i.

    Returns:
        weights (batch, heads, keys, queries) and share (batch, heads, 1, queries), their product being the softmax; or
        the softmax, of any strides, and None; or `LogSums` and None.
    """
    xp = devices.array_module(q)
    weights = blas.matmul(k, (q * scale).swapaxes(-1, -2))
    if offset is not None:
        weights += offset
    if is_causal:
        weights += _later(xp, weights.shape[-2], 0, weights.shape[-1], weights.dtype)
    weights -= weights.max(axis=-2, keepdims=True)
    xp.exp(weights, out=weights)
    share = 1.0 / weights.sum(axis=-2, keepdims=True)
    y[...] = blas.matmul(weights.swapaxes(-1, -2), v) * share.swapaxes(-1, -2)
    return weights, share


def _later(xp, keys, start, stop, dtype):
    """What is added to the scores (keys, queries from start to stop), so that no query sees a later key."""
    is_later = xp.arange(keys)[:, None] > xp.arange(start, stop)
    return xp.where(is_later, xp.asarray(hidden_in(dtype), dtype), xp.asarray(0, dtype))


@attention.cpu
def attention(q, k, v, offset, y, scale, is_causal=False):
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    if batch * heads * keys * queries <= _FEW:
        return attention.reference(q, k, v, offset, y, scale, is_causal)
    weights = np.empty((batch, heads, keys, queries), q.dtype)
    share = np.empty((batch, heads, 1, queries), q.dtype)
    offset = None if offset is None else np.broadcast_to(np.ascontiguousarray(offset), weights.shape)
    blocks, chunks = _blocks(weights.shape, is_causal)
    later = [_later(np, stop - start, 0, len(range(queries)[columns]), q.dtype) for columns, start, stop in chunks]
    ones = np.ones((1, keys), q.dtype)

    def block(pairs):
        q_part, k_part, v_part, y_part, w_part, s_part = (a[pairs] for a in (q, k, v, y, weights, share))
        for (columns, start, stop), hidden in zip(chunks, later, strict=True):
            w, s = w_part[:, :, :stop, columns], s_part[..., columns]
            q_scaled = q_part[:, :, columns] * scale
            np.matmul(k_part[:, :, :stop], q_scaled.swapaxes(-1, -2), out=w)
            if offset is not None:
                w += offset[pairs][:, :, :stop, columns]
            if is_causal:
                w[:, :, start:] += hidden
                w_part[:, :, stop:, columns] = 0.0
            w -= np.maximum.reduce(w, axis=-2, keepdims=True)
            np.exp(w, out=w)
            np.matmul(ones[:, :stop], w, out=s)
            np.reciprocal(s, out=s)
            part = np.matmul(w.swapaxes(-1, -2), v_part[:, :, :stop])
            np.multiply(part, s.swapaxes(-1, -2), out=y_part[:, :, columns])

    _run(block, blocks, weights.size)
    return weights, share


@attention.cuda(strided=("q", "k", "v", "offset", "y"))
def attention(q, k, v, offset, y, scale, is_causal=False):
    if q[..., 0].size > cuda.MAX_INDEX or (offset is not None and offset.dtype != q.dtype):
        return NotImplemented
    if offset is None and (sums := cudnn.attention(q, k, v, y, scale, is_causal)) is not None:
        return LogSums(sums), None
    weights = _softmax_on_gpu(q, k, offset, scale, is_causal)
    blas.scaled_matmul(weights, v, y)
    return weights.swapaxes(-1, -2), None


def _softmax_on_gpu(q, k, offset, scale, is_causal):
    """softmax(scale · q · kᵀ + offsetᵀ), contiguous (batch, heads, queries, keys)."""
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    weights, steps = devices.array_module(q).empty((batch, heads, queries, keys), q.dtype), (0, 0, 0, 0)
    blas.scaled_matmul(q, k.swapaxes(-1, -2), weights, scale)
    if offset is not None:
        offset, steps = _plain_with_steps(offset.swapaxes(-1, -2), weights.shape)
    settings = heads, queries, *steps, offset, is_causal, HIDDEN
    _CUDA.rows("attention_weights", weights, batch * heads * queries, keys, *settings, weights)
    return weights


@attention.meaning
def attention(result):
    weights, share = result
    return weights if share is None else weights * share


@attention.samples
def attention(random, dtype):
    for arrays, is_causal in _inputs(random, dtype):
        q, k, v, offset = arrays
        yield q, k, v, offset, random((*q.shape[:3], v.shape[3]), dtype), 0.3, is_causal


def _plain_with_steps(array, shape):
    """A contiguous array, and its steps in elements along the axes that it is broadcast to."""
    xp = devices.array_module(array)
    array = xp.ascontiguousarray(array)
    return array, [step // array.dtype.itemsize for step in xp.broadcast_to(array, shape).strides]


def hidden_in(dtype):
    """`HIDDEN` as an array of a dtype holds it: float16 has no number of that size, and -inf stands for it."""
    return -np.inf if dtype == np.float16 else HIDDEN


def _inputs(random, dtype):
    """((q, k, v, offset), is_causal): one block and many, views of other layouts, blocks of queries."""

    def of(batch, heads, time, dim):
        return random((batch, time, heads, dim), dtype).transpose(0, 2, 1, 3)

    for batch, heads, queries, keys in (
        (2, 3, 5, 7),
        (3, 2, 130, 131),
        (1, 2, 600, 500),
        (70, 3, 19, 21),
        (0, 2, 3, 3),
    ):
        q, k, v = of(batch, heads, queries, 4), of(batch, heads, keys, 4), of(batch, heads, keys, 3)
        yield (q, k, v, None), False
        yield (q, k, v, None), True
        offset = random((batch, 1, keys, queries), dtype)
        yield (q, k, v, offset), False


@kernel
def attention_backward(q, k, v, y, weights, share, dy, is_sighted, scale, is_causal, dq, dk, dv, dscores=None):
    """The derivative of `attention`, with its p = weights · share, all sums over keys and queries of one pair.

        dv ← p · dy
        dscores ← p · (v · dyᵀ - Σ y · dy)      the sum over the values' last axis
        dq ← scale · dscoresᵀ · k,  dk ← scale · dscores · q

    Args:
        is_sighted: Array that broadcasts to (batch, heads, queries, 1), 0 for the queries that see nothing: their
            weights are all alike, and do not depend on the scores; or None.
        dq, dk, dv, dscores: Arrays to write to, or None where the gradient is not wanted.
    """
    if share is not None:
        dy = dy * share.swapaxes(-1, -2)
    if dv is not None:
        dv[...] = blas.matmul(weights, dy)
    if dq is None and dk is None and dscores is None:
        return
    if is_sighted is not None:
        dy = dy * is_sighted
    ds = blas.matmul(v, dy.swapaxes(-1, -2))
    ds -= (dy * y).sum(axis=-1, keepdims=True).swapaxes(-1, -2)
    ds *= weights
    if dq is not None:
        dq[...] = blas.matmul(ds.swapaxes(-1, -2), k) * scale
    if dk is not None:
        dk[...] = blas.matmul(ds, q) * scale
    if dscores is not None:
        dscores[...] = ds


@attention_backward.cpu
def attention_backward(q, k, v, y, weights, share, dy, is_sighted, scale, is_causal, dq, dk, dv, dscores=None):
    n = v.shape[3]
    if weights.size <= _FEW or share is None:
        arrays = q, k, v, y, weights, share, dy, is_sighted
        return attention_backward.reference(*arrays, scale, is_causal, dq, dk, dv, dscores)
    blocks, chunks = _blocks(weights.shape, is_causal)
    is_sighted = None if is_sighted is None else np.broadcast_to(is_sighted, (*q.shape[:3], 1))
    needs_scores = not (dq is None and dk is None and dscores is None)
    ones = np.ones((n, 1), q.dtype)

    def block(pairs):
        for i, (columns, _, stop) in enumerate(chunks):
            w = weights[pairs][:, :, :stop, columns]
            dy_part = dy[pairs][:, :, columns] * share[pairs][..., columns].swapaxes(-1, -2)
            if dv is not None:
                _add_product(w, dy_part, dv[pairs], i == 0)
            if not needs_scores:
                continue
            if is_sighted is not None:
                dy_part *= is_sighted[pairs][:, :, columns]
            with memory.scratch(w.shape, w.dtype) as ds:
                np.matmul(v[pairs][:, :, :stop], dy_part.swapaxes(-1, -2), out=ds)
                dy_part *= y[pairs][:, :, columns]
                ds -= np.matmul(dy_part, ones).swapaxes(-1, -2)
                ds *= w
                if dq is not None:
                    part = np.matmul(ds.swapaxes(-1, -2), k[pairs][:, :, :stop])
                    np.multiply(part, scale, out=dq[pairs][:, :, columns])
                if dk is not None:
                    _add_product(ds, q[pairs][:, :, columns] * scale, dk[pairs], i == 0)
                if dscores is not None:
                    dscores[pairs][:, :, :stop, columns] = ds
                    dscores[pairs][:, :, stop:, columns] = 0.0

    _run(block, blocks, weights.size)


def _add_product(a, b, total, is_first):
    """total ← or += a · b; a may have fewer rows than total."""
    rows = a.shape[-2]
    if is_first:
        np.matmul(a, b, out=total[:, :, :rows])
        total[:, :, rows:] = 0.0
    else:
        total[:, :, :rows] += np.matmul(a, b)


@attention_backward.cuda(strided=("q", "k", "v", "y", "weights", "dy", "is_sighted", "dq", "dk", "dv", "dscores"))
def attention_backward(q, k, v, y, weights, share, dy, is_sighted, scale, is_causal, dq, dk, dv, dscores=None):
    xp = devices.array_module(q)
    if isinstance(weights, LogSums):
        if cudnn.attention_gradients(q, k, v, y, weights.array, dy, scale, is_causal, dq, dk, dv):
            return None
        weights = _softmax_on_gpu(q, k, None, scale, is_causal).swapaxes(-1, -2)
    batch, heads, keys, queries = weights.shape
    if batch * heads * queries > cuda.MAX_INDEX:
        return NotImplemented
    if share is not None:  # of another form
        weights = (weights * share).astype(q.dtype, copy=False)
    p = xp.ascontiguousarray(weights.swapaxes(-1, -2))  # as the form above keeps it, which takes no copy
    if dv is not None:
        blas.scaled_matmul(p.swapaxes(-1, -2), dy, dv)
    if dq is None and dk is None and dscores is None:
        return None
    ds, steps = None if dscores is None else dscores.swapaxes(-1, -2), (0, 0, 0, 0)
    if ds is None or not ds.flags.c_contiguous:
        ds = xp.empty(p.shape, q.dtype)
    blas.scaled_matmul(dy, v.swapaxes(-1, -2), ds)
    if is_sighted is not None:
        is_sighted, steps = _plain_with_steps(is_sighted, (batch, heads, queries, 1))
    settings = heads, queries, *steps[:3], is_sighted, is_causal
    _CUDA.rows("scores_gradient", ds, batch * heads * queries, keys, *settings, p, ds)
    if dq is not None:
        blas.scaled_matmul(ds, k, dq, scale)
    if dk is not None:
        blas.scaled_matmul(ds.swapaxes(-1, -2), q, dk, scale)
    if dscores is not None and dscores.strides != ds.swapaxes(-1, -2).strides:
        dscores[...] = ds.swapaxes(-1, -2)
    return None


@attention_backward.samples
def attention_backward(random, dtype):
    for (q, k, v, offset), is_causal in _inputs(random, dtype):
        y, dy = random((*q.shape[:3], v.shape[3]), dtype), random((*q.shape[:3], v.shape[3]), dtype)
        exact = "float64" if q.dtype.itemsize == 8 else "float32"
        wide: Any = [None if a is None else a.astype(exact) for a in (q, k, v, offset, y)]
        weights, share = [a.astype(dtype) for a in attention.reference(*wide, 0.3, is_causal)]
        y = wide[4].astype(dtype)
        is_sighted = None
        if offset is not None:
            is_sighted = abs(random((q.shape[0], 1, q.shape[2], 1), dtype))
        p = (weights * share).swapaxes(-1, -2).copy().swapaxes(-1, -2)  # as the CUDA form keeps it
        for has in ((1, 1, 1, 0), (0, 1, 0, 0), (0, 0, 1, 0), (1, 0, 0, 1)):
            for kept in (weights, share), (p, None):
                outputs = [random(a.shape, dtype) if h else None for a, h in zip((q, k, v, p), has, strict=True)]
                yield q, k, v, y, *kept, dy, is_sighted, 0.3, is_causal, *outputs
        if offset is None:
            dscores = random((*p.shape[:2], *p.shape[:1:-1]), dtype).swapaxes(-1, -2)
            yield q, k, v, y, p, None, dy, None, 0.3, is_causal, None, None, None, dscores


# Scores in a block: 1 MB of float32. Timed at 32 examples of 4 heads, 128 queries and keys of 32: forward and backward
# took 19 ms in blocks of 2^16 (an example), 16 in blocks of 2^17, 14 in blocks of 2^18: long NumPy calls, for which two
# threads wait for each other less often, weigh more than scores that stay in the second-level cache.
_BLOCK = 1 << 18
_SMALLEST_BLOCK = 1 << 16
_FEW = 1 << 16  # scores for which blocks bring nothing: 8 x 8 of 2 heads took 51 and 90 us, and plainly 18 and 52
_THREADED = 1 << 17


def _blocks(shape, is_causal):
    """How scores (batch, heads, keys, queries) are cut.

    Returns:
        Indices (examples, heads) of the blocks of pairs, and for each chunk of queries: its slice, and the first and
        last key that some but not all of its queries see, where it is causal.
    """
    batch, heads, keys, queries = shape
    size = min(max(batch * heads * keys * queries // 8, _SMALLEST_BLOCK), _BLOCK)
    pairs = max(1, size // max(1, keys * queries))
    if pairs >= heads:
        examples, some_heads = pairs // heads, heads
    else:
        examples, some_heads = 1, pairs
    blocks = [
        (slice(i, i + examples), slice(j, j + some_heads))
        for i in range(0, batch, examples)
        for j in range(0, heads, some_heads)
    ]
    length = max(1, min(queries, _BLOCK // max(1, keys)))
    chunks = []
    for first in range(0, queries, length):
        last = min(first + length, queries)
        stop = min(last, keys) if is_causal else keys
        chunks.append((slice(first, last), min(first, stop), stop))
    return blocks, chunks


def _run(block, blocks, size):
    if size >= _THREADED:
        threads.run(block, blocks, uses_blas=True)
    else:
        for pairs in blocks:
            block(pairs)
