"""Pooling over one, two or three spatial axes, in both data formats."""

import functools

from gpukeras.autograd.op import op
from gpukeras.backend import dtypes
from gpukeras.kernels import pooling as kernels
from gpukeras.kernels.windows import windows_of
from gpukeras.ops.spatial import (
    from_channels_last,
    hashable,
    padding_name,
    per_axis,
    to_channels_last,
)

__all__ = ["average_pool", "max_pool"]


@op
def max_pool(inputs, /, pool_size, strides=None, padding="valid", data_format=None):
    """Largest value in each window over the spatial axes.

        dx = dy at the first place of each window that holds its maximum, else 0

    Args:
        inputs: See Shapes.
        pool_size: Size of the window: an int, or one per spatial axis.
        strides: Steps between windows; None for `pool_size`.
        padding: ``"valid"`` (windows inside the inputs) or ``"same"`` (``ceil(space / stride)`` windows).
        data_format: ``"channels_last"``, ``"channels_first"`` or None for the default.

    Shapes:
        x (batch, *space, channels)  ->  y (batch, *grid, channels)

    Keeps inputs and y until the backward pass.

    Example:
        >>> max_pool(np.arange(4.0).reshape(1, 4, 1), 2).numpy().ravel()
        array([1., 3.])
    """
    x, is_first = to_channels_last(inputs, data_format)
    windows = _windows("max_pool", x.shape[1:-1], hashable(pool_size), hashable(strides), padding)
    y = kernels.max_pool(x, windows)

    def backward(dy, needs):
        if not is_first:
            return (kernels.deferred_max_pool_gradient(dy, x, y, windows),)
        dx = kernels.max_pool_gradient(to_channels_last(dy, data_format)[0], x, y, windows)
        return (from_channels_last(dx, is_first),)

    return from_channels_last(y, is_first), backward


@op
def average_pool(inputs, /, pool_size, strides=None, padding="valid", data_format=None):
    """Mean of each window over the spatial axes; padding is not counted.

        dx = Σ over the windows that see a place of  dy / places of the window inside the inputs

    Args:
        inputs: See Shapes.
        pool_size, strides, padding, data_format: As in `max_pool`.

    Shapes:
        x (batch, *space, channels)  ->  y (batch, *grid, channels)

    Example:
        >>> average_pool(np.arange(4.0).reshape(1, 4, 1), 2).numpy().ravel()
        array([0.5, 2.5])
    """
    x, is_first = to_channels_last(inputs, data_format)
    if not dtypes.is_float(x.dtype):
        x = x.astype(dtypes.as_dtype(dtypes.floatx()))
    windows = _windows("average_pool", x.shape[1:-1], hashable(pool_size), hashable(strides), padding)

    def backward(dy, needs):
        return (
            from_channels_last(
                kernels.average_pool_gradient(to_channels_last(dy, data_format)[0], windows),
                is_first,
            ),
        )

    return from_channels_last(kernels.average_pool(x, windows), is_first), backward


@functools.lru_cache(maxsize=1024)
def _windows(who, space, pool_size, strides, padding):
    """The windows for the sizes of the spatial axes; all checks that need only shapes."""
    rank = len(space)
    if not 1 <= rank <= 3:
        raise ValueError(
            f"ops.{who} expects inputs with a batch axis, 1 to 3 spatial axes and a channel axis, but got "
            f"{rank + 2} axes."
        )
    name = padding_name(f"ops.{who}", padding)
    size = per_axis(f"ops.{who}", "pool_size", pool_size, rank)
    steps = size if strides is None else per_axis(f"ops.{who}", "strides", strides, rank)
    windows = windows_of(space, size, steps, name, (1,) * rank)
    if not all(windows.grid) and all(space):
        raise ValueError(
            f"ops.{who} has an empty output: pool_size {pool_size} is larger than the inputs' spatial shape "
            f"{space}. Use padding='same' or a smaller pool_size."
        )
    return windows
