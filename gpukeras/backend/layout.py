"""Where the channels stand in an image: the default data format."""

__all__ = ["image_data_format", "set_image_data_format", "standardize_data_format"]

_FORMATS = ("channels_first", "channels_last")
_image_data_format = "channels_last"


def image_data_format():
    """The data format of ops and layers that are given none: ``"channels_last"`` unless it was set."""
    return _image_data_format


def set_image_data_format(data_format):
    """Set the default data format: ``"channels_last"`` or ``"channels_first"``."""
    global _image_data_format
    _image_data_format = standardize_data_format(str(data_format))


def standardize_data_format(data_format):
    """The data format in lower case; None means the default.

    Raises:
        ValueError: for anything but the two formats.
    """
    if data_format is None:
        return _image_data_format
    name = str(data_format).lower()
    if name not in _FORMATS:
        raise ValueError(f"data_format must be 'channels_last' or 'channels_first', but got {data_format!r}.")
    return name
