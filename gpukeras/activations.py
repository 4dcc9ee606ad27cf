"""Keras's activation functions, by name or as functions, with Keras's defaults."""

from typing import Any

from gpukeras import ops, registry
from gpukeras.configurable import serialize as _serialize
from gpukeras.ops import activation, piecewise, simplex
from gpukeras.registry import register

__all__ = [
    "celu",
    "deserialize",
    "elu",
    "exponential",
    "gelu",
    "get",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "serialize",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "swish",
    "tanh",
    "tanh_shrink",
    "threshold",
]


@register("activation")
def relu(x, negative_slope=0.0, max_value=None, threshold=0.0):
    """Rectified linear unit: max(x, 0), with a slope, an upper bound and a threshold if wanted.

    Example:
        >>> relu([-1.0, 2.0, 9.0], max_value=6.0).numpy()
        array([0., 2., 6.], dtype=float32)
    """
    if max_value is None and not threshold:
        return piecewise.leaky_relu(x, negative_slope) if negative_slope else piecewise.relu(x)
    return piecewise.bounded_relu(x, negative_slope, max_value, threshold)


@register("activation")
def leaky_relu(x, negative_slope=0.2):
    """Rectified linear unit with a slope below zero.

    Example:
        >>> leaky_relu([-1.0, 2.0]).numpy()
        array([-0.2,  2. ], dtype=float32)
    """
    return piecewise.leaky_relu(x, negative_slope)


@register("activation")
def relu6(x):
    """Rectified linear unit that saturates at 6.

    Example:
        >>> relu6([-1.0, 9.0]).numpy()
        array([0., 6.], dtype=float32)
    """
    return piecewise.relu6(x)


@register("activation")
def softmax(x, axis=-1):
    """Positive numbers that add up to one along an axis (or a tuple of axes).

    Example:
        >>> softmax([[1.0, 1.0]]).numpy()
        array([[0.5, 0.5]], dtype=float32)
    """
    return simplex.softmax(x, axis)


@register("activation")
def elu(x, alpha=1.0):
    """Exponential linear unit: x where x > 0, else alpha · (exp(x) - 1).

    Example:
        >>> elu([-100.0, 2.0]).numpy()
        array([-1.,  2.], dtype=float32)
    """
    return activation.elu(x, alpha)


@register("activation")
def selu(x):
    """Scaled exponential linear unit, for self-normalizing networks.

    Example:
        >>> selu([1.0]).numpy().round(3)
        array([1.051], dtype=float32)
    """
    return activation.selu(x)


@register("activation")
def softplus(x):
    """log(1 + exp(x)).

    Example:
        >>> softplus([0.0, 100.0]).numpy().round(3)
        array([  0.693, 100.   ], dtype=float32)
    """
    return activation.softplus(x)


@register("activation")
def softsign(x):
    """x / (1 + |x|).

    Example:
        >>> softsign([-1.0, 3.0]).numpy()
        array([-0.5 ,  0.75], dtype=float32)
    """
    return activation.softsign(x)


@register("activation")
def soft_shrink(x, threshold=0.5):
    """Moves every element towards zero by a threshold, and to zero where it is smaller.

    Example:
        >>> soft_shrink([-2.0, 0.25]).numpy()
        array([-1.5,  0. ], dtype=float32)
    """
    return piecewise.soft_shrink(x, threshold)


@register("activation")
def sparse_plus(x):
    """A softplus that is exactly 0 below -1 and exactly x above 1.

    Example:
        >>> sparse_plus([-2.0, 0.0, 3.0]).numpy()
        array([0.  , 0.25, 3.  ], dtype=float32)
    """
    return piecewise.sparse_plus(x)


@register("activation", "swish")
def silu(x):
    """x · sigmoid(x), also called swish.

    Example:
        >>> silu([0.0, 2.0]).numpy().round(3)
        array([0.   , 1.762], dtype=float32)
    """
    return activation.silu(x)


swish = silu


@register("activation")
def squareplus(x, b=4):
    """(x + sqrt(x² + b)) / 2.

    Example:
        >>> squareplus([0.0, 1.5]).numpy()
        array([1., 2.], dtype=float32)
    """
    return activation.squareplus(x, b)


@register("activation")
def gelu(x, approximate=False):
    """x · Φ(x), the Gaussian error linear unit; `approximate` takes the form with tanh.

    Example:
        >>> gelu([-1.0, 2.0]).numpy().round(4)
        array([-0.1587,  1.9545], dtype=float32)
    """
    return activation.gelu(x, approximate)


@register("activation")
def celu(x, alpha=1.0):
    """Continuously differentiable exponential linear unit.

    Example:
        >>> celu([-100.0, 2.0]).numpy()
        array([-1.,  2.], dtype=float32)
    """
    return activation.celu(x, alpha)


@register("activation")
def glu(x, axis=-1):
    """Gated linear unit: the first half of an axis times the sigmoid of the second.

    Example:
        >>> glu([2.0, 0.0]).numpy()
        array([1.], dtype=float32)
    """
    return activation.glu(x, axis)


@register("activation")
def tanh(x):
    """Hyperbolic tangent.

    Example:
        >>> tanh([0.0, 100.0]).numpy()
        array([0., 1.], dtype=float32)
    """
    return ops.tanh(x)


@register("activation")
def tanh_shrink(x):
    """x - tanh(x).

    Example:
        >>> tanh_shrink([0.0, 2.0]).numpy().round(3)
        array([0.   , 1.036], dtype=float32)
    """
    return activation.tanh_shrink(x)


@register("activation")
def hard_tanh(x):
    """min(max(x, -1), 1).

    Example:
        >>> hard_tanh([-4.0, 0.5]).numpy()
        array([-1. ,  0.5], dtype=float32)
    """
    return piecewise.hard_tanh(x)


@register("activation")
def hard_shrink(x, threshold=0.5):
    """Sets elements to zero that are not larger than a threshold.

    Example:
        >>> hard_shrink([-2.0, 0.25]).numpy()
        array([-2.,  0.], dtype=float32)
    """
    return piecewise.hard_shrink(x, threshold)


@register("activation")
def threshold(x, threshold, default_value):
    """Replaces elements that do not exceed a threshold.

    Example:
        >>> threshold([0.25, 1.0], 0.5, 9.0).numpy()
        array([9., 1.], dtype=float32)
    """
    return piecewise.threshold(x, threshold, default_value)


@register("activation")
def sigmoid(x):
    """1 / (1 + exp(-x)).

    Example:
        >>> sigmoid([0.0, 100.0]).numpy()
        array([0.5, 1. ], dtype=float32)
    """
    return activation.sigmoid(x)


@register("activation")
def exponential(x):
    """exp(x).

    Example:
        >>> exponential([0.0]).numpy()
        array([1.], dtype=float32)
    """
    return ops.exp(x)


@register("activation")
def hard_sigmoid(x):
    """min(max(x / 6 + 1/2, 0), 1).

    Example:
        >>> hard_sigmoid([-4.0, 0.0, 1.5]).numpy()
        array([0.  , 0.5 , 0.75], dtype=float32)
    """
    return piecewise.hard_sigmoid(x)


@register("activation")
def log_sigmoid(x):
    """log(sigmoid(x)).

    Example:
        >>> log_sigmoid([-100.0]).numpy()
        array([-100.], dtype=float32)
    """
    return activation.log_sigmoid(x)


@register("activation")
def sparse_sigmoid(x):
    """min(max((x + 1) / 2, 0), 1).

    Example:
        >>> sparse_sigmoid([-2.0, 0.0]).numpy()
        array([0. , 0.5], dtype=float32)
    """
    return piecewise.sparse_sigmoid(x)


@register("activation", "hard_swish")
def hard_silu(x):
    """x · hard_sigmoid(x), also called hard swish.

    Example:
        >>> hard_silu([1.5, 4.0]).numpy()
        array([1.125, 4.   ], dtype=float32)
    """
    return piecewise.hard_silu(x)


hard_swish = hard_silu


@register("activation")
def linear(x):
    """The identity.

    Example:
        >>> linear([1.0])
        [1.0]
    """
    return x


@register("activation")
def mish(x):
    """x · tanh(softplus(x)).

    Example:
        >>> mish([0.0, 2.0]).numpy().round(3)
        array([0.   , 1.944], dtype=float32)
    """
    return activation.mish(x)


@register("activation")
def log_softmax(x, axis=-1):
    """Logarithm of softmax, precise where softmax is almost zero.

    Example:
        >>> log_softmax([0.0, 100.0]).numpy()
        array([-100.,    0.], dtype=float32)
    """
    return simplex.log_softmax(x, axis)


@register("activation")
def sparsemax(x, axis=-1):
    """The nearest point of the probability simplex: a softmax with exact zeros.

    Example:
        >>> sparsemax([1.5, 1.0, 0.0]).numpy()
        array([0.75, 0.25, 0.  ], dtype=float32)
    """
    return simplex.sparsemax(x, axis)


def get(identifier) -> Any:
    """The activation that a name, a config, a function or None (`linear`) means.

    Example:
        >>> get("relu") is relu
        True
    """
    return linear if identifier is None else registry.resolve("activation", identifier)


def serialize(activation):
    """The name of an activation of this module, or the config of another one.

    Example:
        >>> serialize(swish)
        'silu'
    """
    return _serialize(activation)


def deserialize(config, custom_objects=None):
    """The activation that `serialize` wrote.

    Example:
        >>> deserialize("silu") is silu
        True
    """
    with registry.custom_object_scope(custom_objects):
        return get(config)
