"""Layers that move values without computing on them."""

import math

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.backend import layout
from gpukeras.layers.input_spec import InputSpec
from gpukeras.layers.layer import Layer
from gpukeras.registry import register

__all__ = ["Flatten", "Permute", "RepeatVector", "Reshape"]


@register("layer")
class Flatten(Layer):
    """All axes but the batch become one.

    Args:
        data_format: "channels_last" or "channels_first": the latter moves channels to the end first.

    Shapes:
        x (batch, ...)  ->  y (batch, product of the rest)

    Source: https://keras.io/api/layers/reshaping_layers/flatten/

    Example:
        >>> Flatten()(np.ones((2, 3, 4))).shape
        (2, 12)
    """

    def __init__(self, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.data_format = layout.standardize_data_format(data_format)
        self.input_spec = InputSpec(min_ndim=1)
        self._channels_first = self.data_format == "channels_first"

    def call(self, inputs):
        """The input with one axis per sample."""
        if self._channels_first and len(inputs.shape) > 1:
            inputs = ops.moveaxis(inputs, 1, -1)
        shape = self.compute_output_shape(inputs.shape)
        return ops.reshape(inputs, (-1, *shape[1:]) if shape[0] is None or shape[1] != 0 else shape)

    def compute_output_shape(self, input_shape):
        """(batch, product of the rest)."""
        rest = input_shape[1:]
        return (input_shape[0], None if None in rest else math.prod(rest))

    def _output_spec(self, arguments, args, kwargs):
        x = arguments.first
        return KerasTensor(self.compute_output_shape(x.shape), x.dtype)


@register("layer")
class Reshape(Layer):
    """Gives every sample a new shape of the same size.

    Args:
        target_shape: Sizes without the batch; one may be -1.

    Shapes:
        x (batch, ...)  ->  y (batch, *target_shape)

    Source: https://keras.io/api/layers/reshaping_layers/reshape/

    Example:
        >>> Reshape((2, -1))(np.ones((5, 6))).shape
        (5, 2, 3)
    """

    def __init__(self, target_shape, **kwargs):
        super().__init__(**kwargs)
        self.target_shape = tuple(target_shape)
        if self.target_shape.count(-1) > 1:
            raise ValueError(f"Reshape: only one size of target_shape may be -1, but got {self.target_shape}.")

    def compute_output_shape(self, input_shape):
        """(batch, *target_shape)."""
        sizes, rest = self.target_shape, input_shape[1:]
        if None in rest:
            return (input_shape[0], *(None if size == -1 else size for size in sizes))
        total, known = math.prod(rest), math.prod(size for size in sizes if size != -1)
        fits = total == known if -1 not in sizes else (known == 0 and total == 0) or (known and total % known == 0)
        if not fits:
            raise ValueError(
                f"Reshape {self.name!r} cannot turn samples of shape {tuple(rest)} ({total} elements) into {sizes}."
            )
        return (input_shape[0], *(total // max(known, 1) if size == -1 else size for size in sizes))

    def call(self, inputs):
        """The input in the new shape."""
        self.compute_output_shape(inputs.shape)
        return ops.reshape(inputs, (inputs.shape[0], *self.target_shape))

    def _output_spec(self, arguments, args, kwargs):
        x = arguments.first
        return KerasTensor(self.compute_output_shape(x.shape), x.dtype)


@register("layer")
class Permute(Layer):
    """Puts the axes of every sample into another order.

    Args:
        dims: Numbers of the axes, from 1 (0 is the batch).

    Source: https://keras.io/api/layers/reshaping_layers/permute/

    Example:
        >>> Permute((2, 1))(np.ones((5, 3, 4))).shape
        (5, 4, 3)
    """

    def __init__(self, dims, **kwargs):
        super().__init__(**kwargs)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ValueError(f"Permute: dims must hold every axis from 1 to its length once, but got {self.dims}.")
        self.input_spec = InputSpec(ndim=len(self.dims) + 1)

    def compute_output_shape(self, input_shape):
        """The sizes in the new order."""
        return (input_shape[0], *(input_shape[axis] for axis in self.dims))

    def call(self, inputs):
        """The input with its axes in the new order."""
        return ops.transpose(inputs, (0, *self.dims))


@register("layer")
class RepeatVector(Layer):
    """Repeats every sample's vector along a new time axis.

    Args:
        n: How many times.

    Shapes:
        x (batch, features)  ->  y (batch, n, features)

    Source: https://keras.io/api/layers/reshaping_layers/repeat_vector/

    Example:
        >>> RepeatVector(3)(np.ones((5, 2))).shape
        (5, 3, 2)
    """

    def __init__(self, n, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(n, int):
            raise TypeError(f"RepeatVector: n must be a whole number, but got {n!r} ({type(n).__name__}).")
        self.n = n
        self.input_spec = InputSpec(ndim=2)

    def compute_output_shape(self, input_shape):
        """(batch, n, features)."""
        return (input_shape[0], self.n, input_shape[1])

    def call(self, inputs):
        """The input, n times."""
        return ops.repeat(ops.expand_dims(inputs, 1), self.n, axis=1)
