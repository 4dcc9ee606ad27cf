"""EinsumDense: a fully connected layer whose axes are chosen by an Einstein sum."""

import re

from gpukeras import activations, constraints, initializers, ops, regularizers
from gpukeras.layers.core import refuse
from gpukeras.layers.input_spec import InputSpec
from gpukeras.layers.layer import Layer
from gpukeras.ops.attention import projection
from gpukeras.registry import register

__all__ = ["EinsumDense"]


@register("layer")
class EinsumDense(Layer):
    """Fully connected layer of any rank: an Einstein sum of the input and a kernel.

        y = activation(einsum(equation, x, kernel) + bias)

    Args:
        equation: Such as ``"abc,cd->abd"``: input, kernel, output. Both input and output may begin or
            end with ``...`` for further axes.
        output_shape: Sizes of the output's axes without the first; None where they are the input's.
        activation: Name, function or None for the identity.
        bias_axes: Letters of the output that the bias has, such as ``"d"``; None for no bias.
        kernel_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, bias_regularizer, activity_regularizer: Penalties added to the loss.
        kernel_constraint, bias_constraint: Projections applied after each update.
        lora_rank, lora_alpha, gptq_unpacked_column_size, quantization_config: Not supported.

    Shapes:
        as the equation says

    Source: https://keras.io/api/layers/core_layers/einsum_dense/

    Example:
        >>> EinsumDense("abc,cde->abde", (None, 4, 6), bias_axes="de")(np.ones((2, 5, 3))).shape
        (2, 5, 4, 6)
    """

    _not_in_config = ("lora_rank", "lora_alpha", "gptq_unpacked_column_size")

    def __init__(
        self,
        equation,
        output_shape,
        activation=None,
        bias_axes=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        lora_rank=None,
        lora_alpha=None,
        gptq_unpacked_column_size=None,
        quantization_config=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        refuse(
            self,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            gptq_unpacked_column_size=gptq_unpacked_column_size,
            quantization_config=quantization_config,
        )
        self.equation = equation
        is_one = isinstance(output_shape, int)
        self.partial_output_shape = (output_shape,) if is_one else tuple(output_shape)
        self.bias_axes = bias_axes
        self.activation = activations.get(activation)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.quantization_config = None
        self.bias = None
        self._contracted = None

    def build(self, input_shape):
        """Make kernel and bias."""
        axes = _Axes(self, input_shape)
        self.input_spec = InputSpec(ndim=len(input_shape))
        self.kernel = self.add_weight(
            name="kernel",
            shape=axes.kernel_shape,
            initializer=_with_fans(self.kernel_initializer, axes),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if axes.bias_shape is not None:
            self.bias = self.add_weight(
                name="bias",
                shape=axes.bias_shape,
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self._contracted = axes.contracted()

    def call(self, inputs, training=None):
        """activation(einsum(equation, inputs, kernel) + bias)."""
        if self._contracted is not None:
            y = projection(inputs, self.kernel, self.bias, self._contracted)
        else:
            y = ops.einsum(self.equation, inputs, self.kernel)
            if self.bias is not None:
                y = ops.add(y, self.bias)
        return y if self.activation is activations.linear else self.activation(y)

    def compute_output_shape(self, input_shape):
        """As the equation says."""
        return tuple(_Axes(self, input_shape).output_shape)

    def get_config(self):
        """The constructor's arguments."""
        return {"activity_regularizer": None, **super().get_config()}

    def _constructor_argument(self, name, default):
        if name == "output_shape":  # stored under Keras's name for it
            return self.partial_output_shape
        return super()._constructor_argument(name, default)


_FORMS = (
    ("", "([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)"),
    ("left", r"\.\.\.([a-zA-Z]+),([a-zA-Z]+)->\.\.\.([a-zA-Z]+)"),
    ("right", r"([a-zA-Z]{2,})\.\.\.,([a-zA-Z]+)->([a-zA-Z]+)\.\.\."),
)


class _Axes:
    """What an equation, an input shape and the known sizes of the output say about all shapes."""

    def __init__(self, layer, input_shape):
        self.layer = layer
        for self.dots, form in _FORMS:
            match = re.fullmatch(form, layer.equation.replace(" ", ""))
            if match:
                break
        else:
            raise ValueError(
                f"{self._who()} needs an equation of the form 'X,Y->Z', '...X,Y->...Z' or "
                f"'X...,Y->Z...' with letters for X, Y and Z, but got {layer.equation!r}."
            )
        self.x, self.kernel, self.y = match.groups()
        extra = len(input_shape) - len(self.x)
        if extra < 0 or (extra and not self.dots):
            raise ValueError(
                f"{self._who()} has the equation {layer.equation!r} for inputs of {len(self.x)} axes, "
                f"but got shape {tuple(input_shape)}."
            )
        before = extra if self.dots == "left" else 0
        after = extra if self.dots == "right" else 0
        self.output_shape = [
            input_shape[0],
            *input_shape[1:before],
            *layer.partial_output_shape,
            *input_shape[len(input_shape) - after :],
        ]
        if len(self.output_shape) != len(self.y) + extra:
            raise ValueError(
                f"{self._who()} has the equation {layer.equation!r}, whose output has "
                f"{len(self.y) + extra} axes, but output_shape={layer.partial_output_shape} names "
                f"{len(layer.partial_output_shape)}. Give a size or None for each axis but the first."
            )
        sizes_of_x = dict(zip(self.x, input_shape[before:], strict=False))
        sizes_of_y = dict(zip(self.y, self.output_shape[before:], strict=False))
        self._check(sizes_of_x, sizes_of_y)
        self.kernel_shape = [sizes_of_y[c] if c in sizes_of_y else sizes_of_x[c] for c in self.kernel]
        self.input_axes = [i for i, c in enumerate(self.kernel) if c not in sizes_of_y]
        self.output_axes = [i for i, c in enumerate(self.kernel) if c in sizes_of_y]
        self.bias_shape = self._bias_shape(sizes_of_y, after)

    def _check(self, sizes_of_x, sizes_of_y):
        for c in self.x:
            if sizes_of_y.get(c) not in (None, sizes_of_x[c]):
                raise ValueError(
                    f"{self._who()}: axis {c!r} of {self.layer.equation!r} has size {sizes_of_x[c]} in "
                    f"the input, but {sizes_of_y[c]} in output_shape={self.layer.partial_output_shape}."
                )
        for c in self.y:
            if c not in self.x + self.kernel:
                raise ValueError(
                    f"{self._who()}: axis {c!r} of the output of {self.layer.equation!r} occurs neither "
                    f"in the input nor in the kernel."
                )
        for c in self.kernel:
            if c not in self.x + self.y:
                raise ValueError(
                    f"{self._who()}: axis {c!r} of the kernel of {self.layer.equation!r} occurs neither "
                    f"in the input nor in the output, so that its size is unknown."
                )

    def _bias_shape(self, sizes_of_y, after):
        letters = self.layer.bias_axes
        if not letters:
            return None
        for c in letters:
            if c not in self.y:
                raise ValueError(
                    f"{self._who()}: bias axis {c!r} does not occur in the output of {self.layer.equation!r}."
                )
        first = min(self.y.index(c) for c in letters)
        return [sizes_of_y[c] if c in letters else 1 for c in self.y[first:]] + [1] * after

    def contracted(self):
        """How many axes are summed over, where the sum is a plain `projection`; else None."""
        for count in range(1, len(self.x) + 1):
            free, summed = self.x[:-count], self.x[len(self.x) - count :]
            if self.kernel.startswith(summed) and self.y == free + self.kernel[count:]:
                is_plain = len(set(self.x + self.kernel[count:])) == len(self.x + self.kernel[count:])
                has_whole_bias = self.bias_shape in (None, self.kernel_shape[count:])
                return count if is_plain and has_whole_bias and self.dots != "right" else None
        return None

    def _who(self):
        return f"EinsumDense {self.layer.name!r}"


def _with_fans(initializer, axes):
    """The initializer with the equation's axes as input and output units, where it asks for them."""
    if not isinstance(initializer, initializers.VarianceScaling):
        return initializer
    if initializer.input_axes is not None and initializer.output_axes is not None:
        return initializer
    config = initializer.get_config()
    config.update(seed=initializer.seed, input_axes=axes.input_axes, output_axes=axes.output_axes)
    return type(initializer).from_config(config)
