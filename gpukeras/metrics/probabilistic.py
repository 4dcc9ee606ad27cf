"""How far predicted probabilities are from labels."""

from gpukeras.metrics.reduction import MeanMetricWrapper
from gpukeras.ops import crossentropy, objective
from gpukeras.registry import register

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "KLDivergence",
    "Poisson",
    "SparseCategoricalCrossentropy",
]


@register("metric")
class KLDivergence(MeanMetricWrapper):
    """Kullback-Leibler divergence of two distributions.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> round(KLDivergence()([[0.5, 0.5]], [[0.5, 0.5]]).item(), 3)
        0.0
    """

    _direction = "down"

    def __init__(self, name="kl_divergence", dtype=None):
        super().__init__(objective.kl_divergence, name=name, dtype=dtype)


@register("metric")
class Poisson(MeanMetricWrapper):
    """Negative log-likelihood of counts under a Poisson distribution, without its constant.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> round(Poisson()([1.0, 1.0], [1.0, 1.0]).item(), 3)
        1.0
    """

    _direction = "down"

    def __init__(self, name="poisson", dtype=None):
        super().__init__(objective.poisson, name=name, dtype=dtype)


@register("metric", "bce", "BCE")
class BinaryCrossentropy(MeanMetricWrapper):
    """Cross entropy of yes-or-no predictions.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.
        from_logits: Whether predictions are logits instead of probabilities.
        label_smoothing: Share of the labels that is replaced by 1/2.

    Example:
        >>> round(BinaryCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.6931
    """

    _direction = "down"

    def __init__(self, name="binary_crossentropy", dtype=None, from_logits=False, label_smoothing=0):
        super().__init__(
            crossentropy.binary_crossentropy,
            name=name,
            dtype=dtype,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
        )
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing


@register("metric")
class CategoricalCrossentropy(MeanMetricWrapper):
    """Cross entropy between one-hot labels and predictions.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.
        from_logits: Whether predictions are logits instead of probabilities.
        label_smoothing: Share of the labels that is spread evenly over all classes.
        axis: The axis of the classes.

    Example:
        >>> round(CategoricalCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
        0.6931
    """

    _direction = "down"

    def __init__(
        self,
        name="categorical_crossentropy",
        dtype=None,
        from_logits=False,
        label_smoothing=0,
        axis=-1,
    ):
        super().__init__(
            crossentropy.categorical_crossentropy,
            name=name,
            dtype=dtype,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
        )
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.axis = axis


@register("metric")
class SparseCategoricalCrossentropy(MeanMetricWrapper):
    """Cross entropy between integer classes and predictions.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.
        from_logits: Whether predictions are logits instead of probabilities.
        ignore_class: A class whose entries count as 0.
        axis: The axis of the classes.

    Example:
        >>> round(SparseCategoricalCrossentropy()([1], [[0.5, 0.5]]).item(), 4)
        0.6931
    """

    _direction = "down"

    def __init__(
        self,
        name="sparse_categorical_crossentropy",
        dtype=None,
        from_logits=False,
        ignore_class=None,
        axis=-1,
    ):
        super().__init__(
            crossentropy.sparse_categorical_crossentropy,
            name=name,
            dtype=dtype,
            from_logits=from_logits,
            ignore_class=ignore_class,
            axis=axis,
        )
        self.from_logits = from_logits
        self.ignore_class = ignore_class
        self.axis = axis
