"""Relatives of Adam."""

from gpukeras.autograd.tensor import Variable
from gpukeras.kernels import optimizer as kernels
from gpukeras.optimizers.base import Optimizer
from gpukeras.registry import register

__all__ = ["Adamax", "Lamb", "Lion", "Nadam"]


@register("optimizer")
class Adamax(Optimizer):
    """Adam with the largest gradient in place of the mean square.

        momentum ← beta_1 · momentum + (1 - beta_1) · gradient
        norm     ← max(beta_2 · norm, |gradient|)
        variable ← variable - learning_rate / (1 - beta_1ᵗ) · momentum / (norm + epsilon)

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        beta_1: Share of the old mean gradient in the new one.
        beta_2: Share of the old norm that the gradient has to exceed.
        epsilon: Added to the divisor.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: See
            `Optimizer`.

    Reference: Kingma and Ba 2014, section 7.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> Adamax(0.1).apply([np.array([1.0, -2.0])], [w])
        >>> w.numpy().round(3)
        array([0.9, 1.1])
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
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
        super().__init__(
            learning_rate,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            loss_scale_factor,
            gradient_accumulation_steps,
            name,
            **kwargs,
        )
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._m, self._u = self.add_optimizer_variables(variables, ["momentum", "norm"])

    def update_arrays(self, param, grad, slots, learning_rate, step):
        settings = learning_rate, self.beta_1, self.beta_2, self.epsilon
        kernels.adamax(param, grad, slots["momentum"], slots["norm"], step, *settings)


@register("optimizer")
class Nadam(Optimizer):
    """Adam with Nesterov's look ahead: the step uses the momentum of the next one.

        momentum, velocity   as in Adam
        variable ← variable - learning_rate · look_ahead / (√(velocity / (1 - beta_2ᵗ)) + epsilon)

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        beta_1: Share of the old mean gradient in the new one.
        beta_2: Share of the old mean square in the new one.
        epsilon: Added to the divisor.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: See
            `Optimizer`.

    Reference: Dozat 2015.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> Nadam(0.1).apply([np.array([1.0, -2.0])], [w])
        >>> w.numpy().round(3)
        array([0.894, 1.106])
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
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
        super().__init__(
            learning_rate,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            loss_scale_factor,
            gradient_accumulation_steps,
            name,
            **kwargs,
        )
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])
        product = Variable(1.0, dtype=variables[0].dtype if variables else None)
        self._u_product = product

    def before_update(self, step):
        product = self._u_product.array
        product *= self.beta_1 * (1 - 0.5 * 0.96 ** (step + 1.0))

    def update_arrays(self, param, grad, slots, learning_rate, step):
        scalars = self._u_product.array, step, learning_rate
        settings = self.beta_1, self.beta_2, self.epsilon
        kernels.nadam(param, grad, slots["momentum"], slots["velocity"], *scalars, *settings)


@register("optimizer")
class Lamb(Optimizer):
    """Adam for large batches: each variable's step is scaled to the variable's own norm.

        update   = momentum / (1 - beta_1ᵗ) / (√(velocity / (1 - beta_2ᵗ)) + epsilon)
        variable ← variable - learning_rate · ‖variable‖ / ‖update‖ · update

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        beta_1: Share of the old mean gradient in the new one.
        beta_2: Share of the old mean square in the new one.
        epsilon: Added to the divisor.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: See
            `Optimizer`.

    Reference: You et al. 2019.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> Lamb(0.1).apply([np.array([1.0, -2.0])], [w])
        >>> w.numpy().round(3)
        array([0.9, 1.1])
    """

    _is_layerwise = True

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
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
        super().__init__(
            learning_rate,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            loss_scale_factor,
            gradient_accumulation_steps,
            name,
            **kwargs,
        )
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])

    def update_arrays(self, param, grad, slots, learning_rate, step):
        settings = learning_rate, self.beta_1, self.beta_2, self.epsilon
        kernels.lamb(param, grad, slots["momentum"], slots["velocity"], step, *settings)


@register("optimizer")
class Lion(Optimizer):
    """Steps of equal size in every direction: only the sign of a mean gradient counts.

        variable ← variable - learning_rate · sign(beta_1 · momentum + (1 - beta_1) · gradient)
        momentum ← beta_2 · momentum + (1 - beta_2) · gradient

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        beta_1: Share of the momentum in the step.
        beta_2: Share of the old momentum in the new one.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: See
            `Optimizer`.

    Reference: Chen et al. 2023.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> Lion(0.1).apply([np.array([1.0, -2.0])], [w])
        >>> w.numpy().round(3)
        array([0.9, 1.1])
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.99,
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
        super().__init__(
            learning_rate,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            loss_scale_factor,
            gradient_accumulation_steps,
            name,
            **kwargs,
        )
        if not 0 < beta_1 <= 1:
            raise ValueError(
                "Lion: Argument `beta_1` must be in the [0, 1] range. Otherwise, the optimizer "
                f"degenerates to SignSGD. Received: beta_1={beta_1}."
            )
        self.beta_1 = beta_1
        self.beta_2 = beta_2

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums = self.add_optimizer_variables(variables, "momentum")

    def update_arrays(self, param, grad, slots, learning_rate, step):
        kernels.lion(param, grad, slots["momentum"], learning_rate, self.beta_1, self.beta_2)
