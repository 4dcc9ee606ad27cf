"""dot_product_attention: values in float64, derivatives, masks, shared key heads, errors."""

import numpy as np
import pytest

from gpukeras.autograd.tape import Tape
from gpukeras.backend import cuda, devices, dtypes
from gpukeras.ops import attention, convert_to_tensor
from gpukeras.testing import check_gradients
from tests.emulator import compile as emulator
from tests.helpers import assert_close, values

pytest_plugins = ["tests.fake_gpu"]


def formula(query, key, value, bias=None, mask=None, scale=None, is_causal=False):
    query, key, value = (x.astype("float64") for x in (query, key, value))
    shared = query.shape[2] // key.shape[2]
    key, value = np.repeat(key, shared, axis=2), np.repeat(value, shared, axis=2)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) * scale
    scores = scores if bias is None else scores + bias
    scores = scores if mask is None else np.where(mask, scores, -1e300)
    if is_causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -1e300)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", p / p.sum(-1, keepdims=True), value)


def inputs(rng, heads=4, key_heads=4, dtype="float64"):
    query = rng.standard_normal((2, 5, heads, 3)).astype(dtype)
    key = rng.standard_normal((2, 6, key_heads, 3)).astype(dtype)
    value = rng.standard_normal((2, 6, key_heads, 2)).astype(dtype)
    return query, key, value


def options(rng, name):
    mask = rng.random((2, 1, 5, 6)) < 0.7
    mask[..., 0] = True
    return {
        "plain": {},
        "scale": {"scale": 0.3},
        "causal": {"is_causal": True},
        "mask": {"mask": mask},
        "causal mask": {"mask": mask, "is_causal": True},
        "bias": {"bias": rng.standard_normal((1, 4, 5, 6))},
        "all": {
            "bias": rng.standard_normal((2, 1, 1, 6)),
            "mask": mask,
            "is_causal": True,
            "scale": 2.0,
        },
    }[name]


OPTIONS = ["plain", "scale", "causal", "mask", "causal mask", "bias", "all"]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("name", OPTIONS)
def test_value(device, rng, float_dtype, name, key_heads):
    query, key, value = inputs(rng, key_heads=key_heads, dtype=float_dtype)
    settings = options(rng, name)
    y = attention.dot_product_attention(query, key, value, **settings)
    assert y.dtype == float_dtype
    assert_close(y, formula(query, key, value, **settings), dtype=float_dtype)


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_derivative(device, rng, name, key_heads):
    settings = options(rng, name)
    bias, mask = settings.pop("bias", None), settings.pop("mask", None)
    check_gradients(attention.dot_product_attention, *inputs(rng, key_heads=key_heads), bias, mask, **settings)


def test_a_query_that_sees_nothing_takes_the_mean(device, rng):
    query, key, value = inputs(rng)
    mask = np.ones((2, 1, 5, 6), bool)
    mask[0, 0, 2] = False
    y = values(attention.dot_product_attention(query, key, value, mask=mask))
    assert_close(y[0, 2], value[0].mean(axis=0))
    check_gradients(attention.dot_product_attention, query, key, value, None, mask)


def test_masks_of_fewer_axes(device, rng):
    query, key, value = inputs(rng)
    mask = rng.random((2, 5, 6)) < 0.7
    mask[..., 0] = True
    y = attention.dot_product_attention(query, key, value, mask=mask)
    assert_close(y, formula(query, key, value, mask=mask[:, None]))
    y = attention.dot_product_attention(query, key, value, mask=mask[0].astype("float32"))
    assert_close(y, formula(query, key, value, mask=mask[0]))


def test_large_scores_do_not_overflow(device):
    x = np.full((1, 3, 1, 2), 200.0, "float16")
    assert_close(attention.dot_product_attention(x, x, x, is_causal=True), x, dtype="float16")


def with_gradients(arrays, **settings):
    """y, and the gradients of query, key, value and bias for dy = 1, 2, 3, ..., as NumPy arrays."""
    tensors = [None if a is None else convert_to_tensor(a) for a in arrays]
    with Tape() as tape:
        for tensor in tensors[:4]:
            if tensor is not None:
                tape.watch(tensor)
        y = attention.dot_product_attention(*tensors, **settings)
    seed = (np.arange(y.size).reshape(y.shape) % 7 - 3).astype(y.dtype)
    gradients = tape.gradients([(y, devices.to_device(seed))], [t for t in tensors[:4] if t is not None])
    return [devices.to_numpy(a) for a in (y.array, *gradients)]


@pytest.mark.skipif(emulator.reason_to_skip() is not None, reason=str(emulator.reason_to_skip()))
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", [*OPTIONS, "nothing"])
def test_on_a_gpu_it_works_in_the_arrays_own_type(gpu_with_kernels, monkeypatch, rng, name, dtype, key_heads):
    launches = []
    launch = cuda.Source.launch

    def noting(self, kernel, like, *args, **kwargs):
        launches.append((kernel, like.dtype.name))
        launch(self, kernel, like, *args, **kwargs)

    monkeypatch.setattr(cuda.Source, "launch", noting)
    settings = {"mask": np.zeros((2, 1, 5, 6), bool)} if name == "nothing" else options(rng, name)
    given = [*inputs(rng, key_heads=key_heads), settings.pop("bias", None), settings.pop("mask", None)]
    is_float = [a is not None and a.dtype != bool for a in given]
    given = [a.astype(dtypes.as_dtype(dtype)) if f else a for a, f in zip(given, is_float, strict=True)]
    found = with_gradients(given, **settings)
    assert launches == [("attention_weights", dtype), ("scores_gradient", dtype)]
    with devices.use_device("numpy"):
        exact = [a.astype("float64") if f else a for a, f in zip(given, is_float, strict=True)]
        expected = with_gradients(exact, **settings)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype.name == dtype
        assert_close(a, b, dtype=dtype, scale=1 if dtype == "float32" else 8)  # weights are rounded to 16 bits


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 5, 3), (2, 5, 3), (2, 5, 3)), "of four axes"),
        (((2, 5, 4, 3), (2, 6, 4, 2), (2, 6, 4, 3)), "dim the same in query and key"),
        (((2, 5, 4, 3), (2, 6, 3, 3), (2, 6, 3, 3)), "must divide those of query"),
        (((2, 5, 4, 3), (2, 6, 4, 3), (2, 5, 4, 3)), "time and heads the same"),
    ],
)
def test_errors_name_the_shapes(shapes, message):
    with pytest.raises(ValueError, match=message):
        attention.dot_product_attention(*(np.ones(shape) for shape in shapes))


def test_what_is_not_supported_says_so():
    x = np.ones((1, 2, 1, 2))
    with pytest.raises(NotImplementedError, match="flash_attention=True"):
        attention.dot_product_attention(x, x, x, flash_attention=True)
    with pytest.raises(NotImplementedError, match="attn_logits_soft_cap"):
        attention.dot_product_attention(x, x, x, attn_logits_soft_cap=1.0)


@pytest.mark.parametrize(
    ("axes", "x_shape", "kernel_shape"),
    [(1, (2, 5, 3), (3, 4, 6)), (2, (2, 5, 3, 4), (3, 4, 6)), (1, (5, 3), (3, 2))],
)
def test_projection(device, rng, float_dtype, axes, x_shape, kernel_shape):
    x, kernel = rng.standard_normal(x_shape), rng.standard_normal(kernel_shape)
    bias = rng.standard_normal(kernel_shape[axes:])
    check_gradients(attention.projection, x, kernel, bias, axes=axes)
    check_gradients(attention.projection, x, kernel, axes=axes)
    x, kernel, bias = (v.astype(float_dtype) for v in (x, kernel, bias))
    y = attention.projection(x, kernel, bias, axes=axes)
    assert y.dtype == float_dtype
    expected = np.tensordot(x.astype("float64"), kernel.astype("float64"), axes) + bias
    assert_close(y, expected, dtype=float_dtype, scale=4)  # sums of 12 terms


def test_projection_names_the_shapes():
    with pytest.raises(ValueError, match=r"end with the axes \(3,\), but got shape \(5, 2\)"):
        attention.projection(np.ones((5, 2)), np.ones((3, 4)))
