"""Pooling layers over one, two and three spatial axes: windows, and whole inputs."""

from gpukeras import ops
from gpukeras.backend import layout
from gpukeras.layers.convolution import with_defaults_per_axis
from gpukeras.layers.input_spec import InputSpec
from gpukeras.layers.layer import Layer
from gpukeras.ops import spatial
from gpukeras.registry import register

__all__ = [
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "AvgPool1D",
    "AvgPool2D",
    "AvgPool3D",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "GlobalAvgPool1D",
    "GlobalAvgPool2D",
    "GlobalAvgPool3D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "GlobalMaxPool3D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "MaxPool1D",
    "MaxPool2D",
    "MaxPool3D",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
]


class _Pooling(Layer):
    """A window that moves over the inputs. A subclass sets `rank` and `_pool`, the op."""

    rank: int

    def __init__(self, pool_size, strides=None, padding="valid", data_format=None, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        who = type(self).__name__
        self.pool_size = spatial.per_axis(who, "pool_size", pool_size, self.rank)
        strides = pool_size if strides is None else strides
        self.strides = spatial.per_axis(who, "strides", strides, self.rank)
        self.padding = spatial.padding_name(who, padding)
        self.data_format = layout.standardize_data_format(data_format)
        self.input_spec = InputSpec(ndim=self.rank + 2)

    def _pool(self, inputs, **settings):
        raise NotImplementedError

    def call(self, inputs):
        """One value per window and channel."""
        return self._pool(
            inputs,
            pool_size=self.pool_size,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
        )

    def compute_output_shape(self, input_shape):
        """One place per window."""
        is_last = self.data_format == "channels_last"
        space = tuple(input_shape[1:-1] if is_last else input_shape[2:])
        sizes = spatial.output_sizes(space, self.pool_size, self.strides, self.padding, (1,) * self.rank)
        if 0 in sizes and 0 not in space:
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: windows of pool_size={self.pool_size} do not fit "
                f"into the input's spatial shape {space} (input {tuple(input_shape)}, "
                f"{self.data_format}). Use padding='same', a smaller pool_size, or fewer layers that shrink."
            )
        if is_last:
            return (input_shape[0], *sizes, input_shape[-1])
        return (*input_shape[:2], *sizes)


class _MaxPooling(_Pooling):
    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.rank > 1:
            cls.__init__ = with_defaults_per_axis(cls, cls.__init__)

    def __init__(self, pool_size=2, strides=None, padding="valid", data_format=None, name=None, **kwargs):
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)

    def _pool(self, inputs, **settings):
        return ops.max_pool(inputs, **settings)


class _AveragePooling(_Pooling):
    def _pool(self, inputs, **settings):
        return ops.average_pool(inputs, **settings)


class _GlobalPooling(Layer):
    """One value per channel. A subclass sets `rank`."""

    rank: int

    def __init__(self, data_format=None, keepdims=False, **kwargs):
        super().__init__(**kwargs)
        self.data_format = layout.standardize_data_format(data_format)
        self.keepdims = keepdims
        self.input_spec = InputSpec(ndim=self.rank + 2)

    @property
    def _axes(self):
        first = 1 if self.data_format == "channels_last" else 2
        return tuple(range(first, first + self.rank))

    def compute_output_shape(self, input_shape):
        """(batch, channels); with keepdims the spatial axes stay, of size 1."""
        ones = (1,) * self.rank if self.keepdims else ()
        if self.data_format == "channels_last":
            return (input_shape[0], *ones, input_shape[-1])
        return (*input_shape[:2], *ones)


class _GlobalAveragePooling(_GlobalPooling):
    def call(self, inputs):
        """The mean over the spatial axes."""
        return ops.mean(inputs, axis=self._axes, keepdims=self.keepdims)


class _GlobalMaxPooling(_GlobalPooling):
    def call(self, inputs):
        """The maximum over the spatial axes."""
        return ops.max(inputs, axis=self._axes, keepdims=self.keepdims)


@register("layer", "MaxPool1D")
class MaxPooling1D(_MaxPooling):
    """Largest value of each window over the steps of a sequence.

    Args:
        pool_size: Steps in a window.
        strides: Steps from window to window; None for `pool_size`.
        padding: "valid" (windows inside the input) or "same" (input size / strides windows, rounded up).
        data_format: "channels_last" or "channels_first"; None for the default.

    Shapes:
        x (batch, steps, channels)
        ->  y (batch, new steps, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/max_pooling1d/

    Example:
        >>> MaxPooling1D(2)(np.ones((2, 10, 3))).shape
        (2, 5, 3)
    """

    rank = 1


@register("layer", "MaxPool2D")
class MaxPooling2D(_MaxPooling):
    """Largest value of each window over the height and width of images.

    Args:
        pool_size: Height and width of a window, or one int for both.
        strides: Steps from window to window; None for `pool_size`.
        padding: "valid" (windows inside the input) or "same" (input size / strides windows, rounded up).
        data_format: "channels_last" or "channels_first"; None for the default.

    Shapes:
        x (batch, height, width, channels)
        ->  y (batch, new height, new width, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/max_pooling2d/

    Example:
        >>> MaxPooling2D(2)(np.ones((2, 8, 6, 3))).shape
        (2, 4, 3, 3)
    """

    rank = 2


@register("layer", "MaxPool3D")
class MaxPooling3D(_MaxPooling):
    """Largest value of each window over three spatial axes.

    Args:
        pool_size: Sizes of a window, or one int for all.
        strides: Steps from window to window; None for `pool_size`.
        padding: "valid" (windows inside the input) or "same" (input size / strides windows, rounded up).
        data_format: "channels_last" or "channels_first"; None for the default.

    Shapes:
        x (batch, *space, channels)
        ->  y (batch, *new space, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/max_pooling3d/

    Example:
        >>> MaxPooling3D(2)(np.ones((2, 8, 6, 4, 3))).shape
        (2, 4, 3, 2, 3)
    """

    rank = 3


@register("layer", "AvgPool1D")
class AveragePooling1D(_AveragePooling):
    """Mean of each window over the steps of a sequence; padding is not counted.

    Args:
        pool_size: Steps in a window.
        strides: Steps from window to window; None for `pool_size`.
        padding: "valid" (windows inside the input) or "same" (input size / strides windows, rounded up).
        data_format: "channels_last" or "channels_first"; None for the default.

    Shapes:
        x (batch, steps, channels)
        ->  y (batch, new steps, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/average_pooling1d/

    Example:
        >>> AveragePooling1D(2)(np.ones((2, 10, 3))).shape
        (2, 5, 3)
    """

    rank = 1


@register("layer", "AvgPool2D")
class AveragePooling2D(_AveragePooling):
    """Mean of each window over the height and width of images; padding is not counted.

    Args:
        pool_size: Height and width of a window, or one int for both.
        strides: Steps from window to window; None for `pool_size`.
        padding: "valid" (windows inside the input) or "same" (input size / strides windows, rounded up).
        data_format: "channels_last" or "channels_first"; None for the default.

    Shapes:
        x (batch, height, width, channels)
        ->  y (batch, new height, new width, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/average_pooling2d/

    Example:
        >>> AveragePooling2D(2)(np.ones((2, 8, 6, 3))).shape
        (2, 4, 3, 3)
    """

    rank = 2


@register("layer", "AvgPool3D")
class AveragePooling3D(_AveragePooling):
    """Mean of each window over three spatial axes; padding is not counted.

    Args:
        pool_size: Sizes of a window, or one int for all.
        strides: Steps from window to window; None for `pool_size`.
        padding: "valid" (windows inside the input) or "same" (input size / strides windows, rounded up).
        data_format: "channels_last" or "channels_first"; None for the default.

    Shapes:
        x (batch, *space, channels)
        ->  y (batch, *new space, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/average_pooling3d/

    Example:
        >>> AveragePooling3D(2)(np.ones((2, 8, 6, 4, 3))).shape
        (2, 4, 3, 2, 3)
    """

    rank = 3


@register("layer", "GlobalAvgPool1D")
class GlobalAveragePooling1D(_GlobalAveragePooling):
    """Mean of each channel over the steps of a sequence; masked steps are left out.

    Args:
        data_format: "channels_last" or "channels_first"; None for the default.
        keepdims: Whether the spatial axis stays, of size 1.

    Shapes:
        x (batch, steps, channels)  ->  y (batch, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/global_average_pooling1d/

    Example:
        >>> GlobalAveragePooling1D()(np.ones((2, 10, 3))).shape
        (2, 3)
    """

    rank = 1

    def __init__(self, data_format=None, keepdims=False, **kwargs):
        super().__init__(data_format, keepdims, **kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        """The mean over the steps that `mask` (batch, steps) keeps; over all of them without one."""
        if mask is None:
            return super().call(inputs)
        keep = ops.expand_dims(ops.cast(mask, "bool"), 3 - self._axes[0])
        total = ops.sum(ops.where(keep, inputs, 0), axis=self._axes, keepdims=self.keepdims)
        return total / ops.sum(ops.cast(keep, inputs.dtype), axis=self._axes, keepdims=self.keepdims)

    def compute_mask(self, inputs, mask=None):
        """None: the steps are gone."""
        return None


@register("layer", "GlobalAvgPool2D")
class GlobalAveragePooling2D(_GlobalAveragePooling):
    """Mean of each channel over the height and width of images.

    Args:
        data_format: "channels_last" or "channels_first"; None for the default.
        keepdims: Whether the spatial axes stay, of size 1.

    Shapes:
        x (batch, height, width, channels)  ->  y (batch, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/global_average_pooling2d/

    Example:
        >>> GlobalAveragePooling2D()(np.ones((2, 8, 6, 3))).shape
        (2, 3)
    """

    rank = 2


@register("layer", "GlobalAvgPool3D")
class GlobalAveragePooling3D(_GlobalAveragePooling):
    """Mean of each channel over three spatial axes.

    Args:
        data_format: "channels_last" or "channels_first"; None for the default.
        keepdims: Whether the spatial axes stay, of size 1.

    Shapes:
        x (batch, *space, channels)  ->  y (batch, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/global_average_pooling3d/

    Example:
        >>> GlobalAveragePooling3D()(np.ones((2, 8, 6, 4, 3))).shape
        (2, 3)
    """

    rank = 3


@register("layer", "GlobalMaxPool1D")
class GlobalMaxPooling1D(_GlobalMaxPooling):
    """Largest value of each channel over the steps of a sequence.

    Args:
        data_format: "channels_last" or "channels_first"; None for the default.
        keepdims: Whether the spatial axis stays, of size 1.

    Shapes:
        x (batch, steps, channels)  ->  y (batch, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/global_max_pooling1d/

    Example:
        >>> GlobalMaxPooling1D()(np.ones((2, 10, 3))).shape
        (2, 3)
    """

    rank = 1


@register("layer", "GlobalMaxPool2D")
class GlobalMaxPooling2D(_GlobalMaxPooling):
    """Largest value of each channel over the height and width of images.

    Args:
        data_format: "channels_last" or "channels_first"; None for the default.
        keepdims: Whether the spatial axes stay, of size 1.

    Shapes:
        x (batch, height, width, channels)  ->  y (batch, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/global_max_pooling2d/

    Example:
        >>> GlobalMaxPooling2D()(np.ones((2, 8, 6, 3))).shape
        (2, 3)
    """

    rank = 2


@register("layer", "GlobalMaxPool3D")
class GlobalMaxPooling3D(_GlobalMaxPooling):
    """Largest value of each channel over three spatial axes.

    Args:
        data_format: "channels_last" or "channels_first"; None for the default.
        keepdims: Whether the spatial axes stay, of size 1.

    Shapes:
        x (batch, *space, channels)  ->  y (batch, channels); channels_first: channels second

    Source: https://keras.io/api/layers/pooling_layers/global_max_pooling3d/

    Example:
        >>> GlobalMaxPooling3D()(np.ones((2, 8, 6, 4, 3))).shape
        (2, 3)
    """

    rank = 3


MaxPool1D, MaxPool2D, MaxPool3D = MaxPooling1D, MaxPooling2D, MaxPooling3D
AvgPool1D, AvgPool2D, AvgPool3D = AveragePooling1D, AveragePooling2D, AveragePooling3D
GlobalAvgPool1D, GlobalAvgPool2D = GlobalAveragePooling1D, GlobalAveragePooling2D
GlobalAvgPool3D = GlobalAveragePooling3D
GlobalMaxPool1D, GlobalMaxPool2D = GlobalMaxPooling1D, GlobalMaxPooling2D
GlobalMaxPool3D = GlobalMaxPooling3D
