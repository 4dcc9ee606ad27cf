"""Metrics that are sums and means of values."""

import inspect
import math
from typing import Any

import numpy as np

from gpukeras import registry
from gpukeras.autograd.op import op
from gpukeras.autograd.scope import current
from gpukeras.autograd.tensor import convert_to_array
from gpukeras.configurable import serialize
from gpukeras.metrics.base import Metric, add_in_place
from gpukeras.ops.elementwise import divide_no_nan
from gpukeras.ops.loss import as_array, same_rank
from gpukeras.registry import register

__all__ = ["Mean", "MeanMetricWrapper", "Sum"]


@register("metric")
class Sum(Metric):
    """Sum of all values.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sum; None for floatx.

    Example:
        >>> Sum()([1.0, 3.0]).numpy()
        array(4., dtype=float32)
    """

    def __init__(self, name="sum", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_variable((), None, dtype=self.dtype, name="total")

    def update_state(self, values, sample_weight=None):
        mask = getattr(values, "_keras_mask", None)
        add_in_place(
            self.total,
            _sums(values, sample_weight, mask, dtype=self._array_dtype, is_mean=False)[0],
        )

    def result(self):
        return self.total.value


@register("metric")
class Mean(Metric):
    """Mean of all values, weighted by sample.

    Args:
        name: Name.
        dtype: Name or policy of the dtype of the sums; None for floatx.

    Example:
        >>> Mean()([1.0, 3.0]).numpy()
        array(2., dtype=float32)
    """

    def __init__(self, name: str | None = "mean", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_variable((), None, dtype=self.dtype, name="total")
        self.count = self.add_variable((), None, dtype=self.dtype, name="count")

    def update_state(self, values, sample_weight=None):
        if sample_weight is None:
            total = _total(values, dtype=self._array_dtype)
            shape = getattr(values, "shape", None)
            if shape is None:
                shape = convert_to_array(values).shape
            count = shape[0] if shape else 1
        else:
            mask = getattr(values, "_keras_mask", None)
            total, count = _sums(values, sample_weight, mask, dtype=self._array_dtype, is_mean=True)
        add_in_place(self.total, total)
        add_in_place(self.count, count)

    def add_mean(self, mean, count):
        """Add `count` values by their mean, a Tensor of shape (): what `update_state` does with that weight."""
        if mean.array.shape or mean.array.dtype != self._array_dtype:
            self.update_state(mean, sample_weight=count)
        elif current.additions is not None:
            add_in_place(self.total, mean, count)
            add_in_place(self.count, count)
        else:
            add_in_place(self.total, _times(mean, count))
            add_in_place(self.count, count)

    def result(self):
        return divide_no_nan(self.total, self.count)


@register("metric")
class MeanMetricWrapper(Mean):
    """Mean of a function of ``(y_true, y_pred)``, weighted by sample.

    Args:
        fn: The function; it gives one value per sample, or more, which are averaged.
        name: Name; None for one made of the class name.
        dtype: Name or policy of the dtype of the sums; None for floatx.
        **kwargs: Settings that are passed on to `fn`.

    Example:
        >>> def error(y_true, y_pred):
        ...     return abs(y_true - y_pred)
        >>> MeanMetricWrapper(error)(np.array([1.0, 2.0]), np.array([1.0, 4.0])).numpy()
        array(1., dtype=float32)
    """

    def __init__(self, fn, name=None, dtype=None, **kwargs):
        super().__init__(name=name, dtype=dtype)
        self._fn = fn
        self._settings = kwargs
        if registry.kind_of(fn) == "loss" and type(self)._direction is None:
            self._direction = "down"

    def update_state(self, y_true, y_pred, sample_weight=None):
        mask = getattr(y_pred, "_keras_mask", None)
        if current.additions is not None and sample_weight is None and mask is None:
            number = _number_of_matches(self._fn, y_true, y_pred, self._settings)
            if number is not None:
                add_in_place(self.total, number)
                add_in_place(self.count, y_pred.shape[0])
                return
        function: Any = getattr(self._fn, "matches", self._fn)
        values = function(y_true, y_pred, **self._settings)
        if mask is not None:
            sample_weight = _masked(sample_weight, mask, dtype=self._array_dtype)
        super().update_state(values, sample_weight=sample_weight)

    def get_config(self):
        config = super().get_config()
        if "fn" in config:  # not in our own subclasses, whose class says it
            config["fn"] = {
                "module": "builtins",
                "class_name": "function",
                "config": self._fn.__name__,
                "registered_name": registry.registered_name_of(self._fn) or "function",
            }
            config.update({key: serialize(value) for key, value in self._settings.items()})
        return config

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("fn"), dict):
            from gpukeras import metrics  # itself imports this module

            function = vars(metrics).get(config["fn"].get("config"))
            if not inspect.isfunction(function):
                function = registry.resolve("loss", config["fn"])
            config = {**config, "fn": function}
        return cls(**config)


def _number_of_matches(function, y_true, y_pred, settings) -> Any:
    """How often a function of ``(y_true, y_pred)`` gives 1, where it has a way to count that at once; else None."""
    count = getattr(function, "number_of_matches", None)
    return None if count is None else count(y_true, y_pred, **settings)


@op
def _times(mean, /, count):
    """A mean of shape () times how many values it is the mean of."""
    return mean[()] * count, None


@op
def _total(values, /, dtype):
    """Sum over samples of the mean of each."""
    values = as_array(values)
    if type(values) is np.ndarray and values.dtype == bool:
        total = dtype.type(np.count_nonzero(values))  # in a third of the time, and never rounded
    else:
        total = values.sum(dtype=dtype)
    inner = math.prod(values.shape[1:])
    return (total if inner <= 1 else (total / inner).astype(dtype, copy=False)), None


@op
def _masked(sample_weight, mask, /, dtype):
    """Sample weights that are 0 where the mask is False."""
    mask = convert_to_array(mask, dtype)
    if sample_weight is None:
        return mask, None
    mask, weight = same_rank(mask, convert_to_array(sample_weight, dtype))
    return weight * mask, None


@op
def _sums(values, sample_weight, mask, /, dtype, is_mean):
    """Weighted sum of the samples' values, each a mean (or sum), and the sum of the weights."""
    values = convert_to_array(values, dtype)
    if sample_weight is None:
        total = values.sum()
        return (total, total), None
    weight = convert_to_array(sample_weight, dtype)
    if mask is not None:
        factors, weight = same_rank(convert_to_array(mask, dtype), weight)
        weight = weight * factors
    values, weight = same_rank(values, weight)
    if values.ndim > weight.ndim:
        axes = tuple(range(weight.ndim, values.ndim))
        values = values.mean(axis=axes) if is_mean else values.sum(axis=axes)
    if weight.ndim > values.ndim or any(w not in (1, v) for w, v in zip(weight.shape, values.shape, strict=False)):
        raise ValueError(
            f"The sample_weight of shape {weight.shape} does not fit values of shape "
            f"{values.shape}. Give one weight per sample, or one per value."
        )
    share = math.prod(values.shape[1:]) if is_mean else 1
    repeats = values.size / max(weight.size, 1) if values.shape != weight.shape else 1
    total, count = (values * weight).sum(), weight.sum()
    if share > 1 or repeats != 1:
        total, count = total / share, count * (repeats / share)
    return (total.astype(dtype, copy=False), count.astype(dtype, copy=False)), None
