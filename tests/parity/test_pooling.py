"""Pooling ops and layers against Keras: outputs, gradients, configs, shapes, signatures."""

import inspect

import numpy as np
import pytest

pytest.importorskip("keras")
import gpukeras
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.layers import pooling
from tests.helpers import assert_close
from tests.oracle import jax
from tests.oracle import keras as oracle_keras
from tests.parity.spatial_comparison import compare, data

pytestmark = pytest.mark.oracle


SHAPES = {1: (2, 9, 4), 2: (2, 8, 7, 4), 3: (2, 5, 6, 7, 4)}
WINDOWS = [
    {"pool_size": 2},
    {"pool_size": 3, "strides": 2, "padding": "same"},
    {"pool_size": 2, "strides": 3},
    {"pool_size": 3, "strides": 1, "padding": "same"},
    {"pool_size": 10, "padding": "same"},
]


def cases():
    """Everything over two axes; of the others, which differ in the number of axes only, a few."""
    for rank, (batch, *space, channels) in SHAPES.items():
        last, first = (batch, *space, channels), (batch, channels, *space)
        for kind in ("Max", "Average"):
            for i, settings in enumerate(WINDOWS if rank == 2 else WINDOWS[1:2]):
                yield f"{kind}Pooling{rank}D", settings, last
                if i == 1:
                    yield f"{kind}Pooling{rank}D", settings | {"data_format": "channels_first"}, first
            yield f"Global{kind}Pooling{rank}D", {}, last
            settings = {"data_format": "channels_first", "keepdims": True}
            yield f"Global{kind}Pooling{rank}D", settings, first


@pytest.mark.parametrize(("name", "settings", "shape"), list(cases()))
def test_layers_equal_keras(name, settings, shape):
    compare(pooling, name, settings, data(*shape))


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_masked_average(data_format, keepdims):
    shape = (3, 5, 4) if data_format == "channels_last" else (3, 4, 5)
    mask = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]], bool)
    settings = {"data_format": data_format, "keepdims": keepdims}
    compare(pooling, "GlobalAveragePooling1D", settings, data(*shape), mask=mask)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "strides"), [((2, 2), (2, 2)), ((3, 2), (1, 2)), ((3, 3), (2, 2))])
def test_equal_places_share_the_gradient_as_in_keras(size, strides, padding):
    """After a relu most windows hold several zeros."""
    values = np.maximum(np.random.default_rng(1).integers(-3, 3, (2, 7, 8, 3)), 0).astype("float32")
    tensor = Tensor(values)
    with Tape() as tape:
        tape.watch(tensor)
        y = gpukeras.ops.max_pool(tensor, size, strides, padding)
    dy = data(*y.shape)
    expected = jax.grad(lambda a: (oracle_keras.ops.max_pool(a, size, strides, padding) * dy).sum())(values)
    assert_close(tape.gradients([(y, dy)], [tensor])[0], expected)


@pytest.mark.parametrize("name", pooling.__all__)
def test_signatures_are_kerass(name):
    ours, theirs = getattr(pooling, name), getattr(oracle_keras.layers, name)
    assert str(inspect.signature(ours)) == str(inspect.signature(theirs))


@pytest.mark.parametrize("settings", WINDOWS[:4])
def test_output_shapes_with_unknown_sizes(settings):
    ours, theirs = pooling.MaxPooling2D(**settings), oracle_keras.layers.MaxPooling2D(**settings)
    for shape in ((None, 9, None, 4), (2, None, None, 4), (None, 8, 11, 4)):
        assert tuple(ours.compute_output_shape(shape)) == tuple(theirs.compute_output_shape(shape))


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"pool_size": 0}, (2, 8, 8, 3)),
        ({"pool_size": (2, 2, 2)}, (2, 8, 8, 3)),
        ({"strides": (1,)}, (2, 8, 8, 3)),
        ({"padding": "causal"}, (2, 8, 8, 3)),
        ({"data_format": "last"}, (2, 8, 8, 3)),
        ({}, (2, 8, 3)),
    ],
)
def test_both_refuse(settings, shape):
    for layers in (pooling, oracle_keras.layers):
        with pytest.raises(ValueError):
            layers.MaxPooling2D(**settings)(data(*shape))
