"""The loss scale that adapts itself, on both devices and without reads on the host."""

import numpy as np
import pytest

from gpukeras import optimizers
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices
from tests import strict_device
from tests.helpers import assert_close

INNER = [
    optimizers.SGD,
    lambda rate: optimizers.Adam(rate, use_ema=True, ema_overwrite_frequency=2),
    lambda rate: optimizers.Nadam(rate, gradient_accumulation_steps=2),
]


@pytest.mark.parametrize("make", INNER)
def test_steps_with_infinite_gradients_are_left_out(make, rng, device):
    inner, plain = make(0.1), make(0.1)
    optimizer = optimizers.LossScaleOptimizer(inner, initial_scale=4.0, dynamic_growth_steps=3)
    values = rng.standard_normal((3, 4)).astype("float32")
    scaled, twin = Variable(values), Variable(values)
    scales = []
    for step in range(8):
        grad = rng.standard_normal((3, 4)).astype("float32")
        if step in (0, 4):
            grad[1, 1] = np.inf
        grad = Tensor(devices.to_device(grad))
        with strict_device.forbid_host_reads():
            scale = optimizer.dynamic_scale.array if optimizer.built else 4.0
            optimizer.apply([Tensor(grad.array * scale)], [scaled])
        scales.append(optimizer.dynamic_scale.item())
        if step not in (0, 4):
            plain.apply([grad], [twin])
        assert_close(scaled, twin)
    assert scales == [2, 2, 2, 4, 2, 2, 2, 4]
    for a, b in zip(inner.variables, plain.variables, strict=True):
        assert_close(a, b)
    assert int(optimizer.iterations) == int(plain.iterations)


def test_learning_rate_is_the_inner_ones():
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD(0.5))
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dynamic": False}, "dynamic=False"),
        ({"clipnorm": 1.0}, "does not support `clipnorm`"),
        ({"speed": 1}, "does not support arguments: `speed`"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        optimizers.LossScaleOptimizer(optimizers.SGD(), **settings)


def test_bad_inner_optimizer_and_gradients():
    with pytest.raises(TypeError, match="inner_optimizer"):
        optimizers.LossScaleOptimizer("adam")
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD())
    with pytest.raises(ValueError, match="has shape"):
        optimizer.apply([np.ones(3)], [Variable(np.ones(2))])
    assert not optimizer.built


def test_old_configs_load():
    config = optimizers.LossScaleOptimizer(optimizers.SGD()).get_config()
    config |= {"clipnorm": None, "use_ema": False, "ema_momentum": 0.99}
    loaded = optimizers.LossScaleOptimizer.from_config(config)
    assert type(loaded.inner_optimizer) is optimizers.SGD
