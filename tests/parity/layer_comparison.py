"""One layer here and in the installed Keras: configs, weights, values, gradients, state."""

import numpy as np

from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices
from tests.helpers import assert_close
from tests.oracle import jax, jnp
from tests.oracle import keras as oracle_keras

__all__ = ["compare_layers", "same_layers"]


def compare_layers(ours, theirs, *inputs, rng, scale=1.0, steps=1, **settings):
    """Assert that both layers agree in everything, after `steps` calls.

    Args:
        ours, theirs: The two layers, not built.
        inputs: NumPy arrays, positional arguments of the call; lists of them too.
        rng: Source of weights and of output gradients.
        scale: Of the absolute tolerance.
        steps: Number of calls before state is compared.
        settings: Further arguments of the call, the same for both.
    """
    assert ours.get_config() == theirs.get_config()
    ours_first, theirs_first = ours(*inputs, **settings), theirs(*inputs, **settings)
    shape_of = lambda y: [tuple(part.shape) for part in flat(y)]  # noqa: E731
    assert shape_of(ours_first) == shape_of(theirs_first)
    assert ours.get_config() == theirs.get_config()
    described = [(v.name, tuple(v.shape), v.trainable) for v in ours.weights]
    assert described == [(v.name, tuple(v.shape), v.trainable) for v in theirs.weights]
    weights = [rng.uniform(0.5, 1.5, v.shape).astype("float32") for v in ours.weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)

    for _ in range(steps):
        y, dweights, dinputs = our_gradients(ours, inputs, settings, seeds := {}, rng)
        expected = their_gradients(theirs, inputs, settings, seeds)
    for part, other in zip(y, expected[0], strict=True):
        assert part.dtype.name == str(other.dtype)
        assert_close(part, np.asarray(other), scale=scale, err_msg="outputs")
    for v, d, other in zip(ours.trainable_weights, dweights, expected[1], strict=True):
        assert_close(d, np.asarray(other), scale=20 * scale, err_msg=f"gradient of {v.path}")
    for i, (d, other) in enumerate(zip(dinputs, expected[2], strict=True)):
        assert_close(d, np.asarray(other), scale=10 * scale, err_msg=f"gradient of input {i}")
    for v, other in zip(ours.weights, theirs.weights, strict=True):
        assert_close(v, np.asarray(other), scale=scale, err_msg=v.path)


def flat(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def our_gradients(layer, inputs, settings, seeds, rng):
    leaves = []

    def tensor(x):
        if isinstance(x, list):
            return [tensor(part) for part in x]
        made = Tensor(devices.to_device(x))
        if x.dtype.kind == "f":
            leaves.append(made)
        return made

    inputs = [tensor(x) for x in inputs]
    with Tape() as tape:
        for leaf in leaves:
            tape.watch(leaf)
        y = flat(layer(*inputs, **settings))
    for i, part in enumerate(y):
        seeds[i] = rng.standard_normal(part.shape).astype("float32")
    targets = [(part, devices.to_device(seeds[i]).astype(part.dtype)) for i, part in enumerate(y)]
    variables = layer.trainable_weights
    gradients = tape.gradients(targets, [*variables, *leaves])
    sources = [*variables, *leaves]
    gradients = [
        np.zeros(s.shape, "float32") if g is None else devices.to_numpy(g)
        for s, g in zip(sources, gradients, strict=True)
    ]
    return y, gradients[: len(variables)], gradients[len(variables) :]


def their_gradients(layer, inputs, settings, seeds):
    trainable = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]
    leaves, structure = jax.tree_util.tree_flatten(list(inputs))
    floats = [jnp.asarray(x) for x in leaves if x.dtype.kind == "f"]

    def loss(trainable, floats):
        rest = iter(floats)
        filled = [next(rest) if x.dtype.kind == "f" else x for x in leaves]
        filled = jax.tree_util.tree_unflatten(structure, filled)
        y, state = layer.stateless_call(trainable, others, *filled, **settings)
        total = sum((part.astype("float32") * seeds[i]).sum() for i, part in enumerate(flat(y)))
        return total, (flat(y), state)

    (_, (y, state)), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(trainable, floats)
    for variable, value in zip(layer.non_trainable_variables, state, strict=True):
        variable.assign(value)
    return y, *gradients


def same_layers(ours_module, name, settings):
    """The layer of a name from both libraries, made with the same arguments."""
    settings = {"name": "layer", **settings}
    return getattr(ours_module, name)(**settings), getattr(oracle_keras.layers, name)(**settings)
