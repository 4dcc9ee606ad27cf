"""Follow the regularized leader."""

from gpukeras.kernels import optimizer as kernels
from gpukeras.optimizers.base import Optimizer
from gpukeras.registry import register

__all__ = ["Ftrl"]


@register("optimizer")
class Ftrl(Optimizer):
    """Follow the regularized leader: sparse weights for wide linear models.

        new         = accumulator + gradient²
        change      = (new^-power - accumulator^-power) / learning_rate
        linear      ← linear + gradient - change · variable
        quadratic   = new^-power / learning_rate + 2 · l2 + beta / learning_rate
        variable    ← (clip(linear, -l1, l1) - linear) / quadratic
        accumulator ← new

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        learning_rate_power: How the rate falls with the accumulator; at most 0 (a fixed rate).
        initial_accumulator_value: What the accumulator starts with; not negative.
        l1_regularization_strength: l1; not negative.
        l2_regularization_strength: l2; not negative.
        l2_shrinkage_regularization_strength: As l2, but put on the gradient; not negative.
        beta: As l2, in units of the learning rate.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: See
            `Optimizer`.

    Reference: McMahan et al. 2013.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> Ftrl(0.1).apply([np.array([1.0, -2.0])], [w])
        >>> w.numpy().round(3)
        array([0.603, 0.943])
    """

    def __init__(
        self,
        learning_rate=0.001,
        learning_rate_power=-0.5,
        initial_accumulator_value=0.1,
        l1_regularization_strength=0.0,
        l2_regularization_strength=0.0,
        l2_shrinkage_regularization_strength=0.0,
        beta=0.0,
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
        strengths = {
            "initial_accumulator_value": initial_accumulator_value,
            "l1_regularization_strength": l1_regularization_strength,
            "l2_regularization_strength": l2_regularization_strength,
            "l2_shrinkage_regularization_strength": l2_shrinkage_regularization_strength,
        }
        for argument, value in strengths.items():
            if value < 0:
                raise ValueError(f"Ftrl: `{argument}` needs to be positive or zero. Received: {argument}={value}.")
        if learning_rate_power > 0:
            raise ValueError(
                f"Ftrl: `learning_rate_power` needs to be negative or zero. Received: "
                f"learning_rate_power={learning_rate_power}."
            )
        self.learning_rate_power = learning_rate_power
        self.initial_accumulator_value = initial_accumulator_value
        self.l1_regularization_strength = l1_regularization_strength
        self.l2_regularization_strength = l2_regularization_strength
        self.l2_shrinkage_regularization_strength = l2_shrinkage_regularization_strength
        self.beta = beta

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._accumulators, self._linears = self.add_optimizer_variables(
            variables, ["accumulator", "linear"], [self.initial_accumulator_value, "zeros"]
        )

    def update_arrays(self, param, grad, slots, learning_rate, step):
        settings = (
            self.learning_rate_power,
            self.l1_regularization_strength,
            self.l2_regularization_strength,
            self.l2_shrinkage_regularization_strength,
            self.beta,
        )
        kernels.ftrl(param, grad, slots["accumulator"], slots["linear"], learning_rate, *settings)
