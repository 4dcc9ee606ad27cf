"""Activation functions of straight (or parabolic) pieces: rectifiers, hard sigmoids, shrinkage."""

from gpukeras.autograd.op import op
from gpukeras.backend import devices
from gpukeras.kernels import activation as kernels
from gpukeras.ops.activation import in_float32_or_wider
from gpukeras.ops.elementwise import as_float, unbroadcast

__all__ = [
    "bounded_relu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "parametric_relu",
    "relu",
    "relu6",
    "soft_shrink",
    "sparse_plus",
    "sparse_sigmoid",
    "threshold",
]


@op
def relu(x, /):
    """Rectified linear unit.

        y  = max(x, 0)
        dx = dy where x > 0, else 0

    Example:
        >>> relu([-1.0, 2.0]).numpy()
        array([0., 2.], dtype=float32)
    """
    if getattr(x, "dtype", None) == "bool":
        x = x.astype("int32")
    y = kernels.relu(x)

    def backward(dy, needs):
        return (kernels.relu_backward(dy, y),)

    return y, backward


@op
@in_float32_or_wider
def relu6(x, /):
    """Rectified linear unit that saturates at 6.

        y  = min(max(x, 0), 6)
        dx = dy where 0 < x < 6, else 0

    Example:
        >>> relu6([-1.0, 2.0, 9.0]).numpy()
        array([0., 2., 6.], dtype=float32)
    """
    y = devices.array_module(x).clip(x, 0, 6)

    def backward(dy, needs):
        return (dy * ((y > 0) & (y < 6)),)

    return y, backward


@op
@in_float32_or_wider
def leaky_relu(x, /, negative_slope=0.2):
    """Rectified linear unit with a slope below zero.

        y  = x where x ≥ 0, else negative_slope · x
        dx = dy where x ≥ 0, else negative_slope · dy

    Example:
        >>> leaky_relu([-1.0, 2.0]).numpy()
        array([-0.2,  2. ], dtype=float32)
    """
    xp = devices.array_module(x)

    def backward(dy, needs):
        return (xp.where(x >= 0, dy, dy * negative_slope),)

    return xp.where(x >= 0, x, x * negative_slope), backward


@op
def parametric_relu(x, alpha, /):
    """Rectified linear unit whose slope below zero is learned.

        y      = max(x, 0) + alpha · min(x, 0)
        dx     = dy where x > 0, alpha · dy where x < 0, else 0
        dalpha = min(x, 0) · dy, summed over the axes along which alpha was broadcast

    Reference: He et al., "Delving Deep into Rectifiers" (2015).

    Example:
        >>> parametric_relu([-1.0, 2.0], np.float32([0.5, 0.5])).numpy()
        array([-0.5,  2. ], dtype=float32)
    """
    x = as_float(x)
    xp = devices.array_module(x)
    below = xp.minimum(x, 0)

    def backward(dy, needs):
        dx = unbroadcast(dy * ((x > 0) + alpha * (x < 0)), x) if needs.x else None
        return dx, unbroadcast(dy * below, alpha) if needs.alpha else None

    return (xp.maximum(x, 0) + alpha * below).astype(x.dtype, copy=False), backward


@op
@in_float32_or_wider
def bounded_relu(x, /, negative_slope=0.0, max_value=None, threshold=0.0):
    """Rectified linear unit with a slope, an upper bound and a threshold.

        y  = max_value                          where x ≥ max_value
             x                                  where threshold < x < max_value
             negative_slope · (x - threshold)   elsewhere
        dx = 0, dy or negative_slope · dy       likewise

    Example:
        >>> bounded_relu([-1.0, 2.0, 9.0], max_value=6.0, threshold=3.0).numpy()
        array([0., 0., 6.], dtype=float32)
    """
    xp = devices.array_module(x)
    is_on = x > threshold
    y = xp.where(is_on, x, 0)
    passes = is_on
    if max_value is not None:
        y = xp.clip(y, 0, max_value)
        passes = is_on & (x < max_value) & (x > 0)
    if negative_slope:
        y = xp.where(is_on, y, negative_slope * (x - threshold))

    def backward(dy, needs):
        dx = dy * passes
        return (xp.where(is_on, dx, dy * negative_slope) if negative_slope else dx,)

    return y, backward


@op
@in_float32_or_wider
def hard_sigmoid(x, /):
    """A sigmoid of three straight pieces.

        y  = min(max(x / 6 + 1/2, 0), 1)
        dx = dy / 6 where -3 < x < 3, else 0

    Example:
        >>> hard_sigmoid([-4.0, 0.0, 1.5]).numpy()
        array([0.  , 0.5 , 0.75], dtype=float32)
    """
    y = _ramp(x)

    def backward(dy, needs):
        return (dy * (abs(x) < 3.0) * (1.0 / 6.0),)

    return y, backward


def _ramp(x):
    y = devices.array_module(x).clip(x + 3.0, 0.0, 6.0)
    y *= 1.0 / 6.0
    return y


@op
@in_float32_or_wider
def hard_silu(x, /):
    """The silu with a hard sigmoid, also called hard swish.

        y  = x · h                                      with h = hard_sigmoid(x)
        dx = (h + x / 6) · dy where -3 < x < 3, else h · dy

    Example:
        >>> hard_silu([-4.0, 1.5, 4.0]).numpy()
        array([-0.   ,  1.125,  4.   ], dtype=float32)
    """
    h = _ramp(x)

    def backward(dy, needs):
        return (dy * (h + x * (abs(x) < 3.0) * (1.0 / 6.0)),)

    return x * h, backward


hard_swish = hard_silu


@op
def hard_tanh(x, /):
    """A tanh of three straight pieces.

        y  = min(max(x, -1), 1)
        dx = dy where -1 ≤ x ≤ 1, else 0

    Example:
        >>> hard_tanh([-4.0, 0.5, 4.0]).numpy()
        array([-1. ,  0.5,  1. ], dtype=float32)
    """
    xp = devices.array_module(x)
    y = xp.minimum(xp.maximum(x, -1), 1)

    def backward(dy, needs):
        return (dy * (abs(x) <= 1),)

    return y, backward


@op
@in_float32_or_wider
def soft_shrink(x, /, threshold=0.5):
    """Moves every element towards zero by `threshold`, and to zero where it is smaller.

        y  = sign(x) · max(|x| - threshold, 0)
        dx = dy where |x| > threshold, else 0

    Example:
        >>> soft_shrink([-2.0, 0.25, 1.0]).numpy()
        array([-1.5,  0. ,  0.5], dtype=float32)
    """
    xp = devices.array_module(x)
    y = xp.where(x > threshold, x - threshold, xp.where(x < -threshold, x + threshold, 0.0))

    def backward(dy, needs):
        return (dy * (abs(x) > threshold),)

    return y, backward


@op
@in_float32_or_wider
def hard_shrink(x, /, threshold=0.5):
    """Sets elements to zero that are not larger than `threshold`.

        y  = x where |x| > threshold, else 0
        dx = dy where |x| > threshold, else 0

    Example:
        >>> hard_shrink([-2.0, 0.25, 1.0]).numpy()
        array([-2.,  0.,  1.], dtype=float32)
    """
    is_on = abs(x) > threshold

    def backward(dy, needs):
        return (dy * is_on,)

    return devices.array_module(x).where(is_on, x, 0), backward


@op
@in_float32_or_wider
def threshold(x, /, threshold, default_value):
    """Replaces elements that do not exceed a threshold.

        y  = x where x > threshold, else default_value
        dx = dy where x > threshold, else 0

    Example:
        >>> threshold([-2.0, 0.25, 1.0], 0.5, 9.0).numpy()
        array([9., 9., 1.], dtype=float32)
    """
    is_on = x > threshold

    def backward(dy, needs):
        return (dy * is_on,)

    return devices.array_module(x).where(is_on, x, default_value).astype(x.dtype, copy=False), backward


@op
@in_float32_or_wider
def sparse_plus(x, /):
    """A softplus that is exactly 0 below -1 and exactly x above 1.

        y  = 0 where x ≤ -1, x where x ≥ 1, else (x + 1)² / 4
        dx = sparse_sigmoid(x) · dy

    Example:
        >>> sparse_plus([-2.0, 0.0, 3.0]).numpy()
        array([0.  , 0.25, 3.  ], dtype=float32)
    """
    xp = devices.array_module(x)
    slope = xp.clip(0.5 * x + 0.5, 0.0, 1.0)

    def backward(dy, needs):
        return (dy * slope,)

    return xp.where(x >= 1.0, x, slope * slope), backward


@op
@in_float32_or_wider
def sparse_sigmoid(x, /):
    """A sigmoid that is exactly 0 below -1 and exactly 1 above 1: the derivative of sparse_plus.

        y  = min(max((x + 1) / 2, 0), 1)
        dx = dy / 2 where -1 < x < 1, else 0

    Example:
        >>> sparse_sigmoid([-2.0, 0.0, 3.0]).numpy()
        array([0. , 0.5, 1. ], dtype=float32)
    """

    def backward(dy, needs):
        return (dy * (abs(x) < 1.0) * 0.5,)

    return devices.array_module(x).clip(0.5 * x + 0.5, 0.0, 1.0), backward
