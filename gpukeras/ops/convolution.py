"""Convolutions over one, two or three spatial axes, in both data formats."""

import functools
import math

from gpukeras.autograd.op import op
from gpukeras.backend import blas
from gpukeras.kernels import convolution, depthwise
from gpukeras.kernels.deferred import as_array
from gpukeras.kernels.windows import Windows, windows_of
from gpukeras.ops._places import places_on_gpu
from gpukeras.ops.spatial import (
    from_channels_last,
    hashable,
    padding_name,
    per_axis,
    to_channels_last,
)

__all__ = [
    "conv",
    "conv_transpose",
    "conv_transpose_with_bias",
    "conv_with_bias",
    "depthwise_conv",
    "separable_conv",
    "transposed_size",
]


@op
def conv(inputs, kernel, /, strides=1, padding="valid", data_format=None, dilation_rate=1):
    """Convolution (cross-correlation) of the spatial axes.

        y[b, o, f] = Σ over places k and channels c of  x[b, o · stride + k · dilation - low, c] · kernel[k, c, f]
        dx         = dy · kernelᵀ, each place's share put back where it came from and summed
        dkernel    = Σ over b and o of what the window saw · dy

    With fewer channels in the kernel than in the inputs, the channels fall into groups, each with filters
    of its own.

    Args:
        inputs, kernel: See Shapes.
        strides: Steps between windows: an int, or one per spatial axis.
        padding: ``"valid"`` (none) or ``"same"`` (as many windows as places, at stride 1).
        data_format: ``"channels_last"``, ``"channels_first"`` or None for the default.
        dilation_rate: Steps between the places of a window: an int, or one per spatial axis.

    Shapes:
        x (batch, *space, channels), kernel (*size, channels / groups, filters)  ->  y (batch, *grid, filters)

    Keeps inputs and kernel until the backward pass.

    Example:
        >>> conv(np.ones((1, 8, 8, 3)), np.ones((3, 3, 3, 4)), strides=2, padding="same").shape
        (1, 4, 4, 4)
    """
    y, backward = _conv(
        "conv",
        inputs,
        kernel,
        None,
        strides,
        padding_name("ops.conv", padding),
        data_format,
        dilation_rate,
        False,
    )
    return y, lambda dy, needs: backward(dy, needs, False)[:2]


@op
def conv_with_bias(
    inputs,
    kernel,
    bias=None,
    /,
    strides=1,
    padding="valid",
    data_format=None,
    dilation_rate=1,
    is_rectified=False,
):
    """`conv` with a bias for each filter and with ``"causal"`` padding; what the layers call.

        y = conv(inputs, kernel) + bias,  dbias = Σ dy over all axes but the filters'
        or max(conv(inputs, kernel) + bias, 0), which passes dy on only where y > 0

    Args:
        inputs, kernel, bias: As in `conv`; bias (filters,) or None.
        strides, data_format, dilation_rate: As in `conv`.
        padding: ``"valid"``, ``"same"`` or ``"causal"`` (a window sees no place after its own).
        is_rectified: Whether the rectifier is applied.

    Keeps inputs and kernel until the backward pass, and y where `is_rectified`.

    Example:
        >>> conv_with_bias(np.ones((1, 8, 3)), np.ones((2, 3, 4)), np.ones(4), padding="causal").shape
        (1, 8, 4)
    """
    padding = padding_name("ops.conv", padding, ("valid", "same", "causal"))
    y, backward = _conv("conv", inputs, kernel, bias, strides, padding, data_format, dilation_rate, is_rectified)

    def backward_with_bias(dy, needs):
        return backward(dy, needs, needs.bias)

    backward_with_bias.takes_deferred = is_rectified
    return y, backward_with_bias


def _conv(who, inputs, kernel, bias, strides, padding, data_format, dilation_rate, is_rectified):
    x, is_first = to_channels_last(inputs, data_format)
    x = _in_dtype(x, kernel.dtype)
    windows = _conv_windows(who, x.shape[1:], kernel.shape, hashable(strides), padding, hashable(dilation_rate))
    groups = x.shape[-1] // kernel.shape[-2]
    is_depthwise = kernel.shape[-2] == 1 and groups > 1
    if is_depthwise:  # one channel a group: sums of shifted products instead of many thin matrices
        places = kernel.reshape(*kernel.shape[:-2], groups, kernel.shape[-1] // groups)
        y = depthwise.depthwise(x, places, windows)
        convolution.finish(y, bias, is_rectified)  # in place: y is fresh, nobody else holds it yet
    else:
        y = convolution.convolve(x, kernel, windows, bias, is_rectified)

    def backward(dy, needs, needs_bias):
        dx = dkernel = dbias = None
        dy = to_channels_last(as_array(dy) if is_first or is_depthwise else dy, data_format)[0]
        at_kernel, at_bias = places_on_gpu((kernel if needs.kernel else None, bias if needs_bias else None), x, dy)
        if is_rectified:
            dy, dbias = convolution.rectifier_gradient(dy, y, needs_bias, at_bias)
        elif needs_bias:
            dbias = convolution.bias_gradient(dy, at_bias)
        if is_depthwise:
            if needs.inputs:
                dx = depthwise.depthwise_input_gradient(dy, places, windows)
            if needs.kernel:
                dkernel = depthwise.depthwise_kernel_gradient(x, dy, windows).reshape(kernel.shape)
        elif needs.inputs and needs.kernel:
            dx, dkernel = convolution.convolve_gradients(x, dy, kernel, windows, groups, at_kernel)
        elif needs.inputs:
            dx = convolution.convolve_input_gradient(dy, kernel, windows, groups)
        elif needs.kernel:
            dkernel = convolution.convolve_kernel_gradient(x, dy, windows, groups, at_kernel)
        if dx is not None:
            dx = from_channels_last(_in_dtype(dx, inputs.dtype), is_first)
        return dx, dkernel, dbias

    return from_channels_last(y, is_first), backward


@op
def depthwise_conv(inputs, kernel, /, strides=1, padding="valid", data_format=None, dilation_rate=1):
    """Convolution of every channel by itself, with `multiplier` filters each.

        y[b, o, c · multiplier + m] = Σ over places k of  x[b, o · stride + k · dilation - low, c] · kernel[k, c, m]

    Args:
        inputs, kernel: See Shapes.
        strides, padding, data_format, dilation_rate: As in `conv`.

    Shapes:
        x (batch, *space, channels), kernel (*size, channels, multiplier)
        ->  y (batch, *grid, channels · multiplier)

    Keeps inputs and kernel until the backward pass.

    Example:
        >>> depthwise_conv(np.ones((1, 8, 8, 3)), np.ones((3, 3, 3, 2))).shape
        (1, 6, 6, 6)
    """
    x, is_first = to_channels_last(inputs, data_format)
    x = _in_dtype(x, kernel.dtype)
    windows = _depthwise_windows("depthwise_conv", x, kernel, strides, padding, dilation_rate)
    y = depthwise.depthwise(x, kernel, windows)

    def backward(dy, needs):
        dx = dkernel = None
        dy = to_channels_last(dy, data_format)[0]
        if needs.inputs:
            dx = depthwise.depthwise_input_gradient(dy, kernel, windows)
            dx = from_channels_last(_in_dtype(dx, inputs.dtype), is_first)
        if needs.kernel:
            dkernel = depthwise.depthwise_kernel_gradient(x, dy, windows)
        return dx, dkernel

    return from_channels_last(y, is_first), backward


@op
def separable_conv(
    inputs,
    depthwise_kernel,
    pointwise_kernel,
    /,
    strides=1,
    padding="valid",
    data_format=None,
    dilation_rate=1,
):
    """`depthwise_conv`, then a convolution with windows of one place that mixes the channels.

        h = depthwise_conv(x, depthwise_kernel),  y = h · pointwise_kernel

    Args:
        inputs, depthwise_kernel, pointwise_kernel: See Shapes.
        strides, padding, data_format, dilation_rate: Of the first step, as in `conv`.

    Shapes:
        x (batch, *space, channels), depthwise_kernel (*size, channels, multiplier),
        pointwise_kernel (*ones, channels · multiplier, filters)  ->  y (batch, *grid, filters)

    Keeps inputs, kernels and h until the backward pass.

    Example:
        >>> separable_conv(np.ones((1, 8, 8, 3)), np.ones((3, 3, 3, 2)), np.ones((1, 1, 6, 4))).shape
        (1, 6, 6, 4)
    """
    x, is_first = to_channels_last(inputs, data_format)
    x = _in_dtype(x, depthwise_kernel.dtype)
    windows = _depthwise_windows("separable_conv", x, depthwise_kernel, strides, padding, dilation_rate)
    filters = pointwise_kernel.shape[-1]
    channels = depthwise_kernel.shape[-1] * depthwise_kernel.shape[-2]
    if pointwise_kernel.shape != (1,) * (x.ndim - 2) + (channels, filters):
        raise ValueError(
            f"ops.separable_conv expects a pointwise_kernel of shape "
            f"{(1,) * (x.ndim - 2) + (channels, 'filters')} after a depthwise_kernel of shape "
            f"{depthwise_kernel.shape}, but got {pointwise_kernel.shape}."
        )
    mix = _in_dtype(pointwise_kernel, x.dtype).reshape(channels, filters)
    h = depthwise.depthwise(x, depthwise_kernel, windows)
    rows = h.reshape(-1, channels)
    y = blas.matmul(rows, mix).reshape(*h.shape[:-1], filters)

    def backward(dy, needs):
        dx = ddepthwise = dpointwise = None
        drows = to_channels_last(dy, data_format)[0].reshape(-1, filters)
        if needs.pointwise_kernel:
            dpointwise = blas.matmul(rows.T, drows).reshape(pointwise_kernel.shape)
            dpointwise = _in_dtype(dpointwise, pointwise_kernel.dtype)
        if needs.inputs or needs.depthwise_kernel:
            dh = blas.matmul(drows, mix.T).reshape(h.shape)
            if needs.inputs:
                dx = depthwise.depthwise_input_gradient(dh, depthwise_kernel, windows)
                dx = from_channels_last(_in_dtype(dx, inputs.dtype), is_first)
            if needs.depthwise_kernel:
                ddepthwise = depthwise.depthwise_kernel_gradient(x, dh, windows)
        return dx, ddepthwise, dpointwise

    return from_channels_last(y, is_first), backward


@op
def conv_transpose(
    inputs,
    kernel,
    /,
    strides=1,
    padding="valid",
    output_padding=None,
    data_format=None,
    dilation_rate=1,
):
    """The transpose of `conv` as a linear map: every input place adds a scaled kernel to the output.

        y[b, o, f] = Σ over i, k with o = i · stride + k · dilation - low  of  Σ over c of  x[b, i, c] · kernel[k, f, c]

    It is `conv`'s derivative with respect to its inputs, and its own derivative is `conv`.

    Args:
        inputs, kernel: See Shapes.
        strides: Steps between the kernel's positions in the output: an int, or one per spatial axis.
        padding: ``"valid"`` (the output holds every position) or ``"same"`` (space · stride places).
        output_padding: Places added at the output's end in place of the default's; less than strides.
        data_format: ``"channels_last"``, ``"channels_first"`` or None for the default.
        dilation_rate: Steps between the kernel's places: an int, or one per spatial axis.

    Shapes:
        x (batch, *space, channels), kernel (*size, filters, channels)  ->  y (batch, *larger space, filters)

    Keeps inputs and kernel until the backward pass.

    Example:
        >>> conv_transpose(np.ones((1, 4, 4, 3)), np.ones((3, 3, 5, 3)), strides=2, padding="same").shape
        (1, 8, 8, 5)
    """
    y, backward = _conv_transpose(
        inputs, kernel, None, strides, padding, output_padding, data_format, dilation_rate, False
    )
    return y, lambda dy, needs: backward(dy, needs, False)[:2]


@op
def conv_transpose_with_bias(
    inputs,
    kernel,
    bias=None,
    /,
    strides=1,
    padding="valid",
    output_padding=None,
    data_format=None,
    dilation_rate=1,
    is_rectified=False,
):
    """`conv_transpose` with a bias for each filter; what the layers call.

        y = conv_transpose(inputs, kernel) + bias,  dbias = Σ dy over all axes but the filters'
        or max(conv_transpose(inputs, kernel) + bias, 0), which passes dy on only where y > 0

    Args:
        inputs, kernel, bias: As in `conv_transpose`; bias (filters,) or None.
        strides, padding, output_padding, data_format, dilation_rate: As in `conv_transpose`.
        is_rectified: Whether the rectifier is applied.

    Keeps inputs and kernel until the backward pass, and y where `is_rectified`.

    Example:
        >>> conv_transpose_with_bias(np.ones((1, 8, 3)), np.ones((2, 4, 3)), np.ones(4), strides=2).shape
        (1, 16, 4)
    """
    y, backward = _conv_transpose(
        inputs, kernel, bias, strides, padding, output_padding, data_format, dilation_rate, is_rectified
    )
    return y, lambda dy, needs: backward(dy, needs, needs.bias)


def _conv_transpose(inputs, kernel, bias, strides, padding, output_padding, data_format, dilation_rate, is_rectified):
    x, is_first = to_channels_last(inputs, data_format)
    x = _in_dtype(x, kernel.dtype)
    windows = _transposed_windows(
        x.shape[1:],
        kernel.shape,
        hashable(strides),
        padding_name("ops.conv_transpose", padding),
        hashable(output_padding),
        hashable(dilation_rate),
    )
    y = convolution.convolve_input_gradient(x, kernel, windows, 1, bias, is_rectified)

    def backward(dy, needs, needs_bias):
        dx = dkernel = dbias = None
        dy = to_channels_last(dy, data_format)[0]
        at_kernel, at_bias = places_on_gpu((kernel if needs.kernel else None, bias if needs_bias else None), x, dy)
        if is_rectified:
            dy, dbias = convolution.rectifier_gradient(dy, y, needs_bias, at_bias)
        elif needs_bias:
            dbias = convolution.bias_gradient(dy, at_bias)
        if needs.inputs and needs.kernel:
            dx, dkernel = convolution.convolve_and_kernel_gradient(dy, kernel, x, windows, 1, at_kernel)
        elif needs.inputs:
            dx = convolution.convolve(dy, kernel, windows)
        elif needs.kernel:
            dkernel = convolution.convolve_kernel_gradient(dy, x, windows, 1, at_kernel)
        if dx is not None:
            dx = from_channels_last(_in_dtype(dx, inputs.dtype), is_first)
        return dx, dkernel, dbias

    return from_channels_last(y, is_first), backward


def transposed_size(size, kernel_size, stride, padding, output_padding=None, dilation_rate=1):
    """The output's size along one axis of a transposed convolution; None for an unknown one.

    Example:
        >>> transposed_size(4, 3, 2, "same"), transposed_size(4, 3, 2, "valid")
        (8, 9)
    """
    if size is None:
        return None
    reach = (kernel_size - 1) * dilation_rate + 1
    if padding == "valid":
        return (size - 1) * stride + reach + (max(stride - reach, 0) if output_padding is None else output_padding)
    if output_padding is None:
        return size * stride
    return (size - 1) * stride + reach % 2 + output_padding


@functools.lru_cache(maxsize=1024)
def _conv_windows(who, x, kernel, strides, padding, dilation_rate):
    """The windows for shapes without the batch axis; all checks that need only shapes."""
    _check_rank(who, x, kernel)
    channels, (kernel_channels, filters) = x[-1], kernel[-2:]
    if channels % kernel_channels:
        raise ValueError(
            f"ops.{who} expects inputs whose channels are a multiple of the kernel's {kernel_channels} "
            f"(kernel of shape {kernel}), but got inputs of shape {('batch', *x)} (channels last)."
        )
    if filters % (channels // kernel_channels):
        raise ValueError(
            f"ops.{who} has {channels // kernel_channels} groups here ({channels} input channels, "
            f"{kernel_channels} in the kernel), which must divide the kernel's {filters} filters evenly."
        )
    rank = len(x) - 1
    windows = windows_of(
        x[:-1],
        kernel[:-2],
        per_axis(f"ops.{who}", "strides", strides, rank),
        padding,
        per_axis(f"ops.{who}", "dilation_rate", dilation_rate, rank),
    )
    if not all(windows.grid) and all(x):
        raise ValueError(
            f"ops.{who} has an empty output: the window ({kernel[:-2]} places, dilation_rate {dilation_rate}) "
            f"is larger than the inputs' spatial shape {x[:-1]}. Use padding='same' or a smaller kernel."
        )
    return windows


def _depthwise_windows(who, x, kernel, strides, padding, dilation_rate):
    if kernel.ndim == x.ndim and kernel.shape[-2] != x.shape[-1]:
        raise ValueError(
            f"ops.{who} expects inputs with the {kernel.shape[-2]} channels of the depthwise kernel of shape "
            f"{kernel.shape}, but got inputs with {x.shape[-1]} channels. Check data_format."
        )
    shape = (*kernel.shape[:-2], 1, math.prod(kernel.shape[-2:]))
    padding = padding_name(f"ops.{who}", padding)
    return _conv_windows(who, x.shape[1:], shape, hashable(strides), padding, hashable(dilation_rate))


@functools.lru_cache(maxsize=1024)
def _transposed_windows(x, kernel, strides, padding, output_padding, dilation_rate):
    """The windows of the convolution whose transpose this is: its inputs are our output."""
    who = "conv_transpose"
    _check_rank(who, x, kernel)
    if kernel[-1] != x[-1]:
        raise ValueError(
            f"ops.{who} expects inputs with the {kernel[-1]} channels on the last axis of the kernel of shape "
            f"{kernel}, but got inputs with {x[-1]} channels. Its kernels are (*size, filters, channels)."
        )
    rank = len(x) - 1
    strides = per_axis(f"ops.{who}", "strides", strides, rank)
    dilation = per_axis(f"ops.{who}", "dilation_rate", dilation_rate, rank)
    extra = (
        (None,) * rank if output_padding is None else per_axis(f"ops.{who}", "output_padding", output_padding, rank, 0)
    )
    space, lows = [], []
    for n, k, s, d, more in zip(x[:-1], kernel[:-2], strides, dilation, extra, strict=True):
        size, reach = transposed_size(n, k, s, padding, more, d), (k - 1) * d + 1
        space.append(size)
        if padding == "valid":
            lows.append(0)
        else:
            # What the output lacks of the full (n - 1) · stride + reach is cut at both ends, the odd place
            # at the right; never more than the kernel reaches over.
            total = size - (n - 1) * s + reach - 2
            lows.append(reach - 1 - min(total // 2 + total % 2, reach - 1))
    return Windows(tuple(space), kernel[:-2], strides, dilation, tuple(lows), x[:-1])


def _check_rank(who, x, kernel):
    if not 2 <= len(x) <= 4 or len(kernel) != len(x) + 1:
        raise ValueError(
            f"ops.{who} expects inputs with a batch axis, 1 to 3 spatial axes and a channel axis, and a kernel "
            f"with as many axes, but got inputs with {len(x) + 1} axes and a kernel of shape {kernel}."
        )


def _in_dtype(x, dtype):
    return x if x.dtype == dtype else x.astype(dtype)
