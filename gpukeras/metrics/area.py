"""Area under a curve of shares, one point a threshold."""

from gpukeras.autograd.tensor import convert_to_array
from gpukeras.backend import dtypes
from gpukeras.metrics.base import Metric, add_in_place, as_tensor
from gpukeras.metrics.counting import are_even, area_under_curve, confusion_counts
from gpukeras.ops import activation
from gpukeras.registry import register

__all__ = ["AUC"]

_CURVES = ("ROC", "PR", "PRGAIN")
_SUMMATION_METHODS = ("interpolation", "majoring", "minoring")
_KINDS = ("tp", "fp", "tn", "fn")


@register("metric")
class AUC(Metric):
    """Area under the ROC, precision-recall or precision-recall-gain curve.

    The curve has one point for each threshold; more thresholds come closer to the true area.

    Args:
        num_thresholds: How many thresholds part [0, 1] evenly.
        curve: ``"ROC"``, ``"PR"`` or ``"PRGAIN"``.
        summation_method: Heights between two points: their mean (``"interpolation"``; for ``"PR"``
            the interpolation of Davis and Goadrich), the larger (``"majoring"``) or the smaller
            (``"minoring"``).
        name: Name.
        dtype: Name or policy of the dtype of computations; None for floatx.
        thresholds: Thresholds in [0, 1] of your own, instead of even ones.
        multi_label: Whether each label (column) has a curve of its own, and areas are averaged.
        num_labels: How many labels, where `multi_label`; None for as many as come.
        label_weights: Weights of the labels.
        from_logits: Whether predictions are logits.

    Example:
        >>> AUC(num_thresholds=3)([0, 0, 1, 1], [0, 0.5, 0.3, 0.9]).numpy()
        array(0.75, dtype=float32)
    """

    _direction = "up"

    def __init__(
        self,
        num_thresholds=200,
        curve="ROC",
        summation_method="interpolation",
        name=None,
        dtype=None,
        thresholds=None,
        multi_label=False,
        num_labels=None,
        label_weights=None,
        from_logits=False,
    ):
        super().__init__(name=name, dtype=dtype)
        self.curve = _choice("curve", curve, _CURVES)
        self.summation_method = _choice("summation_method", summation_method, _SUMMATION_METHODS)
        self._init_from_thresholds = thresholds is not None
        if thresholds is not None:
            inner = sorted(thresholds)
            self._is_even = are_even([0.0, *inner, 1.0])
        else:
            if num_thresholds <= 1:
                raise ValueError(f"AUC: num_thresholds must be above 1, but got {num_thresholds}.")
            inner = [(i + 1) / (num_thresholds - 1) for i in range(num_thresholds - 2)]
            self._is_even = True
        self.num_thresholds = len(inner) + 2
        epsilon = dtypes.epsilon()
        self._thresholds = [-epsilon, *inner, 1 + epsilon]
        self._compared = as_tensor(self._thresholds)
        if num_labels and not multi_label:
            raise ValueError("AUC: num_labels is for multi_label=True; leave it out otherwise.")
        self.multi_label = multi_label
        self.num_labels = num_labels
        self.label_weights = None if label_weights is None else list(label_weights)
        self._weights = None
        if label_weights is not None:
            self._weights = as_tensor(label_weights, self._array_dtype)
        self.from_logits = from_logits
        self._is_built = False
        if not multi_label:
            self._build((self.num_thresholds,))
        elif num_labels:
            self._build((self.num_thresholds, num_labels))

    @property
    def thresholds(self):
        """All thresholds, the one below 0 and the one above 1 included."""
        return list(self._thresholds)

    def _build(self, shape):
        self.true_positives = self.add_variable(shape, None, name="true_positives")
        self.false_positives = self.add_variable(shape, None, name="false_positives")
        self.true_negatives = self.add_variable(shape, None, name="true_negatives")
        self.false_negatives = self.add_variable(shape, None, name="false_negatives")
        self._is_built = True

    def update_state(self, y_true, y_pred, sample_weight=None):
        if self.multi_label and not self._is_built:
            shape = getattr(y_pred, "shape", None) or convert_to_array(y_pred).shape
            if len(shape) != 2:
                raise ValueError(f"AUC: multi_label=True needs y_pred of shape (batch, labels), but got {shape}.")
            self._build((self.num_thresholds, shape[1]))
        if self.from_logits:
            y_pred = activation.sigmoid(y_pred)
        counts = confusion_counts(
            y_true,
            y_pred,
            sample_weight,
            None if self.multi_label else self._weights,
            self._compared,
            kinds=_KINDS,
            is_even=self._is_even,
            has_ends=True,
            is_multi_label=self.multi_label,
        )
        for variable, count in zip(self._variables, counts, strict=True):
            add_in_place(variable, count)

    def result(self):
        if not self._is_built:
            raise ValueError("AUC: with multi_label=True call update_state before result.")
        return area_under_curve(
            self.true_positives,
            self.false_positives,
            self.true_negatives,
            self.false_negatives,
            self._weights,
            curve=self.curve,
            summation_method=self.summation_method,
        )

    def get_config(self):
        config = super().get_config()
        del config["thresholds"]
        if self._init_from_thresholds:
            config["thresholds"] = self._thresholds[1:-1]
        return config


def _choice(argument, value, choices):
    name = getattr(value, "value", value)  # an enumeration's member has one
    for choice in choices:
        if name in (choice, choice.lower(), choice.capitalize()):
            return choice
    raise ValueError(f"AUC: {argument} must be one of {choices}, but got {value!r}.")
