"""Learning-rate schedules on numbers, Tensors and Variables, and their errors."""

import numpy as np
import pytest

from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices, dtypes
from gpukeras.optimizers import schedules
from tests import strict_device
from tests.helpers import assert_close

# Each with its rate at step 3, by the formula in float64.
CASES = [
    (schedules.ExponentialDecay(0.1, 2, 0.5), 0.1 * 0.5**1.5),
    (schedules.ExponentialDecay(0.1, 2, 0.5, staircase=True), 0.05),
    (schedules.PiecewiseConstantDecay([2, 3], [1.0, 0.5, 0.1]), 0.5),
    (schedules.PolynomialDecay(0.1, 6, 0.01, power=2.0), 0.09 * 0.25 + 0.01),
    (schedules.PolynomialDecay(0.1, 2, 0.01, cycle=True), 0.09 * 0.25 + 0.01),
    (schedules.InverseTimeDecay(0.1, 2, 0.5), 0.1 / 1.75),
    (schedules.InverseTimeDecay(0.1, 2, 0.5, staircase=True), 0.1 / 1.5),
    (schedules.CosineDecay(0.1, 6, alpha=0.1), 0.1 * (0.9 * 0.5 + 0.1)),
    (schedules.CosineDecay(0.1, 6, warmup_target=0.2, warmup_steps=4), 0.175),
    (schedules.CosineDecayRestarts(0.1, 2, t_mul=1.0, m_mul=0.5), 0.1 * 0.5 * 0.5),
    (schedules.CosineDecayRestarts(0.1, 1, t_mul=2.0, m_mul=0.5), 0.1 * 0.25),
]


@pytest.mark.parametrize(("schedule", "expected"), CASES, ids=lambda c: type(c).__name__)
def test_value_at_step_3(schedule, expected, device):
    for step in (3, 3.0, np.int64(3), Tensor(devices.to_device(np.int32(3))), Variable(3)):
        with strict_device.forbid_host_reads():
            rate = schedule(step)
        assert isinstance(rate, Tensor)
        assert rate.shape == ()
        assert_close(rate, np.float32(expected))


@pytest.mark.parametrize(("schedule", "expected"), CASES, ids=lambda c: type(c).__name__)
def test_config_round_trip(schedule, expected):
    config = schedules.serialize(schedule)
    assert config["module"] == "keras.optimizers.schedules"
    loaded = schedules.deserialize(config)
    assert type(loaded) is type(schedule)
    assert loaded.get_config() == schedule.get_config()
    assert_close(loaded(3), np.float32(expected))


def test_rates_follow_floatx():
    dtypes.set_floatx("float64")
    try:
        assert schedules.CosineDecay(0.1, 10)(3).dtype == "float64"
    finally:
        dtypes.set_floatx("float32")


def test_a_schedule_of_ones_own():
    class Halving(schedules.LearningRateSchedule):
        def __init__(self, start):
            self.start = start

        def __call__(self, step):
            return self.start * 0.5**step

    assert Halving(1.0)(2) == 0.25
    assert Halving(1.0).get_config() == {"start": 1.0}
    loaded = schedules.deserialize(schedules.serialize(Halving(3.0)), {"Halving": Halving})
    assert loaded.start == 3.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.ExponentialDecay(0.1, 0, 0.5),
        lambda: schedules.PolynomialDecay(0.1, -1),
        lambda: schedules.InverseTimeDecay(0.1, 0, 0.5),
        lambda: schedules.CosineDecay(0.1, 0),
        lambda: schedules.CosineDecayRestarts(0.1, 0),
    ],
)
def test_decay_steps_must_be_positive(make):
    with pytest.raises(ValueError, match="must be > 0"):
        make()


def test_boundaries_and_values_must_match():
    with pytest.raises(ValueError, match="1 less than"):
        schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2])


def test_an_unknown_schedule_lists_the_closest():
    with pytest.raises(ValueError, match="CosineDecay"):
        schedules.deserialize({"class_name": "CosineDeca", "config": {}})


def test_a_schedule_without_a_call_says_so():
    with pytest.raises(NotImplementedError, match="__call__"):
        schedules.LearningRateSchedule()(1)
