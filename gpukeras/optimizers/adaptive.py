"""Optimizers that give every element of a variable a step size of its own."""

from gpukeras.kernels import optimizer as kernels
from gpukeras.optimizers.base import Optimizer
from gpukeras.registry import register

__all__ = ["Adadelta", "Adagrad", "Adam", "AdamW", "RMSprop"]


@register("optimizer")
class Adagrad(Optimizer):
    """Steps that shrink with all the squared gradients seen so far.

        accumulator ← accumulator + gradient²
        variable    ← variable - learning_rate · gradient / √(accumulator + epsilon)

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        initial_accumulator_value: What the accumulator starts with.
        epsilon: Added to the divisor.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: See
            `Optimizer`.

    Reference: Duchi et al. 2011.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> Adagrad(0.1).apply([np.array([1.0, -2.0])], [w])
        >>> w.numpy().round(3)
        array([0.905, 1.099])
    """

    def __init__(
        self,
        learning_rate=0.001,
        initial_accumulator_value=0.1,
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
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._accumulators = self.add_optimizer_variables(variables, "accumulator", self.initial_accumulator_value)

    def update_arrays(self, param, grad, slots, learning_rate, step):
        kernels.adagrad(param, grad, slots["accumulator"], learning_rate, self.epsilon)


@register("optimizer")
class Adadelta(Optimizer):
    """Steps in the unit of the variable: the root mean square of past steps over that of gradients.

        accumulated_grad      ← rho · accumulated_grad + (1 - rho) · gradient²
        delta                 = -gradient · rms(accumulated_delta_var) / rms(accumulated_grad)
        accumulated_delta_var ← rho · accumulated_delta_var + (1 - rho) · delta²
        variable              ← variable + learning_rate · delta,  rms(x) = √(x + epsilon)

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        rho: Share of the old mean squares in the new ones.
        epsilon: Added to the divisor.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: See
            `Optimizer`.

    Reference: Zeiler 2012.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> Adadelta(1.0, epsilon=1e-3).apply([np.array([1.0, -2.0])], [w])
        >>> w.numpy().round(3)
        array([0.86 , 1.141])
    """

    def __init__(
        self,
        learning_rate=0.001,
        rho=0.95,
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
        self.rho = rho
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._accumulated_grads, self._accumulated_delta_vars = self.add_optimizer_variables(
            variables, ["accumulated_grad", "accumulated_delta_var"]
        )

    def update_arrays(self, param, grad, slots, learning_rate, step):
        squares = slots["accumulated_grad"], slots["accumulated_delta_var"]
        kernels.adadelta(param, grad, *squares, learning_rate, self.rho, self.epsilon)


@register("optimizer")
class RMSprop(Optimizer):
    """Steps divided by a running root mean square of the gradient.

        velocity ← rho · velocity + (1 - rho) · gradient²
        step     = learning_rate · gradient / √(velocity + epsilon)
        momentum ← momentum · momentum + step
        variable ← variable - momentum

    The centered form takes the square of a running mean gradient off the velocity.

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        rho: Share of the old mean square in the new one.
        momentum: Share of the old momentum in the new one; 0 for none.
        epsilon: Added to the divisor.
        centered: Whether the centered form is used.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: See
            `Optimizer`.

    Reference: Hinton 2012, lecture 6.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> RMSprop(0.1).apply([np.array([1.0, -2.0])], [w])
        >>> w.numpy().round(3)
        array([0.684, 1.316])
    """

    def __init__(
        self,
        learning_rate=0.001,
        rho=0.9,
        momentum=0.0,
        epsilon=1e-7,
        centered=False,
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
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")
        self._momentums = self.add_optimizer_variables(variables, "momentum") if self.momentum > 0 else []
        self._average_gradients = self.add_optimizer_variables(variables, "average_gradient") if self.centered else []

    def update_arrays(self, param, grad, slots, learning_rate, step):
        average, momenta = slots.get("average_gradient"), slots.get("momentum")
        settings = learning_rate, self.rho, self.momentum, self.epsilon
        kernels.rmsprop(param, grad, slots["velocity"], average, momenta, *settings)


@register("optimizer")
class Adam(Optimizer):
    """Running means of gradient and squared gradient, corrected for their start at zero.

        momentum ← beta_1 · momentum + (1 - beta_1) · gradient
        velocity ← beta_2 · velocity + (1 - beta_2) · gradient²
        alpha    = learning_rate · √(1 - beta_2ᵗ) / (1 - beta_1ᵗ)
        variable ← variable - alpha · momentum / (√velocity + epsilon)

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        beta_1: Share of the old mean gradient in the new one.
        beta_2: Share of the old mean square in the new one.
        epsilon: Added to the divisor.
        amsgrad: Whether the largest velocity so far is used (Reddi et al. 2018).
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: See
            `Optimizer`.

    Reference: Kingma and Ba 2014, section 2, where epsilon is called ε̂.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> Adam(0.1).apply([np.array([1.0, -2.0])], [w])
        >>> w.numpy().round(3)
        array([0.9, 1.1])
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        amsgrad=False,
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
        self.amsgrad = amsgrad

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])
        if self.amsgrad:
            self._velocity_hats = self.add_optimizer_variables(variables, "velocity_hat")

    def update_arrays(self, param, grad, slots, learning_rate, step):
        momenta, velocity, velocity_hat = (
            slots["momentum"],
            slots["velocity"],
            slots.get("velocity_hat"),
        )
        settings = learning_rate, self.beta_1, self.beta_2, self.epsilon
        kernels.adam(param, grad, momenta, velocity, velocity_hat, step, *settings)


@register("optimizer")
class AdamW(Adam):
    """Adam with weight decay that does not pass through the running means.

        variable ← variable - learning_rate · weight_decay · variable, then as Adam

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        weight_decay: Share of each variable, times the learning rate, that every step takes off it.
        beta_1: Share of the old mean gradient in the new one.
        beta_2: Share of the old mean square in the new one.
        epsilon: Added to the divisor.
        amsgrad: Whether the largest velocity so far is used (Reddi et al. 2018).
        clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency,
            loss_scale_factor, gradient_accumulation_steps, name: See `Optimizer`.

    Reference: Loshchilov and Hutter 2019.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> AdamW(0.1, weight_decay=0.5).apply([np.array([1.0, -2.0])], [w])
        >>> w.numpy().round(3)
        array([0.85, 1.05])
    """

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.004,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        amsgrad=False,
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
            beta_1,
            beta_2,
            epsilon,
            amsgrad,
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
        if weight_decay is None:
            raise ValueError("AdamW: Argument `weight_decay` must be a float. Received: weight_decay=None")
