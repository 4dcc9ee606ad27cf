"""A layer of one input here and the same layer of the installed Keras: configs, weights, values, gradients."""

import numpy as np

from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from tests.helpers import assert_close
from tests.oracle import jax
from tests.oracle import keras as oracle_keras


def data(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def compare(module, name, settings, x, **call):
    """Make the layer `name` in both libraries with the same weights, and compare everything."""
    random = np.random.default_rng(0)
    ours = getattr(module, name)(**{"name": "layer", **settings})
    theirs = getattr(oracle_keras.layers, name)(**{"name": "layer", **settings})
    assert ours.get_config() == theirs.get_config()
    assert type(ours).from_config(ours.get_config()).get_config() == ours.get_config()
    theirs(x, **call)
    assert ours(x, **call).shape == tuple(ours.compute_output_shape(x.shape))
    described = [(w.path, tuple(w.shape), w.trainable) for w in ours.weights]
    assert described == [(w.path, tuple(w.shape), w.trainable) for w in theirs.weights]
    values = [random.normal(0.1, 0.3, w.shape).astype("float32") for w in ours.weights]
    ours.set_weights(values)
    theirs.set_weights(values)

    tensor = Tensor(x)
    with Tape() as tape:
        tape.watch(tensor)
        y = ours(tensor, **call)
    # Sums of up to some hundred products, in another order.
    assert_close(y, theirs(x, **call), scale=10)
    dy = random.normal(size=y.shape).astype("float32")
    trainable = [w.value for w in theirs.trainable_weights]
    others = [w.value for w in theirs.non_trainable_variables]

    def loss(weights, x):
        outputs, _ = theirs.stateless_call(weights, others, x, **call)
        return (outputs * dy).sum()

    dweights, dx = jax.jit(jax.grad(loss, argnums=(0, 1)))(trainable, x)
    sources = [*ours.trainable_weights, tensor]
    gradients = tape.gradients([(y, dy)], sources)
    for source, a, b in zip(sources, gradients, [*dweights, dx], strict=True):
        name = getattr(source, "path", "the input")
        assert_close(a, b, scale=50, err_msg=f"gradient of {name}")
