"""Convolution layers whose filters see one channel each: depthwise, and separable with a mix after it."""

from gpukeras import ops
from gpukeras.layers.convolution import ConvolutionLayer
from gpukeras.layers.core import positive_integer
from gpukeras.registry import register

__all__ = [
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "SeparableConv1D",
    "SeparableConv2D",
    "SeparableConvolution1D",
    "SeparableConvolution2D",
]


class _DepthwiseConv(ConvolutionLayer):
    """Convolution of every channel by itself."""

    def __init__(
        self,
        kernel_size,
        strides=1,
        padding="valid",
        depth_multiplier=1,
        data_format=None,
        dilation_rate=1,
        activation=None,
        use_bias=True,
        depthwise_initializer="glorot_uniform",
        bias_initializer="zeros",
        depthwise_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        depthwise_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self._set_up(
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            bias_regularizer=bias_regularizer,
            depthwise_constraint=depthwise_constraint,
            bias_constraint=bias_constraint,
        )
        self.depth_multiplier = positive_integer(self, "depth_multiplier", depth_multiplier)

    def build(self, input_shape):
        """Make kernel and bias."""
        channels = self._channels(input_shape)
        self.compute_output_shape(input_shape)
        self._expect(channels)
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        self.kernel = self._add("kernel", shape, kind="depthwise")
        if self.use_bias:
            self.bias = self._add("bias", (channels * self.depth_multiplier,))

    def call(self, inputs):
        """activation(depthwise convolution of inputs + bias)."""
        y = ops.depthwise_conv(
            inputs,
            self.kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        return self._finish(y)

    def compute_output_shape(self, input_shape):
        """One place per window, and `depth_multiplier` channels for each of the input's."""
        filters = self._channels(input_shape) * self.depth_multiplier
        return self._window_shape(input_shape, filters)


@register("layer")
class DepthwiseConv1D(_DepthwiseConv):
    """Convolution of every channel of a sequence by itself, with filters of its own.

        y[o, c · m + i] = activation(Σ over k of  x[o · stride + k · dilation, c] · kernel[k, c, i] + bias)

    Args:
        kernel_size: Steps that a window sees.
        strides: Steps from window to window.
        padding: "valid" (none) or "same" (as many windows as steps, at stride 1).
        depth_multiplier: Number of filters for each channel.
        data_format: "channels_last" or "channels_first"; None for the default.
        dilation_rate: Distance of the steps within a window.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        depthwise_initializer, bias_initializer: Where the weights start.
        depthwise_regularizer, bias_regularizer, activity_regularizer: Penalties added to the loss.
        depthwise_constraint, bias_constraint: Projections applied after each update.

    Shapes:
        x (batch, steps, channels)  ->  y (batch, new steps, channels · depth_multiplier);
        channels_first: channels second
        kernel (kernel_size, channels, depth_multiplier), bias (channels · depth_multiplier,)

    Source: https://keras.io/api/layers/convolution_layers/depthwise_convolution1d/

    Example:
        >>> DepthwiseConv1D(3, depth_multiplier=2)(np.ones((2, 10, 3))).shape
        (2, 8, 6)
    """

    rank = 1


@register("layer")
class DepthwiseConv2D(_DepthwiseConv):
    """Convolution of every channel of an image by itself, with filters of its own.

        y[o, c · m + i] = activation(Σ over k of  x[o · stride + k · dilation, c] · kernel[k, c, i] + bias)

    Args:
        kernel_size: Height and width of a window, or one int for both.
        strides: Steps from window to window.
        padding: "valid" (none) or "same" (as many windows as places, at stride 1).
        depth_multiplier: Number of filters for each channel.
        data_format: "channels_last" or "channels_first"; None for the default.
        dilation_rate: Distance of the places within a window.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        depthwise_initializer, bias_initializer: Where the weights start.
        depthwise_regularizer, bias_regularizer, activity_regularizer: Penalties added to the loss.
        depthwise_constraint, bias_constraint: Projections applied after each update.

    Shapes:
        x (batch, height, width, channels)
        ->  y (batch, new height, new width, channels · depth_multiplier); channels_first: channels
        second
        kernel (*kernel_size, channels, depth_multiplier), bias (channels · depth_multiplier,)

    Source: https://keras.io/api/layers/convolution_layers/depthwise_convolution2d/

    Example:
        >>> DepthwiseConv2D(3, padding="same")(np.ones((2, 8, 8, 3))).shape
        (2, 8, 8, 3)
    """

    rank = 2


class _SeparableConv(ConvolutionLayer):
    """Depthwise convolution followed by a mix of the channels at every place."""

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="valid",
        data_format=None,
        dilation_rate=1,
        depth_multiplier=1,
        activation=None,
        use_bias=True,
        depthwise_initializer="glorot_uniform",
        pointwise_initializer="glorot_uniform",
        bias_initializer="zeros",
        depthwise_regularizer=None,
        pointwise_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        depthwise_constraint=None,
        pointwise_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self._set_up(
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            pointwise_initializer=pointwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            pointwise_regularizer=pointwise_regularizer,
            bias_regularizer=bias_regularizer,
            depthwise_constraint=depthwise_constraint,
            pointwise_constraint=pointwise_constraint,
            bias_constraint=bias_constraint,
        )
        self.filters = positive_integer(self, "filters", filters)
        self.depth_multiplier = positive_integer(self, "depth_multiplier", depth_multiplier)

    def build(self, input_shape):
        """Make both kernels and the bias."""
        channels = self._channels(input_shape)
        self.compute_output_shape(input_shape)
        self._expect(channels)
        depthwise = (*self.kernel_size, channels, self.depth_multiplier)
        pointwise = (*(1,) * self.rank, channels * self.depth_multiplier, self.filters)
        self.depthwise_kernel = self._add("depthwise_kernel", depthwise, kind="depthwise")
        self.pointwise_kernel = self._add("pointwise_kernel", pointwise, kind="pointwise")
        if self.use_bias:
            self.bias = self._add("bias", (self.filters,))

    def call(self, inputs):
        """activation(separable convolution of inputs + bias)."""
        y = ops.separable_conv(
            inputs,
            self.depthwise_kernel,
            self.pointwise_kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        return self._finish(y)

    def compute_output_shape(self, input_shape):
        """One place per window, and `filters` channels."""
        return self._window_shape(input_shape, self.filters)


@register("layer", "SeparableConvolution1D")
class SeparableConv1D(_SeparableConv):
    """Convolution of every channel of a sequence by itself, then a mix of the channels at each step.

        h = depthwise convolution of x,  y = activation(h · pointwise_kernel + bias)

    Args:
        filters: Number of filters, the output's channels.
        kernel_size: Steps that a window sees.
        strides: Steps from window to window.
        padding: "valid" (none) or "same" (as many windows as steps, at stride 1).
        data_format: "channels_last" or "channels_first"; None for the default.
        dilation_rate: Distance of the steps within a window.
        depth_multiplier: Number of depthwise filters for each channel.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        depthwise_initializer, pointwise_initializer, bias_initializer: Where the weights start.
        depthwise_regularizer, pointwise_regularizer, bias_regularizer, activity_regularizer:
            Penalties added to the loss.
        depthwise_constraint, pointwise_constraint, bias_constraint: Projections applied after each
            update.

    Shapes:
        x (batch, steps, channels)  ->  y (batch, new steps, filters); channels_first: channels second
        depthwise_kernel (kernel_size, channels, depth_multiplier),
        pointwise_kernel (1, channels · depth_multiplier, filters), bias (filters,)

    Source: https://keras.io/api/layers/convolution_layers/separable_convolution1d/

    Example:
        >>> SeparableConv1D(4, 3)(np.ones((2, 10, 3))).shape
        (2, 8, 4)
    """

    rank = 1


@register("layer", "SeparableConvolution2D")
class SeparableConv2D(_SeparableConv):
    """Convolution of every channel of an image by itself, then a mix of the channels at each place.

        h = depthwise convolution of x,  y = activation(h · pointwise_kernel + bias)

    Args:
        filters: Number of filters, the output's channels.
        kernel_size: Height and width of a window, or one int for both.
        strides: Steps from window to window.
        padding: "valid" (none) or "same" (as many windows as places, at stride 1).
        data_format: "channels_last" or "channels_first"; None for the default.
        dilation_rate: Distance of the places within a window.
        depth_multiplier: Number of depthwise filters for each channel.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        depthwise_initializer, pointwise_initializer, bias_initializer: Where the weights start.
        depthwise_regularizer, pointwise_regularizer, bias_regularizer, activity_regularizer:
            Penalties added to the loss.
        depthwise_constraint, pointwise_constraint, bias_constraint: Projections applied after each
            update.

    Shapes:
        x (batch, height, width, channels)  ->  y (batch, new height, new width, filters);
        channels_first: channels second
        depthwise_kernel (*kernel_size, channels, depth_multiplier),
        pointwise_kernel (1, 1, channels · depth_multiplier, filters), bias (filters,)

    Source: https://keras.io/api/layers/convolution_layers/separable_convolution2d/

    Example:
        >>> SeparableConv2D(4, 3, padding="same")(np.ones((2, 8, 8, 3))).shape
        (2, 8, 8, 4)
    """

    rank = 2


SeparableConvolution1D, SeparableConvolution2D = SeparableConv1D, SeparableConv2D
