"""Where a training step on a GPU writes gradients: products into the optimizer's buffer, others there in one copy."""

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import layers
from gpukeras.backend import devices
from gpukeras.kernels import updates
from gpukeras.training import captures
from tests.emulator import compile as emulator
from tests.fake_cuda import nodes_of
from tests.helpers import assert_close

pytest_plugins = ["tests.fake_gpu"]
pytestmark = pytest.mark.skipif(emulator.reason_to_skip() is not None, reason=str(emulator.reason_to_skip()))

X = np.random.default_rng(0).normal(size=(12, 6, 5)).astype("float32")
Y = np.arange(12) % 3

RECURRENT = {
    "simple_rnn": (lambda: layers.SimpleRNN(4), ()),
    "lstm": (lambda: layers.LSTM(4), ()),
    "lstm, backwards and without a bias": (lambda: layers.LSTM(4, go_backwards=True, use_bias=False), ()),
    "gru": (lambda: layers.GRU(4), ("bias",)),
    "gru, reset before": (lambda: layers.GRU(4, reset_after=False), ()),
    "lstm with dropout": (lambda: layers.LSTM(4, recurrent_dropout=0.5), ("kernel", "recurrent_kernel", "bias")),
}
OTHERS = [
    lambda: layers.LayerNormalization(),
    lambda: layers.RMSNormalization(),
    lambda: layers.BatchNormalization(),
    lambda: layers.GroupNormalization(5),
    lambda: layers.PReLU(),
    lambda: layers.SeparableConv1D(4, 2),
]


def trained(make, **settings):
    keras.utils.set_random_seed(1)
    layer = make()
    model = keras.Sequential(
        [keras.Input((6, 5)), layer, layers.Flatten(), layers.Dense(3, "softmax", dtype="float32")]
    )
    model.compile("adam", "sparse_categorical_crossentropy", **settings)
    for _ in range(4):
        model.train_on_batch(X, Y)
    return model, layer


@pytest.fixture
def copied(monkeypatch):
    """The places that gradients are copied to, step by step."""
    steps, plain = [], updates.copy_all

    def copy_all(like, targets, sources):
        steps.append(targets)
        plain(like, targets, sources)

    monkeypatch.setattr(updates, "copy_all", copy_all)
    return steps


def names_of(places, model):
    """Which variables' places they are."""
    plan = model.optimizer.plan_of(model.trainable_variables)
    of_place = {id(view): model.trainable_variables[number].name for number, view in plan.copies}
    return tuple(of_place[id(place)] for place in places)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_write_them_in_place(name, policy, gpu_with_kernels, copied):
    make, rest = RECURRENT[name]
    keras.config.set_dtype_policy(policy)
    model, _ = trained(make)
    assert [names_of(step, model) for step in copied[1:]] == [rest] * len(copied[1:]) and bool(copied[1:]) == bool(rest)
    with devices.use_device("numpy"):
        expected, _ = trained(make)
    for found, wanted in zip(model.get_weights(), expected.get_weights(), strict=True):
        assert_close(found, wanted, dtype="bfloat16" if policy == "mixed_bfloat16" else "float32", scale=5)


@pytest.mark.parametrize("make", OTHERS)
def test_all_others_are_copied_by_one_launch(make, gpu_with_kernels):
    model, layer = trained(make)
    (graph,) = captures.graphs_of(model)
    assert graph.graph is not None and nodes_of(graph).count("copy_all") == 1
    assert layer.trainable_variables
