"""`Loss`, and the wrapper that makes one of a function."""

from typing import Any

from gpukeras import registry
from gpukeras.autograd import symbolic
from gpukeras.autograd.tensor import Tensor, Variable, convert_to_array
from gpukeras.backend import devices, dtypes
from gpukeras.configurable import Configurable, serialize
from gpukeras.ops import comparison, core, crossentropy, objective
from gpukeras.ops import loss as loss_ops

__all__ = ["Loss", "LossFunctionWrapper"]

_MEANS = ("sum_over_batch_size", "mean")
_REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None)


class Loss(Configurable):
    """Base of all losses: `call` gives one value per sample, `reduction` makes one number of them.

    A loss of your own is a subclass with `call`, or just a function of ``(y_true, y_pred)``.

    Args:
        name: Name; None for one made of the class name.
        reduction: ``"sum_over_batch_size"`` or ``"mean"`` (divided by the number of values),
            ``"mean_with_sample_weight"`` (divided by the sum of the weights), ``"sum"``,
            ``"none"`` or None.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.

    Example:
        >>> class Squared(Loss):
        ...     def call(self, y_true, y_pred):
        ...         return (y_true - y_pred) ** 2
        >>> Squared()([1.0, 2.0], [1.0, 4.0]).numpy()
        array(2., dtype=float32)
    """

    _not_in_config = ("dtype",)
    _keeps_y_true = False  # whether y_true (classes) goes to `call` in its own dtype

    def __init__(self, name=None, reduction="sum_over_batch_size", dtype=None):
        self.name = name or symbolic.auto_name(registry.snake_case(type(self).__name__))
        self.reduction = _check_reduction(type(self).__name__, reduction)
        self._dtype_policy: Any = dtypes.policy_of(dtype or dtypes.floatx())
        self._array_dtype = dtypes.as_dtype(self._dtype_policy.compute_dtype)

    @property
    def dtype(self):
        """Name of the dtype that the loss is computed in."""
        return self._dtype_policy.compute_dtype

    def __call__(self, y_true, y_pred, sample_weight=None):
        mask = getattr(y_pred, "_keras_mask", None)
        y_pred = self._convert(y_pred)
        if not self._keeps_y_true:
            y_true = self._convert(y_true)
        elif not isinstance(y_true, (Tensor, symbolic.KerasTensor)):
            y_true = Tensor(convert_to_array(y_true))
        values = self.call(y_true, y_pred)
        mask = _both(mask, getattr(values, "_keras_mask", None))
        return loss_ops.reduce_loss(self._convert(values), sample_weight, mask, reduction=self.reduction)

    def call(self, y_true, y_pred):
        """One value per sample."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a method call(self, y_true, y_pred) that returns one value per sample."
        )

    def _convert(self, value):
        """A value, or every leaf of a nesting of dictionaries and lists, as Tensor of our dtype."""
        if isinstance(value, Tensor):
            if value.array.dtype == self._array_dtype and not isinstance(value, Variable):
                return value
            return core.cast(value, self._array_dtype)
        if isinstance(value, symbolic.KerasTensor):
            return core.cast(value, self._array_dtype)
        if isinstance(value, dict) or (
            isinstance(value, (list, tuple))
            and any(devices.is_array(x) or isinstance(x, (Tensor, dict)) for x in value)
        ):
            return symbolic.map_structure(self._convert, value)
        return Tensor(convert_to_array(value, self._array_dtype))

    def __repr__(self):
        return f"<{type(self).__name__} name={self.name}, reduction={self.reduction}>"


class LossFunctionWrapper(Loss):
    """A loss made of a function of ``(y_true, y_pred)`` that returns one value per sample.

    Args:
        fn: The function.
        reduction: How samples become one number, as in `Loss`.
        name: Name; None for one made of the class name.
        dtype: Name or policy of the dtype that the loss is computed in; None for floatx.
        **kwargs: Settings that are passed on to `fn`.

    Example:
        >>> def cubed(y_true, y_pred):
        ...     return abs(y_true - y_pred) ** 3
        >>> LossFunctionWrapper(cubed)([1.0, 2.0], [1.0, 4.0]).numpy()
        array(4., dtype=float32)
    """

    def __init__(self, fn, reduction="sum_over_batch_size", name=None, dtype=None, **kwargs):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.fn = fn
        self._settings = kwargs
        if fn is crossentropy.sparse_categorical_crossentropy:
            self._keeps_y_true = True
        # Whether the mean can be taken in the same op: not of a function or a call() of the user's.
        self._has_mean = objective.has_mean(fn, kwargs) and type(self).call is LossFunctionWrapper.call

    def __call__(self, y_true, y_pred, sample_weight=None):
        if (
            sample_weight is None
            and self._has_mean
            and self.reduction in _MEANS
            and type(y_true) is type(y_pred) is Tensor
            and objective.has_mean_in(self._array_dtype, self.fn, y_pred.array)
            and (self._keeps_y_true or y_true.array.dtype == self._array_dtype)
            and _has_matching_ranks(y_true.array.shape, y_pred.array.shape)
            and getattr(y_pred, "_keras_mask", None) is None
        ):
            return objective.mean_of(y_true, y_pred, self.fn, self._settings, self._array_dtype)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        if isinstance(y_pred, (dict, list, tuple)):
            y_true, y_pred = _aligned(y_true, y_pred)
        elif len(y_true.shape) != len(y_pred.shape):
            y_true, y_pred = loss_ops.align_ranks(y_true, y_pred)
        return self.fn(y_true, y_pred, **self._settings)

    def get_config(self):
        config = super().get_config()
        if "fn" in config:  # not in our own subclasses, whose class says it
            config["fn"] = function_config(self.fn)
            config.update({key: serialize(value) for key, value in self._settings.items()})
        return config

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("fn"), dict):
            config = {**config, "fn": registry.resolve("loss", config["fn"])}
        return cls(**config)


def _has_matching_ranks(true, pred):
    """Whether `align_ranks` would leave arrays of these shapes, and `reduce_loss` their values, as they are."""
    if len(pred) < 2 or 0 in pred:
        return False
    return len(true) == len(pred) or (len(true) == len(pred) - 1 and pred[-1] != 1)


def function_config(function):
    """How Keras writes a function into a file: by its name."""
    serialize(function)  # which refuses lambdas
    return {
        "module": "builtins",
        "class_name": "function",
        "config": function.__name__,
        "registered_name": registry.registered_name_of(function) or "function",
    }


def _check_reduction(owner, reduction):
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{owner}: reduction must be one of {_REDUCTIONS}, but got {reduction!r}.")
    return reduction


def _both(mask, other):
    if mask is None or other is None:
        return other if mask is None else mask
    return comparison.logical_and(mask, other)


def _aligned(y_true, y_pred):
    if isinstance(y_pred, dict):
        pairs = {key: _aligned(y_true[key], y_pred[key]) for key in y_pred}
        return ({k: p[0] for k, p in pairs.items()}, {k: p[1] for k, p in pairs.items()})
    if isinstance(y_pred, (list, tuple)):
        pairs = [_aligned(t, p) for t, p in zip(y_true, y_pred, strict=True)]
        kind = type(y_pred)
        return kind(p[0] for p in pairs), kind(p[1] for p in pairs)
    return loss_ops.align_ranks(y_true, y_pred)
