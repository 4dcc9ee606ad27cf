"""Cross entropies of `keras.ops`, and the reduction of samplewise losses to one number."""

from typing import Any

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.autograd.tensor import convert_to_array
from gpukeras.backend import cuda, devices, dtypes
from gpukeras.kernels import loss as kernels
from gpukeras.kernels import sums
from gpukeras.ops.elementwise import unbroadcast

__all__ = ["binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy"]


@op
def categorical_crossentropy(target, output, /, from_logits=False, axis=-1):
    """Cross entropy between distributions over classes.

        y       = -Σ target · log p
        p       = softmax(output), or output / Σ output clipped to [ε, 1 - ε]
        doutput = dy (p · Σ target - target)                      from logits
                  dy (Σ r · p - r) / Σ output, r = target / p     else; r = 0 where p was clipped
        dtarget = -dy · log p

    Short floats are computed in float32.

    Args:
        target: Probabilities of the classes.
        output: Predicted probabilities, or logits.
        from_logits: Whether `output` holds logits.
        axis: The axis of the classes.

    Shapes:
        target, output (..., classes)  ->  y (...)

    Example:
        >>> round(categorical_crossentropy([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.6931
    """
    t, x, dtype = _operands(target, output)
    if t.shape != x.shape:
        raise ValueError(
            f"categorical_crossentropy needs target and output of one shape, but got {t.shape} and "
            f"{x.shape}. For integer classes use sparse_categorical_crossentropy."
        )
    if x.ndim < 1:
        raise ValueError("categorical_crossentropy needs an axis of classes, but got shape ().")
    if from_logits:
        return _of_logits(t, x, axis, target, output, dtype)
    xp = devices.array_module(x)
    total = x.sum(axis=axis, keepdims=True)
    p = x / total
    clipped = clip_probability(xp, p)
    log_p = xp.log(clipped)

    def backward(dy, needs):
        dy = xp.expand_dims(dy, axis)
        doutput = dtarget = None
        if needs.output:
            doutput = xp.where(p == clipped, t / clipped, 0)
            doutput = ((doutput * p).sum(axis=axis, keepdims=True) - doutput) / total
            doutput = _as(doutput * dy, output)
        if needs.target:
            dtarget = _as(-dy * log_p, target)
        return dtarget, doutput

    return (-(t * log_p).sum(axis=axis)).astype(dtype, copy=False), backward


def _of_logits(t, x, axis, target, output, dtype):
    """The categorical cross entropy of logits x, with its derivative by the `target` and `output` of t and x."""
    xp = devices.array_module(x)
    t_last, x_last = xp.moveaxis(t, axis, -1), xp.moveaxis(x, axis, -1)
    t_rows, x_rows = (v.reshape(-1, x_last.shape[-1]) for v in (t_last, x_last))
    y, *kept = kernels.crossentropy_of_logits(x_rows, t_rows)

    def backward(dy, needs):
        doutput = dtarget = None
        if needs.output:
            doutput = kernels.crossentropy_of_logits_backward(*kept, t_rows, _as(dy.reshape(-1), x))
            doutput = _as(xp.moveaxis(doutput.reshape(x_last.shape), -1, axis), output)
        if needs.target:
            log_p = x_rows - x_rows.max(axis=1, keepdims=True) - xp.log(kept[2])[:, None]
            dtarget = xp.moveaxis((-dy.reshape(-1)[:, None] * log_p).reshape(x_last.shape), -1, axis)
            dtarget = _as(dtarget, target)
        return dtarget, doutput

    return y.reshape(x_last.shape[:-1]).astype(dtype, copy=False), backward


@op
def sparse_categorical_crossentropy(target, output, /, from_logits=False, axis=-1):
    """Cross entropy for integer classes.

        y       = -log p[target]
        p       = softmax(output), or output / Σ output clipped to [ε, 1 - ε]
        doutput = dy (p - 1[target])                   from logits
                  dy (1 - 1[target] / p) / Σ output    else; 0 where p was clipped

    A target that is no class (negative, or too large) gives 0, and no gradient. Short floats are
    computed in float32.

    Args:
        target: Classes, from 0.
        output: Predicted probabilities, or logits.
        from_logits: Whether `output` holds logits.
        axis: The axis of the classes.

    Shapes:
        target (...) or (..., 1), output (..., classes)  ->  y (...)

    Example:
        >>> round(sparse_categorical_crossentropy([1], [[0.5, 0.5]]).item(), 4)
        0.6931
    """
    shape, y, rows_backward, dtype = _sparse_rows(target, output, from_logits, axis)

    def backward(dy, needs):
        return None, rows_backward(dy.reshape(-1)) if needs.output else None

    return y.reshape(shape).astype(dtype, copy=False), backward


def mean_sparse_categorical_crossentropy(target, output, from_logits=False, axis=-1):
    """The mean of `sparse_categorical_crossentropy` over everything, of raw arrays, and its derivative.

    Of short floats it is float32.
    """
    _, y, rows_backward, _ = _sparse_rows(target, output, from_logits, axis, is_mean=True)

    def backward(dy, needs):
        return None, rows_backward(dy) if needs[1] else None

    return devices.array_module(output).asarray(y, y.dtype), backward


def _sparse_rows(target, output, from_logits, axis, is_mean=False):
    """The cross entropy of every line of classes in a row (lines,), or their mean (), and the way back.

    Returns:
        The shape of the cross entropies, they themselves, a function that makes of their gradient, (lines,) or (), the
        output's, and the dtype of the result.
    """
    target, output = as_array(target), as_array(output)
    x, dtype = _wide(output)
    if x.ndim < 1:
        raise ValueError("sparse_categorical_crossentropy needs an axis of classes in the output.")
    xp = devices.array_module(x)
    is_last = axis in (-1, x.ndim - 1)
    if target.ndim == x.ndim and target.shape[axis] == 1:
        target = target.reshape([size for i, size in enumerate(target.shape) if i != axis % x.ndim])
    if not is_last:
        x = xp.moveaxis(x, axis, -1)
    if target.shape != x.shape[:-1]:
        raise ValueError(
            f"sparse_categorical_crossentropy needs a target of shape {x.shape[:-1]}, integers "
            f"below {x.shape[-1]}, but got target {target.shape} and output {output.shape}. "
            f"For one-hot targets use categorical_crossentropy."
        )
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    labels = kernels.places(target.reshape(-1), rows.shape[1])
    scale = 1 / max(len(rows), 1) if is_mean else 1
    if from_logits:
        y, *kept = kernels.sparse_crossentropy_of_logits(rows, labels)
        y = sums.sum_times(y, scale) if is_mean else y
    elif is_mean:
        y, *kept = kernels.mean_sparse_crossentropy(rows, labels, dtypes.epsilon(), scale)
    else:
        y, *kept = kernels.sparse_crossentropy(rows, labels, dtypes.epsilon())

    def backward(dy):
        dy = _as(dy, y)
        if from_logits:
            doutput = kernels.sparse_crossentropy_of_logits_backward(*kept, labels, dy, scale)
        elif x is output and cuda.runs_on(x):
            return kernels.SparseCrossentropyGradient(x, *kept, labels, dy, scale)
        else:
            doutput = kernels.sparse_crossentropy_backward(rows, *kept, labels, dy, scale)
        doutput = doutput.reshape(x.shape)
        return _as(doutput if is_last else xp.moveaxis(doutput, -1, axis), output)

    return target.shape, y, backward, dtype


@op
def binary_crossentropy(target, output, /, from_logits=False):
    """Cross entropy of independent yes-or-no predictions, element by element.

        y       = -target · log p - (1 - target) · log(1 - p)
        p       = sigmoid(output), or output clipped to [ε, 1 - ε]
        doutput = dy (p - target)                   from logits
                  dy (p - target) / (p (1 - p))     else; 0 where p was clipped
        dtarget = dy (log(1 - p) - log p)

    Short floats are computed in float32.

    Shapes:
        target, output (...)  ->  y (...)

    Example:
        >>> binary_crossentropy([0.0, 1.0], [0.5, 0.5]).numpy().round(4)
        array([0.6931, 0.6931], dtype=float32)
    """
    t, x, dtype = _operands(target, output)
    if t.shape != x.shape:
        raise ValueError(
            f"binary_crossentropy needs a target of the output's shape, but got target {t.shape} "
            f"and output {x.shape}. Reshape one of them."
        )
    xp = devices.array_module(x)
    if from_logits:
        e = xp.exp(-xp.abs(x))
        y = xp.maximum(x, 0) - x * t + xp.log1p(e)
    else:
        p = clip_probability(xp, x)
        log_p, log_not_p = xp.log(p), xp.log(1 - p)
        y = -(t * log_p + (1 - t) * log_not_p)

    def backward(dy, needs):
        doutput = dtarget = None
        if needs.output:
            if from_logits:
                doutput = xp.where(x >= 0, 1, e) / (1 + e) - t
            else:
                doutput = xp.where(p == x, (p - t) / (p * (1 - p)), 0)
            doutput = _as(doutput * dy, output)
        if needs.target:
            slope = -x if from_logits else xp.subtract(log_not_p, log_p)
            dtarget = _as(slope * dy, target)
        return dtarget, doutput

    return xp.asarray(y, dtype), backward


@op
def reduce_loss(values, sample_weight=None, mask=None, /, reduction="sum_over_batch_size"):
    """Samplewise losses, weighted and summed up, as Keras does it.

        w = sample_weight · mask, where for the means the mask is scaled by (all / valid entries)
        y = Σ values · w / n    "sum_over_batch_size", "mean": n is the number of values
            Σ values · w / Σ w  "mean_with_sample_weight"
            Σ values · w        "sum"
            values · w          None, "none"

    A last axis of size 1 is added or dropped where ranks differ by one.

    Example:
        >>> reduce_loss(np.array([1.0, 3.0])).numpy()
        array(2.)
    """
    values = v = as_array(values)
    dtype = v.dtype
    xp = devices.array_module(v)
    w = None if sample_weight is None else convert_to_array(sample_weight, dtype)
    scale: Any = None  # the mask as factors
    if mask is not None:
        mask = as_array(mask)
        scale = mask.astype(dtype)
        if reduction in ("mean", "sum_over_batch_size"):
            # fewer than one valid entry means none, and then all factors are 0 anyway
            scale *= mask.size / xp.maximum(_sum(scale), 1)
    product: Any = _times(scale, w, "mask", "sample_weight")
    weight: Any = None
    product_shape = ()
    if product is not None:
        product_shape = product.shape
        v, weight = same_rank(v, product)
    weighted: Any = _times(v, weight, "losses", "sample_weight")

    is_summed = reduction not in (None, "none") and weighted.shape not in ((), (0,))
    factor = 1
    if is_summed:
        y = _sum(weighted)
        if reduction == "mean_with_sample_weight" and weight is not None:
            total = _sum(weight)
            factor = xp.where(total == 0, 0, 1 / xp.where(total == 0, 1, total))
        elif reduction != "sum":
            factor = 1 / weighted.size if weighted.size else 0
        y = y * factor
    else:
        y = weighted

    def backward(dy, needs):
        if is_summed:
            d = xp.empty(weighted.shape, dtype)
            d[...] = dy * factor
        else:
            d = dy
        dvalues = dweight = None
        if needs.values:
            dvalues = d if weight is None else unbroadcast(d * weight, v).reshape(values.shape)
        if needs.sample_weight and sample_weight is not None:
            dw: Any = unbroadcast(d * v, weight)
            if is_summed and reduction == "mean_with_sample_weight":
                dw = dw - dy * y * factor
            dw = dw.reshape(product_shape)
            if scale is not None:
                factors, aligned = same_rank(scale, w)
                dw = unbroadcast(dw * factors, aligned)
            dweight = _as(dw.reshape(sample_weight.shape), sample_weight)
        return dvalues, dweight, None

    return xp.asarray(y, dtype), backward


@op
def align_ranks(x1, x2, /):
    """Both with a last axis of size 1 added or dropped, where their ranks differ by one.

    Example:
        >>> [x.shape for x in align_ranks(np.ones(3), np.ones((3, 1)))]
        [(3, 1), (3, 1)]
    """
    x1, x2 = as_array(x1), as_array(x2)

    def backward(dy, needs):
        return [None if d is None else d.reshape(x.shape) for d, x in zip(dy, (x1, x2), strict=True)]

    return same_rank(x1, x2), backward


def same_rank(x1, x2, expand_rank_1=True):
    """Both arrays with a last axis of size 1 added or dropped, where their ranks differ by one."""
    n1, n2 = x1.ndim, x2.ndim
    if n1 == n2 + 1 and x1.shape[-1] == 1:
        if n2 == 1 and expand_rank_1:
            return x1, x2[:, None]
        return x1[..., 0], x2
    if n2 == n1 + 1 and x2.shape[-1] == 1:
        if n1 == 1 and expand_rank_1:
            return x1[:, None], x2
        return x1, x2[..., 0]
    return x1, x2


def as_array(x):
    """What an op was given, Python numbers included, as an array."""
    return x if hasattr(x, "shape") else convert_to_array(x)


def _times(a, b, a_name, b_name) -> Any:
    if a is None or b is None:
        return b if a is None else a
    a, b = same_rank(a, b)
    if a.shape != b.shape:
        try:
            np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            raise ValueError(
                f"The {b_name} of shape {b.shape} does not fit the {a_name} of shape {a.shape}. "
                f"Give one weight per sample, or one per loss value."
            ) from None
    return a * b


def _operands(target, output):
    """Target and output in one float dtype of at least 32 bits, and the dtype of the result."""
    target, output = as_array(target), as_array(output)
    dtype = output.dtype
    if target.dtype != dtype or not dtypes.is_float(dtype):
        dtype = dtypes.result_type(target.dtype, output.dtype)
        if not dtypes.is_float(dtype):
            dtype = dtypes.as_dtype(dtypes.floatx())
    wide = dtype if dtype.itemsize >= 4 else np.dtype(np.float32)
    return target.astype(wide, copy=False), output.astype(wide, copy=False), dtype


def _wide(x):
    """x as a float that kernels compute from in 32 bits at least, and the dtype of the result."""
    dtype = x.dtype if dtypes.is_float(x.dtype) else dtypes.as_dtype(dtypes.floatx())
    dtype_of_work = cuda.dtype_of_work(x, dtype)
    return x if x.dtype == dtype_of_work else x.astype(dtype_of_work), dtype


def clip_probability(xp, p):
    """p within [ε, 1 - ε], so that both logarithms stay finite."""
    epsilon = dtypes.epsilon()
    return xp.minimum(xp.maximum(p, epsilon), 1 - epsilon)


def _sum(x):
    return x.sum() if x.dtype.itemsize >= 4 else x.sum(dtype=np.float32)


def _as(d, x):
    return d.astype(x.dtype, copy=False)
