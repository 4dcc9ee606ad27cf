"""Layers that make one tensor of several."""

from typing import Any

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.layers.layer import Layer
from gpukeras.registry import register

__all__ = [
    "Add",
    "Average",
    "Concatenate",
    "Dot",
    "Maximum",
    "Minimum",
    "Multiply",
    "Subtract",
    "add",
    "average",
    "concatenate",
    "dot",
    "maximum",
    "minimum",
    "multiply",
    "subtract",
]


class _Merge(Layer):
    """Base of the layers that combine a list of inputs element by element, broadcasting as needed."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        """Check the shapes."""
        _check_list(self, input_shape)
        self.compute_output_shape(input_shape)

    def call(self, inputs):
        """The inputs combined."""
        if not isinstance(inputs, (list, tuple)):
            raise ValueError(f"{type(self).__name__} {self.name!r} takes a list of inputs, but got {inputs!r}.")
        return self._merge([_with_rank(x, max(len(i.shape) for i in inputs)) for x in inputs])

    def _merge(self, inputs):
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        """The shapes broadcast against each other."""
        rank = max(len(shape) for shape in input_shape)
        result: list[Any] = [None] * rank
        shapes = [(shape[0], *([1] * (rank - len(shape))), *shape[1:]) for shape in input_shape]
        for axis in range(rank):
            sizes = {shape[axis] for shape in shapes} - {1}
            known = sizes - {None}
            if len(known) > 1 and axis > 0:
                raise ValueError(
                    f"{type(self).__name__} {self.name!r}: the input shapes {list(map(tuple, input_shape))} do not "
                    f"fit together on axis {axis}."
                )
            result[axis] = None if None in sizes and not known or axis == 0 and None in sizes else next(iter(known), 1)
        return tuple(result)

    def _output_spec(self, arguments, args, kwargs):
        shape = self.compute_output_shape([x.shape for x in arguments.first])
        return KerasTensor(shape, self.compute_dtype)

    def compute_mask(self, inputs, mask=None):
        """A step counts where any input has it."""
        if mask is None or not isinstance(mask, (list, tuple)) or all(m is None for m in mask):
            return None
        if any(m is None for m in mask):
            return None
        result = mask[0]
        for m in mask[1:]:
            result = ops.logical_or(result, m)
        return result


@register("layer")
class Add(_Merge):
    """y = x1 + x2 + ...

    Source: https://keras.io/api/layers/merging_layers/add/

    Example:
        >>> Add()([np.ones((2, 3)), np.ones((2, 3))]).numpy()[0]
        array([2., 2., 2.], dtype=float32)
    """

    def _merge(self, inputs):
        return _fold(ops.add, inputs)


@register("layer")
class Subtract(_Merge):
    """y = x1 - x2.

    Source: https://keras.io/api/layers/merging_layers/subtract/

    Example:
        >>> Subtract()([np.ones((2, 3)), np.ones((2, 3))]).numpy()[0]
        array([0., 0., 0.], dtype=float32)
    """

    def build(self, input_shape):
        """Check that there are two inputs."""
        super().build(input_shape)
        if len(input_shape) != 2:
            raise ValueError(f"Subtract {self.name!r} takes exactly 2 inputs, but got {len(input_shape)}.")

    def _merge(self, inputs):
        return ops.subtract(inputs[0], inputs[1])


@register("layer")
class Multiply(_Merge):
    """y = x1 · x2 · ...

    Source: https://keras.io/api/layers/merging_layers/multiply/

    Example:
        >>> Multiply()([np.full((2, 3), 2.0), np.full((2, 3), 3.0)]).numpy()[0]
        array([6., 6., 6.], dtype=float32)
    """

    def _merge(self, inputs):
        return _fold(ops.multiply, inputs)


@register("layer")
class Average(_Merge):
    """y = (x1 + x2 + ...) / number of inputs.

    Source: https://keras.io/api/layers/merging_layers/average/

    Example:
        >>> Average()([np.ones((2, 3)), np.full((2, 3), 3.0)]).numpy()[0]
        array([2., 2., 2.], dtype=float32)
    """

    def _merge(self, inputs):
        return _fold(ops.add, inputs) / len(inputs)


@register("layer")
class Maximum(_Merge):
    """y = max(x1, x2, ...).

    Source: https://keras.io/api/layers/merging_layers/maximum/

    Example:
        >>> Maximum()([np.ones((2, 3)), np.zeros((2, 3))]).numpy()[0]
        array([1., 1., 1.], dtype=float32)
    """

    def _merge(self, inputs):
        return _fold(ops.maximum, inputs)


@register("layer")
class Minimum(_Merge):
    """y = min(x1, x2, ...).

    Source: https://keras.io/api/layers/merging_layers/minimum/

    Example:
        >>> Minimum()([np.ones((2, 3)), np.zeros((2, 3))]).numpy()[0]
        array([0., 0., 0.], dtype=float32)
    """

    def _merge(self, inputs):
        return _fold(ops.minimum, inputs)


@register("layer")
class Concatenate(_Merge):
    """The inputs one after the other along an axis.

    Args:
        axis: The axis; all others must agree.

    Source: https://keras.io/api/layers/merging_layers/concatenate/

    Example:
        >>> Concatenate()([np.ones((2, 3)), np.ones((2, 4))]).shape
        (2, 7)
    """

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, inputs):
        """The inputs joined."""
        if not isinstance(inputs, (list, tuple)):
            raise ValueError(f"Concatenate {self.name!r} takes a list of inputs, but got {inputs!r}.")
        return ops.concatenate(list(inputs), axis=self.axis)

    def compute_output_shape(self, input_shape):
        """Sizes along the axis are added."""
        _check_list(self, input_shape)
        first = input_shape[0]
        axis = self.axis % len(first) if -len(first) <= self.axis < len(first) else None
        ranks = {len(shape) for shape in input_shape}
        if axis is None or len(ranks) > 1:
            raise ValueError(
                f"Concatenate {self.name!r}: axis {self.axis} does not fit the input shapes "
                f"{list(map(tuple, input_shape))}; all must have the same number of axes."
            )
        result = list(first)
        for i in range(len(first)):
            sizes = [shape[i] for shape in input_shape]
            known = {size for size in sizes if size is not None}
            if i == axis:
                result[i] = None if None in sizes else sum(sizes)
            elif len(known) > 1:
                raise ValueError(
                    f"Concatenate {self.name!r} joins along axis {self.axis}, so all other sizes must agree, but got "
                    f"the shapes {list(map(tuple, input_shape))}."
                )
            else:
                result[i] = next(iter(known), None)
        return tuple(result)

    def compute_mask(self, inputs, mask=None):
        """The masks joined along the same axis."""
        if mask is None or all(m is None for m in mask):
            return None
        masks = []
        for x, m in zip(inputs, mask, strict=True):
            if m is None:
                masks.append(ops.ones_like(x, dtype="bool"))
            else:
                while len(m.shape) < len(x.shape):
                    m = ops.expand_dims(m, -1)
                masks.append(ops.logical_and(m, ops.ones_like(x, dtype="bool")))
        return ops.any(ops.concatenate(masks, axis=self.axis), axis=-1)


@register("layer")
class Dot(_Merge):
    """Products of two inputs summed over one axis of each, sample by sample.

    Args:
        axes: The axis to sum over, or one for each input.
        normalize: Whether both are divided by their length first, which gives cosines.

    Source: https://keras.io/api/layers/merging_layers/dot/

    Example:
        >>> Dot(axes=1)([np.ones((2, 3)), np.ones((2, 3))]).shape
        (2, 1)
    """

    def __init__(self, axes, normalize=False, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(axes, int) and not (
            isinstance(axes, (list, tuple)) and len(axes) == 2 and all(isinstance(a, int) for a in axes)
        ):
            raise (TypeError if not isinstance(axes, (list, tuple)) else ValueError)(
                f"Dot: axes must be a whole number or two of them, but got {axes!r}."
            )
        self.axes = axes
        self.normalize = normalize

    def _axes_for(self, rank1, rank2):
        axes = [self.axes, self.axes] if isinstance(self.axes, int) else list(self.axes)
        return axes[0] % rank1, axes[1] % rank2

    def build(self, input_shape):
        """Check that the summed axes agree."""
        if not isinstance(input_shape, (list, tuple)) or len(input_shape) != 2:
            raise ValueError(f"Dot {self.name!r} takes a list of 2 inputs, but got shapes {input_shape}.")
        self.compute_output_shape(input_shape)

    def call(self, inputs):
        """The sums of products."""
        x1, x2 = inputs
        a1, a2 = self._axes_for(len(x1.shape), len(x2.shape))
        if self.normalize:
            x1, x2 = ops.normalize(x1, axis=a1), ops.normalize(x2, axis=a2)
        rest1 = [i for i in range(1, len(x1.shape)) if i != a1]
        rest2 = [i for i in range(1, len(x2.shape)) if i != a2]
        size = x1.shape[a1]
        left = ops.reshape(ops.transpose(x1, (0, *rest1, a1)), (x1.shape[0], -1, size))
        right = ops.reshape(ops.transpose(x2, (0, a2, *rest2)), (x2.shape[0], size, -1))
        return ops.reshape(ops.matmul(left, right), self.compute_output_shape([x1.shape, x2.shape]))

    def compute_output_shape(self, input_shape):
        """The remaining sizes of both, or (batch, 1)."""
        shape1, shape2 = input_shape
        a1, a2 = self._axes_for(len(shape1), len(shape2))
        if shape1[a1] != shape2[a2]:
            raise ValueError(
                f"Dot {self.name!r} sums over axes {a1} and {a2}, which must agree, but got {shape1} and {shape2}."
            )
        rest = [s for i, s in enumerate(shape1) if i not in (0, a1)] + [
            s for i, s in enumerate(shape2) if i not in (0, a2)
        ]
        return (shape1[0], *(rest or [1]))

    def compute_mask(self, inputs, mask=None):
        """None: time steps are summed away."""
        return None


def _fold(function, inputs):
    result = inputs[0]
    for x in inputs[1:]:
        result = function(result, x)
    return result


def _with_rank(x, rank):
    while len(x.shape) < rank:
        x = ops.expand_dims(x, 1)
    return x


def _check_list(layer, shapes):
    is_list = isinstance(shapes, (list, tuple)) and shapes and isinstance(shapes[0], (list, tuple))
    if not is_list:
        raise ValueError(f"{type(layer).__name__} {layer.name!r} takes a list of inputs, but got the shape {shapes}.")


def add(inputs, **kwargs):
    """`Add` as a function.

    Example:
        >>> add([np.ones((2, 3)), np.ones((2, 3))]).shape
        (2, 3)
    """
    return Add(**kwargs)(inputs)


def subtract(inputs, **kwargs):
    """`Subtract` as a function.

    Example:
        >>> subtract([np.ones((2, 3)), np.ones((2, 3))]).shape
        (2, 3)
    """
    return Subtract(**kwargs)(inputs)


def multiply(inputs, **kwargs):
    """`Multiply` as a function.

    Example:
        >>> multiply([np.ones((2, 3)), np.ones((2, 3))]).shape
        (2, 3)
    """
    return Multiply(**kwargs)(inputs)


def average(inputs, **kwargs):
    """`Average` as a function.

    Example:
        >>> average([np.ones((2, 3)), np.ones((2, 3))]).shape
        (2, 3)
    """
    return Average(**kwargs)(inputs)


def maximum(inputs, **kwargs):
    """`Maximum` as a function.

    Example:
        >>> maximum([np.ones((2, 3)), np.ones((2, 3))]).shape
        (2, 3)
    """
    return Maximum(**kwargs)(inputs)


def minimum(inputs, **kwargs):
    """`Minimum` as a function.

    Example:
        >>> minimum([np.ones((2, 3)), np.ones((2, 3))]).shape
        (2, 3)
    """
    return Minimum(**kwargs)(inputs)


def concatenate(inputs, axis=-1, **kwargs):
    """`Concatenate` as a function.

    Example:
        >>> concatenate([np.ones((2, 3)), np.ones((2, 3))]).shape
        (2, 6)
    """
    return Concatenate(axis=axis, **kwargs)(inputs)


def dot(inputs, axes=-1, **kwargs):
    """`Dot` as a function.

    Example:
        >>> dot([np.ones((2, 3)), np.ones((2, 3))], axes=1).shape
        (2, 1)
    """
    return Dot(axes=axes, **kwargs)(inputs)
