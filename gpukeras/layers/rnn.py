"""The loop over time: `RNN` runs any cell over a sequence, `StackedRNNCells` makes one cell of several."""

from gpukeras import ops
from gpukeras.autograd.symbolic import flatten, map_structure
from gpukeras.autograd.tensor import Variable
from gpukeras.layers import _name_scope as name_scope
from gpukeras.layers.layer import Layer
from gpukeras.registry import register, resolve

__all__ = ["RNN", "StackedRNNCells"]


@register("layer")
class RNN(Layer):
    """Recurrent layer over any cell.

        output_t, states_t = cell(input_t, states_{t-1})

    A cell has `call(inputs, states)`, a `state_size` (an integer or a list of them) and, where the output
    has another size than the first state, an `output_size`. It may have `get_initial_state(batch_size)`.

    Args:
        cell: A cell, or a list of cells to be stacked.
        return_sequences: Whether the outputs of all steps are returned, or only the last one.
        return_state: Whether the last states follow the output.
        go_backwards: Whether the sequence is walked from its end; outputs come in the order of the walk.
        stateful: Whether a batch starts from the states in which the batch before it ended.
        unroll: Kept for configs and for Keras's handling of masked first steps; the steps are a loop anyway.
        zero_output_for_mask: Whether masked steps give zeros instead of the output before them.

    Shapes:
        sequences (batch, time, ...)  ->  (batch, units), or (batch, time, units) with return_sequences;
        with return_state a tuple of that and the states

    Example:
        >>> RNN([keras.layers.LSTMCell(4), keras.layers.GRUCell(3)], return_sequences=True)(
        ...     np.ones((2, 5, 6), "float32")
        ... ).shape
        (2, 5, 3)
    """

    def __init__(
        self,
        cell,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        zero_output_for_mask=False,
        **kwargs,
    ):
        if isinstance(cell, (list, tuple)):
            cell = StackedRNNCells(cell)
        _check_cell(cell, "RNN")
        super().__init__(**kwargs)
        self.cell = cell
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.stateful = stateful
        self.unroll = unroll
        self.zero_output_for_mask = zero_output_for_mask
        self.supports_masking = True
        self._untracked_states = None
        size = cell.state_size
        self.single_state = isinstance(size, int)
        self.state_size = [size] if self.single_state else list(size)

    @property
    def states(self):
        """The variables that a stateful layer keeps between batches, else None."""
        return self._untracked_states

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        """The shape of the output, followed by those of the states with return_state."""
        batch, time = sequences_shape[:2]
        size = getattr(self.cell, "output_size", None)
        size = self.state_size[0] if size is None else size
        if not isinstance(size, int):
            raise ValueError(f"{self._who()}: the cell's output_size must be an integer, but is {size!r}.")
        shape = (batch, time, size) if self.return_sequences else (batch, size)
        if not self.return_state:
            return shape
        states = [(batch, s) if isinstance(s, int) else [(batch, part) for part in s] for s in self.state_size]
        return shape, *states

    def compute_mask(self, inputs, previous_mask):
        """The mask of the sequence, where the sequence is returned."""
        mask = flatten(previous_mask)[0] if self.return_sequences else None
        return [mask, *(None for _ in self.state_size)] if self.return_state else mask

    def build(self, sequences_shape, initial_state_shape=None):
        """Make the cell's weights, and the kept states of a stateful layer."""
        if isinstance(self.cell, Layer) and not self.cell.built:
            self.cell.build((sequences_shape[0], *sequences_shape[2:]))
            self.cell.built = True
        if not self.stateful:
            return
        if sequences_shape[0] is None:
            raise ValueError(
                f"{self._who()}: stateful=True needs a fixed batch size, but got sequences of shape "
                f"{sequences_shape}. Use Input(batch_shape=...) or Input(shape, batch_size=...)."
            )
        self._make_states(sequences_shape[0])

    def _make_states(self, batch_size):
        with name_scope.entered(self.name, self):
            path = name_scope.path_of("rnn_state")

        def variable(value):
            made = Variable(value, dtype=self.variable_dtype, trainable=False, name="rnn_state")
            made.path = path
            return made

        self._untracked_states = map_structure(variable, self.get_initial_state(batch_size))

    def get_initial_state(self, batch_size):
        """The states a sequence starts from: the cell's, or zeros."""
        make = getattr(self.cell, "get_initial_state", None)
        states = (
            _zero_states(self.cell, batch_size, self.compute_dtype) if make is None else make(batch_size=batch_size)
        )
        return list(states) if isinstance(states, (list, tuple)) else [states]

    def reset_state(self):
        """Set the kept states of a stateful layer to zero."""
        for variable in flatten(self.states or []):
            variable.assign(ops.zeros(variable.shape, variable.dtype))

    reset_states = reset_state

    def call(self, sequences, initial_state=None, mask=None, training=False):
        """Run over the sequences."""
        batch_size, time = sequences.shape[:2]
        if self.stateful and batch_size != flatten(self.states)[0].shape[0]:
            raise ValueError(
                f"{self._who()} is stateful for batches of {flatten(self.states)[0].shape[0]} sequences, but got "
                f"{batch_size}. Pass batches of one size, or build a new layer."
            )
        if time == 0:
            raise ValueError(f"{self._who()} needs at least one time step, but got shape {sequences.shape}.")
        if initial_state is None:
            initial_state = self.states if self.stateful else self.get_initial_state(batch_size)
        if not isinstance(initial_state, (list, tuple)):
            initial_state = [initial_state]
        dtype = getattr(self.cell, "compute_dtype", self.compute_dtype)
        states = [map_structure(lambda s: ops.cast(_value_of(s), dtype), s) for s in initial_state]
        self._check_states(states, batch_size)
        try:
            last, outputs, states = self.inner_loop(sequences, states, _as_mask(mask), training)
        finally:
            _reset_dropout(self.cell)
        dtype = self.compute_dtype
        states = [map_structure(lambda s: ops.cast(s, dtype), s) for s in states]
        if self.stateful:
            for variable, state in zip(flatten(self.states), flatten(states), strict=True):
                variable.assign(state)
        output = ops.cast(outputs if self.return_sequences else last, dtype)
        return (output, *states) if self.return_state else output

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """The last output, the outputs of all steps (None where not returned), and the last states."""
        walk = getattr(self.cell, "_walk", None)
        # Unrolled, Keras fills masked first steps with zeros and not with the state: only the plain loop does.
        if walk is not None and not (self.unroll and mask is not None):
            found = walk(
                sequences,
                initial_state,
                mask,
                training,
                self.go_backwards,
                self.zero_output_for_mask,
            )
            if found is not None:
                outputs, states = found
                last = outputs[:, -1] if mask is not None and self.zero_output_for_mask else self._output_state(states)
                return last, outputs, states
        return self._step_by_step(sequences, initial_state, mask, training)

    def _step_by_step(self, sequences, states, mask, training):
        takes_training = isinstance(self.cell, Layer) and self.cell._signature.has_training
        settings = {"training": training} if takes_training else {}
        steps = range(sequences.shape[1])
        outputs = []
        for t in reversed(steps) if self.go_backwards else steps:
            output, new_states = self.cell(sequences[:, t], states, **settings)
            new_states = list(new_states) if isinstance(new_states, (list, tuple)) else [new_states]
            if mask is not None:
                keep = mask[:, t]
                if self.unroll:
                    before = outputs[-1] if outputs else ops.zeros_like(output)
                elif self.zero_output_for_mask:
                    before = ops.zeros_like(output)
                else:
                    before = self._output_state(states)
                output = _where(keep, output, before)
                new_states = _where_all(keep, new_states, states)
            outputs.append(output)
            states = new_states
        return outputs[-1], ops.stack(outputs, axis=1) if self.return_sequences else None, states

    def _output_state(self, states):
        """The state that is also the output: the first one of the cell, of the last cell where they are stacked."""
        state = states[-1] if isinstance(self.cell, StackedRNNCells) else states[0]
        return state[0] if isinstance(state, (list, tuple)) else state

    def _check_states(self, states, batch_size):
        if len(states) != len(self.state_size):
            raise ValueError(
                f"{self._who()} has {len(self.state_size)} states of sizes {self.state_size}, but got "
                f"{len(states)} initial states."
            )
        for state, size in zip(states, self.state_size, strict=True):
            if isinstance(size, int) and not isinstance(state, (list, tuple)) and state.shape != (batch_size, size):
                raise ValueError(
                    f"{self._who()} expects an initial state of shape {(batch_size, size)}, but got "
                    f"{state.shape}. Pass one row per sequence."
                )

    def _who(self):
        return f"{type(self).__name__} {self.name!r}"

    @classmethod
    def from_config(cls, config):
        """A new layer from what `get_config` returned."""
        if "cell" in config:
            config = {**config, "cell": resolve("layer", config["cell"])}
        return super().from_config(config)


@register("layer")
class StackedRNNCells(Layer):
    """Several cells as one: the output of each is the input of the next.

    Args:
        cells: The cells, first one nearest to the input.

    Shapes:
        inputs (batch, features)  ->  (batch, units of the last cell), and the states of all cells

    Example:
        >>> RNN(StackedRNNCells([keras.layers.LSTMCell(8), keras.layers.LSTMCell(4)]))(
        ...     np.ones((2, 5, 3), "float32")
        ... ).shape
        (2, 4)
    """

    def __init__(self, cells, **kwargs):
        super().__init__(**kwargs)
        for cell in cells:
            _check_cell(cell, "StackedRNNCells")
        self.cells = list(cells)

    @property
    def state_size(self):
        """The state sizes of the cells, in order."""
        return [cell.state_size for cell in self.cells]

    @property
    def output_size(self):
        """The output size of the last cell."""
        return _output_size(self.cells[-1])

    def build(self, input_shape):
        """Build the cells one after the other."""
        for cell in self.cells:
            if isinstance(cell, Layer) and not cell.built:
                cell.build(input_shape)
                cell.built = True
            input_shape = (input_shape[0], _output_size(cell))

    def get_initial_state(self, batch_size=None):
        """The initial states of the cells, in order."""
        states = []
        for cell in self.cells:
            make = getattr(cell, "get_initial_state", None)
            if make is not None:
                states.append(make(batch_size=batch_size))
            else:
                zeros = _zero_states(cell, batch_size, self.compute_dtype)
                states.append(zeros[0] if isinstance(cell.state_size, int) else zeros)
        return states

    def call(self, inputs, states, training=False, **kwargs):
        """One step through all cells."""
        new_states = []
        for cell, state in zip(self.cells, states, strict=True):
            is_list = isinstance(state, (list, tuple))
            settings = dict(kwargs)
            if isinstance(cell, Layer) and cell._signature.has_training:
                settings["training"] = training
            inputs, new = cell(inputs, list(state) if is_list else [state], **settings)
            new = list(new) if isinstance(new, (list, tuple)) else [new]
            new_states.append(new[0] if len(new) == 1 and not is_list else new)
        return inputs, new_states

    def _walk(self, sequences, states, mask, training, go_backwards, zero_output_for_mask):
        """Cell after cell over the whole sequence, where every cell can."""
        if type(self).call is not StackedRNNCells.call:
            return None
        if not all(getattr(cell, "_can_walk", bool)() for cell in self.cells):
            return None
        new_states = []
        for i, (cell, state) in enumerate(zip(self.cells, states, strict=True)):
            is_list = isinstance(state, (list, tuple))
            is_last = i == len(self.cells) - 1
            sequences, new = cell._walk(
                sequences,
                list(state) if is_list else [state],
                mask,
                training,
                # After the first cell the sequence is in the order of the walk.
                go_backwards and i == 0,
                zero_output_for_mask and is_last,
            )
            if go_backwards and i == 0 and mask is not None:
                mask = ops.flip(mask, axis=1)
            new_states.append(new if is_list else new[0])
        return sequences, new_states

    @classmethod
    def from_config(cls, config):
        """New cells from what `get_config` returned."""
        return super().from_config({**config, "cells": [resolve("layer", cell) for cell in config["cells"]]})


def _check_cell(cell, who):
    for attribute, meaning in (
        ("call", "a method call(inputs, states)"),
        ("state_size", "an attribute state_size, an integer or a list of integers"),
    ):
        if attribute not in dir(cell):
            raise ValueError(f"{who} needs cells with {meaning}, but got {cell!r}.")
    if not isinstance(cell.state_size, (int, list, tuple)):
        raise ValueError(
            f"{who}: a cell's state_size must be an integer or a list of integers, but is {cell.state_size!r}."
        )


def _output_size(cell):
    size = getattr(cell, "output_size", None)
    if size is not None:
        return size
    return cell.state_size if isinstance(cell.state_size, int) else cell.state_size[0]


def _zero_states(cell, batch_size, dtype):
    dtype = getattr(cell, "compute_dtype", dtype)
    sizes = [cell.state_size] if isinstance(cell.state_size, int) else cell.state_size
    return [ops.zeros((batch_size, size), dtype=dtype) for size in sizes]


def _value_of(state):
    """A variable's values as they are now: it is assigned before the backward pass reads them."""
    return ops.copy(state) if isinstance(state, Variable) else state


def _as_mask(mask):
    """One boolean (batch, time) of whatever mask came."""
    if isinstance(mask, (list, tuple)):
        mask = mask[0]
    if mask is None:
        return None
    mask = ops.cast(mask, "bool")
    return ops.any(mask, axis=-1) if mask.ndim == 3 else mask


def _where(keep, new, old):
    return ops.where(ops.reshape(keep, (-1, *(1 for _ in new.shape[1:]))), new, old)


def _where_all(keep, new, old):
    if isinstance(new, (list, tuple)):
        return [_where_all(keep, n, o) for n, o in zip(new, old, strict=True)]
    return _where(keep, new, old)


def _reset_dropout(cell):
    for one in getattr(cell, "cells", [cell]):
        if hasattr(one, "reset_dropout_mask"):
            one.reset_dropout_mask()
            one.reset_recurrent_dropout_mask()
