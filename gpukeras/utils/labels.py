"""Labels and vectors prepared with NumPy before training."""

import numpy as np

from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices, dtypes

__all__ = ["normalize", "to_categorical"]


def to_categorical(x, num_classes=None):
    """Whole-number labels as rows with a single one.

    Args:
        x: Labels, of any shape; a last axis of size 1 is dropped.
        num_classes: Number of classes; one more than the largest label if None.

    Shapes:
        x (...)  ->  y (..., num_classes) of floatx

    Raises:
        ValueError: for a label outside of 0..num_classes - 1.

    Example:
        >>> to_categorical([0, 2])
        array([[1., 0., 0.],
               [0., 0., 1.]], dtype=float32)
    """
    if isinstance(x, Tensor):
        x = x.array
    labels = np.array(devices.to_numpy(x) if devices.is_array(x) else x)
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    labels = labels.astype(np.int64)
    if num_classes is None:
        num_classes = int(labels.max()) + 1 if labels.size else 0
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(
            f"to_categorical: labels must lie in 0..{num_classes - 1}, but range from {labels.min()} to {labels.max()}."
        )
    rows = np.zeros((labels.size, num_classes), dtypes.as_dtype(dtypes.floatx()))
    rows[np.arange(labels.size), labels.ravel()] = 1
    return rows.reshape(*labels.shape, num_classes)


def normalize(x, axis=-1, order=2):
    """`x` divided by its norm along an axis; zero vectors stay.

    Args:
        x: Array.
        axis: Along which the norm is taken.
        order: Of the norm.

    Example:
        >>> normalize(np.array([[3.0, 4.0]]))
        array([[0.6, 0.8]])
    """
    x = np.asarray(x)
    norm = np.atleast_1d(np.linalg.norm(x, order, axis))
    norm[norm == 0] = 1
    return x / np.expand_dims(norm, axis)
