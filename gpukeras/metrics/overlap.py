"""Intersection over union of predicted and true segments."""

import warnings

from gpukeras.autograd.op import op
from gpukeras.backend import devices, dtypes
from gpukeras.metrics.base import Metric, add_in_place, as_tensor
from gpukeras.ops.indexing import scatter_add
from gpukeras.ops.loss import as_array
from gpukeras.registry import register

__all__ = ["BinaryIoU", "IoU", "MeanIoU", "OneHotIoU", "OneHotMeanIoU"]


class _IoU(Metric):
    """A confusion matrix of classes."""

    _direction = "up"

    def __init__(
        self,
        num_classes,
        target_class_ids,
        name=None,
        dtype=None,
        ignore_class=None,
        sparse_y_true=True,
        sparse_y_pred=True,
        axis=-1,
    ):
        super().__init__(name=name, dtype="int32" if dtype in (None, "int") else dtype)
        if max(target_class_ids) >= num_classes:
            raise ValueError(
                f"{type(self).__name__}: target_class_ids must be below num_classes={num_classes}, "
                f"but got {list(target_class_ids)}."
            )
        self.num_classes = num_classes
        self.target_class_ids = list(target_class_ids)
        self.ignore_class = ignore_class
        self.sparse_y_true = sparse_y_true
        self.sparse_y_pred = sparse_y_pred
        self.axis = axis
        self._classes = as_tensor(self.target_class_ids)
        self.total_cm = self.add_variable(
            (num_classes, num_classes), None, dtype=self.dtype, name="total_confusion_matrix"
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        if "int" in self.dtype and "float" in str(getattr(sample_weight, "dtype", "")):
            warnings.warn(
                f"{type(self).__name__}: sample weights are cut to integers, the dtype of the "
                f"counts. Pass integers, or dtype='float32'.",
                stacklevel=2,
            )
        counts = _confusion_matrix(
            y_true,
            y_pred,
            sample_weight,
            num_classes=self.num_classes,
            ignore_class=self.ignore_class,
            is_sparse=(self.sparse_y_true, self.sparse_y_pred),
            axis=self.axis,
            dtype=self._array_dtype,
        )
        add_in_place(self.total_cm, counts)

    def result(self):
        return _mean_iou(self.total_cm, self._classes)


@register("metric")
class IoU(_IoU):
    """Mean intersection over union of chosen classes.

        true positives / (true positives + false positives + false negatives)

    Args:
        num_classes: Number of classes.
        target_class_ids: The classes that are averaged.
        name: Name.
        dtype: Name of the dtype of the counts; None for int32.
        ignore_class: A true class whose entries do not count.
        sparse_y_true, sparse_y_pred: Whether they are integer classes, not one value per class.
        axis: The axis of the classes, where there is one.

    Example:
        >>> round(IoU(2, [0])([0, 0, 1, 1], [0, 1, 0, 1]).item(), 3)
        0.333
    """

    def __init__(
        self,
        num_classes,
        target_class_ids,
        name=None,
        dtype=None,
        ignore_class=None,
        sparse_y_true=True,
        sparse_y_pred=True,
        axis=-1,
    ):
        super().__init__(
            num_classes,
            target_class_ids,
            name=name,
            dtype=dtype,
            ignore_class=ignore_class,
            sparse_y_true=sparse_y_true,
            sparse_y_pred=sparse_y_pred,
            axis=axis,
        )


@register("metric")
class BinaryIoU(IoU):
    """Mean intersection over union of two classes that a threshold parts.

    Args:
        target_class_ids: The classes that are averaged, of 0 and 1.
        threshold: From it on a prediction means 1.
        name: Name.
        dtype: Name of the dtype of the counts; None for int32.

    Example:
        >>> round(BinaryIoU(threshold=0.3)([0, 1, 0, 1], [0.1, 0.2, 0.4, 0.7]).item(), 3)
        0.333
    """

    def __init__(self, target_class_ids=(0, 1), threshold=0.5, name=None, dtype=None):
        super().__init__(2, target_class_ids, name=name, dtype=dtype)
        self.threshold = threshold

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, _above(y_pred, threshold=self.threshold), sample_weight)


@register("metric")
class MeanIoU(IoU):
    """Mean intersection over union of all classes.

    Args:
        num_classes: Number of classes.
        name: Name.
        dtype: Name of the dtype of the counts; None for int32.
        ignore_class: A true class whose entries do not count.
        sparse_y_true, sparse_y_pred: Whether they are integer classes, not one value per class.
        axis: The axis of the classes, where there is one.

    Example:
        >>> round(MeanIoU(2)([0, 0, 1, 1], [0, 1, 0, 1]).item(), 3)
        0.333
    """

    def __init__(
        self,
        num_classes,
        name=None,
        dtype=None,
        ignore_class=None,
        sparse_y_true=True,
        sparse_y_pred=True,
        axis=-1,
    ):
        super().__init__(
            num_classes,
            list(range(num_classes)),
            name=name,
            dtype=dtype,
            ignore_class=ignore_class,
            sparse_y_true=sparse_y_true,
            sparse_y_pred=sparse_y_pred,
            axis=axis,
        )


@register("metric")
class OneHotIoU(IoU):
    """Mean intersection over union of chosen classes, for one-hot labels.

    Args:
        num_classes: Number of classes.
        target_class_ids: The classes that are averaged.
        name: Name.
        dtype: Name of the dtype of the counts; None for int32.
        ignore_class: A true class whose entries do not count.
        sparse_y_pred: Whether predictions are integer classes.
        axis: The axis of the classes.

    Example:
        >>> round(OneHotIoU(2, [0])(np.eye(2), np.array([[0.8, 0.2], [0.6, 0.4]])).item(), 3)
        0.5
    """

    def __init__(
        self,
        num_classes,
        target_class_ids,
        name=None,
        dtype=None,
        ignore_class=None,
        sparse_y_pred=False,
        axis=-1,
    ):
        super().__init__(
            num_classes,
            target_class_ids,
            name=name,
            dtype=dtype,
            ignore_class=ignore_class,
            sparse_y_true=False,
            sparse_y_pred=sparse_y_pred,
            axis=axis,
        )


@register("metric")
class OneHotMeanIoU(MeanIoU):
    """Mean intersection over union of all classes, for one-hot labels.

    Args:
        num_classes: Number of classes.
        name: Name.
        dtype: Name of the dtype of the counts; None for int32.
        ignore_class: A true class whose entries do not count.
        sparse_y_pred: Whether predictions are integer classes.
        axis: The axis of the classes.

    Example:
        >>> round(OneHotMeanIoU(2)(np.eye(2), np.array([[0.8, 0.2], [0.6, 0.4]])).item(), 3)
        0.25
    """

    def __init__(
        self,
        num_classes,
        name=None,
        dtype=None,
        ignore_class=None,
        sparse_y_pred=False,
        axis=-1,
    ):
        super().__init__(
            num_classes,
            name=name,
            dtype=dtype,
            ignore_class=ignore_class,
            sparse_y_true=False,
            sparse_y_pred=sparse_y_pred,
            axis=axis,
        )


@op
def _above(y_pred, /, threshold):
    return (as_array(y_pred) >= threshold).astype("int32"), None


@op
def _confusion_matrix(y_true, y_pred, sample_weight, /, num_classes, ignore_class, is_sparse, axis, dtype):
    """Weighted numbers of samples by true class (row) and predicted class (column)."""
    t, p = as_array(y_true), as_array(y_pred)
    t = (t if is_sparse[0] else t.argmax(axis=axis)).astype(dtype).reshape(-1)
    p = (p if is_sparse[1] else p.argmax(axis=axis)).astype(dtype).reshape(-1)
    if t.shape != p.shape:
        raise ValueError(
            f"IoU needs one true class for each predicted one, but got {t.shape[0]} true and "
            f"{p.shape[0]} predicted classes."
        )
    xp = devices.array_module(p)
    is_valid = (t >= 0) & (t < num_classes) & (p >= 0) & (p < num_classes)
    if ignore_class is not None:
        is_valid &= t != ignore_class
    weight = is_valid.astype(dtype)
    if sample_weight is not None:
        factor = as_array(sample_weight).astype(dtype).reshape(-1)
        if factor.size not in (1, weight.size):
            raise ValueError(
                f"IoU needs one sample_weight for each of {weight.size} entries, but got "
                f"{sample_weight.shape}. Repeat the weights along the other axes."
            )
        weight = weight * factor
    cell = xp.where(is_valid, t * num_classes + p, 0).astype("int32")
    matrix = xp.zeros(num_classes * num_classes, dtype)
    scatter_add(matrix, cell, weight)
    return matrix.reshape(num_classes, num_classes), None


@op
def _mean_iou(matrix, classes, /):
    xp = devices.array_module(matrix)
    right = xp.diagonal(matrix)
    union = (matrix.sum(axis=0) + matrix.sum(axis=1) - right)[classes].astype("float32")
    right = right[classes].astype("float32")
    is_present = union > 1e-9
    iou = xp.where(is_present, right / (union + dtypes.epsilon()), 0)
    return iou.sum() / (is_present.sum(dtype="float32") + dtypes.epsilon()), None
