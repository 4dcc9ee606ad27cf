"""`Metric`: sums on the device, added to in every step and read when they are shown."""

from typing import Any

from gpukeras import initializers, registry
from gpukeras.autograd import symbolic
from gpukeras.autograd.additions import add
from gpukeras.autograd.scope import current
from gpukeras.autograd.tensor import Tensor, Variable, convert_to_array
from gpukeras.backend import dtypes
from gpukeras.configurable import Configurable

__all__ = ["Metric", "add_in_place", "as_tensor"]


class Metric(Configurable):
    """Base of all metrics: `update_state` adds a batch to its sums, `result` makes a value of them.

    Args:
        dtype: Name or policy of the dtype of the sums; None for floatx.
        name: Name; None for one made of the class name.

    Example:
        >>> class Count(Metric):
        ...     def __init__(self, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.count = self.add_weight(name="count", initializer="zeros")
        ...
        ...     def update_state(self, y_true, y_pred, sample_weight=None):
        ...         self.count.assign_add(len(y_true))
        ...
        ...     def result(self):
        ...         return self.count.value
        >>> Count()([1, 2, 3], [1, 2, 3]).numpy()
        array(3., dtype=float32)
    """

    _direction = None  # "up" or "down": which way is better
    _variables: list[Variable]
    _metrics: list["Metric"]

    def __init__(self, dtype=None, name=None):
        object.__setattr__(self, "_variables", [])
        object.__setattr__(self, "_metrics", [])
        self.name = name or symbolic.auto_name(registry.snake_case(type(self).__name__))
        self._dtype_policy: Any = dtypes.policy_of(dtype or dtypes.floatx())
        self._array_dtype = dtypes.as_dtype(self._dtype_policy.compute_dtype)

    @property
    def dtype(self):
        """Name of the dtype of the sums."""
        return self._dtype_policy.compute_dtype

    @property
    def variables(self):
        """The sums, those of metrics within this one included."""
        return [*self._variables, *(v for metric in self._metrics for v in metric.variables)]

    def add_variable(self, shape, initializer, dtype=None, aggregation="sum", name=None):
        """A variable that `reset_state` sets to 0.

        Args:
            shape: Sizes of its axes.
            initializer: Name or function of its first values; None for zeros.
            dtype: Name of its dtype; None for floatx.
            aggregation: As in `Variable`.
            name: Last part of its path.
        """
        self._check_is_initialized()
        initializer = initializers.get(initializer or "zeros")
        variable = Variable(
            initializer,
            shape=shape,
            dtype=dtype or dtypes.floatx(),
            trainable=False,
            autocast=False,
            aggregation=aggregation,
            name=name,
        )
        variable.path = f"{self.name.replace('/', '>')}/{variable.name}"
        self._variables.append(variable)
        return variable

    def add_weight(self, shape=(), initializer=None, dtype=None, name=None):
        """The same as `add_variable`."""
        return self.add_variable(shape, initializer, dtype=dtype, name=name)

    def update_state(self, *args, **kwargs):
        """Add a batch: ``(y_true, y_pred, sample_weight=None)``, or values for `Mean` and `Sum`."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a method update_state(self, y_true, y_pred, "
            f"sample_weight=None) that adds to its variables."
        )

    def result(self):
        """The metric's value so far, a Tensor or a dictionary of them."""
        raise NotImplementedError(f"{type(self).__name__} needs a method result(self).")

    def reset_state(self):
        """Start again: every variable is 0."""
        for variable in self.variables:
            if not current.symbolic:
                variable._write(0)

    def __call__(self, *args, **kwargs):
        self._check_is_initialized()
        self.update_state(*args, **kwargs)
        return self.result()

    def __setattr__(self, name, value):
        if isinstance(value, (Metric, Variable, list, tuple, dict)) and name[0] != "_":
            self._track(value)
        super().__setattr__(name, value)

    def _track(self, value):
        for leaf in symbolic.flatten(value):
            if isinstance(leaf, Metric) or type(leaf) is Variable:
                self._check_is_initialized()
                owned: list = self._metrics if isinstance(leaf, Metric) else self._variables
                if not any(leaf is other for other in owned):
                    owned.append(leaf)

    def _check_is_initialized(self):
        if "_variables" not in vars(self):
            raise RuntimeError(f"{type(self).__name__}: call super().__init__() at the start of __init__().")

    def __repr__(self):
        return f"<{type(self).__name__} name={self.name}>"


def add_in_place(variable, value, factor=1):
    """Add a Tensor or a number, times a factor, to a variable, on the device and without a new array.

    In a step on a GPU it is added at the step's end, together with all else that is.
    """
    if current.symbolic:
        return
    array = variable.array
    if current.undo is not None:
        current.undo.append((array, array.copy()))
    if current.trace is not None:
        current.trace.add_to(variable, value)
    add(array, value.array if isinstance(value, Tensor) else value, factor)


def as_tensor(value, dtype=None):
    """A Tensor as it is where it fits, else `value` as one."""
    if isinstance(value, Tensor) and (dtype is None or value.array.dtype == dtype):
        return value
    return Tensor(convert_to_array(value, dtype))
