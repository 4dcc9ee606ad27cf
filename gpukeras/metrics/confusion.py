"""Counts of right and wrong positives and negatives, and what is made of them."""

from gpukeras.autograd.tensor import Variable
from gpukeras.metrics.base import Metric, add_in_place, as_tensor
from gpukeras.metrics.counting import (
    NEGATIVE,
    are_even,
    best_where,
    checked_thresholds,
    confusion_counts,
    ratio,
)
from gpukeras.registry import register

__all__ = [
    "FalseNegatives",
    "FalsePositives",
    "Precision",
    "PrecisionAtRecall",
    "Recall",
    "RecallAtPrecision",
    "SensitivityAtSpecificity",
    "SpecificityAtSensitivity",
    "TrueNegatives",
    "TruePositives",
]


class _Counts(Metric):
    """Metrics that count predictions above thresholds against labels, in one vector a kind."""

    _kinds = ()  # which counts, of tp, fp, tn, fn
    _names = {"tp": "true_positives", "fp": "false_positives", "tn": "true_negatives"}
    _names["fn"] = "false_negatives"

    def __init__(self, thresholds, is_even, top_k=None, class_id=None, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self._thresholds = list(thresholds)
        self._is_even = is_even
        self._compared = None if len(self._thresholds) == 1 else as_tensor(self._thresholds)
        self.top_k = top_k
        self.class_id = class_id
        for kind in self._kinds:
            variable = self.add_variable((len(thresholds),), None, name=self._variable_name(kind))
            setattr(self, variable.name, variable)

    def _variable_name(self, kind):
        return self._names[kind]

    @property
    def thresholds(self):
        """The thresholds above which a prediction is positive."""
        return list(self._thresholds)

    def update_state(self, y_true, y_pred, sample_weight=None):
        counts = confusion_counts(
            y_true,
            y_pred,
            sample_weight,
            None,
            self._thresholds[0] if self._compared is None else self._compared,
            kinds=self._kinds,
            is_even=self._is_even,
            top_k=self.top_k,
            class_id=self.class_id,
        )
        for variable, count in zip(self._variables, counts, strict=True):
            add_in_place(variable, count)

    def _of_one(self, result):
        return result[0] if len(self._thresholds) == 1 else result


class _Count(_Counts):
    accumulator: Variable

    def __init__(self, thresholds=None, name=None, dtype=None):
        parsed = checked_thresholds(type(self).__name__, thresholds, 0.5)
        super().__init__(parsed, are_even(parsed), name=name, dtype=dtype)
        self.init_thresholds = thresholds

    def _variable_name(self, kind):
        return "accumulator"

    def result(self):
        return self._of_one(self.accumulator.value)

    def get_config(self):
        return {**super().get_config(), "thresholds": self.init_thresholds}


@register("metric")
class TruePositives(_Count):
    """How many positive predictions are right.

    Args:
        thresholds: One or several numbers in [0, 1] above which a prediction is positive; None
            for 0.5.
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.

    Example:
        >>> TruePositives()([0, 1, 1, 1], [1, 0, 1, 1]).numpy()
        array(2., dtype=float32)
    """

    _kinds = ("tp",)


@register("metric")
class FalsePositives(_Count):
    """How many positive predictions are wrong.

    Args:
        thresholds: One or several numbers in [0, 1] above which a prediction is positive; None
            for 0.5.
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.

    Example:
        >>> FalsePositives()([0, 1, 0, 0], [0, 0, 1, 1]).numpy()
        array(2., dtype=float32)
    """

    _kinds = ("fp",)


@register("metric")
class TrueNegatives(_Count):
    """How many negative predictions are right.

    Args:
        thresholds: One or several numbers in [0, 1] above which a prediction is positive; None
            for 0.5.
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.

    Example:
        >>> TrueNegatives()([0, 1, 0, 0], [1, 1, 0, 0]).numpy()
        array(2., dtype=float32)
    """

    _kinds = ("tn",)


@register("metric")
class FalseNegatives(_Count):
    """How many negative predictions are wrong.

    Args:
        thresholds: One or several numbers in [0, 1] above which a prediction is positive; None
            for 0.5.
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.

    Example:
        >>> FalseNegatives()([0, 1, 1, 1], [0, 1, 0, 0]).numpy()
        array(2., dtype=float32)
    """

    _kinds = ("fn",)


class _Share(_Counts):
    """The share of the true positives among all of which they are a part."""

    _direction = "up"

    def __init__(self, thresholds=None, top_k=None, class_id=None, name=None, dtype=None):
        default = 0.5 if top_k is None else NEGATIVE
        parsed = checked_thresholds(type(self).__name__, thresholds, default)
        super().__init__(parsed, are_even(parsed), top_k=top_k, class_id=class_id, name=name, dtype=dtype)
        self.init_thresholds = thresholds

    def result(self):
        right, wrong = self._variables
        return self._of_one(ratio(right, right, wrong))

    def get_config(self):
        return {**super().get_config(), "thresholds": self.init_thresholds}


@register("metric")
class Precision(_Share):
    """Share of the positive predictions that are right.

    Args:
        thresholds: One or several numbers in [0, 1] above which a prediction is positive; None for
            0.5, or for no threshold where `top_k` is given.
        top_k: How many of the largest predictions of a row can be positive; None for all.
        class_id: The one class that is looked at; None for all.
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.

    Example:
        >>> Precision()([0, 1, 1, 1], [1, 0, 1, 1]).numpy()
        array(0.6666667, dtype=float32)
    """

    _kinds = ("tp", "fp")


@register("metric")
class Recall(_Share):
    """Share of the positive labels that are found.

    Args:
        thresholds: One or several numbers in [0, 1] above which a prediction is positive; None for
            0.5, or for no threshold where `top_k` is given.
        top_k: How many of the largest predictions of a row can be positive; None for all.
        class_id: The one class that is looked at; None for all.
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.

    Example:
        >>> Recall()([0, 1, 1, 1], [1, 0, 1, 1]).numpy()
        array(0.6666667, dtype=float32)
    """

    _kinds = ("tp", "fn")


class _Best(_Counts):
    """The best of one share at the thresholds where another is large enough."""

    _direction = "up"
    _kinds = ("tp", "fp", "tn", "fn")
    _limit = ""  # name of the argument that says what is large enough
    _limited = _sought = ()  # shares, as the kinds (part, rest)

    def __init__(self, limit, num_thresholds=200, class_id=None, name=None, dtype=None):
        if not 0 <= limit <= 1:
            raise ValueError(f"{type(self).__name__}: {self._limit} must lie in [0, 1], but got {limit}.")
        if num_thresholds <= 0:
            raise ValueError(f"{type(self).__name__}: num_thresholds must be above 0, but got {num_thresholds}.")
        thresholds = [0.5]
        if num_thresholds > 1:
            steps = num_thresholds - 1
            thresholds = [0.0, *((i + 1) / steps for i in range(num_thresholds - 2)), 1.0]
        super().__init__(thresholds, num_thresholds > 1, class_id=class_id, name=name, dtype=dtype)
        self.value = limit
        self.num_thresholds = num_thresholds

    def _share(self, kinds):
        part, rest = (getattr(self, self._names[kind]) for kind in kinds)
        return ratio(part, part, rest)

    def result(self):
        return best_where(self._share(self._limited), self._share(self._sought), limit=self.value)


@register("metric")
class SensitivityAtSpecificity(_Best):
    """Best sensitivity (share of the positives found) where the specificity is large enough.

    Args:
        specificity: Share of the negatives that must be found, in [0, 1].
        num_thresholds: How many thresholds are tried.
        class_id: The one class that is looked at; None for all.
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.

    Example:
        >>> SensitivityAtSpecificity(0.5)([0, 0, 0, 1, 1], [0, 0.3, 0.8, 0.3, 0.8]).numpy()
        array(0.5, dtype=float32)
    """

    _limit = "specificity"
    _limited, _sought = ("tn", "fp"), ("tp", "fn")

    def __init__(self, specificity, num_thresholds=200, class_id=None, name=None, dtype=None):
        super().__init__(specificity, num_thresholds, class_id, name, dtype)
        self.specificity = specificity


@register("metric")
class SpecificityAtSensitivity(_Best):
    """Best specificity (share of the negatives found) where the sensitivity is large enough.

    Args:
        sensitivity: Share of the positives that must be found, in [0, 1].
        num_thresholds: How many thresholds are tried.
        class_id: The one class that is looked at; None for all.
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.

    Example:
        >>> SpecificityAtSensitivity(0.5)([0, 0, 0, 1, 1], [0, 0.3, 0.8, 0.3, 0.8]).numpy()
        array(0.6666667, dtype=float32)
    """

    _limit = "sensitivity"
    _limited, _sought = ("tp", "fn"), ("tn", "fp")

    def __init__(self, sensitivity, num_thresholds=200, class_id=None, name=None, dtype=None):
        super().__init__(sensitivity, num_thresholds, class_id, name, dtype)
        self.sensitivity = sensitivity


@register("metric")
class PrecisionAtRecall(_Best):
    """Best precision where the recall is large enough.

    Args:
        recall: The recall that must be reached, in [0, 1].
        num_thresholds: How many thresholds are tried.
        class_id: The one class that is looked at; None for all.
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.

    Example:
        >>> PrecisionAtRecall(0.5)([0, 0, 0, 1, 1], [0, 0.3, 0.8, 0.3, 0.8]).numpy()
        array(0.5, dtype=float32)
    """

    _limit = "recall"
    _limited, _sought = ("tp", "fn"), ("tp", "fp")

    def __init__(self, recall, num_thresholds=200, class_id=None, name=None, dtype=None):
        super().__init__(recall, num_thresholds, class_id, name, dtype)
        self.recall = recall


@register("metric")
class RecallAtPrecision(_Best):
    """Best recall where the precision is large enough.

    Args:
        precision: The precision that must be reached, in [0, 1].
        num_thresholds: How many thresholds are tried.
        class_id: The one class that is looked at; None for all.
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.

    Example:
        >>> RecallAtPrecision(0.8)([0, 0, 1, 1], [0, 0.5, 0.3, 0.9]).numpy()
        array(0.5, dtype=float32)
    """

    _limit = "precision"
    _limited, _sought = ("tp", "fp"), ("tp", "fn")

    def __init__(self, precision, num_thresholds=200, class_id=None, name=None, dtype=None):
        super().__init__(precision, num_thresholds, class_id, name, dtype)
        self.precision = precision
