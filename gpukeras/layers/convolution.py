"""Convolution layers over one, two and three spatial axes, plain and transposed."""

import inspect
from typing import Any

from gpukeras import activations, constraints, initializers, ops, regularizers
from gpukeras.backend import layout
from gpukeras.configurable import serialize
from gpukeras.layers.core import positive_integer, refuse
from gpukeras.layers.input_spec import InputSpec
from gpukeras.layers.layer import Layer
from gpukeras.ops import spatial
from gpukeras.ops.convolution import conv_transpose_with_bias, conv_with_bias, transposed_size
from gpukeras.registry import register

__all__ = [
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "Convolution1D",
    "Convolution1DTranspose",
    "Convolution2D",
    "Convolution2DTranspose",
    "Convolution3D",
    "Convolution3DTranspose",
]

_GETTERS = {
    "constraint": constraints.get,
    "initializer": initializers.get,
    "regularizer": regularizers.get,
}


class ConvolutionLayer(Layer):
    """What all convolution layers share. A subclass sets `rank`, its number of spatial axes."""

    rank: int
    activation: Any
    bias: Any
    use_bias: bool

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if vars(cls).get("rank", 1) > 1 and "__init__" not in vars(cls):
            cls.__init__ = with_defaults_per_axis(cls, cls.__init__)

    def get_config(self):
        """The constructor's arguments; Keras writes this family's activity_regularizer even if None."""
        config = super().get_config()
        return {**config, "activity_regularizer": serialize(self.activity_regularizer)}

    def _set_up(self, kernel_size, strides, padding, data_format, dilation_rate, **others):
        """Check and store the arguments; what makes or bounds weights becomes an object."""
        who = type(self).__name__
        allows_causal = isinstance(self, _Conv) and self.rank == 1
        choices = ("valid", "same", "causal") if allows_causal else ("valid", "same")
        self.kernel_size = spatial.per_axis(who, "kernel_size", kernel_size, self.rank)
        self.strides = spatial.per_axis(who, "strides", strides, self.rank)
        self.dilation_rate = spatial.per_axis(who, "dilation_rate", dilation_rate, self.rank)
        self.padding = spatial.padding_name(who, padding, choices)
        self.data_format = layout.standardize_data_format(data_format)
        for name, value in others.items():
            get = _GETTERS.get(name.rpartition("_")[2])
            setattr(self, name, get(value) if get else value)
        self.activation = activations.get(self.activation)
        self.input_spec = InputSpec(ndim=self.rank + 2)
        self.bias = None

    def _refuse_strides_with_dilation(self):
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                f"{type(self).__name__}: strides > 1 cannot go with dilation_rate > 1, but got "
                f"strides={self.strides} and dilation_rate={self.dilation_rate}. Set one of them to 1."
            )

    @property
    def _channel_axis(self):
        return -1 if self.data_format == "channels_last" else 1

    def _channels(self, input_shape):
        """Number of input channels, which must be known; from now on inputs must have as many."""
        if len(input_shape) != self.rank + 2:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} expects inputs with {self.rank + 2} axes "
                f"(batch, {self.rank} spatial, channels), but got shape {tuple(input_shape)}."
            )
        channels = input_shape[self._channel_axis]
        if channels is None:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} needs a known number of channels on axis "
                f"{self._channel_axis} ({self.data_format}), but got shape {tuple(input_shape)}. "
                f"Fix it in Input(shape)."
            )
        return channels

    def _expect(self, channels):
        self.input_spec = InputSpec(ndim=self.rank + 2, axes={self._channel_axis: channels})

    def _add(self, name, shape, kind=None):
        """A weight with the initializer, regularizer and constraint of its kind."""
        kind = kind or name
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=getattr(self, f"{kind}_initializer"),
            regularizer=getattr(self, f"{kind}_regularizer"),
            constraint=getattr(self, f"{kind}_constraint"),
        )

    def _finish(self, y):
        """Add the bias, where the op has not, and apply the activation."""
        if self.bias is not None:
            bias = self.bias
            if self.data_format == "channels_first":
                bias = ops.reshape(bias, (-1, *[1] * self.rank))
            y = ops.add(y, bias)
        return self._activate(y)

    def _activate(self, y):
        return y if self.activation is activations.linear else self.activation(y)

    def _shape_of(self, input_shape, sizes, filters):
        """The output's shape from its spatial sizes."""
        if self.data_format == "channels_last":
            return (input_shape[0], *sizes, filters)
        return (input_shape[0], filters, *sizes)

    def _space(self, input_shape):
        return input_shape[1:-1] if self.data_format == "channels_last" else input_shape[2:]

    def _window_shape(self, input_shape, filters):
        """The output's shape of a convolution, which must not be empty."""
        self._channels(input_shape)
        space = self._space(input_shape)
        sizes = spatial.output_sizes(space, self.kernel_size, self.strides, self.padding, self.dilation_rate)
        if 0 in sizes and 0 not in space:
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: windows of kernel_size={self.kernel_size} with "
                f"dilation_rate={self.dilation_rate} do not fit into the input's spatial shape "
                f"{tuple(space)} (input {tuple(input_shape)}, {self.data_format}). Use padding='same', a "
                f"smaller kernel, or fewer layers that shrink."
            )
        return self._shape_of(input_shape, sizes, filters)


def with_defaults_per_axis(cls, init):
    """`init` with a signature that shows one default per axis, as Keras's do: ``strides=(1, 1)``."""

    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)

    signature = inspect.signature(init)
    shown = [
        p.replace(default=(p.default,) * cls.rank)
        if p.name in ("strides", "dilation_rate", "pool_size") and isinstance(p.default, int)
        else p
        for p in signature.parameters.values()
    ]
    __init__.__signature__ = signature.replace(parameters=shown)
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    return __init__


class _Conv(ConvolutionLayer):
    """Convolution with `filters` filters, each over all channels of its group."""

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="valid",
        data_format=None,
        dilation_rate=1,
        groups=1,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        lora = {name: kwargs.pop(name, None) for name in ("lora_rank", "lora_alpha")}
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        refuse(self, **lora)
        self._set_up(
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
        )
        self._refuse_strides_with_dilation()
        self.filters = positive_integer(self, "filters", filters)
        self.groups = positive_integer(self, "groups", groups)
        if self.filters % self.groups:
            raise ValueError(
                f"{type(self).__name__}: filters must be a multiple of groups, but got "
                f"filters={filters} and groups={groups}."
            )

    def build(self, input_shape):
        """Make kernel and bias."""
        channels = self._channels(input_shape)
        if channels % self.groups:
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: the input's channels must be a multiple of "
                f"groups={self.groups}, but got {channels} (input shape {tuple(input_shape)})."
            )
        self.compute_output_shape(input_shape)
        self._expect(channels)
        self.kernel = self._add("kernel", (*self.kernel_size, channels // self.groups, self.filters))
        if self.use_bias:
            self.bias = self._add("bias", (self.filters,))

    def call(self, inputs):
        """activation(inputs * kernel + bias)."""
        y = conv_with_bias(
            inputs,
            self.kernel,
            self.bias,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
            is_rectified=self.activation is activations.relu,
        )
        return y if self.activation is activations.relu else self._activate(y)

    def compute_output_shape(self, input_shape):
        """One place per window, and `filters` channels."""
        return self._window_shape(input_shape, self.filters)


@register("layer", "Convolution1D")
class Conv1D(_Conv):
    """Convolution over the steps of a sequence.

        y[o] = activation(Σ over places k of  x[o · stride + k · dilation - low] · kernel[k] + bias)

    Args:
        filters: Number of filters, the output's channels.
        kernel_size: Steps that a window sees.
        strides: Steps from window to window.
        padding: "valid" (none), "same" (as many windows as steps, at stride 1) or "causal" (the
            same, and no window sees a later step).
        data_format: "channels_last" or "channels_first"; None for the default.
        dilation_rate: Distance of the steps within a window; not with strides > 1.
        groups: Groups of channels, each with filters of its own.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, bias_regularizer, activity_regularizer: Penalties added to the loss.
        kernel_constraint, bias_constraint: Projections applied after each update.

    Shapes:
        x (batch, steps, channels)  ->  y (batch, new steps, filters); channels_first: channels second
        kernel (kernel_size, channels / groups, filters), bias (filters,)

    Source: https://keras.io/api/layers/convolution_layers/convolution1d/

    Example:
        >>> Conv1D(4, 3, padding="causal", activation="relu")(np.ones((2, 10, 3))).shape
        (2, 10, 4)
    """

    rank = 1


@register("layer", "Convolution2D")
class Conv2D(_Conv):
    """Convolution over the height and width of images.

        y[o] = activation(Σ over places k of  x[o · stride + k · dilation - low] · kernel[k] + bias)

    Args:
        filters: Number of filters, the output's channels.
        kernel_size: Height and width of a window, or one int for both.
        strides: Steps from window to window.
        padding: "valid" (none) or "same" (as many windows as places, at stride 1).
        data_format: "channels_last" or "channels_first"; None for the default.
        dilation_rate: Distance of the places within a window; not with strides > 1.
        groups: Groups of channels, each with filters of its own.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, bias_regularizer, activity_regularizer: Penalties added to the loss.
        kernel_constraint, bias_constraint: Projections applied after each update.

    Shapes:
        x (batch, height, width, channels)  ->  y (batch, new height, new width, filters);
        channels_first: channels second
        kernel (*kernel_size, channels / groups, filters), bias (filters,)

    Source: https://keras.io/api/layers/convolution_layers/convolution2d/

    Example:
        >>> Conv2D(4, 3, padding="same", activation="relu")(np.ones((2, 28, 28, 1))).shape
        (2, 28, 28, 4)
    """

    rank = 2


@register("layer", "Convolution3D")
class Conv3D(_Conv):
    """Convolution over three spatial axes, such as those of a volume or a film.

        y[o] = activation(Σ over places k of  x[o · stride + k · dilation - low] · kernel[k] + bias)

    Args:
        filters: Number of filters, the output's channels.
        kernel_size: Sizes of a window, or one int for all.
        strides: Steps from window to window.
        padding: "valid" (none) or "same" (as many windows as places, at stride 1).
        data_format: "channels_last" or "channels_first"; None for the default.
        dilation_rate: Distance of the places within a window; not with strides > 1.
        groups: Groups of channels, each with filters of its own.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, bias_regularizer, activity_regularizer: Penalties added to the loss.
        kernel_constraint, bias_constraint: Projections applied after each update.

    Shapes:
        x (batch, *space, channels)  ->  y (batch, *new space, filters); channels_first: channels second
        kernel (*kernel_size, channels / groups, filters), bias (filters,)

    Source: https://keras.io/api/layers/convolution_layers/convolution3d/

    Example:
        >>> Conv3D(4, 3)(np.ones((2, 8, 9, 10, 1))).shape
        (2, 6, 7, 8, 4)
    """

    rank = 3


class _ConvTranspose(ConvolutionLayer):
    """Transposed convolution: every input place adds a scaled kernel to the output."""

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="valid",
        output_padding=None,
        data_format=None,
        dilation_rate=1,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
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
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
        )
        self._refuse_strides_with_dilation()
        self.filters = positive_integer(self, "filters", filters)
        self.output_padding = None
        if output_padding is not None:
            who = type(self).__name__
            self.output_padding = spatial.per_axis(who, "output_padding", output_padding, self.rank, least=0)
            if any(p >= s for p, s in zip(self.output_padding, self.strides, strict=True)):
                raise ValueError(
                    f"{who}: output_padding must be less than strides on every axis, but got "
                    f"output_padding={self.output_padding} and strides={self.strides}."
                )

    def build(self, input_shape):
        """Make kernel and bias."""
        channels = self._channels(input_shape)
        self._expect(channels)
        self.kernel = self._add("kernel", (*self.kernel_size, self.filters, channels))
        if self.use_bias:
            self.bias = self._add("bias", (self.filters,))

    def call(self, inputs):
        """activation(transposed convolution of inputs + bias)."""
        y = conv_transpose_with_bias(
            inputs,
            self.kernel,
            self.bias,
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
            is_rectified=self.activation is activations.relu,
        )
        return y if self.activation is activations.relu else self._activate(y)

    def compute_output_shape(self, input_shape):
        """The larger space, and `filters` channels."""
        self._channels(input_shape)
        extra = self.output_padding or (None,) * self.rank
        axes = zip(
            self._space(input_shape),
            self.kernel_size,
            self.strides,
            extra,
            self.dilation_rate,
            strict=True,
        )
        sizes = [transposed_size(n, k, s, self.padding, more, d) for n, k, s, more, d in axes]
        return self._shape_of(input_shape, sizes, self.filters)


@register("layer", "Convolution1DTranspose")
class Conv1DTranspose(_ConvTranspose):
    """Transposed convolution over the steps of a sequence; with strides it makes sequences longer.

        y[i · stride + k · dilation - low] += x[i] · kernel[k]ᵀ, then bias and activation

    Args:
        filters: Number of filters, the output's channels.
        kernel_size: Steps of the kernel.
        strides: Steps in the output from one step of the input to the next.
        padding: "valid" (the output holds all of every kernel) or "same" (steps · strides).
        output_padding: Steps added at the end in place of the default; less than strides.
        data_format: "channels_last" or "channels_first"; None for the default.
        dilation_rate: Distance of the kernel's steps; not with strides > 1.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, bias_regularizer, activity_regularizer: Penalties added to the loss.
        kernel_constraint, bias_constraint: Projections applied after each update.

    Shapes:
        x (batch, steps, channels)  ->  y (batch, more steps, filters); channels_first: channels second
        kernel (kernel_size, filters, channels), bias (filters,)

    Source: https://keras.io/api/layers/convolution_layers/convolution1d_transpose/

    Example:
        >>> Conv1DTranspose(4, 3, strides=2, padding="same")(np.ones((2, 10, 3))).shape
        (2, 20, 4)
    """

    rank = 1


@register("layer", "Convolution2DTranspose")
class Conv2DTranspose(_ConvTranspose):
    """Transposed convolution over height and width; with strides it makes images larger.

        y[i · stride + k · dilation - low] += x[i] · kernel[k]ᵀ, then bias and activation

    Args:
        filters: Number of filters, the output's channels.
        kernel_size: Height and width of the kernel, or one int for both.
        strides: Places in the output from one place of the input to the next.
        padding: "valid" (the output holds all of every kernel) or "same" (size · strides).
        output_padding: Places added at the end in place of the default; less than strides.
        data_format: "channels_last" or "channels_first"; None for the default.
        dilation_rate: Distance of the kernel's places; not with strides > 1.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, bias_regularizer, activity_regularizer: Penalties added to the loss.
        kernel_constraint, bias_constraint: Projections applied after each update.

    Shapes:
        x (batch, height, width, channels)  ->  y (batch, larger height, larger width, filters);
        channels_first: channels second
        kernel (*kernel_size, filters, channels), bias (filters,)

    Source: https://keras.io/api/layers/convolution_layers/convolution2d_transpose/

    Example:
        >>> Conv2DTranspose(4, 3, strides=2, padding="same")(np.ones((2, 7, 7, 3))).shape
        (2, 14, 14, 4)
    """

    rank = 2


@register("layer", "Convolution3DTranspose")
class Conv3DTranspose(_ConvTranspose):
    """Transposed convolution over three spatial axes; with strides it makes volumes larger.

        y[i · stride + k · dilation - low] += x[i] · kernel[k]ᵀ, then bias and activation

    Args:
        filters: Number of filters, the output's channels.
        kernel_size: Sizes of the kernel, or one int for all.
        strides: Places in the output from one place of the input to the next.
        padding: "valid" (the output holds all of every kernel) or "same" (size · strides).
        data_format: "channels_last" or "channels_first"; None for the default.
        output_padding: Places added at the end in place of the default; less than strides.
        dilation_rate: Distance of the kernel's places; not with strides > 1.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, bias_regularizer, activity_regularizer: Penalties added to the loss.
        kernel_constraint, bias_constraint: Projections applied after each update.

    Shapes:
        x (batch, *space, channels)  ->  y (batch, *larger space, filters); channels_first: channels
        second
        kernel (*kernel_size, filters, channels), bias (filters,)

    Source: https://keras.io/api/layers/convolution_layers/convolution3d_transpose/

    Example:
        >>> Conv3DTranspose(4, 3, strides=2)(np.ones((2, 3, 3, 3, 1))).shape
        (2, 7, 7, 7, 4)
    """

    rank = 3

    def __init__(  # Keras has data_format before output_padding here, and only here
        self,
        filters,
        kernel_size,
        strides=(1, 1, 1),
        padding="valid",
        data_format=None,
        output_padding=None,
        dilation_rate=(1, 1, 1),
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            output_padding,
            data_format,
            dilation_rate,
            activation,
            use_bias,
            kernel_initializer,
            bias_initializer,
            kernel_regularizer,
            bias_regularizer,
            activity_regularizer,
            kernel_constraint,
            bias_constraint,
            **kwargs,
        )


Convolution1D, Convolution2D, Convolution3D = Conv1D, Conv2D, Conv3D
Convolution1DTranspose = Conv1DTranspose
Convolution2DTranspose = Conv2DTranspose
Convolution3DTranspose = Conv3DTranspose
