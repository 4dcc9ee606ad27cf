"""Attention layers and EinsumDense against the installed Keras: values, gradients, masks, configs."""

import numpy as np
import pytest

from gpukeras import layers as our_layers
from gpukeras.layers import attention, einsum_dense, multi_head_attention
from gpukeras.ops.attention import dot_product_attention
from tests.helpers import assert_close
from tests.oracle import keras as oracle_keras
from tests.parity.layer_comparison import compare_layers, same_layers

pytestmark = pytest.mark.oracle

EQUATIONS = [
    ("abc,cd->abd", (None, 7), "d", (2, 3, 4)),
    ("abc,cd->abd", (None, 7), None, (2, 3, 4)),
    ("ab,bc->ac", 7, "c", (2, 3)),
    ("abc,cde->abde", (None, 2, 5), "de", (2, 3, 4)),
    ("abc,cde->abde", (None, 2, 5), "e", (2, 3, 4)),
    ("abcd,cde->abe", (None, 6), "e", (2, 3, 4, 5)),
    ("...x,xy->...y", 7, "y", (2, 3, 4)),
    ("...abc,bcd->...ad", (3, 7), "d", (2, 3, 4, 5)),
    ("ab...,bc->ac...", 7, "c", (2, 3, 4)),
    ("abc,de->abcde", (3, 4, 2, 5), "de", (2, 3, 4)),
    ("abc,dce->abde", (3, 2, 5), "bde", (2, 3, 4)),
    ("ab,b->ab", 3, None, (2, 3)),
]


@pytest.mark.parametrize(("equation", "output_shape", "bias_axes", "shape"), EQUATIONS)
def test_einsum_dense(rng, equation, output_shape, bias_axes, shape):
    settings = {"equation": equation, "output_shape": output_shape, "bias_axes": bias_axes}
    ours, theirs = same_layers(einsum_dense, "EinsumDense", settings)
    x = rng.standard_normal(shape).astype("float32")
    compare_layers(ours, theirs, x, rng=rng, scale=4)
    assert ours.compute_output_shape(shape) == theirs.compute_output_shape(shape)


def test_einsum_dense_settings(rng):
    settings = {
        "equation": "abc,cd->abd",
        "output_shape": [None, 7],
        "bias_axes": "d",
        "activation": "relu",
        "kernel_initializer": "he_normal",
        "kernel_regularizer": "l2",
        "activity_regularizer": "l1",
        "bias_constraint": "non_neg",
    }
    x = rng.standard_normal((2, 3, 4)).astype("float32")
    compare_layers(*same_layers(einsum_dense, "EinsumDense", settings), x, rng=rng, scale=4)


def test_einsum_dense_starts_with_the_fans_of_its_equation(rng):
    layer = einsum_dense.EinsumDense("abcd,cde->abe", (None, 600), kernel_initializer="lecun_normal")
    layer.build((None, 3, 40, 50))
    assert abs(layer.kernel.numpy().std() * np.sqrt(40 * 50) - 1) < 0.05


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"equation": "abc", "output_shape": 3}, (2, 3), "needs an equation of the form"),
        ({"equation": "ab,bc->ac", "output_shape": 3}, (2, 3, 4), "for inputs of 2 axes"),
        ({"equation": "ab,bc->ac", "output_shape": (3, 4)}, (2, 3), "names 2"),
        ({"equation": "ab,cd->az", "output_shape": 3}, (2, 3), "'z' of the output"),
        ({"equation": "ab,bz->ac", "output_shape": 3}, (2, 3), "'c' of the output"),
        (
            {"equation": "abc,cz->abz", "output_shape": (9, 4)},
            (2, 3, 5),
            "'b' .* has size 3 in the input",
        ),
        ({"equation": "ab,bcz->ac", "output_shape": 3}, (2, 3), "'z' of the kernel"),
        ({"equation": "ab,bc->ac", "output_shape": 3, "bias_axes": "z"}, (2, 3), "bias axis 'z'"),
    ],
)
def test_einsum_dense_refuses(settings, shape, message):
    with pytest.raises(ValueError, match=message):
        einsum_dense.EinsumDense(**settings).build(shape)


HEADS = [
    {},
    {"value_dim": 5, "dropout": 0.1},  # without dropout this breaks in Keras on JAX
    {"use_bias": False},
    {"output_shape": 7},
    {"output_shape": (2, 3)},
    {"attention_axes": 1},
    {"attention_axes": [-2]},
    {"sliding_window": 2},
    {"use_gate": True},
    {"kernel_regularizer": "l2", "bias_constraint": "non_neg", "activity_regularizer": "l1"},
    {"kernel_initializer": "he_normal", "bias_initializer": "ones", "seed": 3, "dropout": 0.5},
]


def sequences(rng):
    query = rng.standard_normal((2, 5, 6)).astype("float32")
    value = rng.standard_normal((2, 4, 6)).astype("float32")
    return query, value, rng.standard_normal((2, 4, 3)).astype("float32")


def heads(settings):
    return same_layers(multi_head_attention, "MultiHeadAttention", {"num_heads": 2, "key_dim": 3, **settings})


@pytest.mark.parametrize("settings", HEADS)
def test_multi_head_attention(rng, settings):
    query, value, key = sequences(rng)
    compare_layers(*heads(settings), query, value, key, rng=rng, scale=10)


@pytest.mark.parametrize(
    "call",
    [
        {"use_causal_mask": True},
        {"return_attention_scores": True},
        {"return_attention_scores": True, "use_causal_mask": True},
        {"value_mask": "values"},
        {"key_mask": "values", "use_causal_mask": True},
        {"attention_mask": "pairs"},
        {"attention_mask": "pairs", "value_mask": "values", "use_causal_mask": True},
        {"attention_mask": "pairs", "return_attention_scores": True},
        {"training": False},
    ],
)
@pytest.mark.parametrize("settings", [{}, {"dropout": 0.3}, {"sliding_window": 2}])
def test_masks_and_call_arguments(rng, settings, call):
    query, value, _ = sequences(rng)
    masks = {"values": rng.random((2, 4)) < 0.7, "pairs": rng.random((2, 5, 4)) < 0.7}
    masks["values"][:, 0] = masks["pairs"][..., 0] = True
    call = {name: masks.get(value, value) if isinstance(value, str) else value for name, value in call.items()}
    compare_layers(*heads(settings), query, value, rng=rng, scale=10, **call)


@pytest.mark.parametrize("axes", [None, (1,), (2,), (1, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_other_axes(rng, axes, masked):
    x = rng.standard_normal((2, 3, 4, 5)).astype("float32")
    shape = {None: (3, 4, 3, 4), (1, 2): (3, 4, 3, 4), (1,): (3, 3), (2,): (4, 4)}[axes]
    mask = rng.random((2, *shape)) < 0.8
    mask[(..., *(0,) * (len(shape) // 2))] = True
    call = {"attention_mask": mask} if masked else {}
    ours, theirs = heads({"attention_axes": axes})
    compare_layers(ours, theirs, x, x, rng=rng, scale=10, **call)


def test_masks_of_embeddings_reach_attention(rng):
    words = rng.integers(0, 3, (4, 6))
    words[:, 0] = 1

    def output(layers, heads_of, weights):
        x = layers.Input((6,), dtype="int32")
        embedded = layers.Embedding(3, 4, mask_zero=True)
        attended, other = heads_of(2, 3), heads_of(2, 3)
        h = embedded(x)
        h = attended(h, h, use_causal_mask=True)
        other(h, h)
        for layer, values in zip((embedded, attended, other), weights, strict=True):
            layer.set_weights(values)
        h = embedded(words)
        h = attended(h, h, use_causal_mask=True)
        mask = np.asarray(h._keras_mask)  # Keras takes it away in the next call
        return np.asarray(h), np.asarray(other(h, h)), mask

    theirs = oracle_keras.layers
    shapes = [[(3, 4)]] + [[(4, 2, 3), (2, 3)] * 3 + [(2, 3, 4), (4,)]] * 2
    weights = [[rng.standard_normal(s).astype("float32") for s in part] for part in shapes]
    results = output(our_layers, multi_head_attention.MultiHeadAttention, weights)
    references = output(theirs, theirs.MultiHeadAttention, weights)
    for got, expected in zip(results, references, strict=True):
        assert_close(got, expected, scale=10)


def test_multi_head_attention_in_a_functional_graph():
    query, value = our_layers.Input((5, 6)), our_layers.Input((None, 8))
    layer = multi_head_attention.MultiHeadAttention(2, 3)
    y, weights = layer(query, value, return_attention_scores=True)
    assert (y.shape, weights.shape) == ((None, 5, 6), (None, 2, 5, None))
    assert layer(query, value).shape == (None, 5, 6)
    assert [v.path.split("/", 1)[1] for v in layer.weights] == [
        f"{name}/{part}" for name in ("query", "key", "value", "attention_output") for part in ("kernel", "bias")
    ]


def test_dropout_of_weights_is_unbiased(rng):
    query, value, _ = sequences(rng)
    layer = multi_head_attention.MultiHeadAttention(2, 3, dropout=0.4, seed=1)
    expected = layer(query, value).numpy()
    mean = np.mean([layer(query, value, training=True).numpy() for _ in range(2000)], axis=0)
    assert np.abs(mean - expected).max() < 0.1
    assert not np.allclose(layer(query, value, training=True).numpy(), expected)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(rng, dtype):
    query, value, _ = sequences(rng)
    ours, theirs = heads({"dtype": dtype})
    ours(query, value), theirs(query, value)
    theirs.set_weights([v.numpy() for v in ours.weights])
    y, expected = ours(query, value), theirs(query, value)
    assert y.dtype.name == str(expected.dtype)
    assert_close(
        np.asarray(y).astype("float32"),
        np.asarray(expected).astype("float32"),
        dtype=dtype.removeprefix("mixed_"),
        scale=4,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 0}, "num_heads must be a whole number above 0"),
        ({"key_dim": -1}, "key_dim must be a whole number above 0"),
        ({"value_dim": 0}, "value_dim must be a whole number above 0"),
        ({"sliding_window": 0}, "sliding_window must be a whole number above 0"),
        ({"attention_axes": "x"}, "attention_axes must be a whole number or a list"),
    ],
)
def test_multi_head_attention_refuses(settings, message):
    settings = {"num_heads": 2, "key_dim": 3, **settings}
    with pytest.raises(ValueError, match=message):
        multi_head_attention.MultiHeadAttention(**settings)
    with pytest.raises(NotImplementedError, match="flash_attention=True"):
        multi_head_attention.MultiHeadAttention(2, 3, flash_attention=True)
    with pytest.raises(ValueError, match="needs a key of the value's shape"):
        x = np.ones((2, 5, 6), "float32")
        multi_head_attention.MultiHeadAttention(2, 3)(x, x, x[:, :3])


@pytest.mark.parametrize(
    ("settings", "call"),
    [
        ({}, {}),
        ({"use_bias": False, "sliding_window": 3}, {"use_causal_mask": True}),
        ({"use_gate": True}, {"use_causal_mask": True}),
        ({}, {"return_attention_scores": True, "use_causal_mask": True}),
        ({"dropout": 0.2, "seed": 1}, {"training": False}),
    ],
)
def test_grouped_query_attention(rng, settings, call):
    query, value, _ = sequences(rng)
    ours = multi_head_attention.GroupQueryAttention(3, 4, 2, name="layer", **settings)
    theirs = oracle_keras.layers.GroupQueryAttention(3, 4, 2, name="layer", **settings)
    compare_layers(ours, theirs, query, value, rng=rng, scale=10, **call)


def test_grouped_query_attention_refuses():
    with pytest.raises(ValueError, match="must divide num_query_heads, but got 3 and 4"):
        multi_head_attention.GroupQueryAttention(3, 4, 3)
    x = our_layers.Input((5, 6))
    with pytest.raises(ValueError, match="with the same last axis"):
        multi_head_attention.GroupQueryAttention(3, 4, 2)(x, our_layers.Input((5, 7)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Attention", {}),
        ("Attention", {"use_scale": True}),
        ("Attention", {"score_mode": "concat"}),
        ("Attention", {"score_mode": "concat", "use_scale": True, "dropout": 0.3, "seed": 1}),
        ("AdditiveAttention", {}),
        ("AdditiveAttention", {"use_scale": False, "dropout": 0.3}),
    ],
)
@pytest.mark.parametrize("call", [{}, {"use_causal_mask": True}, {"return_attention_scores": True}, {"mask": True}])
def test_single_head(rng, name, settings, call):
    query, value, key = (rng.standard_normal(s).astype("float32") for s in ((2, 5, 6), (2, 4, 3), (2, 4, 6)))
    if "mask" in call:
        masks = [rng.random((2, 5)) < 0.7, rng.random((2, 4)) < 0.7]
        masks[1][:, 0] = True
        call = {"mask": masks, "use_causal_mask": True}
    compare_layers(*same_layers(attention, name, settings), [query, value, key], rng=rng, scale=10, **call)


def test_single_head_refuses():
    x = np.ones((2, 5, 6), "float32")
    with pytest.raises(ValueError, match="score_mode must be 'dot' or 'concat'"):
        attention.Attention(score_mode="sum")
    with pytest.raises(ValueError, match="takes a list of inputs"):
        attention.Attention()(x)
    with pytest.raises(ValueError, match="takes a list of inputs .* but got 1 of them"):
        attention.Attention()([x])
    with pytest.raises(ValueError, match="takes a list of masks"):
        attention.Attention()([x, x], mask=np.ones((2, 5), bool))


def test_single_head_in_a_functional_graph():
    query, value = our_layers.Input((5, 6)), our_layers.Input((None, 6))
    y, weights = attention.Attention()([query, value], return_attention_scores=True)
    assert (y.shape, weights.shape) == ((None, 5, 6), (None, 5, None))
    assert attention.AdditiveAttention()([query, value]).shape == (None, 5, 6)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_functional_op(rng, key_heads):
    query, key, value = (
        rng.standard_normal((2, n, h, 3)).astype("float32") for n, h in ((5, 4), (6, key_heads), (6, key_heads))
    )
    bias, mask = rng.standard_normal((2, 4, 5, 6)).astype("float32"), rng.random((2, 1, 5, 6)) < 0.7
    for settings in (
        {},
        {"is_causal": True},
        {"mask": mask, "scale": 0.3},
        {"bias": bias, "mask": mask},
    ):
        expected = oracle_keras.ops.dot_product_attention(query, key, value, **settings)
        assert_close(dot_product_attention(query, key, value, **settings), np.asarray(expected), scale=4)
