"""Training in float16: a scale for the loss that adapts itself."""

import functools
import operator

from gpukeras import registry
from gpukeras.autograd.scope import commit, setting
from gpukeras.autograd.tensor import Variable
from gpukeras.backend import devices
from gpukeras.configurable import serialize
from gpukeras.kernels import updates
from gpukeras.optimizers.base import Optimizer
from gpukeras.registry import register

__all__ = ["LossScaleOptimizer"]

# What a base class's config used to hold; accepted at these values, so that old files load.
_DEFAULTS = {
    "weight_decay": None,
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}


def _are_finite(arrays):
    """Truth value of shape (): whether no array holds inf or NaN."""
    flags = [devices.array_module(array).isfinite(array).all() for array in arrays]
    return functools.reduce(operator.and_, flags)


@register("optimizer")
class LossScaleOptimizer(Optimizer):
    """Another optimizer, with a loss scale that keeps float16 gradients from underflow.

    The loss is multiplied by the scale, the gradients are divided by it. A step whose gradients are
    not all finite is left out, and halves the scale; a row of `dynamic_growth_steps` good ones
    doubles it.

    Args:
        inner_optimizer: The optimizer that updates the variables.
        initial_scale: The scale at first.
        dynamic_growth_steps: Number of good steps in a row that double it.
        name: Name, by default the class's in snake case.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> from gpukeras.optimizers import SGD
        >>> w = Variable(np.ones(2))
        >>> optimizer = LossScaleOptimizer(SGD(0.5), initial_scale=8.0)
        >>> optimizer.apply([np.array([8.0, np.inf])], [w])
        >>> w.numpy(), optimizer.dynamic_scale.item()
        (array([1., 1.]), 4.0)
    """

    def __init__(self, inner_optimizer, initial_scale=2.0**15, dynamic_growth_steps=2000, name=None, **kwargs):
        if not kwargs.pop("dynamic", True):
            raise ValueError(
                "LossScaleOptimizer no longer supports `dynamic=False`. Instead, simply set "
                "`loss_scale_factor` directly on the `inner_optimizer`."
            )
        for argument, default in _DEFAULTS.items():
            if kwargs.pop(argument, default) != default:
                raise ValueError(
                    f"LossScaleOptimizer does not support `{argument}`. Instead, set `{argument}` "
                    f"on the `inner_optimizer`."
                )
        if kwargs:
            raise ValueError(f"LossScaleOptimizer does not support arguments: `{'`, `'.join(kwargs)}`.")
        if not isinstance(inner_optimizer, Optimizer):
            raise TypeError(
                f"LossScaleOptimizer: inner_optimizer must be an Optimizer, but got "
                f"{inner_optimizer!r}. Pass for instance keras.optimizers.Adam()."
            )
        super().__init__(0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.initial_scale = initial_scale
        self.dynamic_growth_steps = dynamic_growth_steps
        self.step_counter: Variable
        self.dynamic_scale: Variable
        inner_optimizer.loss_scale_factor = None  # gradients are divided once, here

    def build(self, variables):
        if self.built:
            return
        variables = list(variables)
        self.inner_optimizer.build(variables)
        self.step_counter = self.add_variable((), dtype="int32", name="step_counter")
        self.dynamic_scale = self.add_variable((), float(self.initial_scale), dtype="float32", name="dynamic_scale")
        self._set_private(_trainable_variables=variables)
        self.built = True

    @property
    def variables(self):
        return [*self._variables, *self.inner_optimizer.variables]

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def calls_for_learning_rate(self):
        """As of the inner optimizer."""
        return self.inner_optimizer.calls_for_learning_rate

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    def apply(self, grads, trainable_variables=None):
        grads = list(grads)
        if not grads:
            return
        inner = self.inner_optimizer
        variables = self._variables_for(grads, trainable_variables)
        arrays, kept = inner._read_gradients(grads, variables)  # fails before anything changes
        if not self.built:
            self.build(variables)
        scale = self.dynamic_scale.array
        is_finite, unscaled = self._unscaled(arrays, kept, scale)

        def update():
            with setting(additions=None):  # what is undone must have been done
                inner.apply(unscaled, kept)

        updates.update_where(is_finite, update, inner._all_arrays())
        commit()
        updates.adapt_scale(scale, self.step_counter.array, is_finite, self.dynamic_growth_steps)

    def plan_of(self, variables):
        """The inner optimizer's Plan: gradients may be written into its buffer, where they are divided by the scale."""
        if not self.built or getattr(self.apply, "__func__", None) is not LossScaleOptimizer.apply:
            return None
        return self.inner_optimizer.plan_of(variables)

    def _unscaled(self, arrays, variables, scale):
        """Whether all gradients are finite, as a truth value of shape (), and the gradients divided by the scale."""
        inner = self.inner_optimizer
        if getattr(inner.apply, "__func__", None) is not Optimizer.apply:  # which may keep what it gets
            pairs = list(zip(arrays, variables, strict=True))
            return _are_finite(arrays), [a if v.overwrite_with_gradient else a / scale for a, v in pairs]
        plan, arrays = inner._plan_for(variables), list(arrays)
        plan.gather(arrays)
        for position, view in plan.copies:
            arrays[position] = view
        flags = [updates.unscale(run.grad, scale) for run in plan.runs]
        if plan.overwritten:
            flags.append(_are_finite([arrays[position] for position, _ in plan.overwritten]))
        return functools.reduce(operator.and_, flags), arrays

    def scale_loss(self, loss):
        return loss * (self.dynamic_scale if self.built else self.initial_scale)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "initial_scale": self.initial_scale,
            "dynamic_growth_steps": self.dynamic_growth_steps,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        with registry.custom_object_scope(custom_objects):
            inner = registry.resolve("optimizer", config.pop("inner_optimizer"))
        return cls(inner, **config)
