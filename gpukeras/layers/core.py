"""The layers that everything is built from: Dense, Embedding, Lambda, Masking, Identity."""

from gpukeras import activations, constraints, initializers, ops, regularizers
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.layers.input_spec import InputSpec
from gpukeras.layers.layer import Layer
from gpukeras.registry import register

__all__ = ["Dense", "Embedding", "Identity", "Lambda", "Masking"]


@register("layer")
class Dense(Layer):
    """Fully connected layer: every unit sees every feature of the last axis.

        y = activation(x · kernel + bias)

    Args:
        units: Number of units, the size of the output's last axis.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, bias_regularizer, activity_regularizer: Penalties added to the loss.
        kernel_constraint, bias_constraint: Projections applied after each update.
        lora_rank, lora_alpha, quantization_config: Not supported.

    Shapes:
        x (batch, ..., features)  ->  y (batch, ..., units)
        kernel (features, units), bias (units,)

    Source: https://keras.io/api/layers/core_layers/dense/

    Example:
        >>> Dense(4, activation="relu")(np.ones((2, 3))).shape
        (2, 4)
    """

    _not_in_config = ("lora_rank", "lora_alpha")

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        lora_rank=None,
        lora_alpha=None,
        quantization_config=None,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        refuse(
            self,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            quantization_config=quantization_config,
        )
        self.units = positive_integer(self, "units", units)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.quantization_config = None
        self.input_spec = InputSpec(min_ndim=2)
        self.supports_masking = True
        self.bias = None

    def build(self, input_shape):
        """Make kernel and bias."""
        features = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(features, self.units),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.input_spec = InputSpec(min_ndim=2, axes={-1: features})

    def call(self, inputs, training=None):
        """activation(inputs · kernel + bias)."""
        if self.activation is activations.relu:
            return ops.linear(inputs, self.kernel, self.bias, is_rectified=True)
        y = ops.linear(inputs, self.kernel, self.bias)
        return y if self.activation is activations.linear else self.activation(y)

    def compute_output_shape(self, input_shape):
        """The last axis becomes `units`."""
        return (*input_shape[:-1], self.units)


@register("layer")
class Embedding(Layer):
    """Turns whole numbers into vectors: a table with one row per number.

        y = embeddings[x]

    Args:
        input_dim: Number of rows: one more than the largest index.
        output_dim: Size of a vector.
        embeddings_initializer: Where the table starts.
        embeddings_regularizer: Penalty on the table.
        embeddings_constraint: Projection applied after each update.
        mask_zero: Whether index 0 is padding that later layers leave out.
        weights: A table to start from.
        lora_rank, lora_alpha, quantization_config: Not supported.

    Shapes:
        x (batch, ...) of whole numbers  ->  y (batch, ..., output_dim)

    Source: https://keras.io/api/layers/core_layers/embedding/

    Example:
        >>> Embedding(10, 4)(np.array([[1, 2, 3]])).shape
        (1, 3, 4)
    """

    _not_in_config = ("weights", "lora_rank", "lora_alpha", "input_length")

    def __init__(
        self,
        input_dim,
        output_dim,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        mask_zero=False,
        weights=None,
        lora_rank=None,
        lora_alpha=None,
        quantization_config=None,
        **kwargs,
    ):
        kwargs.pop("input_length", None)  # Keras accepts it for old programs; shapes tell the length
        super().__init__(**kwargs)
        refuse(
            self,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            quantization_config=quantization_config,
        )
        self.input_dim = positive_integer(self, "input_dim", input_dim)
        self.output_dim = positive_integer(self, "output_dim", output_dim)
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self.supports_masking = mask_zero
        self.autocast = False  # indices must stay exact
        self.quantization_config = None
        if weights is not None:
            self.build()
            self.set_weights(weights if isinstance(weights, list) else [weights])

    def build(self, input_shape=None):
        """Make the table."""
        if self.built:
            return
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
        )

    def call(self, inputs):
        """The rows of the table."""
        if "int" not in str(inputs.dtype):
            inputs = ops.cast(inputs, "int32")
        try:
            y = ops.take(self.embeddings, inputs, axis=0)
        except IndexError as error:
            raise IndexError(
                f"Embedding {self.name!r} has {self.input_dim} rows, so indices must lie in 0..{self.input_dim - 1}. "
                f"{error} Make input_dim larger, or renumber the tokens."
            ) from error
        return ops.cast(y, self.compute_dtype) if str(y.dtype) != self.compute_dtype else y

    def get_config(self):
        """The arguments; Keras writes this layer's activity_regularizer even where it is None."""
        return {"activity_regularizer": None, **super().get_config()}

    def compute_mask(self, inputs, mask=None):
        """True where the index is not 0."""
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, input_shape):
        """A last axis of `output_dim` is added."""
        return (*input_shape, self.output_dim)


@register("layer")
class Identity(Layer):
    """Hands its input on.

    Example:
        >>> Identity()(np.ones((2, 3))).shape
        (2, 3)
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        """The input."""
        return inputs

    def compute_output_shape(self, input_shape):
        """The input's shape."""
        return input_shape

    def compute_output_spec(self, *args, **kwargs):
        """The input's shape and dtype."""
        return _like(args[0])


@register("layer")
class Lambda(Layer):
    """A function as a layer. Variables that it uses are not tracked: write a Layer for those.

    Args:
        function: Function of the input (and of `mask`, `training` where it has them).
        output_shape: Shape of one output sample, or a function from the input's shape; found by itself if None.
        mask: Function ``(inputs, mask) -> mask``, or a mask.
        arguments: Dictionary of further keyword arguments.

    A lambda cannot be saved, as files carry no code; a named function decorated with
    ``@keras.saving.register_keras_serializable()`` can.

    Source: https://keras.io/api/layers/core_layers/lambda/

    Example:
        >>> Lambda(lambda x: x * 2)(np.ones((2, 3))).shape
        (2, 3)
    """

    def __init__(self, function, output_shape=None, mask=None, arguments=None, **kwargs):
        super().__init__(**kwargs)
        if not callable(function):
            function = _named_function(function)
        self.function = function
        self.arguments = dict(arguments or {})
        self._output_shape = output_shape
        self.mask = mask
        if mask is not None:
            self.supports_masking = True

    def call(self, inputs, mask=None, training=None):
        """function(inputs)."""
        settings = dict(self.arguments)
        names = function_parameters(self.function)
        if "mask" in names:
            settings.setdefault("mask", mask)
        if "training" in names:
            settings.setdefault("training", training)
        return self.function(inputs, **settings)

    def compute_mask(self, inputs, mask=None):
        """The mask that was given, or the result of its function."""
        return self.mask(inputs, mask) if callable(self.mask) else self.mask

    def _output_spec(self, arguments, args, kwargs):
        if self._output_shape is None:
            return self.call(*args, **kwargs)
        shape = arguments.first.shape
        found = self._output_shape(shape) if callable(self._output_shape) else (shape[0], *self._output_shape)
        return KerasTensor(found, self.compute_dtype)

    def _constructor_argument(self, name, default):
        return self._output_shape if name == "output_shape" else super()._constructor_argument(name, default)


@register("layer")
class Masking(Layer):
    """Leaves out the time steps whose features all equal `mask_value`.

    Args:
        mask_value: The value that means "nothing here".

    Shapes:
        x (batch, time, features)  ->  the same, with a mask (batch, time) attached

    Source: https://keras.io/api/layers/core_layers/masking/

    Example:
        >>> Masking()(np.zeros((1, 2, 3), "float32")).shape
        (1, 2, 3)
    """

    def __init__(self, mask_value=0.0, **kwargs):
        super().__init__(**kwargs)
        self.mask_value = mask_value
        self.supports_masking = True

    def compute_mask(self, inputs, mask=None):
        """True where any feature differs from the value."""
        return ops.any(ops.not_equal(inputs, self.mask_value), axis=-1)

    def call(self, inputs):
        """The input with masked steps set to zero."""
        kept = ops.any(ops.not_equal(inputs, self.mask_value), axis=-1, keepdims=True)
        y = inputs * ops.cast(kept, inputs.dtype)
        y._keras_mask = ops.squeeze(kept, axis=-1)
        return y

    def compute_output_shape(self, input_shape):
        """The input's shape."""
        return input_shape


def refuse(layer, **arguments):
    """Raise NotImplementedError for the first argument that is not None."""
    for name, value in arguments.items():
        if value is not None:
            raise NotImplementedError(
                f"{type(layer).__name__}: {name}={value!r} is not supported. Leave it out; a policy such as "
                f"dtype='mixed_float16' is the nearest way to save memory."
            )


def positive_integer(layer, name, value):
    """`value` as an int.

    Raises:
        ValueError: where it is not a whole number above 0.
    """
    if not hasattr(value, "__index__") or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{type(layer).__name__}: {name} must be a whole number above 0, but got {value!r}.")
    return int(value)


def function_parameters(function):
    """Names of a function's parameters."""
    code = getattr(function, "__code__", None)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else ()


def _named_function(identifier):
    from gpukeras import registry

    name = identifier.get("config") if isinstance(identifier, dict) else identifier
    if not isinstance(name, str):
        raise TypeError("Lambda takes a function; a file cannot carry a lambda's code, only the name of a function.")
    found = registry.find(name, ["activation"])
    if found is None:
        raise ValueError(
            f"Lambda: no function is known by the name {name!r}. "
            f"Pass custom_objects={{{name!r}: function}} when loading."
        )
    return found


def _like(structure):
    from gpukeras.autograd.symbolic import map_structure

    return map_structure(lambda x: KerasTensor(x.shape, x.dtype), structure)
