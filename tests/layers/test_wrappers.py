"""Bidirectional, TimeDistributed and their base: against their definitions, configs, errors."""

import numpy as np
import pytest

from gpukeras import ops
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tensor import Tensor
from gpukeras.layers.layer import Layer
from gpukeras.layers.recurrent import GRU, LSTM, SimpleRNN
from gpukeras.layers.wrappers import Bidirectional, TimeDistributed, Wrapper
from tests.helpers import assert_close, values

MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 0, 1]], bool)


def data(rng, *shape):
    return rng.standard_normal(shape or (3, 5, 4)).astype("float32")


MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
}


@pytest.mark.parametrize("merge_mode", MERGES)
@pytest.mark.parametrize("return_sequences", [True, False])
def test_bidirectional_is_two_layers(merge_mode, return_sequences, rng, device):
    x = data(rng)
    layer = Bidirectional(LSTM(6, return_sequences=return_sequences), merge_mode=merge_mode)
    y = layer(x)
    forward, backward = values(layer.forward_layer(x)), values(layer.backward_layer(x))
    backward = backward[:, ::-1] if return_sequences else backward
    assert layer.backward_layer.go_backwards
    assert_close(y, MERGES[merge_mode](forward, backward))
    shape = layer.compute_output_shape((None, 5, 4))
    assert shape[1:] == y.shape[1:]


def test_bidirectional_without_merging(rng):
    layer = Bidirectional(GRU(6, return_sequences=True, return_state=True), merge_mode=None)
    outputs = layer(data(rng))
    assert [y.shape for y in outputs] == [(3, 5, 6), (3, 5, 6), (3, 6), (3, 6)]
    assert_close(outputs[0][:, -1], values(outputs[2]))
    assert_close(outputs[1][:, 0], values(outputs[3]))
    symbolic = layer(KerasTensor((None, None, 4)))
    assert [y.shape for y in symbolic] == [
        (None, None, 6),
        (None, None, 6),
        (None, 6),
        (None, 6),
    ]


def test_bidirectional_of_a_masked_sequence_gives_zeros(rng):
    x = Tensor(data(rng))
    x._keras_mask = Tensor(MASK)
    y = Bidirectional(LSTM(6, return_sequences=True))(x)
    assert y._keras_mask is x._keras_mask
    assert not values(y)[~MASK].any()
    assert values(y)[MASK].any(axis=-1).all()
    last = Bidirectional(LSTM(6))(x)
    assert getattr(last, "_keras_mask", None) is None
    assert values(last)[1].any()


def test_bidirectional_initial_states(rng):
    layer = Bidirectional(LSTM(6))
    states = [data(rng, 3, 6) for _ in range(4)]
    x = data(rng)
    y = values(layer(x, initial_state=states))
    assert_close(layer.forward_layer(x, initial_state=states[:2]), y[:, :6])
    assert_close(layer.backward_layer(x, initial_state=states[2:]), y[:, 6:])


def test_bidirectional_stateful(rng):
    layer = Bidirectional(GRU(6, stateful=True))
    x = data(rng)
    first, second = values(layer(x)), values(layer(x))
    assert (first != second).any()
    assert len(layer.states) == 2
    layer.reset_state()
    assert_close(layer(x), first)
    with pytest.raises(AttributeError, match=r"keeps no states to be reset"):
        Bidirectional(GRU(6)).reset_states()


def test_bidirectional_keeps_nothing_of_the_layer(rng):
    inner = LSTM(6, use_cudnn=False)
    inner(data(rng))
    layer = Bidirectional(inner)
    assert layer.forward_layer is not inner and not layer.forward_layer.built
    assert layer.forward_layer.use_cudnn is False
    assert layer.forward_layer.name == f"forward_{inner.name}"
    assert layer.backward_layer.name == f"backward_{inner.name}"


def test_bidirectional_initial_weights(rng):
    donor = Bidirectional(SimpleRNN(6))
    x = data(rng)
    y = donor(x)
    assert_close(Bidirectional(SimpleRNN(6), weights=donor.get_weights())(x), values(y))


def test_bidirectional_config_round_trip(rng):
    layer = Bidirectional(LSTM(6), backward_layer=GRU(6, go_backwards=True, name="other"), merge_mode="sum")
    config = layer.get_config()
    again = Bidirectional.from_config(config)
    assert again.get_config() == config
    assert isinstance(again.backward_layer, GRU)


def test_bidirectional_errors():
    with pytest.raises(ValueError, match=r"expects a layer as layer, but got 3"):
        Bidirectional(3)
    with pytest.raises(ValueError, match=r"expects a layer as backward_layer"):
        Bidirectional(LSTM(2), backward_layer="x")
    with pytest.raises(ValueError, match=r"merge_mode must be one of .*but got 'add'"):
        Bidirectional(LSTM(2), merge_mode="add")
    with pytest.raises(ValueError, match=r"different go_backwards, but both have False"):
        Bidirectional(LSTM(2), backward_layer=LSTM(2))
    with pytest.raises(ValueError, match=r"same return_sequences, but it is True for layer"):
        Bidirectional(LSTM(2, return_sequences=True), backward_layer=LSTM(2, go_backwards=True))


class Scale(Layer):
    """Multiplies; sees the mean of its batch, so that one call for all steps would differ."""

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs):
        return (inputs - ops.mean(inputs, axis=0, keepdims=True)) * self.factor


def test_time_distributed_sees_one_step_at_a_time(rng, device):
    x = data(rng)
    layer = TimeDistributed(Scale())
    assert_close(layer(x), x - x.mean(axis=0, keepdims=True))
    assert layer.layer.factor.path.startswith(f"{layer.name}/scale")
    assert layer(KerasTensor((None, 7, 4))).shape == (None, 7, 4)


@pytest.mark.parametrize("training", [False, True])
def test_time_distributed_of_a_layer_of_the_library(training, rng, device):
    x = data(rng, 3, 2, 5, 4)
    layer = TimeDistributed(LSTM(6))
    y = layer(x, training=training)
    expected = np.stack([values(layer.layer(x[:, t])) for t in range(2)], axis=1)
    assert_close(y, expected)
    assert layer.compute_output_shape((None, 2, 5, 4)) == (None, 2, 6)


def test_time_distributed_passes_the_mask_of_each_step(rng):
    class Marked(Layer):
        def call(self, inputs, mask=None):
            return ops.where(ops.expand_dims(mask, -1), inputs, 0.0)

    x = data(rng)
    y = values(TimeDistributed(Marked())(x, mask=MASK))
    assert_close(y, np.where(MASK[:, :, None], x, np.float32(0)))


def test_time_distributed_errors(rng):
    with pytest.raises(ValueError, match=r"expects a layer as layer, but got 'x'"):
        TimeDistributed("x")
    with pytest.raises(ValueError, match=r"at least 3 axes, but got shape \(3, 4\)"):
        TimeDistributed(Scale())(data(rng, 3, 4))
    with pytest.raises(ValueError, match=r"mask of shape .*\(3, 5\), but got shape \(5, 3\)"):
        TimeDistributed(Scale())(data(rng), mask=MASK.T)


def test_wrapper(rng):
    class Twice(Wrapper):
        def call(self, inputs):
            return self.layer(self.layer(inputs))

    layer = Twice(SimpleRNN(4, return_sequences=True, name="r"))
    x = data(rng)
    assert_close(layer(x), values(layer.layer(layer.layer(x))))
    again = Twice.from_config(layer.get_config())
    assert again.layer.get_config() == layer.layer.get_config()
