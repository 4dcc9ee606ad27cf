"""Initializers: values, seeds, fans, names, configs, errors."""

import math

import numpy as np
import pytest

from gpukeras import initializers, random
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices
from gpukeras.backend import random as generator
from tests.helpers import assert_close

RANDOM = [
    "RandomNormal",
    "TruncatedNormal",
    "RandomUniform",
    "VarianceScaling",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "LecunNormal",
    "LecunUniform",
    "Orthogonal",
]


def test_constants(device):
    assert_close(initializers.Zeros()((2, 3)), np.zeros((2, 3), "float32"))
    assert_close(initializers.Ones()((2,), dtype="int32"), np.ones(2, "int32"))
    assert_close(initializers.Constant(2.5)((2,)), np.full(2, 2.5, "float32"))
    assert_close(initializers.Constant([1.0, 2.0])((3, 2)), np.tile(np.float32([1, 2]), (3, 1)))
    assert_close(initializers.Identity(3.0)((2, 3)), 3 * np.eye(2, 3, dtype="float32"))
    assert_close(initializers.Zeros()(()), np.zeros((), "float32"))


@pytest.mark.parametrize("name", RANDOM)
def test_values_are_on_the_device_and_the_same_everywhere(name):
    initializer = getattr(initializers, name)(seed=4)
    with devices.use_device("numpy"):
        expected = initializer((3, 4))
    with devices.use_device("strict"):
        on_device = initializer((3, 4))
    assert isinstance(on_device, Tensor)
    assert on_device.device == "strict"
    assert (on_device.numpy() == expected.numpy()).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", None])
@pytest.mark.parametrize("name", RANDOM)
def test_dtype(name, dtype):
    values = getattr(initializers, name)(seed=4)((3, 4), dtype=dtype)
    assert values.dtype.name == (dtype or "float32")
    assert values.shape == (3, 4)


@pytest.mark.parametrize("name", RANDOM)
def test_what_a_seed_means(name):
    cls = getattr(initializers, name)
    shape = 20, 10

    def values(initializer):
        return initializer(shape).numpy()

    fixed, unseeded = cls(seed=3), cls()
    assert (values(fixed) == values(fixed)).all()
    assert (values(fixed) == values(cls(seed=3))).all()
    assert (values(unseeded) == values(unseeded)).all()
    assert (values(unseeded) != values(cls())).any()
    ongoing = cls(seed=random.SeedGenerator(3))
    assert (values(ongoing) == values(fixed)).all()
    assert (values(ongoing) != values(fixed)).any()
    generator.set_seed(8)
    first = values(cls())
    np.random.random(2)
    generator.set_seed(8)
    assert (values(cls()) == first).all()


# Expected standard deviation and largest value of a (300, 200) weight.
MOMENTS = {
    "RandomNormal": (0.05, None),
    "TruncatedNormal": (0.05 * 0.87962566, 0.1),
    "RandomUniform": (0.1 / math.sqrt(12), 0.05),
    "VarianceScaling": (math.sqrt(1 / 300), None),
    "GlorotNormal": (math.sqrt(2 / 500), 2 * math.sqrt(2 / 500) / 0.87962566),
    "GlorotUniform": (math.sqrt(2 / 500), math.sqrt(6 / 500)),
    "HeNormal": (math.sqrt(2 / 300), 2 * math.sqrt(2 / 300) / 0.87962566),
    "HeUniform": (math.sqrt(2 / 300), math.sqrt(6 / 300)),
    "LecunNormal": (math.sqrt(1 / 300), 2 * math.sqrt(1 / 300) / 0.87962566),
    "LecunUniform": (math.sqrt(1 / 300), math.sqrt(3 / 300)),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_moments(name):
    stddev, limit = MOMENTS[name]
    values = getattr(initializers, name)(seed=1)((300, 200)).numpy().astype("float64")
    # Five standard errors: 60,000 values, kurtosis at most 3.
    assert abs(values.mean()) < 5 * stddev / math.sqrt(values.size)
    assert abs(values.std() / stddev - 1) < 5 / math.sqrt(2 * values.size)
    if limit is not None:
        assert 0.98 * limit < abs(values).max() <= limit * (1 + 1e-6)


def test_variance_scaling_modes_and_distributions():
    for mode, fan in (("fan_in", 300), ("fan_out", 200), ("fan_avg", 250)):
        for distribution in ("normal", "truncated_normal", "untruncated_normal", "uniform"):
            values = initializers.VarianceScaling(3.0, mode, distribution, seed=1)((300, 200))
            assert abs(values.numpy().std() / math.sqrt(3 / fan) - 1) < 0.02


@pytest.mark.parametrize("shape", [(4, 4), (7, 3), (3, 7), (2, 3, 4), (2, 2, 9)])
def test_orthogonal(shape):
    gain = 1.5
    w = initializers.Orthogonal(gain, seed=2)(shape, dtype="float64").numpy()
    matrix = w.reshape(-1, shape[-1])
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    assert_close(matrix.T @ matrix, gain**2 * np.eye(matrix.shape[1]))


@pytest.mark.parametrize(
    ("shape", "fans"),
    [((), (1, 1)), ((5,), (5, 5)), ((3, 4), (3, 4)), ((2, 3, 4), (6, 8)), ((2, 2, 3, 4), (12, 16))],
)
def test_fans(shape, fans):
    assert initializers.compute_fans(shape) == fans


def test_fans_of_named_axes():
    assert initializers.compute_fans((2, 3, 4), input_axes=[0], output_axes=[1, 2]) == (2, 12)


def test_names_and_classes():
    for name, cls in {
        "zeros": initializers.Zeros,
        "zero": initializers.Zeros,
        "one": initializers.Ones,
        "Ones": initializers.Ones,
        "normal": initializers.RandomNormal,
        "uniform": initializers.RandomUniform,
        "glorot_uniform": initializers.GlorotUniform,
        "IdentityInitializer": initializers.Identity,
        "OrthogonalInitializer": initializers.Orthogonal,
    }.items():
        assert type(initializers.get(name)) is cls
    assert type(initializers.get(initializers.Zeros)) is initializers.Zeros
    zeros = initializers.Zeros()
    assert initializers.get(zeros) is zeros
    assert initializers.get(None) is None
    assert initializers.zeros is initializers.Zeros


def test_functions_and_arrays_are_initializers(device):
    def halves(shape, dtype=None):
        return np.full(shape, 0.5, dtype)

    assert initializers.get(halves) is halves
    assert Variable(initializers.get(halves), shape=(2,)).numpy().tolist() == [0.5, 0.5]
    values = np.arange(3.0)
    for given in (values, Tensor(devices.to_device(values))):
        variable = Variable(initializers.get(given), shape=(3,), dtype="float32")
        assert variable.dtype == "float32"
        assert variable.numpy().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="has shape \\(3,\\), but the weight has \\(4,\\)"):
        initializers.get(values)((4,))


@pytest.mark.parametrize("name", [*RANDOM, "Zeros", "Ones", "Constant", "Identity"])
def test_config_round_trip(name):
    cls = getattr(initializers, name)
    made = cls(seed=3) if name in RANDOM else cls()
    for again in (
        initializers.deserialize(initializers.serialize(made)),
        initializers.get(initializers.serialize(made)),
        made.clone(),
    ):
        assert type(again) is cls
        assert again.get_config() == made.get_config()
        assert (again((3, 3)).numpy() == made((3, 3)).numpy()).all()


def test_config_of_seeds_and_arrays():
    assert initializers.GlorotUniform().get_config()["seed"] is None
    made = initializers.GlorotUniform(seed=random.SeedGenerator(3, name="mine"))
    assert made.get_config()["seed"]["config"] == {"seed": 3, "name": "mine"}
    again = initializers.deserialize(initializers.serialize(made))
    assert (again((3, 3)).numpy() == made((3, 3)).numpy()).all()
    constant = initializers.Constant(np.array([1.0, 2.0]))
    again = initializers.deserialize(initializers.serialize(constant))
    assert again((2,)).tolist() == [1.0, 2.0]


def test_the_gain_of_an_identity_is_kept():
    again = initializers.deserialize(initializers.serialize(initializers.Identity(2.0)))
    assert again((2, 2)).tolist() == [[2, 0], [0, 2]]


def test_a_class_of_ones_own():
    class Halves(initializers.Initializer):
        def __init__(self, factor=1.0):
            self.factor = factor

        def __call__(self, shape, dtype=None):
            return np.full(shape, 0.5 * self.factor, dtype)

    config = initializers.serialize(Halves(2.0))
    again = initializers.deserialize(config, custom_objects={"Halves": Halves})
    assert again((1,)).tolist() == [1.0]


def test_errors():
    with pytest.raises(ValueError, match="Unknown initializer 'glorot_unifrom'.*'glorot_uniform'"):
        initializers.get("glorot_unifrom")
    with pytest.raises(ValueError, match="scale must be positive, but got 0"):
        initializers.VarianceScaling(0)
    with pytest.raises(ValueError, match="unknown mode 'fan_inn'"):
        initializers.VarianceScaling(mode="fan_inn")
    with pytest.raises(ValueError, match="unknown distribution 'unifrom'"):
        initializers.VarianceScaling(distribution="unifrom")
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        initializers.HeNormal(seed="7")
    with pytest.raises(ValueError, match="seed must lie between"):
        initializers.HeNormal(seed=-1)
    with pytest.raises(ValueError, match="Identity makes matrices"):
        initializers.Identity()((3,))
    with pytest.raises(ValueError, match="Orthogonal needs at least two axes"):
        initializers.Orthogonal()((3,))
    with pytest.raises(ValueError, match="shape of known sizes"):
        initializers.Zeros()((None, 3))
    with pytest.raises(NotImplementedError, match="must define __call__"):
        initializers.Initializer()((3,))
