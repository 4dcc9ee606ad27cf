"""Gradient descent."""

from gpukeras.kernels import optimizer as kernels
from gpukeras.optimizers.base import Optimizer
from gpukeras.registry import register

__all__ = ["SGD"]


@register("optimizer")
class SGD(Optimizer):
    """Gradient descent, with momentum if asked for.

        velocity ← momentum · velocity - learning_rate · gradient
        variable ← variable + velocity

    Nesterov's form takes the step from where the velocity leads: it adds
    ``momentum · velocity - learning_rate · gradient`` with the new velocity.

    Args:
        learning_rate: A float, a `LearningRateSchedule`, or a function without arguments.
        momentum: Share of the old velocity in the new one, between 0 and 1.
        nesterov: Whether Nesterov's form is used.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: See
            `Optimizer`.

    Reference: Sutskever et al. 2013.

    Example:
        >>> from gpukeras.autograd.tensor import Variable
        >>> w = Variable(np.ones(2))
        >>> SGD(0.5).apply([np.array([1.0, 2.0])], [w])
        >>> w.numpy()
        array([0.5, 0. ])
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
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
        if not isinstance(momentum, float) or not 0 <= momentum <= 1:
            raise ValueError(f"SGD: `momentum` must be a float between [0, 1], but got {momentum!r}.")
        self.momentum = momentum
        self.nesterov = nesterov

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.momentums = self.add_optimizer_variables(variables, "momentum") if self.momentum else []

    def update_arrays(self, param, grad, slots, learning_rate, step):
        if self.momentum:
            kernels.sgd_momentum(param, grad, slots["momentum"], learning_rate, self.momentum, self.nesterov)
        else:
            kernels.sgd(param, grad, learning_rate)
