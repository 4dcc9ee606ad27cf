"""Recurrent layers: step by step against the whole-sequence op, masks, states, dropout, errors."""

import numpy as np
import pytest

from gpukeras import activations, ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.layers.layer import Layer
from gpukeras.layers.recurrent import GRU, LSTM, SimpleRNN
from gpukeras.layers.recurrent_cells import GRUCell, LSTMCell, SimpleRNNCell
from gpukeras.layers.rnn import RNN, StackedRNNCells
from tests.helpers import assert_close, values

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 0, 1]], bool)
LAYERS = [SimpleRNN, LSTM, GRU]
CELLS = [SimpleRNNCell, LSTMCell, GRUCell]


def same_tanh(x):
    """The default activation under another name, so that the steps are taken one by one."""
    return activations.tanh(x)


def data(rng, batch=BATCH):
    return rng.standard_normal((batch, TIME, FEATURES)).astype("float32")


def flat(outputs):
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def run(layer, x, **call):
    """Outputs and the gradients of a fixed sum of them, for the weights and the input."""
    x = Tensor(convert_to_array(x))
    with Tape() as tape:
        tape.watch(x)
        outputs = flat(layer(x, **call))
    seeds = [convert_to_array(np.linspace(-1, 1, y.size, dtype="float32").reshape(y.shape)) for y in outputs]
    gradients = tape.gradients(list(zip(outputs, seeds, strict=True)), [*layer.trainable_variables, x])
    return outputs, gradients


OPTIONS = [
    {"return_sequences": True, "return_state": True},
    {"return_state": True, "go_backwards": True},
    {"return_sequences": True, "go_backwards": True, "zero_output_for_mask": True},
    {"zero_output_for_mask": True},
]


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("mask", [None, MASK], ids=["plain", "masked"])
def test_one_op_equals_step_by_step(cls, options, mask, rng, device):
    x = data(rng)
    whole, steps = cls(UNITS, **options), cls(UNITS, activation=same_tanh, **options)
    whole.build(x.shape)
    steps.build(x.shape)
    steps.set_weights(whole.get_weights())
    assert whole.cell._can_walk() and not steps.cell._can_walk()
    call = {} if mask is None else {"mask": mask}
    for actual, expected in zip(sum(run(whole, x, **call), []), sum(run(steps, x, **call), []), strict=True):
        assert_close(actual, values(expected), scale=10)  # sums over steps and rows


@pytest.mark.parametrize("cls", LAYERS)
def test_unrolled_masked_first_steps_are_zeros_as_in_keras(cls, rng):
    layer = cls(UNITS, unroll=True, return_sequences=True)
    states = [np.ones((BATCH, UNITS), "float32")] * (2 if cls is LSTM else 1)
    y = values(layer(data(rng), initial_state=states, mask=MASK))
    assert (y[2, 0] == 0).all()
    rolled = cls(UNITS, return_sequences=True)
    assert (values(rolled(data(rng), initial_state=states, mask=MASK))[2, 0] == 1).all()


def test_masks_are_passed_on(rng):
    x = Tensor(data(rng))
    x._keras_mask = Tensor(MASK)
    sequences = LSTM(UNITS, return_sequences=True)
    y = sequences(x)
    assert y._keras_mask is x._keras_mask
    assert getattr(LSTM(UNITS)(x), "_keras_mask", None) is None
    y, h, c = LSTM(UNITS, return_sequences=True, return_state=True)(x)
    assert y._keras_mask is x._keras_mask
    assert all(getattr(state, "_keras_mask", None) is None for state in (h, c))
    # What the mask on the tensor does is what the argument does.
    assert_close(sequences(x), values(sequences(Tensor(x.array), mask=MASK)))


def test_a_mask_with_a_last_axis_of_one(rng):
    layer = GRU(UNITS)
    x = data(rng)
    assert_close(layer(x, mask=MASK[:, :, None]), values(layer(x, mask=MASK)))


@pytest.mark.parametrize("cls", LAYERS)
def test_stateful_goes_on_where_it_ended(cls, rng, device):
    x = data(rng)
    layer, reference = (
        cls(UNITS, stateful=True, return_sequences=True),
        cls(UNITS, return_sequences=True),
    )
    layer.build((BATCH, TIME, FEATURES))
    reference.build((BATCH, TIME, FEATURES))
    reference.set_weights(layer.get_weights())
    homes = [id(s.array) for s in layer.states]
    halves = [layer(x[:, :2]), layer(x[:, 2:])]
    whole = values(reference(x))
    assert_close(np.concatenate([values(h) for h in halves], axis=1), whole)
    assert [id(s.array) for s in layer.states] == homes  # written in place
    assert_close(layer.states[0], whole[:, -1])
    layer.reset_states()
    assert_close(layer(x), whole)
    assert len(layer.weights) == len(reference.weights)  # kept states are no weights


def test_a_stateful_gradient_sees_the_state_it_started_from(rng):
    x = data(rng)
    layer = SimpleRNN(UNITS, stateful=True, activation=same_tanh)
    layer(x)
    start = values(layer.states[0]).copy()
    _, gradients = run(layer, x)
    reference = SimpleRNN(UNITS)
    reference.build(x.shape)
    reference.set_weights(layer.get_weights())
    _, expected = run(reference, x, initial_state=[start])
    for actual, gradient in zip(gradients, expected, strict=True):
        assert_close(actual, values(gradient), scale=10)


@pytest.mark.parametrize("cls", LAYERS)
def test_shapes_of_placeholders(cls):
    x = KerasTensor((None, None, FEATURES))
    assert cls(UNITS)(x).shape == (None, UNITS)
    outputs = cls(UNITS, return_sequences=True, return_state=True)(x)
    states = 2 if cls is LSTM else 1
    assert [y.shape for y in outputs] == [(None, None, UNITS)] + [(None, UNITS)] * states
    stacked = RNN([GRUCell(3), LSTMCell(2)], return_state=True)(x)
    assert stacked[0].shape == (None, 2)


def test_an_initial_state_of_placeholders():
    x, h = KerasTensor((None, TIME, FEATURES)), KerasTensor((None, UNITS))
    assert GRU(UNITS)(x, initial_state=[h]).shape == (None, UNITS)


@pytest.mark.parametrize("cls", LAYERS)
def test_dropout_masks_are_drawn_once_a_call(cls, rng):
    x = np.ones((BATCH, TIME, FEATURES), "float32")
    layer = cls(UNITS, dropout=0.5, seed=1, return_sequences=True)
    first, second = values(layer(x, training=True)), values(layer(x, training=True))
    assert (first != second).any()
    assert layer.cell._dropout_mask is None
    # The same generator state gives the same masks.
    again = cls(UNITS, dropout=0.5, seed=1, return_sequences=True)
    again.build(x.shape)
    again.set_weights(layer.get_weights())
    assert_close(again(x, training=True), first)
    assert_close(layer(x), values(layer(x, training=False)))


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize(
    "rates", [{"dropout": 0.5}, {"recurrent_dropout": 0.4}, {"dropout": 0.3, "recurrent_dropout": 0.4}]
)
def test_dropout_is_the_same_at_every_step(cls, rates, rng, device):
    x = data(rng)
    layer = cls(UNITS, seed=2, **rates)
    steps = cls(UNITS, seed=2, activation=same_tanh, **rates)
    for one in (layer, steps):
        one.build(x.shape)
    steps.set_weights(layer.get_weights())
    for actual, expected in zip(
        sum(run(layer, x, training=True), []), sum(run(steps, x, training=True), []), strict=True
    ):
        assert_close(actual, values(expected), scale=10)


@pytest.mark.parametrize("cls", LAYERS)
def test_recurrent_dropout_needs_training(cls, rng):
    x = data(rng)
    layer = cls(UNITS, recurrent_dropout=0.5, dropout=0.2)
    plain = cls(UNITS)
    for one in (layer, plain):
        one.build(x.shape)
    plain.set_weights(layer.get_weights())
    assert_close(layer(x), values(plain(x)))
    assert (values(layer(x, training=True)) != values(plain(x))).any()
    masks = layer.cell.dropout_mask_count
    assert masks == {"SimpleRNN": None, "LSTM": 4, "GRU": 3}[cls.__name__]


def test_seed_generator_is_state_of_the_cell():
    layer = LSTM(UNITS, seed=5)
    layer.build((None, TIME, FEATURES))
    assert layer.cell._seed_generators == [layer.cell.seed_generator]
    assert len(layer.variables) == len(layer.weights) + 1


def test_forget_bias_starts_at_one():
    layer = LSTM(2)
    layer.build((None, TIME, FEATURES))
    assert values(layer.cell.bias).tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    layer = LSTM(2, unit_forget_bias=False)
    layer.build((None, TIME, FEATURES))
    assert not values(layer.cell.bias).any()


def test_regularizers_and_constraints_reach_the_weights(rng):
    layer = GRU(
        UNITS,
        kernel_regularizer="l2",
        recurrent_regularizer="l1",
        bias_constraint="non_neg",
        activity_regularizer="l2",
    )
    layer(data(rng))
    assert len(layer.losses) == 3
    assert layer.cell.bias.constraint is layer.bias_constraint


def test_mixed_precision(rng):
    layer = LSTM(UNITS, dtype="mixed_float16", return_state=True)
    y, h, c = layer(data(rng))
    assert {y.dtype.name, h.dtype.name, c.dtype.name} == {"float16"}
    assert {w.dtype for w in layer.weights} == {"float32"}
    assert layer.cell.compute_dtype == "float16"


class Counter(Layer):
    """A cell of one's own: the state counts steps, the output is the input and the count."""

    state_size = 1
    output_size = FEATURES + 1

    def call(self, inputs, states):
        count = states[0] + 1
        return ops.concatenate([inputs, count], axis=-1), [count]


def test_a_cell_of_ones_own(rng, device):
    x = data(rng)
    y, count = RNN(Counter(), return_sequences=True, return_state=True)(x)
    assert y.shape == (BATCH, TIME, FEATURES + 1)
    assert (values(count) == TIME).all()
    assert_close(values(y)[:, :, -1], np.tile(np.arange(1, TIME + 1, dtype="float32"), (BATCH, 1)))
    masked = RNN(Counter(), zero_output_for_mask=True, return_state=True)(x, mask=MASK)[1]
    assert values(masked)[:, 0].tolist() == MASK.sum(axis=1).tolist()


@pytest.mark.parametrize("cls", CELLS)
def test_a_subclass_of_a_cell_is_taken_step_by_step(cls, rng):
    class Double(cls):
        def call(self, *args, **kwargs):
            y, states = super().call(*args, **kwargs)
            return 2 * y, states

    x = data(rng)
    ours, plain = RNN(Double(UNITS)), RNN(cls(UNITS))
    ours.build(x.shape)
    plain.build(x.shape)
    plain.set_weights(ours.get_weights())
    assert_close(ours(x), 2 * values(plain(x)))


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("mask", [None, MASK], ids=["plain", "masked"])
def test_stacked_cells_equal_stacked_layers(go_backwards, mask, rng, device):
    x = data(rng)
    stacked = RNN(
        [LSTMCell(5), GRUCell(3)],
        return_sequences=True,
        return_state=True,
        go_backwards=go_backwards,
    )
    steps = RNN(
        [LSTMCell(5, activation=same_tanh), GRUCell(3)],
        return_sequences=True,
        return_state=True,
        go_backwards=go_backwards,
    )
    stacked.build(x.shape)
    steps.build(x.shape)
    steps.set_weights(stacked.get_weights())
    call = {} if mask is None else {"mask": mask}
    actual, expected = stacked(x, **call), steps(x, **call)
    assert isinstance(stacked.cell, StackedRNNCells)
    assert_close(actual[0], values(expected[0]))
    for a, b in zip(actual[1:], expected[1:], strict=True):
        for state, wanted in zip(a, b, strict=True):
            assert_close(state, values(wanted))


def test_step_of_a_cell(rng):
    cell = LSTMCell(UNITS)
    x = rng.standard_normal((BATCH, FEATURES)).astype("float32")
    y, (h, c) = cell(x, cell.get_initial_state(BATCH))
    assert y.shape == h.shape == c.shape == (BATCH, UNITS)
    layer = LSTM(UNITS)
    layer.build((BATCH, 1, FEATURES))
    layer.set_weights(cell.get_weights())
    assert_close(layer(x[:, None]), values(y))


def test_cudnn_can_only_be_asked_for_politely(rng):
    layer = LSTM(UNITS, use_cudnn=True)
    with pytest.raises(ValueError, match=r"use_cudnn=True asks for cuDNN.*use_cudnn='auto'"):
        layer(data(rng))
    with pytest.raises(ValueError, match=r"use_cudnn must be 'auto', True or False, but got 'yes'"):
        GRU(UNITS, use_cudnn="yes")


def test_errors(rng):
    x = data(rng)
    with pytest.raises(ValueError, match=r"units must be a positive integer, but got -1"):
        LSTM(-1)
    with pytest.raises(ValueError, match=r"expected 3 axes, but got shape \(3, 4\)"):
        LSTM(UNITS)(x[:, 0])
    with pytest.raises(ValueError, match=r"LSTM .* expects an initial state of shape \(3, 6\)"):
        LSTM(UNITS)(x, initial_state=[np.zeros((3, 5), "float32"), np.zeros((3, 6), "float32")])
    with pytest.raises(ValueError, match=r"has 2 states of sizes \[6, 6\], but got 1"):
        LSTM(UNITS)(x, initial_state=[np.zeros((3, 6), "float32")])
    with pytest.raises(ValueError, match=r"stateful=True needs a fixed batch size"):
        GRU(UNITS, stateful=True)(KerasTensor((None, TIME, FEATURES)))
    layer = GRU(UNITS, stateful=True)
    layer(x)
    with pytest.raises(ValueError, match=r"is stateful for batches of 3 sequences, but got 2"):
        layer(x[:2])
    with pytest.raises(ValueError, match=r"needs at least one time step, but got shape \(3, 0, 4\)"):
        GRU(UNITS)(x[:, :0])
    with pytest.raises(ValueError, match=r"RNN needs cells with a method call\(inputs, states\)"):
        RNN(object())
    with pytest.raises(ValueError, match=r"RNN needs cells with an attribute state_size"):
        RNN(Layer())
    with pytest.raises(ValueError, match=r"StackedRNNCells needs cells"):
        StackedRNNCells([object()])
