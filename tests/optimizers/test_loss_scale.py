"""The loss scale that adapts itself, on both devices and without reads on the host."""

import numpy as np
import pytest

import gpukeras as keras
from gpukeras import optimizers
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices
from gpukeras.training import step as training_step
from gpukeras.training.data import to_batch
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


def test_gradients_are_divided_in_the_buffer_of_the_inner_optimizer(device):
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD(0.5), initial_scale=8.0)
    variables = [Variable(np.ones((3, 2), "float32")), Variable(np.ones(5, "float32"))]
    assert optimizer.plan_of(variables) is None
    grads = [devices.to_device(np.full(v.shape, 4, "float32")) for v in variables]
    optimizer.apply(grads, variables)
    assert_close(grads[0], np.full((3, 2), 4))  # what is given stays as it is
    places = optimizer.plan_of(variables).places()
    written = [places[id(v.array)] for v in variables]
    for place in written:
        place[...] = 4
    optimizer.apply(written, variables)
    for variable, place in zip(variables, written, strict=True):
        assert_close(place, np.full(variable.shape, 0.5))
        assert_close(variable, np.full(variable.shape, 0.5))


def test_an_inner_optimizer_with_an_apply_of_its_own_gets_arrays_of_its_own():
    class Keeping(optimizers.SGD):
        kept = ()

        def apply(self, grads, trainable_variables=None):
            grads = list(grads)
            self.kept = [*self.kept, grads[0]]
            super().apply(grads, trainable_variables)

    inner = Keeping(0.5)
    optimizer, w = optimizers.LossScaleOptimizer(inner, initial_scale=4.0), Variable(np.ones(2, "float32"))
    for value in (4.0, 8.0, np.inf):
        optimizer.apply([np.full(2, value, "float32")], [w])
        assert optimizer.plan_of([w]) is None
    np.testing.assert_array_equal(inner.kept, [[1, 1], [2, 2]])
    np.testing.assert_array_equal(w, [-0.5, -0.5])
    assert optimizer.dynamic_scale.item() == 2


def test_a_step_in_float16_reads_nothing_on_the_host(device):
    keras.config.set_dtype_policy("mixed_float16")
    inputs = keras.Input((6,), dtype="int32")
    z = keras.layers.Embedding(7, 8)(inputs)
    z = keras.layers.Flatten()(keras.layers.LayerNormalization()(z + keras.layers.MultiHeadAttention(2, 4)(z, z)))
    z = keras.layers.Dense(1, dtype="float32")(keras.layers.Dense(5, activation="relu")(z))
    model = keras.Model(inputs, z)
    inner = optimizers.Adam(0.01, global_clipnorm=1.0)
    model.compile(optimizers.LossScaleOptimizer(inner, 2.0**20, dynamic_growth_steps=2), "mse", metrics=["mae"])
    rng = np.random.default_rng(0)
    batch = to_batch((rng.integers(0, 7, (8, 6)), rng.standard_normal((8, 1)).astype("float32")))
    training_step.train(model, *batch)
    scales = []
    for _ in range(12):
        with strict_device.forbid_host_reads():
            training_step.train(model, *batch)
        scales.append(model.optimizer.dynamic_scale.item())
    assert 0 < int(model.optimizer.iterations) < 13
    assert np.diff(scales).min() < 0 < np.diff(scales).max()
    assert all(np.isfinite(w).all() for w in model.get_weights())


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
