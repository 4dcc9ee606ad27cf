"""Activations and their layers against the installed Keras: values, gradients, names, configs."""

import inspect

import numpy as np
import pytest

from gpukeras import activations, ops
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.layers import activation as layers
from tests.helpers import assert_close
from tests.oracle import jax
from tests.oracle import keras as oracle_keras
from tests.parity.layer_comparison import compare_layers, same_layers

pytestmark = pytest.mark.oracle

NAMES = sorted(
    name
    for name, value in vars(oracle_keras.activations).items()
    if inspect.isfunction(value) and name not in ("get", "serialize", "deserialize")
)
SETTINGS = {"threshold": {"threshold": 0.3, "default_value": -1.0}}
VARIANTS = [(name, SETTINGS.get(name, {})) for name in NAMES] + [
    ("relu", {"max_value": 1.5}),
    ("relu", {"max_value": 6}),
    ("relu", {"threshold": 0.4}),
    ("relu", {"negative_slope": 0.1}),
    ("relu", {"negative_slope": 0.1, "max_value": 1.5, "threshold": 0.4}),
    ("relu", {"max_value": 1.5, "threshold": -0.4}),
    ("leaky_relu", {"negative_slope": 0.01}),
    ("elu", {"alpha": 0.5}),
    ("celu", {"alpha": 0.5}),
    ("gelu", {"approximate": True}),
    ("softmax", {"axis": 0}),
    ("softmax", {"axis": (0, 1)}),
    ("log_softmax", {"axis": 0}),
    ("glu", {"axis": 0}),
    ("hard_shrink", {"threshold": 1.0}),
    ("soft_shrink", {"threshold": 1.0}),
    ("squareplus", {"b": 1}),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_values_and_gradients(rng, name, settings):
    x = 2 * rng.standard_normal((4, 6)).astype("float32")
    if name == "sparsemax":
        x *= 100  # one element wins: with several Keras's result is not on the simplex
    ours, theirs = getattr(activations, name), getattr(oracle_keras.activations, name)
    tensor = Tensor(x)
    with Tape() as tape:
        tape.watch(tensor)
        y = ours(tensor, **settings)
    expected = np.asarray(theirs(x, **settings))
    assert_close(y, expected, scale=2)
    dy = rng.standard_normal(expected.shape).astype("float32")
    if name != "linear":
        (dx,) = tape.gradients([(y, dy)], [tensor])
        assert_close(dx, np.asarray(jax.vjp(lambda v: theirs(v, **settings), x)[1](dy)[0]), scale=2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_half_precision(rng, name, settings, dtype):
    x = 2 * rng.standard_normal((4, 6)).astype("float32")
    if name == "sparsemax":
        x *= 100
    x = oracle_keras.ops.cast(x, dtype)
    y = getattr(activations, name)(np.asarray(x), **settings)
    expected = getattr(oracle_keras.activations, name)(x, **settings)
    assert y.dtype.name == str(expected.dtype)
    assert_close(np.asarray(y).astype("float32"), np.asarray(expected).astype("float32"), dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
def test_signature_and_names(name):
    ours, theirs = getattr(activations, name), getattr(oracle_keras.activations, name)
    assert str(inspect.signature(ours)) == str(inspect.signature(theirs))
    assert activations.get(name) is ours
    assert activations.serialize(ours) == oracle_keras.activations.serialize(theirs)
    assert activations.deserialize(oracle_keras.activations.serialize(theirs)) is ours


def test_ops_have_the_same_defaults():
    names = [
        "gelu",
        "leaky_relu",
        "elu",
        "celu",
        "glu",
        "softmax",
        "log_softmax",
        "sparsemax",
        "squareplus",
    ]
    for name in [
        *names,
        "hard_shrink",
        "soft_shrink",
        "threshold",
        "sigmoid",
        "relu",
        "hard_swish",
    ]:
        ours, theirs = getattr(ops, name), getattr(oracle_keras.ops, name)
        described = [
            [(p.name, p.default) for p in inspect.signature(function).parameters.values()]
            for function in (ours, theirs)
        ]
        assert described[0] == described[1], name


def test_get_takes_none_functions_and_configs():
    assert activations.get(None) is activations.linear
    assert activations.get(np.tanh) is np.tanh
    assert activations.get({"class_name": "function", "config": "relu"}) is activations.relu
    with pytest.raises(ValueError, match="Unknown activation 'gleu'. Did you mean"):
        activations.get("gleu")


LAYERS = [
    ("Activation", {"activation": "gelu"}),
    ("Activation", {"activation": "swish"}),
    ("Activation", {"activation": None}),
    ("ReLU", {}),
    ("ReLU", {"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.2}),
    ("LeakyReLU", {}),
    ("LeakyReLU", {"negative_slope": 0.1}),
    ("PReLU", {}),
    ("PReLU", {"alpha_initializer": "ones", "alpha_regularizer": "l2", "shared_axes": 1}),
    ("PReLU", {"shared_axes": [1, 2], "alpha_constraint": "non_neg"}),
    ("ELU", {}),
    ("ELU", {"alpha": 0.5}),
    ("Softmax", {}),
    ("Softmax", {"axis": 1}),
    ("Softmax", {"axis": [1, 2]}),
]


@pytest.mark.parametrize(("name", "settings"), LAYERS)
def test_layer(rng, name, settings):
    x = rng.standard_normal((3, 4, 5)).astype("float32")
    compare_layers(*same_layers(layers, name, settings), x, rng=rng)


@pytest.mark.parametrize("axis", [-1, 1, (1, 2)])
def test_masked_softmax_layer(rng, axis):
    x, mask = rng.standard_normal((3, 4, 5)).astype("float32"), rng.random((3, 1, 5)) < 0.5
    ours, theirs = same_layers(layers, "Softmax", {"axis": axis})
    compare_layers(ours, theirs, x, rng=rng, mask=mask)


def test_alpha_is_the_old_name_of_the_slope():
    with pytest.warns(DeprecationWarning, match="negative_slope"):
        assert layers.LeakyReLU(alpha=0.2).negative_slope == 0.2


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ReLU", {"max_value": -1}, "max_value must not be negative, but got -1"),
        ("ReLU", {"negative_slope": None}, "negative_slope must be a number from 0"),
        ("ReLU", {"threshold": -1.0}, "threshold must not be negative"),
        ("LeakyReLU", {"negative_slope": -1.0}, "negative_slope must be a number from 0"),
    ],
)
def test_both_refuse(name, settings, message):
    with pytest.raises(ValueError, match=message):
        getattr(layers, name)(**settings)
    with pytest.raises(ValueError):
        getattr(oracle_keras.layers, name)(**settings)
