"""One time step of the recurrent layers: the weights, the dropout masks and the formulas."""

from typing import Any

from gpukeras import activations, constraints, initializers, ops, random, regularizers
from gpukeras.layers.layer import Layer
from gpukeras.ops import recurrent
from gpukeras.registry import register

__all__ = ["GRUCell", "LSTMCell", "SimpleRNNCell"]


class _Cell(Layer):
    """What the cells share: weights with the gates side by side, dropout masks, initial states.

    A mask is drawn once per sequence and used at all its steps; `RNN` forgets it after each call.
    """

    _gates = 1
    _own_call: Any  # the class's own call(), which the op stands for
    _run: Any  # the op over a whole sequence

    def __init__(
        self,
        units,
        *,
        activation,
        use_bias,
        kernel_initializer,
        recurrent_initializer,
        bias_initializer,
        kernel_regularizer,
        recurrent_regularizer,
        bias_regularizer,
        kernel_constraint,
        recurrent_constraint,
        bias_constraint,
        dropout,
        recurrent_dropout,
        seed,
        **kwargs,
    ):
        if not isinstance(units, int) or units <= 0:
            raise ValueError(f"{type(self).__name__}: units must be a positive integer, but got {units!r}.")
        super().__init__(**kwargs)
        self.units = units
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.recurrent_constraint = constraints.get(recurrent_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.dropout = min(1.0, max(0.0, dropout))
        self.recurrent_dropout = min(1.0, max(0.0, recurrent_dropout))
        self.seed = seed
        self.seed_generator = random.SeedGenerator(seed)
        # Separate masks for each gate, as Keras has them where the state is dropped too.
        self.dropout_mask_count = None
        self.output_size = units
        self.reset_dropout_mask()
        self.reset_recurrent_dropout_mask()

    @property
    def state_size(self):
        """Number of units of each state."""
        return self.units

    def build(self, input_shape):
        """Make kernel, recurrent_kernel and bias."""
        columns = self._gates * self.units
        self.kernel = self.add_weight(
            shape=(input_shape[-1], columns),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            name="kernel",
        )
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, columns),
            initializer=self.recurrent_initializer,
            regularizer=self.recurrent_regularizer,
            constraint=self.recurrent_constraint,
            name="recurrent_kernel",
        )
        self.bias: Any = None
        if self.use_bias:
            self.bias = self.add_weight(
                shape=self._bias_shape(),
                initializer=self._initial_bias,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                name="bias",
            )

    def _bias_shape(self):
        return (self._gates * self.units,)

    def _initial_bias(self, shape, dtype=None):
        return self.bias_initializer(shape, dtype=dtype)

    def get_initial_state(self, batch_size=None):
        """Zeros, one array for each state."""
        count = len(self.state_size) if isinstance(self.state_size, list) else 1
        return [ops.zeros((batch_size, self.units), dtype=self.compute_dtype) for _ in range(count)]

    # --- Dropout ------------------------------------------------------------------------------

    def get_dropout_mask(self, step_input):
        """The mask (or one for each gate) of the inputs of this sequence, None without dropout."""
        if self._dropout_mask is None and self.dropout > 0:
            self._dropout_mask = self._new_masks(step_input, self.dropout)
        return self._dropout_mask

    def get_recurrent_dropout_mask(self, step_input):
        """The mask (or one for each gate) of the states of this sequence, None without dropout."""
        if self._recurrent_dropout_mask is None and self.recurrent_dropout > 0:
            self._recurrent_dropout_mask = self._new_masks(step_input, self.recurrent_dropout)
        return self._recurrent_dropout_mask

    def _new_masks(self, like, rate):
        ones = ops.ones_like(like)
        if self.dropout_mask_count is None:
            return random.dropout(ones, rate, seed=self.seed_generator)
        return tuple(random.dropout(ones, rate, seed=self.seed_generator) for _ in range(self.dropout_mask_count))

    def reset_dropout_mask(self):
        """Forget the mask of the inputs."""
        self._dropout_mask = None

    def reset_recurrent_dropout_mask(self):
        """Forget the mask of the states."""
        self._recurrent_dropout_mask = None

    def _masks(self, inputs, h, training):
        """The masks of inputs and states that are due now, None each where there are none."""
        return (
            self.get_dropout_mask(inputs) if training and self.dropout < 1 else None,
            self.get_recurrent_dropout_mask(h) if training and self.recurrent_dropout < 1 else None,
        )

    # --- Whole sequences ----------------------------------------------------------------------

    def _can_walk(self):
        """Whether one op can do the whole sequence: that of the default activations."""
        gate_activation = getattr(self, "recurrent_activation", activations.sigmoid)
        return (
            self.activation in (activations.tanh, ops.tanh)
            and gate_activation in (activations.sigmoid, ops.sigmoid)
            and type(self).call is self._own_call()
        )

    def _walk(self, sequences, states, mask, training, go_backwards, zero_output_for_mask):
        """The outputs of all steps and the last states by one op, or None where that cannot be."""
        if not self._can_walk():
            return None
        kernel, input_masks, state_masks = self.kernel, None, None
        if training and (self.dropout or self.recurrent_dropout):
            input_masks, state_masks = self._masks(sequences[:, 0], states[0], training)
        if isinstance(input_masks, tuple):  # every gate sees other inputs
            input_masks = tuple(ops.expand_dims(mask, axis=1) for mask in input_masks)
            sequences, kernel = _project(sequences, kernel, None, input_masks), None
        elif input_masks is not None:
            sequences = sequences * ops.expand_dims(input_masks, axis=1)
        if state_masks is not None:
            state_masks = ops.stack(state_masks if isinstance(state_masks, tuple) else [state_masks])
        outputs, *states = self._run(
            (sequences, *states, kernel, self.recurrent_kernel, self.bias, mask, state_masks),
            go_backwards=go_backwards,
            zero_output_for_mask=zero_output_for_mask,
        )
        return outputs, states


def _project(x, kernel, bias, masks):
    """x · kernel + bias, with x dropped by one mask, or by one mask for each gate."""
    if masks is None:
        return ops.linear(x, kernel, bias)
    if not isinstance(masks, tuple):
        return ops.linear(x * masks, kernel, bias)
    parts = ops.split(kernel, len(masks), axis=1)
    y = ops.concatenate([ops.matmul(x * mask, part) for mask, part in zip(masks, parts, strict=True)], axis=-1)
    return y if bias is None else y + bias


@register("layer")
class SimpleRNNCell(_Cell):
    """A step of `SimpleRNN`.

        h = activation(inputs · kernel + bias + h · recurrent_kernel)

    Args:
        units: Number of units, the size of the output and of the state.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Penalties added to the loss.
        kernel_constraint, recurrent_constraint, bias_constraint: Projections applied after each update.
        dropout, recurrent_dropout: Shares of the inputs and of the state that are dropped in training.
        seed: Of the dropout masks.

    Shapes:
        inputs (batch, features), states [(batch, units)]  ->  (batch, units), [(batch, units)]
        kernel (features, units), recurrent_kernel (units, units), bias (units,)

    Example:
        >>> keras.layers.RNN(SimpleRNNCell(4))(np.ones((2, 5, 3), "float32")).shape
        (2, 4)
    """

    def __init__(
        self,
        units,
        activation="tanh",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(
            units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            **kwargs,
        )

    def call(self, sequence, states, training=False):
        """The output and the new state after one step."""
        h = states[0] if isinstance(states, (list, tuple)) else states
        input_mask, state_mask = self._masks(sequence, h, training)
        z = _project(sequence, self.kernel, self.bias, input_mask)
        h = self.activation(z + _project(h, self.recurrent_kernel, None, state_mask))
        return h, [h] if isinstance(states, (list, tuple)) else h

    def _own_call(self):
        return SimpleRNNCell.call

    def _run(self, arrays, **settings):
        return recurrent.simple_rnn(*arrays, **settings)


class _GatedCell(_Cell):
    """A cell with gates, hence with a second activation and a mask for each gate where states are dropped."""

    def __init__(self, units, *, recurrent_activation, **kwargs):
        implementation = kwargs.pop("implementation", 2)
        super().__init__(units, **kwargs)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.implementation = 1 if self.recurrent_dropout else implementation
        if self.implementation == 1:
            self.dropout_mask_count = self._gates


@register("layer")
class LSTMCell(_GatedCell):
    """A step of `LSTM`.

        i, f, o = recurrent_activation(inputs · kernel + h · recurrent_kernel + bias)
        g = activation(the same)
        c = f c + i g
        h = o activation(c)

    Args:
        units: Number of units, the size of the output and of the states.
        activation, recurrent_activation: Of the cell and of the gates; a name, a function or None.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Where the weights start.
        unit_forget_bias: Whether the forget gate's bias starts at one.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Penalties added to the loss.
        kernel_constraint, recurrent_constraint, bias_constraint: Projections applied after each update.
        dropout, recurrent_dropout: Shares of the inputs and of the state that are dropped in training.
        seed: Of the dropout masks.

    Shapes:
        inputs (batch, features), states [h, c] of (batch, units)  ->  (batch, units), [h, c]
        kernel (features, 4 units), recurrent_kernel (units, 4 units), bias (4 units,); gates i, f, g, o

    Example:
        >>> keras.layers.RNN(LSTMCell(4))(np.ones((2, 5, 3), "float32")).shape
        (2, 4)
    """

    _gates = 4

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        unit_forget_bias=True,
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            **kwargs,
        )
        self.unit_forget_bias = unit_forget_bias

    @property
    def state_size(self):
        """Number of units of each state."""
        return [self.units, self.units]

    def _initial_bias(self, shape, dtype=None):
        if not self.unit_forget_bias:
            return self.bias_initializer(shape, dtype=dtype)
        return ops.concatenate(
            [
                self.bias_initializer((self.units,), dtype=dtype),
                ops.ones((self.units,), dtype=dtype),
                self.bias_initializer((2 * self.units,), dtype=dtype),
            ]
        )

    def call(self, inputs, states, training=False):
        """The output and the new states after one step."""
        h, c = states
        input_mask, state_mask = self._masks(inputs, h, training)
        z = _project(inputs, self.kernel, self.bias, input_mask)
        z = z + _project(h, self.recurrent_kernel, None, state_mask)
        i, f, g, o = ops.split(z, 4, axis=1)
        c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(g)
        h = self.recurrent_activation(o) * self.activation(c)
        return h, [h, c]

    def _own_call(self):
        return LSTMCell.call

    def _run(self, arrays, **settings):
        return recurrent.lstm(*arrays, **settings)


@register("layer")
class GRUCell(_GatedCell):
    """A step of `GRU`.

        z, r = recurrent_activation(inputs · kernel + h · recurrent_kernel + bias)
        candidate = activation(inputs · kernel + bias + r (h · recurrent_kernel + recurrent bias))   reset_after
        candidate = activation(inputs · kernel + bias + (r h) · recurrent_kernel)                    otherwise
        h = z h + (1 - z) candidate

    Args:
        units: Number of units, the size of the output and of the state.
        activation, recurrent_activation: Of the candidate and of the gates; a name, a function or None.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Penalties added to the loss.
        kernel_constraint, recurrent_constraint, bias_constraint: Projections applied after each update.
        dropout, recurrent_dropout: Shares of the inputs and of the state that are dropped in training.
        reset_after: Whether the reset gate acts after the product with the recurrent kernel, or before it.
        seed: Of the dropout masks.

    Shapes:
        inputs (batch, features), states [(batch, units)]  ->  (batch, units), [(batch, units)]
        kernel (features, 3 units), recurrent_kernel (units, 3 units); gates z, r, candidate
        bias (2, 3 units) for inputs and state with reset_after, else (3 units,)

    Example:
        >>> keras.layers.RNN(GRUCell(4))(np.ones((2, 5, 3), "float32")).shape
        (2, 4)
    """

    _gates = 3

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        reset_after=True,
        seed=None,
        **kwargs,
    ):
        super().__init__(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            **kwargs,
        )
        self.reset_after = reset_after

    def _bias_shape(self):
        columns = self._gates * self.units
        return (2, columns) if self.reset_after else (columns,)

    def call(self, inputs, states, training=False):
        """The output and the new state after one step."""
        h = states[0] if isinstance(states, (list, tuple)) else states
        input_mask, state_mask = self._masks(inputs, h, training)
        bias, recurrent_bias = self.bias, None
        if self.use_bias and self.reset_after:
            bias, recurrent_bias = self.bias[0], self.bias[1]
        x_z, x_r, x_candidate = ops.split(_project(inputs, self.kernel, bias, input_mask), 3, axis=-1)
        if self.reset_after:
            product = _project(h, self.recurrent_kernel, recurrent_bias, state_mask)
            h_z, h_r, h_candidate = ops.split(product, 3, axis=-1)
            reset = self.recurrent_activation(x_r + h_r)
            h_candidate = reset * h_candidate
        else:
            of_gates = self.recurrent_kernel[:, : 2 * self.units]
            product = _project(h, of_gates, None, state_mask[:2] if isinstance(state_mask, tuple) else state_mask)
            h_z, h_r = ops.split(product, 2, axis=-1)
            reset = self.recurrent_activation(x_r + h_r)
            dropped = h * state_mask[2] if isinstance(state_mask, tuple) else h
            h_candidate = ops.matmul(reset * dropped, self.recurrent_kernel[:, 2 * self.units :])
        update = self.recurrent_activation(x_z + h_z)
        candidate = self.activation(x_candidate + h_candidate)
        h = update * h + (1 - update) * candidate
        return h, [h] if isinstance(states, (list, tuple)) else h

    def _own_call(self):
        return GRUCell.call

    def _run(self, arrays, **settings):
        return recurrent.gru(*arrays, reset_after=self.reset_after, **settings)
