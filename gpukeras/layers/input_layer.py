"""Where data enters a functional model."""

from gpukeras.autograd.symbolic import KerasTensor, Node
from gpukeras.backend import dtypes
from gpukeras.layers.layer import Layer
from gpukeras.registry import register

__all__ = ["Input", "InputLayer"]


@register("layer")
class InputLayer(Layer):
    """The entry of a functional model; `Input` makes one and returns its KerasTensor.

    Args:
        shape: Sizes without the batch axis.
        batch_size: Fixed size of the batch axis.
        dtype: Name of the dtype; None for floatx.
        sparse, ragged: Not supported.
        batch_shape: Sizes with the batch axis, instead of `shape` and `batch_size`.
        input_tensor: Not supported; Input() makes its own KerasTensor.
        optional: Whether the model accepts None here.
        name: Name of the input, which dictionaries of data use as key.

    Example:
        >>> InputLayer(shape=(784,)).output.shape
        (None, 784)
    """

    _not_in_config = ("shape", "batch_size", "input_tensor", "trainable", "activity_regularizer")

    def __init__(
        self,
        shape=None,
        batch_size=None,
        dtype=None,
        sparse=None,
        ragged=None,
        batch_shape=None,
        input_tensor=None,
        optional=False,
        name=None,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if sparse or ragged:
            raise NotImplementedError("Input: sparse=True and ragged=True are not supported; pass dense arrays.")
        if input_tensor is not None:
            raise NotImplementedError(
                "Input: tensor/input_tensor is not supported; Model(inputs, outputs) takes any KerasTensors."
            )
        if shape is not None and batch_shape is not None:
            raise ValueError("Input takes `shape` or `batch_shape`, but got both.")
        if shape is None and batch_shape is None:
            raise ValueError("Input needs `shape`, the sizes of one sample: Input(shape=(784,)).")
        if shape is not None:
            batch_shape = (batch_size, *_sizes(shape))
        self.batch_shape = tuple(_sizes(batch_shape))
        self.sparse = self.ragged = False
        self.optional = optional
        self.supports_masking = True
        self._dtype = dtypes.name_of(dtype)
        self.built = True
        output = KerasTensor(self.batch_shape, self._dtype, name=self.name)
        Node(self, (), {}, output)

    def call(self, *args, **kwargs):
        """Inputs are not computed."""
        raise NotImplementedError("An InputLayer is not called; feed its model.")

    @property
    def dtype(self):
        """Dtype of the data."""
        return self._dtype

    @property
    def input_dtype(self):
        """Dtype of the data."""
        return self._dtype

    @property
    def input(self):
        """The KerasTensor."""
        return self.output

    def get_build_config(self):
        """None: there is nothing to build."""
        return None

    def _constructor_argument(self, name, default):
        return self._dtype if name == "dtype" else super()._constructor_argument(name, default)


def Input(  # noqa: N802  Keras's name
    shape=None,
    batch_size=None,
    dtype=None,
    sparse=None,
    ragged=None,
    batch_shape=None,
    name=None,
    tensor=None,
    optional=False,
):
    """A KerasTensor that stands for the data of a functional model.

    Args:
        shape: Sizes of one sample, None where unknown.
        batch_size: Fixed size of the batch axis.
        dtype: Name of the dtype; None for floatx.
        sparse, ragged, tensor: Not supported.
        batch_shape: Sizes with the batch axis, instead of `shape` and `batch_size`.
        name: Name of the input, which dictionaries of data use as key.
        optional: Whether the model accepts None here.

    Example:
        >>> Input(shape=(28, 28, 1)).shape
        (None, 28, 28, 1)
    """
    layer = InputLayer(
        shape=shape,
        batch_size=batch_size,
        dtype=dtype,
        sparse=sparse,
        ragged=ragged,
        batch_shape=batch_shape,
        name=name,
        input_tensor=tensor,
        optional=optional,
    )
    return layer.output


def _sizes(shape):
    if isinstance(shape, int):
        shape = (shape,)
    sizes = tuple(shape)
    for size in sizes:
        if size is not None and (not hasattr(size, "__index__") or size < 0):
            raise ValueError(f"Input shape must be sizes or None, but got {sizes}.")
    return sizes
