"""What ops over spatial axes share: data formats, padding names, and one int per axis."""

from gpukeras.backend import layout
from gpukeras.kernels.windows import window_count

__all__ = [
    "from_channels_last",
    "hashable",
    "output_sizes",
    "padding_name",
    "per_axis",
    "to_channels_last",
]


def to_channels_last(x, data_format):
    """A view of `x` with its channels on the last axis, and whether they were moved there.

    Example:
        >>> x, is_first = to_channels_last(np.ones((1, 3, 8, 9)), "channels_first")
        >>> x.shape, is_first
        ((1, 8, 9, 3), True)
    """
    is_first = layout.standardize_data_format(data_format) == "channels_first"
    return (x.transpose(0, *range(2, x.ndim), 1) if is_first else x), is_first


def from_channels_last(y, is_first):
    """A view of `y` with its channels where `to_channels_last` found them.

    Example:
        >>> from_channels_last(np.ones((1, 8, 9, 3)), True).shape
        (1, 3, 8, 9)
    """
    return y.transpose(0, y.ndim - 1, *range(1, y.ndim - 1)) if is_first else y


def padding_name(who, padding, choices=("valid", "same")):
    """The padding's name in lower case, if it is one of `choices`.

    Example:
        >>> padding_name("Conv2D", "SAME")
        'same'
    """
    name = padding.lower() if isinstance(padding, str) else padding
    if name not in choices:
        raise ValueError(f"{who} expects padding {' or '.join(map(repr, choices))}, but got {padding!r}.")
    return name


def per_axis(who, name, value, rank, least=1):
    """A tuple of `rank` ints from an int or a tuple or list of them, each at least `least`.

    Example:
        >>> per_axis("Conv2D", "strides", 2, rank=2)
        (2, 2)
    """
    values = (value,) * rank if isinstance(value, int) else hashable(value)
    if not isinstance(values, tuple) or len(values) != rank or any(v < least for v in values):
        numbers = "an int" if rank == 1 else f"an int or {rank} ints (one per spatial axis)"
        raise ValueError(f"{who} expects {name} to be {numbers} of at least {least}, but got {value!r}.")
    return values


def hashable(value):
    """A list as a tuple, so that it can be looked up in a cache.

    Example:
        >>> hashable([1, 2])
        (1, 2)
    """
    return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else value


def output_sizes(space, size, strides, padding, dilation):
    """Number of windows on each axis of `space`; None on axes of unknown size.

    Example:
        >>> output_sizes((28, None), (3, 3), (1, 1), "valid", (1, 1))
        (26, None)
    """
    return tuple(
        None if n is None else window_count(n, k, stride, padding, step)
        for n, k, stride, step in zip(space, size, strides, dilation, strict=True)
    )
