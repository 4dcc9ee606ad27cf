"""Layers that prepare data inside a model."""

from gpukeras import ops
from gpukeras.configurable import serialize
from gpukeras.layers.layer import Layer
from gpukeras.registry import register

__all__ = ["Rescaling"]


@register("layer")
class Rescaling(Layer):
    """y = x · scale + offset.

    Args:
        scale: Number, or one per channel.
        offset: Number, or one per channel.

    Source: https://keras.io/api/layers/preprocessing_layers/image_preprocessing/rescaling/

    Example:
        >>> Rescaling(1 / 255)(np.full((1, 2), 255, "uint8")).numpy()
        array([[1., 1.]], dtype=float32)
    """

    def __init__(self, scale, offset=0.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.offset = offset
        self.supports_masking = True

    def call(self, inputs):
        """The input, scaled and shifted."""
        x = ops.cast(inputs, self.compute_dtype)
        return x * ops.cast(self.scale, self.compute_dtype) + ops.cast(self.offset, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """The input's shape."""
        return input_shape

    def get_config(self):
        """The arguments, numbers as numbers."""
        return {
            **super().get_config(),
            "scale": serialize(self.scale),
            "offset": serialize(self.offset),
        }
