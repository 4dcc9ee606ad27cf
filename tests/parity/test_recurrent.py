"""Recurrent layers and wrappers against the installed Keras: outputs, gradients, masks, states, configs, paths."""

import json

import numpy as np
import pytest

from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.layers import recurrent, recurrent_cells, rnn, wrappers
from tests.helpers import assert_close, values
from tests.oracle import jax, jnp
from tests.oracle import keras as oracle_keras

pytestmark = pytest.mark.oracle

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 0, 1]], bool)
LAYERS = {"SimpleRNN": recurrent.SimpleRNN, "LSTM": recurrent.LSTM, "GRU": recurrent.GRU}


def flat(outputs):
    if isinstance(outputs, (list, tuple)):
        return [leaf for item in outputs for leaf in flat(item)]
    return [outputs]


def compare(ours, theirs, rng, x=None, mask=None, initial_state=None):
    """Give both layers the same weights; compare outputs and all gradients."""
    x = rng.standard_normal((BATCH, TIME, FEATURES)).astype("float32") if x is None else x
    call = {} if mask is None else {"mask": mask}
    if initial_state is not None:
        call["initial_state"] = initial_state
    theirs.build(x.shape)
    ours.build(x.shape)
    assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    weights = [rng.standard_normal(w.shape).astype("float32") * 0.5 for w in ours.weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    frozen = [v.value for v in theirs.non_trainable_variables]

    def evaluate(variables, x, call):
        outputs, _ = theirs.stateless_call(variables, frozen, x, training=False, **call)
        return flat(outputs)

    variables = [v.value for v in theirs.trainable_variables]
    shapes = jax.eval_shape(evaluate, variables, jnp.asarray(x), call)
    seeds = [rng.standard_normal(y.shape).astype("float32") for y in shapes]

    @jax.jit
    def run(variables, x, call):
        def scalar(variables, x):
            outputs = evaluate(variables, x, call)
            return sum((y * s).sum() for y, s in zip(outputs, seeds, strict=True)), outputs

        (_, outputs), gradients = jax.value_and_grad(scalar, (0, 1), has_aux=True)(variables, x)
        return outputs, gradients

    expected, wanted = run(variables, jnp.asarray(x), call)

    tensor = Tensor(convert_to_array(x))
    with Tape() as tape:
        tape.watch(tensor)
        outputs = flat(ours(tensor, training=False, **call))
    assert len(outputs) == len(expected)
    for actual, y in zip(outputs, expected, strict=True):
        assert_close(actual, y)
    got = tape.gradients(list(zip(outputs, seeds, strict=True)), [*ours.trainable_variables, tensor])
    # Sums over all steps and rows, of terms of size one.
    for actual, gradient in zip(got, [*wanted[0], wanted[1]], strict=True):
        assert_close(np.zeros(gradient.shape, "float32") if actual is None else actual, gradient, scale=10)


OPTIONS = [
    {},
    {"return_sequences": True, "return_state": True},
    {"return_state": True, "use_bias": False},
    {"return_sequences": True, "return_state": True, "go_backwards": True},
    {"return_sequences": True, "activation": "relu"},
    {"return_state": True, "activation": None, "go_backwards": True},
]
OWN_OPTIONS = [
    ("LSTM", {"return_sequences": True, "recurrent_activation": "hard_sigmoid"}),
    ("GRU", {"return_sequences": True, "return_state": True, "reset_after": False}),
    (
        "GRU",
        {"return_sequences": True, "reset_after": False, "recurrent_activation": "hard_sigmoid"},
    ),
    (
        "GRU",
        {"return_sequences": True, "reset_after": False, "use_bias": False, "go_backwards": True},
    ),
    ("GRU", {"return_sequences": True, "use_bias": False, "activation": "relu"}),
]
CASES = [(name, options) for name in LAYERS for options in OPTIONS] + OWN_OPTIONS


@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_outputs_and_gradients(name, options, rng):
    compare(
        LAYERS[name](UNITS, name="r", **options),
        getattr(oracle_keras.layers, name)(UNITS, name="r", **options),
        rng,
    )


MASKED = [
    {"return_sequences": True, "return_state": True},
    {"return_sequences": True, "zero_output_for_mask": True},
    {"return_state": True, "go_backwards": True},
    {"zero_output_for_mask": True, "go_backwards": True},
    {"return_sequences": True, "return_state": True, "unroll": True},
    {"return_sequences": True, "return_state": True, "activation": "relu"},
]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", MASKED, ids=str)
def test_masks(name, options, rng):
    ours = LAYERS[name](UNITS, name="r", **options)
    compare(ours, getattr(oracle_keras.layers, name)(UNITS, name="r", **options), rng, mask=MASK)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{"return_sequences": True}], ids=str)
def test_initial_state_and_mask(name, options, rng):
    states = [rng.standard_normal((BATCH, UNITS)).astype("float32") for _ in range(2 if name == "LSTM" else 1)]
    ours = LAYERS[name](UNITS, name="r", **options)
    theirs = getattr(oracle_keras.layers, name)(UNITS, name="r", **options)
    compare(ours, theirs, rng, mask=MASK, initial_state=states)


@pytest.mark.parametrize("name", LAYERS)
def test_stateful(name, rng):
    ours = LAYERS[name](UNITS, stateful=True)
    theirs = getattr(oracle_keras.layers, name)(UNITS, stateful=True)
    x = rng.standard_normal((BATCH, TIME, FEATURES)).astype("float32")
    theirs.build(x.shape)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    for _ in range(3):
        assert_close(ours(x), np.asarray(theirs(x)))
    assert [s.shape for s in ours.states] == [s.shape for s in theirs.states]
    for ours_state, theirs_state in zip(ours.states, theirs.states, strict=True):
        assert_close(ours_state, np.asarray(theirs_state.value))
    ours.reset_state()
    theirs.reset_state()
    assert_close(ours(x), np.asarray(theirs(x)))


def cells(module, kind):
    return {
        "one": lambda: module.LSTMCell(5),
        "stacked": lambda: [module.LSTMCell(5), module.GRUCell(3), module.SimpleRNNCell(4)],
        "stacked_generic": lambda: [module.LSTMCell(5, activation="relu"), module.GRUCell(3)],
    }[kind]()


class Cells:
    LSTMCell, GRUCell, SimpleRNNCell = (
        recurrent_cells.LSTMCell,
        recurrent_cells.GRUCell,
        recurrent_cells.SimpleRNNCell,
    )


@pytest.mark.parametrize("kind", ["one", "stacked", "stacked_generic"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["plain", "masked"])
def test_rnn_of_cells(kind, mask, rng):
    options = {"return_sequences": True, "return_state": True, "go_backwards": mask is not None}
    oracle_keras.backend.clear_session()
    ours = rnn.RNN(cells(Cells, kind), name="r", **options)
    theirs = oracle_keras.layers.RNN(cells(oracle_keras.layers, kind), name="r", **options)
    # Names are counted up by all tests before this one.
    ours.cell.name = theirs.cell.name
    for a, b in zip(getattr(ours.cell, "cells", []), getattr(theirs.cell, "cells", []), strict=True):
        a.name = b.name
    compare(ours, theirs, rng, mask=mask)


@pytest.mark.parametrize(
    "merge_mode, return_sequences", [("concat", False), ("sum", True), ("mul", True), ("ave", False), (None, True)]
)
def test_bidirectional(merge_mode, return_sequences, rng):
    options = {"return_sequences": return_sequences, "name": "r"}
    ours = wrappers.Bidirectional(recurrent.LSTM(UNITS, **options), merge_mode=merge_mode, name="b")
    theirs = oracle_keras.layers.Bidirectional(
        oracle_keras.layers.LSTM(UNITS, **options), merge_mode=merge_mode, name="b"
    )
    compare(ours, theirs, rng, mask=MASK)


@pytest.mark.parametrize("merge_mode", ["concat", None])
def test_bidirectional_with_states(merge_mode, rng):
    options = {"return_sequences": True, "return_state": True, "name": "r"}
    ours = wrappers.Bidirectional(recurrent.GRU(UNITS, **options), merge_mode=merge_mode, name="b")
    theirs = oracle_keras.layers.Bidirectional(
        oracle_keras.layers.GRU(UNITS, **options), merge_mode=merge_mode, name="b"
    )
    states = [rng.standard_normal((BATCH, UNITS)).astype("float32") for _ in range(2)]
    compare(ours, theirs, rng, initial_state=states)


def test_bidirectional_with_a_backward_layer(rng):
    def make(layers, module):
        return layers.Bidirectional(
            module.GRU(UNITS, name="f", return_sequences=True),
            backward_layer=module.SimpleRNN(UNITS, name="g", return_sequences=True, go_backwards=True),
            name="b",
        )

    compare(make(wrappers, recurrent), make(oracle_keras.layers, oracle_keras.layers), rng)


def test_time_distributed(rng):
    ours = wrappers.TimeDistributed(recurrent.LSTM(UNITS, name="r"), name="t")
    theirs = oracle_keras.layers.TimeDistributed(oracle_keras.layers.LSTM(UNITS, name="r"), name="t")
    compare(ours, theirs, rng, x=rng.standard_normal((BATCH, 2, TIME, FEATURES)).astype("float32"))


CONFIGS = [
    ("SimpleRNN", (5,), {}),
    (
        "SimpleRNN",
        (5,),
        {"dropout": 0.1, "recurrent_dropout": 0.2, "seed": 3, "kernel_regularizer": "l2"},
    ),
    ("LSTM", (5,), {}),
    (
        "LSTM",
        (5,),
        {
            "activation": "relu",
            "unit_forget_bias": False,
            "seed": 3,
            "stateful": True,
            "unroll": True,
        },
    ),
    (
        "LSTM",
        (5,),
        {
            "activity_regularizer": "l1",
            "recurrent_constraint": "max_norm",
            "dtype": "mixed_bfloat16",
        },
    ),
    ("GRU", (5,), {}),
    (
        "GRU",
        (5,),
        {
            "reset_after": False,
            "zero_output_for_mask": True,
            "go_backwards": True,
            "bias_initializer": "ones",
        },
    ),
    ("SimpleRNNCell", (5,), {"seed": 4}),
    ("LSTMCell", (5,), {"recurrent_activation": "hard_sigmoid"}),
    ("GRUCell", (5,), {"use_bias": False, "dropout": 0.5}),
]


def find(name):
    for module in (recurrent, recurrent_cells, rnn, wrappers):
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError(name)


def plain(config):
    return json.loads(json.dumps(config))


@pytest.mark.parametrize("name, args, options", CONFIGS, ids=str)
def test_configs(name, args, options):
    ours = find(name)(*args, name="r", **options)
    theirs = getattr(oracle_keras.layers, name)(*args, name="r", **options)
    expected = theirs.get_config()
    if name == "SimpleRNN" and options.get("activity_regularizer"):
        pytest.fail("Keras drops it there; leave it out of the table")
    assert plain(ours.get_config()) == plain(expected)
    assert plain(find(name).from_config(ours.get_config()).get_config()) == plain(expected)
    assert plain(find(name).from_config(expected).get_config()) == plain(expected)


NESTED = {
    "RNN": lambda k: k.RNN(k.LSTMCell(3, name="c"), return_sequences=True, name="r"),
    "StackedRNNCells": lambda k: k.StackedRNNCells([k.GRUCell(3, name="c"), k.LSTMCell(2, name="d")], name="s"),
    "RNN_of_a_list": lambda k: k.RNN([k.GRUCell(3, name="c"), k.LSTMCell(2, name="d")], name="s"),
    "Bidirectional": lambda k: k.Bidirectional(k.LSTM(3, name="l", return_sequences=True), merge_mode="sum", name="b"),
    "TimeDistributed": lambda k: k.TimeDistributed(k.GRU(3, name="l"), name="t"),
}


class Ours:
    def __getattr__(self, name):
        return find(name)


@pytest.mark.parametrize("kind", NESTED)
def test_nested_configs(kind):
    ours, theirs = NESTED[kind](Ours()), NESTED[kind](oracle_keras.layers)
    ours_config, expected = plain(ours.get_config()), plain(theirs.get_config())
    if kind == "RNN_of_a_list":  # the stack was named by counting
        ours_config["cell"]["config"]["name"] = expected["cell"]["config"]["name"]
    assert ours_config == expected
    assert plain(type(ours).from_config(expected).get_config()) == expected


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_drops_as_much_as_keras(name, rng):
    """The bits differ; the share of dropped inputs, seen through an identity of a layer, does not."""
    theirs = getattr(oracle_keras.layers, name)(UNITS, dropout=0.5, recurrent_dropout=0.25)
    ours = LAYERS[name](UNITS, dropout=0.5, recurrent_dropout=0.25)
    x = np.ones((2000, 3, FEATURES), "float32")
    theirs.build(x.shape)
    ours.build(x.shape)
    weights = [np.full(w.shape, 0.1, "float32") for w in ours.weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    actual, expected = values(ours(x, training=True)), np.asarray(theirs(x, training=True))
    # Means and deviations of 12,000 outputs.
    np.testing.assert_allclose(actual.mean(), expected.mean(), rtol=0.03)
    np.testing.assert_allclose(actual.std(), expected.std(), rtol=0.08)
    assert_close(ours(x, training=False), np.asarray(theirs(x, training=False)))
