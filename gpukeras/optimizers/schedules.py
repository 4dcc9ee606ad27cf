"""Learning rates that follow from the number of steps taken.

A schedule is called with a step, be it a number, a Tensor or the optimizer's own step count, and
computes on the device that holds it, without reading it on the host.
"""

import functools
import math

from gpukeras import registry
from gpukeras.autograd.tensor import Tensor, convert_to_array
from gpukeras.backend import devices, dtypes
from gpukeras.configurable import Configurable, serialize
from gpukeras.optimizers._settings import Watched
from gpukeras.registry import register

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]


class LearningRateSchedule(Watched, Configurable):
    """Base of all schedules; define ``__call__(step)`` for one of your own.

    Example:
        >>> class Halving(LearningRateSchedule):
        ...     def __call__(self, step):
        ...         return 0.5 ** (step + 1)
        >>> Halving()(1)
        0.25
    """

    def __call__(self, step):
        raise NotImplementedError(
            f"Learning rate schedule '{type(self).__name__}' must define __call__(step), which returns the rate."
        )


class _Decay(LearningRateSchedule):
    """A schedule in array code: subclasses define `_rate` of a float array of shape ()."""

    def __call__(self, step):
        step = convert_to_array(step)
        dtype = dtypes.as_dtype(dtypes.floatx())
        xp = devices.array_module(step)
        return Tensor(xp.asarray(self._rate(step.astype(dtype), xp), dtype=dtype))

    def _rate(self, step, xp):
        raise NotImplementedError

    def _check_positive(self, **arguments):
        for name, value in arguments.items():
            if value <= 0:
                raise ValueError(f"{type(self).__name__}: Argument `{name}` must be > 0. Received: {name}={value}")


@register("schedule")
class ExponentialDecay(_Decay):
    """Falls by the same factor in every `decay_steps` steps.

        rate = initial_learning_rate · decay_rate ^ (step / decay_steps)

    Args:
        initial_learning_rate: Rate at step 0.
        decay_steps: Steps in which the rate falls by the factor `decay_rate`.
        decay_rate: That factor.
        staircase: Whether it falls at once, at whole multiples of `decay_steps`.
        name: Name in configs.

    Example:
        >>> ExponentialDecay(0.5, decay_steps=10, decay_rate=0.5)(20).item()
        0.125
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        decay_rate,
        staircase=False,
        name="ExponentialDecay",
    ):
        self._check_positive(decay_steps=decay_steps)
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.decay_rate = decay_rate
        self.staircase = staircase
        self.name = name

    def _rate(self, step, xp):
        periods = step / self.decay_steps
        if self.staircase:
            periods = xp.floor(periods)
        return self.initial_learning_rate * float(self.decay_rate) ** periods


@register("schedule")
class PiecewiseConstantDecay(LearningRateSchedule):
    """One rate up to and including each boundary, another after the last.

    Args:
        boundaries: Steps, increasing.
        values: Rates, one more than there are boundaries.
        name: Name in configs.

    Example:
        >>> rate = PiecewiseConstantDecay([10, 20], [1.0, 0.5, 0.25])
        >>> [rate(step).item() for step in (10, 11, 21)]
        [1.0, 0.5, 0.25]
    """

    def __init__(self, boundaries, values, name="PiecewiseConstant"):
        if len(boundaries) != len(values) - 1:
            raise ValueError(
                "PiecewiseConstantDecay: The length of boundaries should be 1 less than the "
                f"length of values. Received: boundaries={boundaries} of length "
                f"{len(boundaries)}, and values={values} of length {len(values)}."
            )
        self.boundaries = boundaries
        self.values = values
        self.name = name

    def __call__(self, step):
        step = convert_to_array(step)
        xp = devices.array_module(step)
        kind = int if step.dtype.kind in "iu" else float
        rate = self.values[0]
        for boundary, value in zip(self.boundaries, self.values[1:], strict=True):
            rate = xp.where(step > kind(boundary), value, rate)
        return Tensor(xp.asarray(rate, dtype=dtypes.as_dtype(dtypes.floatx())))


@register("schedule")
class PolynomialDecay(_Decay):
    """Falls to `end_learning_rate` along a power of the steps that are left.

        height = initial_learning_rate - end_learning_rate
        rate   = height · (1 - step / decay_steps) ^ power + end_learning_rate

    Args:
        initial_learning_rate: Rate at step 0.
        decay_steps: Step at which the end is reached.
        end_learning_rate: Rate from then on.
        power: 1 for a straight line.
        cycle: Whether, instead of staying there, it rises again: `decay_steps` then stands for its
            first whole multiple beyond the step.
        name: Name in configs.

    Example:
        >>> PolynomialDecay(1.0, decay_steps=10, end_learning_rate=0.5)(5).item()
        0.75
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        end_learning_rate=0.0001,
        power=1.0,
        cycle=False,
        name="PolynomialDecay",
    ):
        self._check_positive(decay_steps=decay_steps)
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.end_learning_rate = end_learning_rate
        self.power = power
        self.cycle = cycle
        self.name = name

    def _rate(self, step, xp):
        if self.cycle:
            decay_steps = self.decay_steps * xp.maximum(xp.ceil(step / self.decay_steps), 1)
        else:
            decay_steps = self.decay_steps
            step = xp.minimum(step, decay_steps)
        height = self.initial_learning_rate - self.end_learning_rate
        return height * (1 - step / decay_steps) ** self.power + self.end_learning_rate


@register("schedule")
class InverseTimeDecay(_Decay):
    """Falls with one over the number of steps.

        rate = initial_learning_rate / (1 + decay_rate · step / decay_steps)

    Args:
        initial_learning_rate: Rate at step 0.
        decay_steps: Steps that count as one unit of time.
        decay_rate: What a unit of time adds to the divisor.
        staircase: Whether it falls at once, at whole units of time.
        name: Name in configs.

    Example:
        >>> InverseTimeDecay(1.0, decay_steps=10, decay_rate=1.0)(30).item()
        0.25
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        decay_rate,
        staircase=False,
        name="InverseTimeDecay",
    ):
        self._check_positive(decay_steps=decay_steps)
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.decay_rate = decay_rate
        self.staircase = staircase
        self.name = name

    def _rate(self, step, xp):
        periods = step / self.decay_steps
        if self.staircase:
            periods = xp.floor(periods)
        return self.initial_learning_rate / (1 + self.decay_rate * periods)


@register("schedule")
class CosineDecay(_Decay):
    """Falls along half a cosine wave, after an optional straight rise (Loshchilov and Hutter 2016).

        rate = top · ((1 - alpha) · (1 + cos(π · step / decay_steps)) / 2 + alpha)

    Args:
        initial_learning_rate: Rate at step 0; the top where there is no `warmup_target`.
        decay_steps: Steps of the fall.
        alpha: The final rate as a share of the top.
        name: Name in configs.
        warmup_target: The top, reached in a straight line; None for no rise.
        warmup_steps: Steps of the rise.

    Example:
        >>> rate = CosineDecay(0.0, decay_steps=10, warmup_target=1.0, warmup_steps=4)
        >>> [rate(step).item() for step in (0, 1, 4, 14)]
        [0.0, 0.25, 1.0, 0.0]
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        alpha=0.0,
        name="CosineDecay",
        warmup_target=None,
        warmup_steps=0,
    ):
        self._check_positive(decay_steps=decay_steps)
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.alpha = alpha
        self.name = name
        self.warmup_target = warmup_target
        self.warmup_steps = warmup_steps

    def _rate(self, step, xp):
        if self.warmup_target is None:
            return self._fall(xp.minimum(step, self.decay_steps), self.initial_learning_rate, xp)
        step = xp.minimum(step, self.decay_steps + self.warmup_steps)
        fall = self._fall(step - self.warmup_steps, self.warmup_target, xp)
        if not self.warmup_steps:
            return fall
        height = self.warmup_target - self.initial_learning_rate
        rise = height * (step / self.warmup_steps) + self.initial_learning_rate
        return xp.where(step < self.warmup_steps, rise, fall)

    def _fall(self, step, top, xp):
        wave = 0.5 * (1 + xp.cos(math.pi * (step / self.decay_steps)))
        return top * ((1 - self.alpha) * wave + self.alpha)


@register("schedule")
class CosineDecayRestarts(_Decay):
    """Falls along half a cosine wave again and again (Loshchilov and Hutter 2016).

    Args:
        initial_learning_rate: Rate at step 0.
        first_decay_steps: Steps of the first fall.
        t_mul: How many times longer each fall is than the one before.
        m_mul: How many times higher each fall starts than the one before.
        alpha: The final rate as a share of the initial one.
        name: Name in configs.

    Example:
        >>> rate = CosineDecayRestarts(1.0, first_decay_steps=10)
        >>> [round(float(rate(step)), 3) for step in (0, 5, 10, 20, 30)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    def __init__(
        self,
        initial_learning_rate,
        first_decay_steps,
        t_mul=2.0,
        m_mul=1.0,
        alpha=0.0,
        name="SGDRDecay",
    ):
        self._check_positive(first_decay_steps=first_decay_steps)
        self.initial_learning_rate = initial_learning_rate
        self.first_decay_steps = first_decay_steps
        self.t_mul = t_mul
        self.m_mul = m_mul
        self.alpha = alpha
        self.name = name

    def _rate(self, step, xp):
        periods = step / self.first_decay_steps
        if self.t_mul == 1:
            restarts = xp.floor(periods)
            periods = periods - restarts
        else:
            # After r restarts the periods passed are 1 + t_mul + ... = (1 - t_mul^r) / (1 - t_mul).
            t_mul = float(self.t_mul)
            restarts = xp.floor(xp.log(1 - periods * (1 - t_mul)) / math.log(t_mul))
            length = t_mul**restarts
            periods = (periods - (1 - length) / (1 - t_mul)) / length
        wave = 0.5 * float(self.m_mul) ** restarts * (1 + xp.cos(math.pi * periods))
        return self.initial_learning_rate * ((1 - self.alpha) * wave + self.alpha)


def deserialize(config, custom_objects=None):
    """The schedule that a dictionary from `serialize` describes."""
    with registry.custom_object_scope(custom_objects):
        return _resolve(config)


_resolve = functools.partial(registry.resolve, "schedule")
