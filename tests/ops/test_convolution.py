"""Convolutions: values against loops in float64, derivatives, dtypes, edges, errors."""

import itertools

import numpy as np
import pytest

from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.backend import devices, layout
from gpukeras.ops import convolution as ops
from gpukeras.ops.piecewise import relu
from gpukeras.testing import check_gradients
from tests.helpers import assert_close

# strides, dilation_rate
STEPS = [(1, 1), (2, 1), (1, 2), ((2, 3), 1), (4, 1), (2, 2)]
FORMATS = ["channels_last", "channels_first"]


def pads(n, k, stride, dilation, padding):
    """The number of windows and the padding before and after one axis."""
    reach = (k - 1) * dilation + 1
    if padding == "valid":
        return (n - reach) // stride + 1, (0, 0)
    count = -(-n // stride)
    total = max((count - 1) * stride + reach - n, 0)
    low = total if padding == "causal" else total // 2
    if padding == "causal":
        return count, (reach - 1, 0)
    return count, (low, total - low)


def both(value, rank):
    return (value,) * rank if isinstance(value, int) else value


def conv_by_loops(x, kernel, strides=1, padding="valid", dilation_rate=1):
    """The formula, one place of the output at a time, channels last, in float64."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    rank = x.ndim - 2
    size, (group_channels, filters) = kernel.shape[:-2], kernel.shape[-2:]
    strides, dilation = both(strides, rank), both(dilation_rate, rank)
    axes = [pads(*a, padding) for a in zip(x.shape[1:-1], size, strides, dilation, strict=True)]
    x = np.pad(x, [(0, 0), *(p for _, p in axes), (0, 0)])
    groups = x.shape[-1] // group_channels
    per_group = filters // groups
    y = np.zeros((x.shape[0], *(count for count, _ in axes), filters))
    for o in np.ndindex(y.shape[1:-1]):
        for k in np.ndindex(size):
            at = tuple(i * s + j * d for i, s, j, d in zip(o, strides, k, dilation, strict=True))
            for g in range(groups):
                seen = x[(slice(None), *at, slice(g * group_channels, (g + 1) * group_channels))]
                of_group = slice(g * per_group, (g + 1) * per_group)
                y[(slice(None), *o, of_group)] += seen @ kernel[k][:, of_group]
    return y


def transposed_by_loops(x, kernel, strides=1, padding="valid", output_padding=None):
    """Every place of x adds a scaled kernel; then the ends are cut, or zeros put there."""
    rank = x.ndim - 2
    strides = both(strides, rank)
    size = kernel.shape[:-2]
    full = [(n - 1) * s + k for n, s, k in zip(x.shape[1:-1], strides, size, strict=True)]
    y = np.zeros((x.shape[0], *full, kernel.shape[-2]))
    for o in np.ndindex(x.shape[1:-1]):
        for k in np.ndindex(size):
            at = tuple(i * s + j for i, s, j in zip(o, strides, k, strict=True))
            y[(slice(None), *at)] += x[(slice(None), *o)] @ kernel[k].T
    for axis, (n, s, k) in enumerate(zip(x.shape[1:-1], strides, size, strict=True), start=1):
        wanted = ops.transposed_size(n, k, s, padding, output_padding)
        if padding == "valid":
            low = 0
        else:
            added = wanted - (n - 1) * s + k - 2
            low = k - 1 - min((added + 1) // 2, k - 1)
        y = np.take(
            np.pad(y, [(0, wanted if a == axis else 0) for a in range(y.ndim)]),
            range(low, low + wanted),
            axis,
        )
    return y


def to(x, data_format):
    return np.moveaxis(x, -1, 1) if data_format == "channels_first" else x


def back(y, data_format):
    y = devices.to_numpy(y.array)
    return np.moveaxis(y, 1, -1) if data_format == "channels_first" else y


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides, dilation_rate", STEPS)
@pytest.mark.parametrize("channels", [6, 3, 2, 1])
def test_conv_is_the_formula(rng, device, strides, dilation_rate, padding, data_format, channels):
    x, kernel = rng.standard_normal((2, 7, 8, 6)), rng.standard_normal((3, 2, channels, 12))
    settings = {"strides": strides, "padding": padding, "dilation_rate": dilation_rate}
    y = ops.conv(to(x, data_format), kernel, data_format=data_format, **settings)
    assert_close(back(y, data_format), conv_by_loops(x, kernel, **settings))


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides, dilation_rate", STEPS)
@pytest.mark.parametrize("channels", [4, 2, 1])
def test_conv_gradients(rng, device, strides, dilation_rate, padding, data_format, channels):
    x, kernel = (
        to(rng.standard_normal((2, 7, 6, 4)), data_format),
        rng.standard_normal((3, 2, channels, 8)),
    )
    settings = {"strides": strides, "padding": padding, "dilation_rate": dilation_rate}
    check_gradients(ops.conv, x, kernel, data_format=data_format, **settings)


@pytest.mark.parametrize("shape, size", [((2, 9, 3), (4,)), ((2, 4, 5, 6, 2), (2, 3, 2))])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides", [1, 2, 3])
def test_one_and_three_axes(rng, device, shape, size, padding, strides):
    x, kernel = rng.standard_normal(shape), rng.standard_normal((*size, shape[-1], 4))
    y = ops.conv(x, kernel, strides=strides, padding=padding)
    assert_close(y, conv_by_loops(x, kernel, strides, padding))
    check_gradients(ops.conv, x, kernel, strides=strides, padding=padding)
    transposed = rng.standard_normal((*size, 4, shape[-1]))
    y = ops.conv_transpose(x, transposed, strides=strides, padding=padding)
    assert_close(y, transposed_by_loops(x, transposed, strides, padding))
    check_gradients(ops.conv_transpose, x, transposed, strides=strides, padding=padding)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("dilation_rate", [1, 3])
def test_causal_padding_sees_no_later_place(rng, device, strides, dilation_rate):
    x, kernel, bias = (
        rng.standard_normal((2, 9, 3)),
        rng.standard_normal((3, 3, 4)),
        rng.standard_normal(4),
    )
    settings = {"strides": strides, "padding": "causal", "dilation_rate": dilation_rate}
    y = ops.conv_with_bias(x, kernel, bias, **settings)
    assert_close(y, conv_by_loops(x, kernel, **settings) + bias)
    check_gradients(ops.conv_with_bias, x, kernel, bias, **settings)
    later = x.copy()
    later[:, 5:] = 0
    changed = back(ops.conv_with_bias(later, kernel, bias, **settings), "channels_last")
    np.testing.assert_array_equal(changed[:, : 5 // strides], back(y, "channels_last")[:, : 5 // strides])


@pytest.mark.parametrize("data_format", FORMATS)
def test_bias_is_added_to_every_place(rng, device, data_format):
    x, kernel, bias = (
        rng.standard_normal((2, 5, 5, 3)),
        rng.standard_normal((2, 2, 3, 4)),
        rng.standard_normal(4),
    )
    y = ops.conv_with_bias(to(x, data_format), kernel, bias, data_format=data_format)
    assert_close(back(y, data_format), conv_by_loops(x, kernel) + bias)
    check_gradients(ops.conv_with_bias, to(x, data_format), kernel, bias, data_format=data_format)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("channels", [4, 2, 1])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_rectifier_within_a_convolution(rng, device, float_dtype, data_format, channels, has_bias):
    x = to(rng.standard_normal((2, 5, 6, 4)), data_format)
    arrays = [x, rng.standard_normal((3, 2, channels, 8)), *[rng.standard_normal(8)] * has_bias]
    x, *others = [a.astype(float_dtype) for a in arrays]
    settings = {"strides": 2, "padding": "same", "data_format": data_format}
    y = ops.conv_with_bias(x, *others, **settings, is_rectified=True)
    assert y.dtype == float_dtype
    np.testing.assert_array_equal(y.numpy(), relu(ops.conv_with_bias(x, *others, **settings)).numpy())
    check_gradients(ops.conv_with_bias, *arrays, **settings, is_rectified=True)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("strides, size", [(1, 3), (2, 3), (2, 2)])
def test_bias_and_rectifier_within_a_transposed_convolution(rng, device, float_dtype, data_format, strides, size):
    x = to(rng.standard_normal((2, 3, 4, 5)), data_format)
    arrays = x, rng.standard_normal((size, size, 6, 5)), rng.standard_normal(6)
    x, kernel, bias = [a.astype(float_dtype) for a in arrays]
    settings = {"strides": strides, "padding": "same", "data_format": data_format}
    y = ops.conv_transpose_with_bias(x, kernel, bias, **settings)
    assert y.dtype == float_dtype
    plain = ops.conv_transpose(x, kernel, **settings)
    assert_close(back(y, data_format), back(plain, data_format) + bias, dtype=float_dtype)
    rectified = ops.conv_transpose_with_bias(x, kernel, bias, **settings, is_rectified=True)
    np.testing.assert_array_equal(rectified.numpy(), relu(y).numpy())
    without = ops.conv_transpose_with_bias(x, kernel, **settings, is_rectified=True)
    np.testing.assert_array_equal(without.numpy(), relu(plain).numpy())
    check_gradients(ops.conv_transpose_with_bias, *arrays, **settings)
    check_gradients(ops.conv_transpose_with_bias, *arrays, **settings, is_rectified=True)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides, dilation_rate", STEPS)
@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_conv(rng, device, strides, dilation_rate, padding, data_format, multiplier):
    x, kernel = rng.standard_normal((2, 7, 6, 4)), rng.standard_normal((3, 2, 4, multiplier))
    settings = {"strides": strides, "padding": padding, "dilation_rate": dilation_rate}
    y = ops.depthwise_conv(to(x, data_format), kernel, data_format=data_format, **settings)
    expected = conv_by_loops(x, kernel.reshape(3, 2, 1, -1), **settings)
    assert_close(back(y, data_format), expected)
    check_gradients(ops.depthwise_conv, to(x, data_format), kernel, data_format=data_format, **settings)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides, dilation_rate", [(1, 1), (2, 1), (1, 2)])
def test_separable_conv(rng, device, strides, dilation_rate, padding, data_format):
    x, depthwise = rng.standard_normal((2, 7, 6, 4)), rng.standard_normal((3, 2, 4, 2))
    pointwise = rng.standard_normal((1, 1, 8, 3))
    settings = {"strides": strides, "padding": padding, "dilation_rate": dilation_rate}
    y = ops.separable_conv(to(x, data_format), depthwise, pointwise, data_format=data_format, **settings)
    expected = conv_by_loops(conv_by_loops(x, depthwise.reshape(3, 2, 1, -1), **settings), pointwise)
    assert_close(back(y, data_format), expected)
    settings["data_format"] = data_format
    check_gradients(ops.separable_conv, to(x, data_format), depthwise, pointwise, **settings)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides, output_padding", [(1, None), (2, None), (2, 0), (3, 1), (4, None), (4, 3)])
def test_conv_transpose(rng, device, strides, output_padding, padding, data_format):
    x, kernel = rng.standard_normal((2, 4, 5, 3)), rng.standard_normal((3, 2, 4, 3))
    settings = {"strides": strides, "padding": padding, "output_padding": output_padding}
    y = ops.conv_transpose(to(x, data_format), kernel, data_format=data_format, **settings)
    assert_close(back(y, data_format), transposed_by_loops(x, kernel, **settings))
    check_gradients(ops.conv_transpose, to(x, data_format), kernel, data_format=data_format, **settings)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_conv_transpose_with_dilation(rng, device, padding):
    x, kernel = rng.standard_normal((2, 4, 5, 3)), rng.standard_normal((3, 2, 4, 3))
    check_gradients(ops.conv_transpose, x, kernel, padding=padding, dilation_rate=2)


def test_dtype_is_kept(rng, device, float_dtype):
    x, kernel = (
        rng.standard_normal((2, 7, 8, 3)).astype(float_dtype),
        rng.standard_normal((3, 3, 3, 4)),
    )
    kernel = kernel.astype(float_dtype)
    y = ops.conv(x, kernel, padding="same")
    assert y.dtype == float_dtype
    assert_close(y, conv_by_loops(x, kernel, padding="same"), dtype=float_dtype, scale=10)  # 27 terms
    assert ops.depthwise_conv(x, kernel).dtype == float_dtype
    assert ops.conv_transpose(x, kernel.transpose(0, 1, 3, 2)).dtype == float_dtype


def test_inputs_take_the_dtype_of_the_kernel(rng):
    x, kernel = (
        rng.integers(0, 9, (1, 4, 4, 2)),
        rng.standard_normal((2, 2, 2, 3)).astype("float32"),
    )
    y = ops.conv(x, kernel)
    assert y.dtype == "float32"
    assert_close(y, conv_by_loops(x, kernel), dtype="float32", scale=10)


@pytest.mark.parametrize("op", [ops.conv, ops.depthwise_conv, ops.conv_transpose])
def test_an_empty_batch_gives_an_empty_batch(device, op):
    x, kernel = np.zeros((0, 5, 5, 2)), np.zeros((3, 3, 2, 2))
    assert op(x, kernel, padding="same").shape[:3] == (0, 5, 5)
    check_gradients(op, x, kernel, padding="same")


def test_large_inputs_go_in_blocks(rng):
    """More than one block of columns, in every direction."""
    x, kernel = rng.standard_normal((3, 40, 40, 64)), rng.standard_normal((3, 3, 64, 2)) * 0.01
    y = devices.to_numpy(ops.conv(x, kernel, padding="same").array)
    picked = conv_by_loops(x[1:2, 10:15, 10:15], kernel)
    assert_close(y[1:2, 11:14, 11:14], picked)


def test_the_default_data_format_can_be_set(rng):
    x, kernel = rng.standard_normal((1, 3, 6, 5)), rng.standard_normal((2, 2, 3, 4))
    layout.set_image_data_format("channels_first")
    try:
        assert ops.conv(x, kernel).shape == (1, 4, 5, 4)
    finally:
        layout.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    "op, kernel, shape",
    [
        (ops.conv, (3, 3, 3, 8), (None, 15, None, 8)),
        (ops.depthwise_conv, (3, 3, 3, 2), (None, 15, None, 6)),
        (ops.conv_transpose, (3, 3, 8, 3), (None, 32, None, 8)),
    ],
)
def test_shapes_of_placeholders(op, kernel, shape):
    settings = {"strides": 2, "padding": "same"} if op is ops.conv_transpose else {"strides": 2}
    size = 16 if op is ops.conv_transpose else 31
    assert op(KerasTensor((None, size, None, 3)), np.zeros(kernel), **settings).shape == shape


@pytest.mark.parametrize(
    "op, x, kernel, settings, words",
    [
        (ops.conv, (2, 5), (2, 5, 3), {}, "1 to 3 spatial axes"),
        (ops.conv, (2, 5, 5, 3), (2, 3, 3), {}, "1 to 3 spatial axes"),
        (ops.conv, (2, 5, 5, 5), (2, 2, 3, 3), {}, "multiple of the kernel's 3"),
        (ops.conv, (2, 5, 5, 6), (2, 2, 2, 4), {}, "3 groups"),
        (ops.conv, (2, 5, 5, 3), (6, 2, 3, 3), {}, "empty output"),
        (
            ops.conv,
            (2, 5, 5, 3),
            (2, 2, 3, 3),
            {"padding": "full"},
            "'valid' or 'same', but got 'full'",
        ),
        (ops.conv, (2, 5, 5, 3), (2, 2, 3, 3), {"padding": "causal"}, "'valid' or 'same'"),
        (ops.conv, (2, 5, 5, 3), (2, 2, 3, 3), {"strides": 0}, "strides"),
        (ops.conv, (2, 5, 5, 3), (2, 2, 3, 3), {"strides": (1, 2, 3)}, "2 ints"),
        (ops.conv, (2, 5, 5, 3), (2, 2, 3, 3), {"dilation_rate": (0, 1)}, "dilation_rate"),
        (ops.conv, (2, 5, 5, 3), (2, 2, 3, 3), {"data_format": "NHWC"}, "data_format must be"),
        (ops.depthwise_conv, (2, 5, 5, 3), (2, 2, 4, 1), {}, "4 channels"),
        (ops.conv_transpose, (2, 5, 5, 3), (2, 2, 3, 4), {}, "4 channels"),
        (ops.conv_transpose, (2, 5, 5, 3), (2, 2, 4, 3), {"output_padding": -1}, "output_padding"),
    ],
)
def test_errors_say_what_was_expected_and_came(op, x, kernel, settings, words):
    with pytest.raises(ValueError, match=words):
        op(np.zeros(x), np.zeros(kernel), **settings)


def test_a_wrong_pointwise_kernel_is_refused():
    with pytest.raises(ValueError, match=r"pointwise_kernel of shape \(1, 1, 6, 'filters'\)"):
        ops.separable_conv(np.zeros((1, 5, 5, 3)), np.zeros((2, 2, 3, 2)), np.zeros((1, 1, 3, 4)))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_transposed_size_is_the_size_that_comes_out(padding):
    for n, k, s, d in itertools.product((1, 4), (1, 2, 3, 5), (1, 2, 3), (1, 2)):
        y = ops.conv_transpose(np.zeros((1, n, 2)), np.zeros((k, 3, 2)), s, padding, None, None, d)
        assert y.shape == (1, ops.transposed_size(n, k, s, padding, None, d), 3)
    assert ops.transposed_size(None, 3, 2, padding) is None
