"""How often predictions are right."""

import functools
from typing import Any

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.autograd.tensor import Tensor
from gpukeras.backend import devices, dtypes
from gpukeras.kernels import sums
from gpukeras.metrics.reduction import MeanMetricWrapper
from gpukeras.ops.loss import as_array, same_rank
from gpukeras.registry import register

__all__ = [
    "Accuracy",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "binary_accuracy",
    "categorical_accuracy",
    "sparse_categorical_accuracy",
    "sparse_top_k_categorical_accuracy",
    "top_k_categorical_accuracy",
]


@register("metric")
class Accuracy(MeanMetricWrapper):
    """How often predictions equal labels.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> Accuracy()([1, 2, 3, 4], [0, 2, 3, 4]).numpy()
        array(0.75, dtype=float32)
    """

    _direction = "up"

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(accuracy, name=name, dtype=dtype)


@register("metric")
class BinaryAccuracy(MeanMetricWrapper):
    """How often predictions are on the label's side of a threshold.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.
        threshold: Above it a prediction means 1.

    Example:
        >>> BinaryAccuracy()([1, 1, 0, 0], [0.9, 0.2, 0.1, 0.4]).numpy()
        array(0.75, dtype=float32)
    """

    _direction = "up"

    def __init__(self, name="binary_accuracy", dtype=None, threshold=0.5):
        super().__init__(binary_accuracy, name=name, dtype=dtype, threshold=threshold)
        self.threshold = threshold


@register("metric")
class CategoricalAccuracy(MeanMetricWrapper):
    """How often the largest prediction stands where the one-hot label does.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> CategoricalAccuracy()([[0, 1], [1, 0]], [[0.1, 0.9], [0.4, 0.6]]).numpy()
        array(0.5, dtype=float32)
    """

    _direction = "up"

    def __init__(self, name="categorical_accuracy", dtype=None):
        super().__init__(categorical_accuracy, name=name, dtype=dtype)


@register("metric")
class SparseCategoricalAccuracy(MeanMetricWrapper):
    """How often the largest prediction is that of the integer class.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> SparseCategoricalAccuracy()([1, 0], [[0.1, 0.9], [0.4, 0.6]]).numpy()
        array(0.5, dtype=float32)
    """

    _direction = "up"

    def __init__(self, name="sparse_categorical_accuracy", dtype=None):
        super().__init__(sparse_categorical_accuracy, name=name, dtype=dtype)


@register("metric")
class TopKCategoricalAccuracy(MeanMetricWrapper):
    """How often the one-hot label's class is among the k largest predictions.

    Args:
        k: How many predictions count.
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> TopKCategoricalAccuracy(k=2)([[0, 0, 1]], [[0.1, 0.5, 0.4]]).numpy()
        array(1., dtype=float32)
    """

    _direction = "up"

    def __init__(self, k=5, name="top_k_categorical_accuracy", dtype=None):
        super().__init__(top_k_categorical_accuracy, name=name, dtype=dtype, k=k)
        self.k = k


@register("metric")
class SparseTopKCategoricalAccuracy(MeanMetricWrapper):
    """How often the integer class is among the k largest predictions.

    Args:
        k: How many predictions count.
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.
        from_sorted_ids: Whether predictions are classes, the most likely first.

    Example:
        >>> SparseTopKCategoricalAccuracy(k=2)([2], [[0.1, 0.5, 0.4]]).numpy()
        array(1., dtype=float32)
    """

    _direction = "up"

    def __init__(self, k=5, name="sparse_top_k_categorical_accuracy", dtype=None, from_sorted_ids=False):
        super().__init__(
            sparse_top_k_categorical_accuracy,
            name=name,
            dtype=dtype,
            k=k,
            from_sorted_ids=from_sorted_ids,
        )
        self.k = k
        self.from_sorted_ids = from_sorted_ids

    def get_config(self):
        config = super().get_config()
        if not self.from_sorted_ids:
            del config["from_sorted_ids"]
        return config


def _accuracy(is_right) -> Any:
    """Make an accuracy, an op that gives 1 and 0, of a function of arrays that says which predictions are right.

    Its attribute `matches` is an op that gives what the function says: True and False are counted faster than added up.
    Some have an attribute `number_of_matches`, a function that counts the right ones at once, or gives None for what it
    does not take.
    """

    @functools.wraps(is_right)
    def numbers(*args, **settings):
        return is_right(*args, **settings).astype(dtypes.as_dtype(dtypes.floatx())), None

    @functools.wraps(is_right)
    def matches(*args, **settings):
        return is_right(*args, **settings), None

    accuracy = op(numbers)
    accuracy.matches = op(matches)
    return accuracy


@_accuracy
def accuracy(y_true, y_pred, /):
    """1 where labels and predictions are equal, else 0.

    Example:
        >>> accuracy([1, 2], [1, 3]).numpy()
        array([1., 0.], dtype=float32)
    """
    p = as_array(y_pred)
    t, p = same_rank(as_array(y_true).astype(p.dtype, copy=False), p)
    return _equal("accuracy", t, p)


@_accuracy
def binary_accuracy(y_true, y_pred, /, threshold=0.5):
    """1 where the prediction is on the label's side of the threshold, else 0.

    Example:
        >>> binary_accuracy([1, 0], [0.9, 0.6]).numpy()
        array([1., 0.], dtype=float32)
    """
    t, p = same_rank(as_array(y_true), as_array(y_pred))
    is_one = p > threshold
    if type(is_one) is np.ndarray:  # NumPy compares arrays of one dtype in a third of the time
        is_one = is_one.astype(t.dtype, copy=False)
    return _equal("binary_accuracy", t, is_one)


@_accuracy
def categorical_accuracy(y_true, y_pred, /):
    """1 where the largest prediction stands where the one-hot label does, else 0.

    Example:
        >>> categorical_accuracy([[0, 1], [1, 0]], [[0.1, 0.9], [0.4, 0.6]]).numpy()
        array([1., 0.], dtype=float32)
    """
    p = as_array(y_pred)
    t = as_array(y_true).argmax(axis=-1)
    shape = t.shape
    if t.ndim == p.ndim:
        t = t.squeeze(-1)
    return _equal("categorical_accuracy", t, p.argmax(axis=-1)).reshape(shape)


@_accuracy
def sparse_categorical_accuracy(y_true, y_pred, /):
    """1 where the largest prediction is that of the integer class, else 0.

    Example:
        >>> sparse_categorical_accuracy([1, 0], [[0.1, 0.9], [0.4, 0.6]]).numpy()
        array([1., 0.], dtype=float32)
    """
    t, p = as_array(y_true), as_array(y_pred)
    shape = t.shape
    if t.ndim == p.ndim and shape[-1] == 1:
        t = t[..., 0]
        if len(shape) > 1:
            shape = shape[:-1]
    matches = _equal("sparse_categorical_accuracy", t, p.argmax(axis=-1))
    return matches.reshape(shape)


def _count_of_classes(y_true, y_pred):
    """How many of the integer classes (batch,) or (batch, 1) have the largest prediction of (batch, classes)."""
    if type(y_true) is type(y_pred) is Tensor and len(y_pred.shape) == 2 and y_true.array.dtype.kind in sums.LABELS:
        batch = y_pred.shape[0]
        if y_true.shape in ((batch,), (batch, 1)):
            return _number_of_matches(y_true, y_pred)
    return None


sparse_categorical_accuracy.number_of_matches = _count_of_classes


@op
def _number_of_matches(y_true, y_pred, /):
    return sums.count_matches(y_pred, y_true.reshape(-1)), None


@_accuracy
def top_k_categorical_accuracy(y_true, y_pred, /, k=5):
    """1 where the one-hot label's class is among the k largest predictions, else 0.

    Example:
        >>> top_k_categorical_accuracy([[0, 0, 1]], [[0.1, 0.5, 0.4]], k=2).numpy()
        array([1.], dtype=float32)
    """
    label = as_array(y_true).argmax(axis=-1).astype(np.int32)
    return _in_top_k("top_k_categorical_accuracy", label, as_array(y_pred), k)


@_accuracy
def sparse_top_k_categorical_accuracy(y_true, y_pred, /, k=5, from_sorted_ids=False):
    """1 where the integer class is among the k largest predictions, else 0.

    Example:
        >>> sparse_top_k_categorical_accuracy([2], [[0.1, 0.5, 0.4]], k=2).numpy()
        array([1.], dtype=float32)
    """
    p = as_array(y_pred)
    if not from_sorted_ids:
        label = as_array(y_true).astype(np.int32)
        return _in_top_k("sparse_top_k_categorical_accuracy", label, p, k)
    label = as_array(y_true).astype(p.dtype, copy=False)
    rows = p.reshape(-1, p.shape[-1])
    matches = (label.reshape(-1, 1) == rows[:, :k]).any(axis=1)
    return matches.reshape(label.shape)


def _in_top_k(name, label, p, k):
    rows, flat = p.reshape(-1, p.shape[-1]), label.reshape(-1)
    if len(flat) != len(rows):
        raise ValueError(
            f"{name} needs one class for each row of y_pred, but got {label.shape} classes for "
            f"y_pred of shape {p.shape}."
        )
    xp = devices.array_module(p)
    is_class = flat.view(np.uint32) < rows.shape[1]
    at_label = rows[xp.arange(len(flat)), flat * is_class]
    is_class &= at_label == at_label  # a NaN is no large prediction
    matches = (rows > at_label[:, None]).sum(axis=1) < k
    return (matches & is_class).reshape(label.shape)


def _equal(name, t, p):
    if t.shape != p.shape:
        try:
            np.broadcast_shapes(t.shape, p.shape)
        except ValueError:
            raise ValueError(
                f"{name} compares labels and predictions one by one, but got labels of shape "
                f"{t.shape} for predictions of shape {p.shape}."
            ) from None
    return t == p
