"""Activations as layers."""

import warnings
from typing import Any

from gpukeras import activations, constraints, initializers, ops, regularizers
from gpukeras.layers.input_spec import InputSpec
from gpukeras.layers.layer import Layer
from gpukeras.ops import piecewise, simplex
from gpukeras.registry import register

__all__ = ["Activation", "ELU", "LeakyReLU", "PReLU", "ReLU", "Softmax"]


@register("layer")
class Activation(Layer):
    """Applies an activation function.

    Args:
        activation: Name or function.

    Shapes:
        x (...)  ->  y (...)

    Source: https://keras.io/api/layers/core_layers/activation/

    Example:
        >>> Activation("relu")(np.float32([-1.0, 2.0])).numpy()
        array([0., 2.], dtype=float32)
    """

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.activation = activations.get(activation)

    def call(self, inputs):
        """activation(inputs)."""
        return self.activation(inputs)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape


@register("layer")
class ReLU(Layer):
    """Rectified linear unit.

        y = max_value                           where x ≥ max_value
            x                                   where threshold < x < max_value
            negative_slope · (x - threshold)    elsewhere

    Args:
        max_value: Upper bound; None for none.
        negative_slope: Slope below the threshold.
        threshold: Below it the unit is off.

    Shapes:
        x (...)  ->  y (...)

    Source: https://keras.io/api/layers/activation_layers/relu/

    Example:
        >>> ReLU(max_value=6)(np.float32([-1.0, 2.0, 9.0])).numpy()
        array([0., 2., 6.], dtype=float32)
    """

    def __init__(self, max_value=None, negative_slope=0.0, threshold=0.0, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("negative_slope", negative_slope), ("threshold", threshold)):
            if value is None:
                raise ValueError(f"ReLU {self.name!r}: {name} must be a number from 0, but got None.")
        for name, value in (
            ("max_value", max_value),
            ("negative_slope", negative_slope),
            ("threshold", threshold),
        ):
            if value is not None and value < 0:
                raise ValueError(f"ReLU {self.name!r}: {name} must not be negative, but got {value}.")
        self.max_value = max_value
        self.negative_slope = negative_slope
        self.threshold = threshold
        self.supports_masking = True

    def call(self, inputs):
        """relu(inputs)."""
        return activations.relu(inputs, self.negative_slope, self.max_value, self.threshold)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape


@register("layer")
class LeakyReLU(Layer):
    """Rectified linear unit with a slope below zero.

        y = x where x ≥ 0, else negative_slope · x

    Args:
        negative_slope: Slope below zero.

    Shapes:
        x (...)  ->  y (...)

    Source: https://keras.io/api/layers/activation_layers/leaky_relu/

    Example:
        >>> LeakyReLU(0.5)(np.float32([-1.0, 2.0])).numpy()
        array([-0.5,  2. ], dtype=float32)
    """

    _not_in_config = ("alpha",)

    def __init__(self, negative_slope=0.3, **kwargs):
        if "alpha" in kwargs:
            negative_slope = kwargs.pop("alpha")
            warnings.warn("LeakyReLU: alpha is now called negative_slope.", DeprecationWarning, stacklevel=2)
        super().__init__(**kwargs)
        if negative_slope is None or negative_slope < 0:
            raise ValueError(
                f"LeakyReLU {self.name!r}: negative_slope must be a number from 0, but got {negative_slope}."
            )
        self.negative_slope = negative_slope
        self.supports_masking = True

    def call(self, inputs):
        """leaky_relu(inputs)."""
        return activations.leaky_relu(inputs, self.negative_slope)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape


@register("layer")
class PReLU(Layer):
    """Rectified linear unit whose slope below zero is learned, for every element of its own.

        y = x where x ≥ 0, else alpha · x

    Args:
        alpha_initializer: Where the slopes start.
        alpha_regularizer: Penalty on the slopes.
        alpha_constraint: Projection of the slopes after each update.
        shared_axes: Axes along which all elements share one slope: (1, 2) for one slope per channel
            of images (batch, height, width, channels).

    Shapes:
        x (batch, ...)  ->  y (batch, ...)
        alpha (...), 1 along shared axes

    Source: https://keras.io/api/layers/activation_layers/prelu/

    Example:
        >>> PReLU("ones")(np.float32([[-1.0, 2.0]])).numpy()
        array([[-1.,  2.]], dtype=float32)
    """

    def __init__(
        self,
        alpha_initializer="Zeros",
        alpha_regularizer=None,
        alpha_constraint=None,
        shared_axes=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.alpha_regularizer = regularizers.get(alpha_regularizer)
        self.alpha_constraint = constraints.get(alpha_constraint)
        if shared_axes is not None:
            shared_axes = list(shared_axes) if isinstance(shared_axes, (list, tuple)) else [shared_axes]
        self.shared_axes = shared_axes

    def build(self, input_shape):
        """Make the slopes."""
        shape = list(input_shape[1:])
        for axis in self.shared_axes or ():
            shape[axis - 1] = 1
        self.alpha = self.add_weight(
            name="alpha",
            shape=shape,
            initializer=self.alpha_initializer,
            regularizer=self.alpha_regularizer,
            constraint=self.alpha_constraint,
        )
        axes = {}
        if self.shared_axes:
            axes = {i: n for i, n in enumerate(input_shape) if i and i not in self.shared_axes}
        self.input_spec = InputSpec(ndim=len(input_shape), axes=axes)

    def call(self, inputs):
        """max(inputs, 0) + alpha · min(inputs, 0)."""
        return piecewise.parametric_relu(inputs, self.alpha)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape


@register("layer")
class ELU(Layer):
    """Exponential linear unit.

        y = x where x > 0, else alpha · (exp(x) - 1)

    Args:
        alpha: Minus the limit for very negative inputs.

    Shapes:
        x (...)  ->  y (...)

    Source: https://keras.io/api/layers/activation_layers/elu/

    Example:
        >>> ELU()(np.float32([-100.0, 2.0])).numpy()
        array([-1.,  2.], dtype=float32)
    """

    def __init__(self, alpha=1.0, **kwargs):
        super().__init__(**kwargs)
        self.alpha = alpha
        self.supports_masking = True

    def call(self, inputs):
        """elu(inputs)."""
        return activations.elu(inputs, self.alpha)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape


@register("layer")
class Softmax(Layer):
    """Positive numbers that add up to one; zero where a mask says so.

        y = exp(x) / Σ exp(x)       the sum along `axis`, over the elements in the mask

    Args:
        axis: Axis, or list of axes.

    Shapes:
        x (...), mask (...) of the same shape or one that broadcasts to it  ->  y (...)

    Source: https://keras.io/api/layers/activation_layers/softmax/

    Example:
        >>> Softmax()(np.float32([1.0, 1.0, 9.0]), mask=np.array([True, True, False])).numpy()
        array([0.5, 0.5, 0. ], dtype=float32)
    """

    def __init__(self, axis: Any = -1, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis
        self.supports_masking = True

    def call(self, inputs, mask=None):
        """softmax(inputs), with zeros where the mask is false."""
        if mask is not None:
            return simplex.masked_softmax(inputs, mask, self.axis)
        return ops.softmax(inputs, self.axis)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape
