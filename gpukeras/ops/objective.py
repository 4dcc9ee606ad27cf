"""Keras's loss functions of ``(y_true, y_pred)`` with one value per sample: errors and hinges.

Losses and metrics share them; cross entropies stand in `gpukeras.ops.crossentropy`. Each takes
`y_true` in the dtype of `y_pred`; shapes broadcast, and most drop or add a last axis of size 1
where the ranks differ by one.
"""

from typing import Any

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import cuda, devices, dtypes
from gpukeras.kernels import loss as kernels
from gpukeras.ops.elementwise import unbroadcast
from gpukeras.ops.loss import as_array, same_rank
from gpukeras.registry import register

__all__ = [
    "categorical_hinge",
    "cosine_similarity",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "poisson",
    "squared_hinge",
]


@register("loss", "mse", "MSE")
@op
def mean_squared_error(y_true, y_pred, /):
    """Mean of the squared errors.

        y = mean((y_true - y_pred)²),   dy_pred = -dy_true = dy · 2 (y_pred - y_true) / n

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> mean_squared_error([[0.0, 1.0]], [[1.0, 1.0]]).numpy()
        array([0.5], dtype=float32)
    """
    t, p, n = _pair("mean_squared_error", y_true, y_pred)
    error = p - t

    def backward(dy, needs):
        d = error * _spread(dy, 2 / n)
        return _of_error(d, needs, t, p, y_true, y_pred)

    return _mean(error * error, n), backward


@register("loss", "mae", "MAE")
@op
def mean_absolute_error(y_true, y_pred, /):
    """Mean of the absolute errors.

        y = mean(|y_true - y_pred|),   dy_pred = -dy_true = dy · sign(y_pred - y_true) / n

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> mean_absolute_error([[0.0, 1.0]], [[1.0, 1.0]]).numpy()
        array([0.5], dtype=float32)
    """
    t, p, n = _pair("mean_absolute_error", y_true, y_pred)
    xp = devices.array_module(p)
    error = p - t

    def backward(dy, needs):
        d = xp.sign(error) * _spread(dy, 1 / n)
        return _of_error(d, needs, t, p, y_true, y_pred)

    return _mean(xp.abs(error), n), backward


@register("loss", "mape", "MAPE")
@op
def mean_absolute_percentage_error(y_true, y_pred, /):
    """Mean of the errors in percent of the true values.

        y       = 100 · mean(|y_true - y_pred| / s),   s = max(|y_true|, ε)
        dy_pred = -dy · 100/n · sign(y_true - y_pred) / s

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> mean_absolute_percentage_error([[2.0, 4.0]], [[1.0, 4.0]]).numpy()
        array([25.], dtype=float32)
    """
    t, p, n = _pair("mean_absolute_percentage_error", y_true, y_pred)
    xp = devices.array_module(p)
    size = xp.abs(t)
    scale = xp.maximum(size, dtypes.epsilon())
    error = (t - p) / scale

    def backward(dy, needs):
        d = xp.sign(error) * _spread(dy, 100 / n) / scale
        dy_true = dy_pred = None
        if needs.y_true:
            from_scale = xp.where(size == scale, error * xp.sign(t), 0)
            dy_true = gradient_of(d * (1 - from_scale), t, y_true)
        if needs.y_pred:
            dy_pred = gradient_of(-d, p, y_pred)
        return dy_true, dy_pred

    return _mean(xp.abs(error), n) * 100, backward


@register("loss", "msle", "MSLE")
@op
def mean_squared_logarithmic_error(y_true, y_pred, /):
    """Mean of the squared differences of logarithms.

        y       = mean(r²),   r = log(1 + max(y_pred, ε)) - log(1 + max(y_true, ε))
        dy_pred = dy · 2/n · r / (1 + y_pred)   where y_pred ≥ ε, else 0

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> mean_squared_logarithmic_error([[0.0, 1.0]], [[0.0, 1.0]]).numpy()
        array([0.], dtype=float32)
    """
    t, p, n = _pair("mean_squared_logarithmic_error", y_true, y_pred)
    xp = devices.array_module(p)
    high_t, high_p = xp.maximum(t, dtypes.epsilon()), xp.maximum(p, dtypes.epsilon())
    ratio = xp.log1p(high_p) - xp.log1p(high_t)

    def backward(dy, needs):
        d = ratio * _spread(dy, 2 / n)
        dy_true = dy_pred = None
        if needs.y_true:
            dy_true = gradient_of(-d * (t == high_t) / (1 + high_t), t, y_true)
        if needs.y_pred:
            dy_pred = gradient_of(d * (p == high_p) / (1 + high_p), p, y_pred)
        return dy_true, dy_pred

    return _mean(ratio * ratio, n), backward


@register("loss")
@op
def cosine_similarity(y_true, y_pred, /, axis=-1):
    """Cosine of the angle between the two vectors, negated: -1 where they point the same way.

        y       = -Σ u · v,   u = y_true / |y_true|, v = y_pred / |y_pred|; norms are at least ε
        dy_pred = -dy (u - v Σ u · v) / |y_pred|,   dy_true likewise

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> cosine_similarity([[0.0, 2.0]], [[0.0, 1.0]]).numpy()
        array([-1.], dtype=float32)
    """
    t, p, _ = _pair("cosine_similarity", y_true, y_pred)
    xp = devices.array_module(p)
    u, inverse_t, is_long_t = _normalize(xp, t, axis)
    v, inverse_p, is_long_p = _normalize(xp, p, axis)

    product = u * v

    def across(d, unit, inverse, is_long):
        """The gradient of a unit vector as one of the vector that was normalized."""
        d = unbroadcast(xp.broadcast_to(d, product.shape), unit)
        return (d - unit * ((d * unit).sum(axis=axis, keepdims=True) * is_long)) * inverse

    def backward(dy, needs):
        d = -xp.expand_dims(dy, axis)
        dy_true = dy_pred = None
        if needs.y_true:
            dy_true = gradient_of(across(d * v, u, inverse_t, is_long_t), t, y_true)
        if needs.y_pred:
            dy_pred = gradient_of(across(d * u, v, inverse_p, is_long_p), p, y_pred)
        return dy_true, dy_pred

    return -product.sum(axis=axis), backward


@register("loss")
@op
def huber(y_true, y_pred, /, delta=1.0):
    """Squared error where it is small, absolute error beyond.

        y       = mean(e²/2 where |e| ≤ δ, else δ |e| - δ²/2),   e = y_pred - y_true
        dy_pred = -dy_true = dy · clip(e, -δ, δ) / n

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> huber([[0.0, 0.0]], [[1.0, 3.0]]).numpy()
        array([1.5], dtype=float32)
    """
    t, p, n = _pair("huber", y_true, y_pred)
    xp = devices.array_module(p)
    error = p - t
    clipped = xp.minimum(xp.maximum(error, -delta), delta)

    def backward(dy, needs):
        d = clipped * _spread(dy, 1 / n)
        return _of_error(d, needs, t, p, y_true, y_pred)

    # with c = clip(e): c (e - c/2) is e²/2 inside and δ |e| - δ²/2 outside
    return _mean(clipped * (error - 0.5 * clipped), n), backward


@register("loss")
@op
def log_cosh(y_true, y_pred, /):
    """Logarithm of the hyperbolic cosine of the errors: e²/2 near 0, |e| - log 2 far away.

        y = mean(e + log(1 + exp(-2e)) - log 2),   e = y_pred - y_true
        dy_pred = -dy_true = dy · tanh(e) / n

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> round(log_cosh([[0.0]], [[0.0]]).item(), 3)
        0.0
    """
    t, p, n = _pair("log_cosh", y_true, y_pred)
    xp = devices.array_module(p)
    error = p - t
    size = xp.abs(error)  # even, so that the exponential cannot overflow

    def backward(dy, needs):
        d = xp.tanh(error) * _spread(dy, 1 / n)
        return _of_error(d, needs, t, p, y_true, y_pred)

    return _mean(size + xp.log1p(xp.exp(-2 * size)) - float(np.log(2)), n), backward


@register("loss", "kld", "KLD")
@op
def kl_divergence(y_true, y_pred, /):
    """Kullback-Leibler divergence of two distributions.

        y       = Σ y_true · log(y_true / y_pred),   both clipped to [ε, 1]
        dy_pred = -dy · y_true / y_pred,   dy_true = dy (log(y_true / y_pred) + 1)
        and 0 where clipped

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> round(kl_divergence([[0.5, 0.5]], [[0.5, 0.5]]).item(), 3)
        0.0
    """
    t, p, _ = _pair("kl_divergence", y_true, y_pred, squeeze=False)
    xp = devices.array_module(p)
    epsilon = dtypes.epsilon()
    clipped_t = xp.minimum(xp.maximum(t, epsilon), 1)
    clipped_p = xp.minimum(xp.maximum(p, epsilon), 1)
    log_ratio = xp.log(clipped_t / clipped_p)

    def backward(dy, needs):
        dy = dy[..., None]
        dy_true = dy_pred = None
        if needs.y_true:
            dy_true = gradient_of(xp.where(t == clipped_t, log_ratio + 1, 0) * dy, t, y_true)
        if needs.y_pred:
            slope = xp.where(p == clipped_p, -clipped_t / clipped_p, 0)
            dy_pred = gradient_of(slope * dy, p, y_pred)
        return dy_true, dy_pred

    return (clipped_t * log_ratio).sum(axis=-1), backward


@register("loss")
@op
def poisson(y_true, y_pred, /):
    """Negative log-likelihood of counts under a Poisson distribution, without its constant.

        y       = mean(y_pred - y_true · log(y_pred + ε))
        dy_pred = dy (1 - y_true / (y_pred + ε)) / n,   dy_true = -dy · log(y_pred + ε) / n

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> round(poisson([[1.0, 1.0]], [[1.0, 1.0]]).item(), 3)
        1.0
    """
    t, p, n = _pair("poisson", y_true, y_pred, squeeze=False)
    xp = devices.array_module(p)
    rate = p + dtypes.epsilon()
    log_rate = xp.log(rate)

    def backward(dy, needs):
        d = _spread(dy, 1 / n)
        dy_true = gradient_of(-log_rate * d, t, y_true) if needs.y_true else None
        dy_pred = gradient_of((1 - t / rate) * d, p, y_pred) if needs.y_pred else None
        return dy_true, dy_pred

    return _mean(p - t * log_rate, n), backward


@register("loss")
@op
def hinge(y_true, y_pred, /):
    """How far predictions are from the right side's margin.

        y       = mean(max(1 - y_true · y_pred, 0))
        dy_pred = -dy · y_true / n   where 1 - y_true · y_pred > 0

    Where all labels are 0 or 1 they are read as -1 and 1.

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> hinge([[-1.0, 1.0]], [[0.5, 0.5]]).numpy()
        array([1.], dtype=float32)
    """
    t, p, n = _pair("hinge", y_true, y_pred, squeeze=False)
    xp = devices.array_module(p)
    sign, slope = _signed(t)
    margin = xp.maximum(1 - sign * p, 0)

    def backward(dy, needs):
        d = (margin > 0) * _spread(dy, -1 / n)
        dy_true = gradient_of(d * p * slope, t, y_true) if needs.y_true else None
        dy_pred = gradient_of(d * sign, p, y_pred) if needs.y_pred else None
        return dy_true, dy_pred

    return _mean(margin, n), backward


@register("loss")
@op
def squared_hinge(y_true, y_pred, /):
    """Squared distance of predictions from the right side's margin.

        y       = mean(m²),   m = max(1 - y_true · y_pred, 0)
        dy_pred = -dy · 2/n · m · y_true

    Where all labels are 0 or 1 they are read as -1 and 1.

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> squared_hinge([[-1.0, 1.0]], [[0.5, 0.5]]).numpy()
        array([1.25], dtype=float32)
    """
    t, p, n = _pair("squared_hinge", y_true, y_pred, squeeze=False)
    xp = devices.array_module(p)
    sign, slope = _signed(t)
    margin = xp.maximum(1 - sign * p, 0)

    def backward(dy, needs):
        d = margin * _spread(dy, -2 / n)
        dy_true = gradient_of(d * p * slope, t, y_true) if needs.y_true else None
        dy_pred = gradient_of(d * sign, p, y_pred) if needs.y_pred else None
        return dy_true, dy_pred

    return _mean(margin * margin, n), backward


@register("loss")
@op
def categorical_hinge(y_true, y_pred, /):
    """Hinge between the true class's prediction and the largest other one.

        y = max(neg - pos + 1, 0),   pos = Σ y_true · y_pred, neg = max((1 - y_true) · y_pred)
        dy_pred = dy ((1 - y_true) at the maximum - y_true)   where y > 0

    Shapes:
        y_true, y_pred (..., n)  ->  y (...)

    Example:
        >>> categorical_hinge([[0.0, 1.0]], [[0.5, 0.75]]).numpy()
        array([0.75], dtype=float32)
    """
    t, p, _ = _pair("categorical_hinge", y_true, y_pred, squeeze=False)
    xp = devices.array_module(p)
    others = (1 - t) * p
    largest = others.max(axis=-1, keepdims=True)
    y = xp.maximum(largest[..., 0] - (t * p).sum(axis=-1) + 1, 0)

    def backward(dy, needs):
        d = (dy * (y > 0))[..., None]
        at_largest = (others == largest).astype(p.dtype)
        at_largest /= at_largest.sum(axis=-1, keepdims=True)  # equal ones share the gradient
        dy_true = gradient_of(-d * p * (at_largest + 1), t, y_true) if needs.y_true else None
        dy_pred = gradient_of(d * ((1 - t) * at_largest - t), p, y_pred) if needs.y_pred else None
        return dy_true, dy_pred

    return y, backward


_mean_forms: dict[Any, Any] = {}  # loss function -> its mean of raw arrays, or None where it cannot give it at once
_widening = set()  # those whose mean of short predictions on a GPU is what it would be of them in float32


def mean_form(function, widens=False):
    """Use the decorated function for the mean of `function`: it takes the same, raw arrays, and gives ``y, backward``.

    For the losses of small models, whose steps are made of NumPy's calls. It may return None for arguments that it
    cannot treat; where `function` is no op it may not.

    Args:
        function: The loss function.
        widens: Whether the mean is float32 where predictions on a GPU are shorter, and computed so.
    """

    def register_form(form):
        _mean_forms[function] = form
        if widens:
            _widening.add(function)
        return form

    return register_form


def has_mean_in(dtype, function, y_pred):
    """Whether `mean_of` computes this loss function in a dtype, without a cast of the predictions."""
    if y_pred.dtype == dtype:
        return True
    return function in _widening and cuda.runs_on(y_pred) and cuda.wide_dtype(y_pred.dtype) == dtype


def has_mean(function, settings):
    """Whether `mean_of` takes this loss function with these settings."""
    return hasattr(function, "function") or (function in _mean_forms and settings.get("ignore_class") is None)


@op
def mean_of(y_true, y_pred, /, function, settings, dtype=None):
    """Mean of all values of one of these loss functions: `reduce_loss` and the function in one op.

    Args:
        y_true, y_pred: What the function takes.
        function: The loss function, an op of ``(y_true, y_pred)`` or one with a `mean_form`.
        settings: Dictionary of its other arguments.
        dtype: That of the result, as `has_mean_in` takes it; None for that of `y_pred`.

    Shapes:
        y ()

    Example:
        >>> mean_of(np.zeros((3, 1)), np.ones((3, 1)), mean_squared_error, {}).numpy()
        array(1.)
    """
    form = _mean_forms.get(function)
    made = None if form is None else form(y_true, y_pred, **settings)
    if made is not None:
        y, backward = made
        dtype = dtype or floating(y_pred).dtype
        return made if y.dtype == dtype else (y.astype(dtype), backward)
    values, backward = function.function(y_true, y_pred, **settings)
    xp = devices.array_module(values)
    factor = 1 / values.size if values.size else 0
    y = (values.sum() if values.dtype.itemsize >= 4 else values.sum(dtype=np.float32)) * factor

    def mean_backward(dy, needs):
        d = xp.empty(values.shape, values.dtype)
        d[...] = dy * factor
        return backward(d, needs)

    return xp.asarray(y, values.dtype), mean_backward


def is_alike(y_true, y_pred):
    """Whether both are arrays of one shape and one dtype, float32 or float64."""
    dtype = y_pred.dtype
    return y_true.shape == y_pred.shape and y_true.dtype == dtype and dtype.char in "fd" and y_pred.size > 0


@mean_form(mean_squared_error)
def _mean_of_squared_errors(y_true, y_pred):
    if not y_pred.ndim or not is_alike(y_true, y_pred):
        return None
    total, error = kernels.squared_error(y_pred, y_true)
    size = y_pred.size

    def backward(dy, needs):
        d = error * (dy[()] * (2 / size))  # NumPy multiplies numbers faster than arrays of shape ()
        return -d if needs[0] else None, d if needs[1] else None

    return total * (1 / size), backward


def _pair(name, y_true, y_pred, squeeze=True):
    """Both in the float dtype of y_pred and with ranks aligned, and the size of the last axis."""
    p = floating(as_array(y_pred))
    t = as_array(y_true)
    if t.dtype != p.dtype:
        t = t.astype(p.dtype)
    if t.shape != p.shape:
        if squeeze:
            t, p = same_rank(t, p)
        shape = check_shapes(name, t, p)
    else:
        shape = p.shape
    if not shape:
        raise ValueError(f"{name} needs at least one axis, but got y_true and y_pred of shape ().")
    return t, p, shape[-1] or 1


def check_shapes(name, t, p):
    """The shape that both broadcast to, or an error that names the function and both shapes."""
    try:
        return np.broadcast_shapes(t.shape, p.shape)
    except ValueError:
        raise ValueError(
            f"{name} compares y_true and y_pred element by element, but got shapes {t.shape} "
            f"and {p.shape}. Give both the shape of the model's output."
        ) from None


def floating(x):
    """x as it is where it is a float, else in the default float type."""
    return x if dtypes.is_float(x.dtype) else x.astype(dtypes.floatx())


def _mean(x, n):
    """Mean over the last axis of size n; short floats are summed up in float32."""
    if x.shape[-1] == 1:
        return x[..., 0]
    if x.dtype.itemsize >= 4:
        return x.sum(axis=-1) / n
    return (x.sum(axis=-1, dtype=np.float32) / n).astype(x.dtype)


def _spread(dy, factor):
    """dy · factor, with an axis for the terms of the mean."""
    return (dy * factor)[..., None]


def _of_error(d, needs, t, p, y_true, y_pred):
    """The gradients of y_true and y_pred from that of the error y_pred - y_true."""
    dy_true = gradient_of(-d, t, y_true) if needs.y_true else None
    return dy_true, gradient_of(d, p, y_pred) if needs.y_pred else None


def gradient_of(d, view, x):
    """The gradient of the broadcast, cast, reshaped `view` of x as a gradient of x."""
    if not hasattr(x, "shape"):
        return None
    if d.shape != x.shape:
        d = unbroadcast(d, view).reshape(x.shape)
    return d if d.dtype == x.dtype else d.astype(x.dtype)


def _normalize(xp, x, axis):
    """x / |x| with |x| at least ε, 1 / |x|, and whether the norm was that long."""
    inverse = xp.sqrt((x * x).sum(axis=axis, keepdims=True))
    limit = dtypes.epsilon()
    is_long = inverse > limit
    inverse = 1 / xp.maximum(inverse, limit)
    return x * inverse, inverse, is_long


def _signed(t):
    """Labels as -1 and 1, and the slope of that change: 2 where all labels are 0 or 1, else 1."""
    is_binary = ((t == 0) | (t == 1)).all().astype(t.dtype)
    return t * (1 + is_binary) - is_binary, 1 + is_binary
