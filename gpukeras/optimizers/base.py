"""`Optimizer`: everything around the update rule, from unscaling gradients to constraints.

One `apply` validates all it was given, copies the gradients into a flat buffer, and then works on
flat arrays alone: a kernel call per step of the recipe, whatever the number of variables.
"""

import re
import warnings

import numpy as np

from gpukeras import registry
from gpukeras.autograd.additions import add
from gpukeras.autograd.scope import commit, current, setting, transaction, variables_change
from gpukeras.autograd.symbolic import auto_name
from gpukeras.autograd.tensor import Tensor, Variable, convert_to_array
from gpukeras.backend import devices, dtypes
from gpukeras.kernels import updates
from gpukeras.optimizers._flat import ACCUMULATOR, AVERAGE, Plan, group_variables, runs_of
from gpukeras.optimizers._state import State
from gpukeras.optimizers.schedules import LearningRateSchedule

__all__ = ["Optimizer"]


class Optimizer(State):
    """Base of all optimizers; with a method `update_step`, one of your own.

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        weight_decay: Share of each variable, times the learning rate, that every step takes off it.
        clipnorm: Largest norm of each variable's gradient.
        clipvalue: Largest magnitude of a gradient's element.
        global_clipnorm: Largest norm of all gradients together. At most one of the three.
        use_ema: Whether an exponential moving average of the variables is kept.
        ema_momentum: Share of the old average in the new one.
        ema_overwrite_frequency: Steps after which the average replaces the variables; None for
            never (`finalize_variable_values` does it at the end of `fit`).
        loss_scale_factor: What the loss is multiplied by, and the gradients are divided by.
        gradient_accumulation_steps: Number of calls whose mean gradient makes one step, at least 2.
        name: Name, by default the class's in snake case.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> class SignDescent(Optimizer):
        ...     def update_step(self, gradient, variable, learning_rate):
        ...         self.assign_sub(variable, learning_rate.numpy() * np.sign(gradient.numpy()))
        >>> w = Variable(np.zeros(2))
        >>> SignDescent(0.5).apply([np.array([3.0, -0.1])], [w])
        >>> w.numpy()
        array([-0.5,  0.5])
    """

    _is_layerwise = False  # whether the rule looks at each variable as a whole
    _trainable_variables: list  # of the model, as `build` got them
    _positions: dict  # id of a trainable variable -> its number
    _plans: dict  # ids of the variables of a step -> Plan
    _model_variables_moving_average: list  # moving averages, by number of the variable
    _accumulated_gradients: list  # sums of gradients, likewise

    def __init__(
        self,
        learning_rate,
        weight_decay=None,
        clipnorm=None,
        clipvalue=None,
        global_clipnorm=None,
        use_ema=False,
        ema_momentum=0.99,
        ema_overwrite_frequency=None,
        loss_scale_factor=None,
        gradient_accumulation_steps=None,
        name=None,
        **kwargs,
    ):
        if kwargs.pop("decay", None) is not None:
            warnings.warn("Argument `decay` is no longer supported and will be ignored.", stacklevel=3)
        if kwargs:
            raise ValueError(
                f"{type(self).__name__} does not know the arguments {sorted(kwargs)}. "
                f"Argument(s) not recognized: {kwargs}"
            )
        _check_settings(type(self).__name__, clipnorm, clipvalue, global_clipnorm, gradient_accumulation_steps)
        if use_ema:
            _check_average(type(self).__name__, ema_momentum, ema_overwrite_frequency)
        object.__setattr__(self, "_variables", [])
        self.name = auto_name(registry.snake_case(type(self).__name__)) if name is None else name
        self.weight_decay = weight_decay
        self.clipnorm = clipnorm
        self.clipvalue = clipvalue
        self.global_clipnorm = global_clipnorm
        self.use_ema = use_ema
        self.ema_momentum = ema_momentum
        self.ema_overwrite_frequency = ema_overwrite_frequency
        self.loss_scale_factor = loss_scale_factor
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.built = False
        self._excluded, self._excluded_pattern = frozenset(), None
        self._set_private(_trainable_variables=[], _positions={}, _groups=[], _plans={})
        self._iterations = self._make_variable(0, dtype="int32", aggregation="only_first_replica", name="iteration")
        self._learning_rate = self._first_learning_rate(learning_rate)

    def _first_learning_rate(self, learning_rate):
        if callable(learning_rate):
            return learning_rate
        if not isinstance(learning_rate, float):
            raise ValueError(
                f"Argument `learning_rate` of {type(self).__name__} should be float, or an "
                "instance of LearningRateSchedule, or a callable without arguments. "
                f"Received instead: learning_rate={learning_rate}"
            )
        return self._make_variable(
            learning_rate,
            dtype=dtypes.floatx(),
            aggregation="only_first_replica",
            name="learning_rate",
        )

    @property
    def iterations(self):
        """Number of steps taken: a Variable, or a Tensor where gradients are accumulated."""
        if self.gradient_accumulation_steps:
            return Tensor(convert_to_array(self._step()))
        return self._iterations

    def _step(self):
        """The number of steps as an array of shape ()."""
        count, steps = self._iterations.array, self.gradient_accumulation_steps
        return count // steps if steps else count

    @property
    def learning_rate(self):
        """The learning rate now: a Variable, or what the schedule or function gives."""
        rate = self._learning_rate
        if isinstance(rate, LearningRateSchedule):
            return rate(self._iterations)
        if isinstance(rate, Variable):
            return rate
        return rate()

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        before = self._learning_rate
        if callable(learning_rate):
            self._learning_rate = learning_rate
            if isinstance(before, Variable):
                self._set_private(_variables=[v for v in self._variables if v is not before])
        elif not isinstance(before, Variable):
            raise TypeError(
                f"Optimizer '{self.name}' was created with a LearningRateSchedule or a function "
                "as its learning_rate, hence its learning rate is not settable to "
                f"{learning_rate!r}. Create the optimizer with a float learning_rate, or set "
                "another schedule."
            )
        else:
            before.assign(learning_rate)

    @property
    def calls_for_learning_rate(self):
        """Whether the learning rate comes from a function of the user's, which every step calls."""
        return not isinstance(self._learning_rate, (Variable, LearningRateSchedule))

    def _current_learning_rate(self):
        """The learning rate now as an array of shape (), not read on the host."""
        rate = self._learning_rate
        if type(rate) is Variable:
            return rate.array
        return convert_to_array(self.learning_rate)

    def build(self, variables):
        """Lay out gradients and slots for variables; the first call of `apply` does it.

        Subclasses call it first, then `add_optimizer_variables`.
        """
        variables = list(variables)
        self._check_kinds(variables)
        positions = {id(variable): index for index, variable in enumerate(variables)}
        if len(positions) != len(variables):
            raise ValueError(f"Optimizer '{self.name}' was built with a variable that occurs twice in the list.")
        regular = [variable for variable in variables if not variable.overwrite_with_gradient]
        groups = group_variables(regular)
        for group in groups:
            group.indices = [positions[id(variable)] for variable in group.variables]
        self._set_private(_trainable_variables=variables, _positions=positions, _groups=groups, _plans={})
        if self.use_ema:
            self._set_private(_model_variables_moving_average=self.add_optimizer_variables(variables, AVERAGE))
        if self.gradient_accumulation_steps:
            accumulators = self._add_slots(variables, [ACCUMULATOR], ["zeros"], keeps_overwritten=True)[0]
            self._set_private(_accumulated_gradients=accumulators)
        self.built = True

    def _get_variable_index(self, variable):
        return self._positions[id(variable)]

    # The step.

    def update_step(self, gradient, variable, learning_rate):
        """The update of one variable, for optimizers of your own.

        Args:
            gradient: Tensor of the variable's shape, unscaled and clipped.
            variable: The Variable to assign to.
            learning_rate: Tensor of shape ().
        """
        if not self._has_rule():
            raise NotImplementedError(f"{type(self).__name__} needs a method update_step() that updates a variable.")
        (run,) = runs_of(self._groups, [self._positions[id(variable)]], True)
        piece = convert_to_array(gradient, variable.array.dtype)
        self.update_arrays(run.param, piece.reshape(-1), run.slots, convert_to_array(learning_rate), self._step())

    def update_arrays(self, param, grad, slots, learning_rate, step):
        """The update of many variables at once: flat arrays, written in place.

        Args:
            param, grad: One-dimensional arrays.
            slots: Name -> array of the same size.
            learning_rate, step: Arrays of shape (); the first step has number 0.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update_arrays().")

    def before_update(self, step):
        """What happens once a step, before all `update_arrays`."""

    def _has_rule(self):
        return type(self).update_arrays is not Optimizer.update_arrays

    def _is_stepwise(self):
        """Whether a subclass updates variable by variable."""
        return not self._has_rule() or type(self).update_step is not Optimizer.update_step

    def apply_gradients(self, grads_and_vars):
        """`apply` for pairs of gradient and variable; returns the step count."""
        pairs = list(grads_and_vars)
        if not pairs:
            raise ValueError(f"Optimizer '{self.name}': apply_gradients() got no pairs of gradient and variable.")
        grads, variables = zip(*pairs, strict=True)
        self.apply(grads, variables)
        return self._iterations

    def apply(self, grads, trainable_variables=None):
        """Update variables by their gradients.

        Args:
            grads: Tensors or arrays, one for each variable; None leaves its variable as it is.
            trainable_variables: The variables; by default all that the optimizer was built with.
                The first call with variables builds the optimizer.

        Raises:
            ValueError: before anything has changed, where counts or shapes do not match, a variable
                is unknown, or there is no gradient at all.
        """
        grads = list(grads)
        if not grads:
            return
        variables = self._variables_for(grads, trainable_variables)
        plan = self._plans.get(tuple([id(variable) for variable in variables]))
        if plan is not None and plan.takes(grads):  # arrays for the variables of an earlier step
            arrays = grads
        else:
            arrays, kept = self._read_gradients(grads, variables)
            if not self.built:
                self._build_whole(variables)
            plan = self._plan_for(kept)
        with np.errstate(all="ignore"):  # infinite gradients are the model's business, as in Keras
            self.apply_plan(plan, arrays)

    def plan_of(self, variables):
        """The Plan by which `apply` updates these variables.

        None before the first step, and for classes with an `apply` of their own, which may do and keep what they like.
        """
        if getattr(self.apply, "__func__", None) is not Optimizer.apply:
            return None
        return self._plans.get(tuple([id(variable) for variable in variables]))

    def apply_plan(self, plan, gradients):
        """The part of `apply` behind the checks: update by gradients that the plan `takes`, or that were checked."""
        variables_change()
        learning_rate = self._current_learning_rate()
        if plan.is_stepwise:  # an update_step of a user's may fail at any variable: keep the way back
            with transaction(), setting(tapes=(), autocast=None):
                if current.undo is not None and not current.is_committed:
                    written = [*plan.written(self), self._iterations.array]
                    current.undo.extend([(array, array.copy()) for array in written])
                self._apply(plan, gradients, learning_rate)
            return
        commit()
        if plan.constrained:
            with setting(tapes=(), autocast=None):
                self._apply(plan, gradients, learning_rate)
        else:
            self._apply(plan, gradients, learning_rate)

    def _build_whole(self, variables):
        """`build`; where it fails, for want of memory for instance, the next step builds anew."""
        before = list(self._variables)
        try:
            self.build(variables)
        except BaseException:
            self._set_private(_variables=before)
            self.built = False
            raise

    def _variables_for(self, grads, variables):
        if variables is None:
            if not self.built:
                raise ValueError(
                    f"Optimizer '{self.name}': when passing `grads` without `variables`, the "
                    "optimizer must already be built on a list of variables. Call "
                    "`optimizer.build(trainable_variables)` first."
                )
            variables = self._trainable_variables
        else:
            variables = variables if type(variables) is list else list(variables)
            if not self.built:
                self._check_kinds(variables)
        if len(grads) != len(variables):
            raise ValueError(
                f"Optimizer '{self.name}': the gradients must match the variables one-to-one. "
                f"Received a list of {len(grads)} gradients for {len(variables)} trainable "
                "variables."
            )
        return variables

    def _check_kinds(self, variables):
        for variable in variables:
            if not isinstance(variable, Variable):
                raise TypeError(
                    f"Optimizer '{self.name}' updates Variables, but got a "
                    f"{type(variable).__name__}. Pass model.trainable_variables."
                )

    def _read_gradients(self, grads, variables):
        """The gradients that are there as arrays, and their variables, all checked."""
        arrays, kept, missing = [], [], []
        positions = self._positions
        for grad, variable in zip(grads, variables, strict=True):
            if self.built and id(variable) not in positions:
                raise ValueError(
                    f"Unknown variable: {variable}. Optimizer '{self.name}' can only be called "
                    "for the variables it was originally built with. When working with a new set "
                    "of variables, you should recreate a new optimizer instance."
                )
            if grad is None:
                missing.append(variable.path)
                continue
            array = grad.array if type(grad) is Tensor else convert_to_array(grad)
            if array.shape != variable.array.shape:
                raise ValueError(
                    f"Optimizer '{self.name}': variable {variable.path!r} has shape "
                    f"{variable.shape}, but its gradient has shape {array.shape}. Pass gradients "
                    "in the order of the variables."
                )
            arrays.append(array)
            kept.append(variable)
        if not arrays:
            raise ValueError(
                f"Optimizer '{self.name}': No gradients provided for any variable. Check that the "
                f"loss depends on the variables {missing}."
            )
        if missing:
            warnings.warn(
                f"Gradients do not exist for variables {missing} when minimizing the loss. If "
                "using `model.compile()`, did you forget to provide a `loss` argument?",
                stacklevel=4,
            )
        return arrays, kept

    def _plan_for(self, variables):
        key = tuple([id(variable) for variable in variables])
        plan = self._plans.get(key)
        if plan is None:
            if len(set(key)) != len(key):
                raise ValueError(f"Optimizer '{self.name}': a variable occurs twice in the list.")
            plan = self._plans[key] = Plan(self, variables)
        return plan

    def _apply(self, plan, arrays, learning_rate):
        plan.gather(arrays)
        for position, variable in plan.overwritten:
            self._overwrite(variable, arrays[position])
        if plan.runs:
            scale = self.loss_scale_factor
            if scale is not None:
                for run in plan.runs:
                    run.grad /= scale
            if self.gradient_accumulation_steps:
                self._accumulate(plan, learning_rate)
            else:
                self._update(plan, learning_rate)
            if self.use_ema:
                self._update_averages()
            for variable in plan.constrained:
                variable.assign(variable.constraint(variable))
        add(self._iterations.array, 1)

    def _update(self, plan, learning_rate):
        self._clip(plan.runs)
        if self.weight_decay:
            for stretch in plan.decaying(self):
                updates.decay(stretch, learning_rate * self.weight_decay)
        step = self._step()
        self.before_update(step)
        if plan.is_stepwise:
            learning_rate = Tensor(learning_rate)
            for run in plan.runs:
                for variable, grad in zip(run.variables, run.grad_pieces, strict=True):
                    self.update_step(Tensor(grad.reshape(variable.shape)), variable, learning_rate)
        else:
            for run in plan.runs:
                rate = learning_rate
                if rate.dtype != run.param.dtype:
                    rate = rate.astype(run.param.dtype)
                self.update_arrays(run.param, run.grad, run.slots, rate, step)

    def _clip(self, runs):
        if self.clipnorm and self.clipnorm > 0:
            for run in runs:
                for grad in run.grad_pieces:
                    updates.scale_by_norm(grad, self.clipnorm)
        elif self.global_clipnorm and self.global_clipnorm > 0:
            squares = sum(updates.sum_of_squares(run.grad) for run in runs)
            norm = squares**0.5
            xp = devices.array_module(norm)
            # min(1, limit / norm), but NaN for a norm of inf or NaN, as in Keras.
            factor = self.global_clipnorm / xp.maximum(norm, self.global_clipnorm) + (norm - norm)
            for run in runs:
                run.grad *= factor.astype(run.grad.dtype)
                run.clear_gaps()
        elif self.clipvalue and self.clipvalue > 0:
            limit = self.clipvalue
            for run in runs:
                devices.array_module(run.grad).clip(run.grad, -limit, limit, out=run.grad)

    def _is_update_step(self):
        """Truth value of shape (): whether this call completes a round of accumulated gradients."""
        steps = self.gradient_accumulation_steps
        return (self._iterations.array + 1) % steps == 0

    def _accumulate(self, plan, learning_rate):
        """Add the gradients to those of earlier calls; every so many calls, step by their mean."""
        is_update_step = self._is_update_step()
        steps = self.gradient_accumulation_steps
        for run in plan.runs:
            accumulator = run.slots[ACCUMULATOR]
            accumulator += run.grad

        def update():
            for run in plan.runs:
                accumulator = run.slots[ACCUMULATOR]
                run.grad[...] = accumulator
                run.grad /= steps
                accumulator[...] = 0
            self._update(plan, learning_rate)

        updates.update_where(is_update_step, update, plan.written(self))

    def _overwrite(self, variable, gradient):
        """Take the "gradient" as the variable's new value; of accumulated ones the largest."""
        if not self.gradient_accumulation_steps:
            variable.assign(Tensor(gradient))
            return
        accumulator = self._accumulated_gradients[self._positions[id(variable)]].array
        devices.array_module(gradient).maximum(accumulator, gradient, out=accumulator)

        def update():
            variable.array[...] = accumulator
            accumulator[...] = 0

        updates.update_where(self._is_update_step(), update, [variable.array, accumulator])

    def _update_averages(self):
        step = self._step()
        for group in self._groups:
            average = group.slots[AVERAGE].array[: group.param.size]
            momentum = ((step != 0) * self.ema_momentum).astype(average.dtype)
            updates.moving_average(average, group.param, momentum)
            if self.ema_overwrite_frequency:
                is_due = (step + 1) % self.ema_overwrite_frequency == 0
                updates.copy_where(group.param, average, is_due)

    def finalize_variable_values(self, var_list):
        """With `use_ema`, replace the variables by their averages, as `fit` does at its end."""
        if not self.use_ema:
            return
        var_list = list(var_list)
        averages = self._model_variables_moving_average if self.built else []
        if len(var_list) != len(averages):
            raise ValueError(
                f"Optimizer '{self.name}': the length of model variables ({len(var_list)}) to "
                f"override does not match the length of model variables stored in the optimizer "
                f"({len(averages)}). Please check if the optimizer was called on your model."
            )
        for variable, average in zip(var_list, averages, strict=True):
            if average is not None:
                variable.assign(average)

    def scale_loss(self, loss):
        """The loss times `loss_scale_factor`, to be differentiated."""
        return loss if self.loss_scale_factor is None else loss * self.loss_scale_factor

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """Not supported: state lives in variables here."""
        raise NotImplementedError(
            "stateless_apply is for engines that trace pure functions. Call apply(grads, "
            "variables), which updates the variables in place."
        )

    def _all_arrays(self):
        """Every array that `apply` may write into, the model's and the optimizer's own."""
        arrays = [group.param for group in self._groups]
        in_slots = set()
        for group in self._groups:
            for buffer in group.slots.values():
                arrays.append(buffer.array)
                in_slots.update(map(id, buffer.views))
        arrays += [v.array for v in self._variables if id(v.array) not in in_slots]
        arrays += [v.array for v in self._trainable_variables if v.overwrite_with_gradient]
        return arrays

    # Weight decay.

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Spare the variables of `var_list`, and those with a word of `var_names` in their name."""
        self._excluded = frozenset(id(variable) for variable in var_list or ())
        self._excluded_pattern = re.compile("|".join(sorted(set(var_names)))) if var_names else None
        self._plans.clear()

    def _use_weight_decay(self, variable):
        if id(variable) in self._excluded:
            return False
        pattern = self._excluded_pattern
        return pattern is None or pattern.search(variable.name) is None

    # Configuration and state.

    def _constructor_argument(self, name, default):
        if name == "learning_rate":
            rate = self._learning_rate
            return float(rate) if isinstance(rate, Variable) else rate
        return super()._constructor_argument(name, default)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """A new optimizer from what `get_config` returned."""
        config = dict(config)
        with registry.custom_object_scope(custom_objects):
            if isinstance(config.get("learning_rate"), dict):
                config["learning_rate"] = registry.resolve("schedule", config["learning_rate"])
            return super().from_config(config)


def _check_settings(who, clipnorm, clipvalue, global_clipnorm, gradient_accumulation_steps):
    if sum(limit is not None for limit in (clipnorm, clipvalue, global_clipnorm)) > 1:
        raise ValueError(
            f"{who}: Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set. "
            f"Received: clipnorm={clipnorm}, clipvalue={clipvalue}, "
            f"global_clipnorm={global_clipnorm}"
        )
    if gradient_accumulation_steps and not gradient_accumulation_steps >= 2:
        raise ValueError(
            f"{who}: `gradient_accumulation_steps` must be an integer >= 2. Received: "
            f"gradient_accumulation_steps={gradient_accumulation_steps}"
        )


def _check_average(who, ema_momentum, ema_overwrite_frequency):
    if not 0 <= ema_momentum <= 1:
        raise ValueError(f"{who}: `ema_momentum` must be in the range [0, 1]. Received: ema_momentum={ema_momentum}")
    if ema_overwrite_frequency and (not isinstance(ema_overwrite_frequency, int) or ema_overwrite_frequency < 1):
        raise ValueError(
            f"{who}: `ema_overwrite_frequency` must be an integer >= 1 or None. Received: "
            f"ema_overwrite_frequency={ema_overwrite_frequency}"
        )
