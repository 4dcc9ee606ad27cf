"""Losses for probabilities: cross entropies and divergences."""

import numpy as np

from gpukeras.autograd.op import op
from gpukeras.backend import devices
from gpukeras.losses.base import LossFunctionWrapper
from gpukeras.ops import crossentropy, objective
from gpukeras.ops.loss import as_array
from gpukeras.registry import register

__all__ = [
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedCrossEntropy",
    "KLDivergence",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "categorical_generalized_cross_entropy",
]


@register("loss")
class KLDivergence(LossFunctionWrapper):
    """Kullback-Leibler divergence of two distributions.

        loss = Σ y_true · log(y_true / y_pred)

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> round(KLDivergence()([[0.5, 0.5]], [[0.5, 0.5]]).item(), 3)
        0.0
    """

    def __init__(self, reduction="sum_over_batch_size", name="kl_divergence", dtype=None):
        super().__init__(objective.kl_divergence, reduction=reduction, name=name, dtype=dtype)


@register("loss")
class Poisson(LossFunctionWrapper):
    """Negative log-likelihood of counts under a Poisson distribution, without its constant.

        loss = mean(y_pred - y_true · log(y_pred + ε))

    Args:
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> round(Poisson()([1.0, 1.0], [1.0, 1.0]).item(), 3)
        1.0
    """

    def __init__(self, reduction="sum_over_batch_size", name="poisson", dtype=None):
        super().__init__(objective.poisson, reduction=reduction, name=name, dtype=dtype)


@register("loss")
class BinaryCrossentropy(LossFunctionWrapper):
    """Cross entropy of yes-or-no predictions.

        loss = mean(-y_true · log p - (1 - y_true) · log(1 - p))

    Args:
        from_logits: Whether predictions are logits instead of probabilities.
        label_smoothing: Share of the labels that is replaced by 1/2.
        axis: The axis, or axes, of the mean.
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> round(BinaryCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.6931
    """

    def __init__(
        self,
        from_logits=False,
        label_smoothing=0.0,
        axis=-1,
        reduction="sum_over_batch_size",
        name="binary_crossentropy",
        dtype=None,
    ):
        super().__init__(
            crossentropy.binary_crossentropy,
            reduction=reduction,
            name=name,
            dtype=dtype,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
        )
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.axis = axis


@register("loss")
class BinaryFocalCrossentropy(LossFunctionWrapper):
    """Binary cross entropy that gives easy examples less weight (Lin et al., 2018).

        loss = mean(α_t (1 - p_t)^γ · crossentropy)

    Args:
        apply_class_balancing: Whether the classes are weighted with `alpha`.
        alpha: Weight of class 1; class 0 has 1 - alpha.
        gamma: How much weight easy examples lose.
        from_logits: Whether predictions are logits instead of probabilities.
        label_smoothing: Share of the labels that is replaced by 1/2.
        axis: The axis, or axes, of the mean.
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> round(BinaryFocalCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.1733
    """

    def __init__(
        self,
        apply_class_balancing=False,
        alpha=0.25,
        gamma=2.0,
        from_logits=False,
        label_smoothing=0.0,
        axis=-1,
        reduction="sum_over_batch_size",
        name="binary_focal_crossentropy",
        dtype=None,
    ):
        super().__init__(
            crossentropy.binary_focal_crossentropy,
            reduction=reduction,
            name=name,
            dtype=dtype,
            apply_class_balancing=apply_class_balancing,
            alpha=alpha,
            gamma=gamma,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
        )
        self.apply_class_balancing = apply_class_balancing
        self.alpha = alpha
        self.gamma = gamma
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.axis = axis


@register("loss")
class CategoricalCrossentropy(LossFunctionWrapper):
    """Cross entropy between one-hot labels and predictions.

        loss = -Σ y_true · log p

    Args:
        from_logits: Whether predictions are logits instead of probabilities.
        label_smoothing: Share of the labels that is spread evenly over all classes.
        axis: The axis of the classes.
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> round(CategoricalCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.6931
    """

    def __init__(
        self,
        from_logits=False,
        label_smoothing=0.0,
        axis=-1,
        reduction="sum_over_batch_size",
        name="categorical_crossentropy",
        dtype=None,
    ):
        super().__init__(
            crossentropy.categorical_crossentropy,
            reduction=reduction,
            name=name,
            dtype=dtype,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
        )
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.axis = axis


@register("loss")
class CategoricalFocalCrossentropy(LossFunctionWrapper):
    """Categorical cross entropy that gives easy examples less weight (Lin et al., 2018).

        loss = -Σ α (1 - p)^γ · y_true · log p

    Args:
        alpha: Weight of the classes, one number or one per class.
        gamma: How much weight easy examples lose.
        from_logits: Whether predictions are logits instead of probabilities.
        label_smoothing: Share of the labels that is spread evenly over all classes.
        axis: The axis of the classes.
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> round(CategoricalFocalCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.0433
    """

    def __init__(
        self,
        alpha=0.25,
        gamma=2.0,
        from_logits=False,
        label_smoothing=0.0,
        axis=-1,
        reduction="sum_over_batch_size",
        name="categorical_focal_crossentropy",
        dtype=None,
    ):
        super().__init__(
            crossentropy.categorical_focal_crossentropy,
            reduction=reduction,
            name=name,
            dtype=dtype,
            alpha=alpha,
            gamma=gamma,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
        )
        self.alpha = alpha
        self.gamma = gamma
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.axis = axis


@register("loss")
class SparseCategoricalCrossentropy(LossFunctionWrapper):
    """Cross entropy between integer classes and predictions.

        loss = -log p[y_true]

    Args:
        from_logits: Whether predictions are logits instead of probabilities.
        ignore_class: A class whose entries count for nothing, in the sum and in the mean.
        reduction: How samples become one number, as in `Loss`.
        axis: The axis of the classes.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> round(SparseCategoricalCrossentropy()([1], [[0.5, 0.5]]).item(), 4)
        0.6931
    """

    _not_in_config = ("axis",)

    def __init__(
        self,
        from_logits=False,
        ignore_class=None,
        reduction="sum_over_batch_size",
        axis=-1,
        name="sparse_categorical_crossentropy",
        dtype=None,
    ):
        super().__init__(
            crossentropy.sparse_categorical_crossentropy,
            reduction=reduction,
            name=name,
            dtype=dtype,
            from_logits=from_logits,
            ignore_class=ignore_class,
            axis=axis,
        )
        self.from_logits = from_logits
        self.ignore_class = ignore_class
        self.axis = axis


@register("loss")
class CategoricalGeneralizedCrossEntropy(LossFunctionWrapper):
    """Cross entropy for integer classes that bears wrong labels (Zhang and Sabuncu, 2018).

        loss = (1 - p[y_true]^q) / q

    Args:
        q: Between 0, the cross entropy, and 1, the absolute error.
        reduction: How samples become one number, as in `Loss`.
        name: Name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> CategoricalGeneralizedCrossEntropy()([1], [[0.75, 0.25]]).numpy()
        array(1., dtype=float32)
    """

    _keeps_y_true = True

    def __init__(
        self,
        q=0.5,
        reduction="sum_over_batch_size",
        name="categorical_generalized_cross_entropy",
        dtype=None,
    ):
        if not 0 < q < 1:
            raise ValueError(f"CategoricalGeneralizedCrossEntropy: q must lie between 0 and 1, but got {q}.")
        super().__init__(
            categorical_generalized_cross_entropy,
            reduction=reduction,
            name=name,
            dtype=dtype,
            q=q,
        )
        self.q = q


@register("loss")
@op
def categorical_generalized_cross_entropy(y_true, y_pred, /, q):
    """Cross entropy for integer classes that bears wrong labels (Zhang and Sabuncu, 2018).

        y = (1 - p^q) / q,   p = y_pred[y_true];   dp = -dy · p^(q - 1)

    Args:
        y_true: Classes, from 0.
        y_pred: Predicted probabilities.
        q: Between 0, the cross entropy, and 1, the absolute error.

    Shapes:
        y_true (batch,) or (batch, 1), y_pred (batch, classes)  ->  y (batch,)

    Example:
        >>> categorical_generalized_cross_entropy([1], [[0.75, 0.25]], q=0.5).numpy()
        array([1.], dtype=float32)
    """
    y_pred = objective.floating(as_array(y_pred))
    label = as_array(y_true)
    if label.ndim == y_pred.ndim and label.shape[-1] == 1:
        label = label[..., 0]
    if y_pred.ndim != 2 or label.shape != y_pred.shape[:1]:
        raise ValueError(
            f"categorical_generalized_cross_entropy needs y_true (batch,) and y_pred (batch, "
            f"classes), but got shapes {label.shape} and {y_pred.shape}."
        )
    xp = devices.array_module(y_pred)
    label = label.astype(np.int32)
    is_class = label.view(np.uint32) < y_pred.shape[1]
    place = xp.arange(len(label)), label * is_class
    p = xp.where(is_class, y_pred[place], 0)  # no class: probability 0, as a one-hot row of zeros

    def backward(dy, needs):
        dy_pred = xp.zeros_like(y_pred)
        dy_pred[place] = xp.where(is_class, -dy * p ** (q - 1), 0)
        return None, dy_pred

    return (1 - p**q) / q, backward
