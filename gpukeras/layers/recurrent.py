"""The recurrent layers: `RNN` over one cell, with the cell's arguments as their own."""

from gpukeras.layers.input_spec import InputSpec
from gpukeras.layers.recurrent_cells import GRUCell, LSTMCell, SimpleRNNCell
from gpukeras.layers.rnn import RNN
from gpukeras.registry import register

__all__ = ["GRU", "LSTM", "SimpleRNN"]


def _of_cell(name, meaning):
    return property(lambda self: getattr(self.cell, name), doc=meaning)


class _CellLayer(RNN):
    """An RNN that makes its cell of its own arguments and shows them as the cell's."""

    _not_in_config = ("cell", "use_cudnn")

    units = _of_cell("units", "Number of units.")
    activation = _of_cell("activation", "The activation function.")
    use_bias = _of_cell("use_bias", "Whether a bias is added.")
    kernel_initializer = _of_cell("kernel_initializer", "Where the kernel starts.")
    recurrent_initializer = _of_cell("recurrent_initializer", "Where the recurrent kernel starts.")
    bias_initializer = _of_cell("bias_initializer", "Where the bias starts.")
    kernel_regularizer = _of_cell("kernel_regularizer", "Penalty on the kernel.")
    recurrent_regularizer = _of_cell("recurrent_regularizer", "Penalty on the recurrent kernel.")
    bias_regularizer = _of_cell("bias_regularizer", "Penalty on the bias.")
    kernel_constraint = _of_cell("kernel_constraint", "Projection of the kernel.")
    recurrent_constraint = _of_cell("recurrent_constraint", "Projection of the recurrent kernel.")
    bias_constraint = _of_cell("bias_constraint", "Projection of the bias.")
    dropout = _of_cell("dropout", "Share of the inputs that is dropped.")
    recurrent_dropout = _of_cell("recurrent_dropout", "Share of the state that is dropped.")
    seed = _of_cell("seed", "Of the dropout masks.")

    def __init__(self, cell, *, use_cudnn="auto", **kwargs):
        if use_cudnn not in ("auto", True, False):
            raise ValueError(f"{type(self).__name__}: use_cudnn must be 'auto', True or False, but got {use_cudnn!r}.")
        super().__init__(cell, **kwargs)
        self.use_cudnn = use_cudnn
        self.input_spec = InputSpec(ndim=3)

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """The last output, the outputs of all steps, and the last states."""
        if self.use_cudnn is True:
            raise ValueError(
                f"{self._who()}: use_cudnn=True asks for cuDNN, which this library does not call. Pass "
                f"use_cudnn='auto': then the whole sequence is one op wherever the activations are the defaults."
            )
        return super().inner_loop(sequences, initial_state, mask, training)

    def get_config(self):
        """The constructor's arguments; Keras writes activity_regularizer even where it is None."""
        return {"activity_regularizer": None, **super().get_config()}


def _cell_settings(name, kwargs):
    """What the layer's own keywords mean for its cell."""
    return {"name": name, "dtype": kwargs.get("dtype"), "trainable": kwargs.get("trainable", True)}


@register("layer")
class SimpleRNN(_CellLayer):
    """Fully connected recurrent layer: the output is fed back as the next step's input.

        h_t = activation(x_t · kernel + bias + h_{t-1} · recurrent_kernel)

    Args:
        units: Number of units, the size of the output and of the state.
        activation: Name, function or None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer: Penalties added
            to the loss.
        kernel_constraint, recurrent_constraint, bias_constraint: Projections applied after each update.
        dropout, recurrent_dropout: Shares of the inputs and of the state that are dropped in training.
        return_sequences: Whether the outputs of all steps are returned, or only the last one.
        return_state: Whether the last state follows the output.
        go_backwards: Whether the sequence is walked from its end; outputs come in the order of the walk.
        stateful: Whether a batch starts from the state in which the batch before it ended.
        unroll: Kept for configs; the result is the same.
        seed: Of the dropout masks.

    Shapes:
        sequences (batch, time, features)  ->  (batch, units), or (batch, time, units) with return_sequences

    Example:
        >>> SimpleRNN(4, return_sequences=True)(np.ones((2, 5, 3), "float32")).shape
        (2, 5, 4)
    """

    _not_in_config = ("seed",)  # as in Keras

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
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        seed=None,
        **kwargs,
    ):
        cell = SimpleRNNCell(
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
            **_cell_settings("simple_rnn_cell", kwargs),
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )


@register("layer")
class LSTM(_CellLayer):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997).

        i, f, o = recurrent_activation(x_t · kernel + h_{t-1} · recurrent_kernel + bias)
        g = activation(the same)
        c_t = f c_{t-1} + i g
        h_t = o activation(c_t)

    With the default activations the whole sequence is one op; others, and recurrent_dropout in training, go
    step by step.

    Args:
        units: Number of units, the size of the output and of the states.
        activation, recurrent_activation: Of the cell and of the gates; a name, a function or None.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Where the weights start.
        unit_forget_bias: Whether the forget gate's bias starts at one.
        kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer: Penalties added
            to the loss.
        kernel_constraint, recurrent_constraint, bias_constraint: Projections applied after each update.
        dropout, recurrent_dropout: Shares of the inputs and of the state that are dropped in training.
        seed: Of the dropout masks.
        return_sequences: Whether the outputs of all steps are returned, or only the last one.
        return_state: Whether the last states h and c follow the output.
        go_backwards: Whether the sequence is walked from its end; outputs come in the order of the walk.
        stateful: Whether a batch starts from the states in which the batch before it ended.
        unroll: Kept for configs; the result is the same.
        use_cudnn: "auto" or False; True is refused, since cuDNN is not used.

    Shapes:
        sequences (batch, time, features)  ->  (batch, units), or (batch, time, units) with return_sequences

    Example:
        >>> y, h, c = LSTM(4, return_sequences=True, return_state=True)(np.ones((2, 5, 3), "float32"))
        >>> y.shape, h.shape, c.shape
        ((2, 5, 4), (2, 4), (2, 4))
    """

    recurrent_activation = _of_cell("recurrent_activation", "The activation function of the gates.")
    unit_forget_bias = _of_cell("unit_forget_bias", "Whether the forget gate's bias starts at one.")

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
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        use_cudnn="auto",
        **kwargs,
    ):
        cell = LSTMCell(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            unit_forget_bias=unit_forget_bias,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            implementation=kwargs.pop("implementation", 2),
            **_cell_settings("lstm_cell", kwargs),
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            use_cudnn=use_cudnn,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )


@register("layer")
class GRU(_CellLayer):
    """Gated recurrent unit (Cho et al., 2014).

        z, r = recurrent_activation(x_t · kernel + h_{t-1} · recurrent_kernel + bias)
        candidate = activation(x_t · kernel + bias + r (h_{t-1} · recurrent_kernel + recurrent bias))   reset_after
        candidate = activation(x_t · kernel + bias + (r h_{t-1}) · recurrent_kernel)                    otherwise
        h_t = z h_{t-1} + (1 - z) candidate

    With the default activations the whole sequence is one op; others, and recurrent_dropout in training, go
    step by step.

    Args:
        units: Number of units, the size of the output and of the state.
        activation, recurrent_activation: Of the candidate and of the gates; a name, a function or None.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Where the weights start.
        kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer: Penalties added
            to the loss.
        kernel_constraint, recurrent_constraint, bias_constraint: Projections applied after each update.
        dropout, recurrent_dropout: Shares of the inputs and of the state that are dropped in training.
        seed: Of the dropout masks.
        return_sequences: Whether the outputs of all steps are returned, or only the last one.
        return_state: Whether the last state follows the output.
        go_backwards: Whether the sequence is walked from its end; outputs come in the order of the walk.
        stateful: Whether a batch starts from the state in which the batch before it ended.
        unroll: Kept for configs; the result is the same.
        reset_after: Whether the reset gate acts after the product with the recurrent kernel, or before it.
        use_cudnn: "auto" or False; True is refused, since cuDNN is not used.

    Shapes:
        sequences (batch, time, features)  ->  (batch, units), or (batch, time, units) with return_sequences

    Example:
        >>> y, h = GRU(4, return_sequences=True, return_state=True)(np.ones((2, 5, 3), "float32"))
        >>> y.shape, h.shape
        ((2, 5, 4), (2, 4))
    """

    recurrent_activation = _of_cell("recurrent_activation", "The activation function of the gates.")
    reset_after = _of_cell("reset_after", "Whether the reset gate acts after the product.")

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
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        reset_after=True,
        use_cudnn="auto",
        **kwargs,
    ):
        cell = GRUCell(
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
            reset_after=reset_after,
            seed=seed,
            implementation=kwargs.pop("implementation", 2),
            **_cell_settings("gru_cell", kwargs),
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            use_cudnn=use_cudnn,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
