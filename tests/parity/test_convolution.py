"""Convolution ops and layers against Keras: outputs, gradients, configs, shapes, signatures."""

import inspect

import pytest

pytest.importorskip("keras")
import gpukeras
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.layers import convolution, depthwise
from tests.helpers import assert_close
from tests.oracle import jax, jnp
from tests.oracle import keras as oracle_keras
from tests.parity.spatial_comparison import compare, data

pytestmark = pytest.mark.oracle


def module_of(name):
    return convolution if hasattr(convolution, name) else depthwise


CONV = [
    {},
    {"strides": 2},
    {"padding": "same"},
    {"padding": "SAME", "strides": 2},
    {"dilation_rate": 2, "padding": "same"},
    {"use_bias": False, "activation": "relu"},
    {"groups": 2, "kernel_regularizer": "l2"},
    {"groups": 4, "padding": "same", "strides": 3},
    {"kernel_size": 1},
    {"kernel_size": 1, "strides": 2},
    {"kernel_constraint": "non_neg", "bias_regularizer": "l1", "bias_initializer": "ones"},
    {"kernel_initializer": "he_normal", "activity_regularizer": "l2", "trainable": False},
]
TRANSPOSED = [
    {},
    {"strides": 2},
    {"strides": 2, "padding": "same"},
    {"strides": 3, "output_padding": 1},
    {"strides": 3, "output_padding": 2, "padding": "same"},
    {"strides": 5, "padding": "same"},
    {"dilation_rate": 2},
    {"kernel_size": 1, "strides": 2},
    {"use_bias": False, "activation": "tanh", "bias_regularizer": "l2"},
]
DEPTHWISE = [
    {},
    {"strides": 2, "padding": "same"},
    {"depth_multiplier": 3},
    {"dilation_rate": 2, "depth_multiplier": 2},
    {"use_bias": False, "activation": "relu", "depthwise_regularizer": "l2"},
]
SHAPES = {1: (2, 9, 4), 2: (2, 8, 7, 4), 3: (2, 5, 6, 7, 4)}


def cases():
    """Everything over two axes; of the others, which differ in the number of axes only, a few."""
    for rank, (batch, *space, channels) in SHAPES.items():
        common = {"filters": 8, "kernel_size": (3, 2, 2)[:rank]}
        causal = [{"padding": "causal"}, {"padding": "causal", "strides": 2}]
        tables = {
            "Conv{}D": CONV if rank == 2 else CONV[:1] + causal if rank == 1 else CONV[1:2],
            "Conv{}DTranspose": TRANSPOSED if rank == 2 else TRANSPOSED[1:3],
            "SeparableConv{}D": DEPTHWISE if rank == 2 else DEPTHWISE[1:3] if rank == 1 else [],
            "DepthwiseConv{}D": DEPTHWISE if rank == 2 else DEPTHWISE[1:3] if rank == 1 else [],
        }
        for name, table in tables.items():
            for i, settings in enumerate(table):
                settings = common | settings
                if name.startswith("Depthwise"):
                    del settings["filters"]
                yield name.format(rank), settings, (batch, *space, channels)
                if rank == 2 and i % 3 == 1:
                    settings = settings | {"data_format": "channels_first"}
                    yield name.format(rank), settings, (batch, channels, *space)


@pytest.mark.parametrize(("name", "settings", "shape"), list(cases()))
def test_layers_equal_keras(name, settings, shape):
    compare(module_of(name), name, settings, data(*shape))


OPS = [
    ("conv", (2, 3, 4, 6), {"strides": 2, "dilation_rate": 2}),
    ("conv", (2, 3, 2, 6), {"padding": "same", "strides": (2, 3)}),
    ("conv", (9, 9, 4, 2), {"padding": "same"}),
    ("conv", (2, 2, 1, 8), {"padding": "same"}),
    ("depthwise_conv", (2, 3, 4, 2), {"padding": "same", "strides": 2, "dilation_rate": 2}),
    ("conv_transpose", (4, 3, 6, 4), {"padding": "same", "strides": (2, 3)}),
    ("conv_transpose", (4, 3, 6, 4), {"padding": "same", "strides": 2, "dilation_rate": 2}),
    ("conv_transpose", (2, 3, 6, 4), {"strides": (3, 5), "output_padding": (0, 1)}),
]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("name", "kernel", "settings"), OPS)
def test_ops_equal_keras(name, kernel, settings, data_format):
    shape = (2, 8, 7, 4) if data_format == "channels_last" else (2, 4, 8, 7)
    arrays = data(*shape), data(*kernel)
    settings = settings | {"data_format": data_format}
    ours, theirs = getattr(gpukeras.ops, name), getattr(oracle_keras.ops, name)
    tensors = [Tensor(a) for a in arrays]
    with Tape() as tape:
        for tensor in tensors:
            tape.watch(tensor)
        y = ours(*tensors, **settings)
    dy = data(*y.shape)
    assert_close(y, theirs(*map(jnp.asarray, arrays), **settings), scale=10)  # up to 324 terms
    expected = jax.grad(lambda *a: (theirs(*a, **settings) * dy).sum(), argnums=(0, 1))(*arrays)
    for a, b in zip(tape.gradients([(y, dy)], tensors), expected, strict=True):
        assert_close(a, b, scale=20)


@pytest.mark.parametrize("name", [*convolution.__all__, *depthwise.__all__])
def test_signatures_are_kerass(name):
    ours, theirs = getattr(module_of(name), name), getattr(oracle_keras.layers, name)
    assert str(inspect.signature(ours)) == str(inspect.signature(theirs))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("name", ["Conv2D", "SeparableConv2D", "Conv2DTranspose"])
def test_output_shapes_with_unknown_sizes(name, padding):
    for settings in ({}, {"strides": 2}, {"dilation_rate": 2}):
        settings = {"filters": 3, "kernel_size": 3, "padding": padding} | settings
        ours, theirs = getattr(module_of(name), name)(**settings), getattr(oracle_keras.layers, name)(**settings)
        for shape in ((None, 9, None, 4), (2, None, None, 4), (None, 8, 11, 4)):
            assert tuple(ours.compute_output_shape(shape)) == tuple(theirs.compute_output_shape(shape))


@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        ("Conv2D", {"filters": 4, "kernel_size": 3, "groups": 3}, None),
        ("Conv2D", {"filters": 0, "kernel_size": 3}, None),
        ("Conv2D", {"filters": 4, "kernel_size": 0}, None),
        ("Conv2D", {"filters": 4, "kernel_size": (3, 3, 3)}, None),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "strides": 0}, None),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "groups": 0}, None),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "strides": 2, "dilation_rate": 2}, None),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "padding": "causal"}, None),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "data_format": "NCHW"}, None),
        ("Conv2D", {"filters": 4, "kernel_size": 3}, (2, 8, 3)),
        ("Conv2D", {"filters": 4, "kernel_size": 3}, (2, 2, 8, 3)),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "groups": 2}, (2, 8, 8, 3)),
        ("Conv1D", {"filters": 4, "kernel_size": 9}, (2, 8, 3)),
        ("Conv2DTranspose", {"filters": 4, "kernel_size": 3, "strides": 2, "output_padding": 2}, None),
        ("Conv2DTranspose", {"filters": 4, "kernel_size": 3, "strides": 2, "dilation_rate": 2}, None),
        ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 0}, None),
        ("SeparableConv2D", {"filters": -1, "kernel_size": 3}, None),
    ],
)
def test_both_refuse(name, settings, shape):
    for layers in (module_of(name), oracle_keras.layers):
        with pytest.raises(ValueError):
            layer = getattr(layers, name)(**settings)
            layer(data(*shape))
