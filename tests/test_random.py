"""keras.random: seeds, generators, distributions through the public functions, errors."""

import copy
import math
import pickle

import numpy as np
import pytest

from gpukeras import random
from gpukeras.autograd.scope import setting, transaction
from gpukeras.autograd.symbolic import KerasTensor
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor, Variable
from gpukeras.backend import devices
from gpukeras.backend import random as generator
from gpukeras.configurable import serialize
from gpukeras.registry import resolve
from gpukeras.testing import check_gradients
from tests.helpers import assert_close
from tests.strict_device import forbid_host_reads

DRAWS = [random.normal, random.truncated_normal, random.uniform]


def state_of(seeds):
    return seeds.state.numpy().tolist()


def test_state_is_seed_and_counter(device):
    seeds = random.SeedGenerator(7)
    assert seeds.state.dtype == "uint32"
    assert not seeds.state.trainable
    array = seeds.state.array
    first = seeds.next()
    assert isinstance(first, Tensor)
    assert first.tolist() == [7, 0]
    assert seeds.next().tolist() == [7, 1]
    assert first.tolist() == [7, 0]
    assert state_of(seeds) == [7, 2]
    assert seeds.state.array is array


def test_next_reads_nothing_on_the_host():
    with devices.use_device("strict"):
        seeds = random.SeedGenerator(7)
        with forbid_host_reads():
            for draw in DRAWS:
                draw((3,), seed=seeds)
            random.dropout(random.normal((3,), seed=seeds), 0.5, seed=seeds)
            random.shuffle(random.normal((3,), seed=seeds), seed=seeds)
            random.randint((3,), 0, 9, seed=seeds)
            random.categorical(random.normal((3, 2), seed=seeds), 2, seed=seeds)


def test_unordered_next_scrambles_both_words():
    seeds = random.SeedGenerator(7)
    seeds.next(ordered=False)
    assert state_of(seeds) == [(7 + 1) * 5387 % 933199, 5387]


def test_the_counter_wraps_around():
    seeds = random.SeedGenerator(7)
    seeds.state.assign(np.uint32([7, 2**32 - 1]))
    seeds.next()
    assert state_of(seeds) == [7, 0]


def test_a_symbolic_call_consumes_nothing():
    seeds = random.SeedGenerator(7)
    x = KerasTensor((None, 3))
    assert random.dropout(x, 0.5, seed=seeds).shape == (None, 3)
    assert random.shuffle(x, seed=seeds).shape == (None, 3)
    assert random.categorical(x, 5, seed=seeds).shape == (None, 5)
    with setting(symbolic=True):
        seeds.next()
    assert state_of(seeds) == [7, 0]
    generator.set_seed(1)
    following = generator.next_seed()
    generator.set_seed(1)
    random.dropout(x, 0.5)
    assert generator.next_seed() == following


def test_a_failed_step_gives_the_counter_back(device):
    seeds = random.SeedGenerator(7)
    with pytest.raises(KeyboardInterrupt), transaction():
        seeds.next()
        seeds.next()
        raise KeyboardInterrupt
    assert state_of(seeds) == [7, 0]


def test_config_copies_and_pickles():
    assert random.SeedGenerator(7, name="mine").get_config() == {"seed": 7, "name": "mine"}
    assert random.SeedGenerator(name="mine").get_config() == {"seed": None, "name": "mine"}
    seeds = random.SeedGenerator(7, name="mine")
    again = resolve("random", serialize(seeds))
    assert (again.name, state_of(again)) == ("mine", [7, 0])
    seeds.next()
    for twin in (copy.deepcopy(seeds), pickle.loads(pickle.dumps(seeds))):
        assert state_of(twin) == [7, 1]
        twin.next()
        assert state_of(seeds) == [7, 1]
        assert twin.state.path == "mine/seed_generator_state"


@pytest.mark.parametrize("draw", DRAWS)
def test_what_a_seed_means(draw):
    assert (draw((5,), seed=3).numpy() == draw((5,), seed=3).numpy()).all()
    assert (draw((5,), seed=3).numpy() != draw((5,), seed=4).numpy()).all()
    seeds = random.SeedGenerator(3)
    assert (draw((5,), seed=seeds).numpy() == draw((5,), seed=3).numpy()).all()
    assert (draw((5,), seed=seeds).numpy() != draw((5,), seed=3).numpy()).all()
    assert (draw((5,)).numpy() != draw((5,)).numpy()).all()


def test_set_seed_fixes_what_has_no_seed():
    def draws():
        generator.set_seed(5)
        return (
            random.normal((3,)).tolist(),
            random.SeedGenerator().state.tolist(),
            random.uniform((3,)).tolist(),
        )

    first = draws()
    np.random.random(3)
    assert draws() == first


@pytest.mark.parametrize("draw", DRAWS)
def test_devices_agree(draw):
    with devices.use_device("numpy"):
        expected = draw((3, 4), seed=random.SeedGenerator(9)).numpy()
    with devices.use_device("strict"):
        for seed in (9, random.SeedGenerator(9)):
            assert (draw((3, 4), seed=seed).numpy() == expected).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", None])
@pytest.mark.parametrize("draw", DRAWS)
def test_shapes_and_dtypes(draw, dtype, device):
    for shape in ((), (0,), (3,), [2, 3], 4):
        values = draw(shape, dtype=dtype, seed=1)
        assert values.dtype.name == (dtype or "float32")
        assert values.shape == ((shape,) if isinstance(shape, int) else tuple(shape))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 2.0), (1000.0, 1001.0), (2, 5)])
def test_uniform_keeps_below_its_upper_bound(low, high, dtype, device):
    u = random.uniform((20_000,), low, high, dtype=dtype, seed=1).numpy().astype("float64")
    assert low <= u.min()
    assert u.max() < high
    # bfloat16 has few numbers near 1000.
    spacing = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 0.0) * max(abs(low), abs(high))
    assert abs(u.mean() - (low + high) / 2) < 0.02 * (high - low) + spacing


def test_mean_and_stddev(device):
    z = random.normal((50_000,), 3.0, 0.5, seed=1).numpy()
    assert abs(z.mean() - 3) < 0.02 and abs(z.std() - 0.5) < 0.01
    t = random.truncated_normal((50_000,), 3.0, 0.5, seed=1).numpy()
    assert t.min() >= 2 and t.max() <= 4


def test_arrays_as_parameters(device, rng):
    low = np.array([0.0, 5.0], "float32")
    u = random.uniform((1000, 2), devices.to_device(low), devices.to_device(low + 1), seed=1).numpy()
    assert (low <= u).all() and (u <= low + 1).all()
    z = random.normal((3, 2), 1.0, 2.0, seed=1).numpy()
    again = random.normal((3, 2), devices.to_device(np.float32([1, 1])), 2.0, seed=1)
    assert_close(again, z)
    check_gradients(
        lambda mean, stddev: random.normal((3, 2), mean, stddev, dtype="float64", seed=1),
        rng.normal(size=2),
        rng.normal(size=(3, 1)),
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint32"])
def test_randint(dtype, device):
    values = random.randint((1000,), 3, 100, dtype=dtype, seed=1)
    assert values.dtype == dtype
    assert set(values.tolist()) <= set(range(3, 100))
    assert len(set(values.tolist())) > 80


def test_randint_reaches_all_of_uint64():
    values = random.randint((100,), 0, 2**64, dtype="uint64", seed=1).numpy()
    assert values.max() > 2**63


def test_dropout(device):
    x = devices.to_device(np.ones((100, 10), "float32"))
    first = random.dropout(x, 0.25, seed=1).numpy()
    assert (first == random.dropout(x, 0.25, seed=1).numpy()).all()
    assert abs((first == 0).mean() - 0.25) < 0.07
    assert random.dropout(Tensor(x), 0, seed=random.SeedGenerator(1)).array is x


def test_dropout_without_rate_consumes_nothing():
    seeds = random.SeedGenerator(1)
    random.dropout(np.ones(3), 0.0, seed=seeds)
    assert state_of(seeds) == [1, 0]


def test_shuffle_and_its_seed(device):
    x = devices.to_device(np.arange(100))
    first = random.shuffle(x, seed=1).numpy()
    assert sorted(first.tolist()) == list(range(100))
    assert (first == random.shuffle(x, seed=1).numpy()).all()
    assert (first != random.shuffle(x, seed=2).numpy()).any()


def test_categorical_follows_the_logits(device):
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    with np.errstate(divide="ignore"):
        logits = devices.to_device(np.log(p) + 3)
    draws = random.categorical(logits, 20_000, dtype="int64", seed=1)
    assert draws.dtype == "int64"
    for row, expected in zip(draws.numpy(), p, strict=True):
        share = np.bincount(row, minlength=3) / 20_000
        assert (abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / 20_000)).all()


def test_gradients_pass_through_dropout(device, rng):
    check_gradients(lambda x: random.dropout(x, 0.5, seed=3), rng.normal(size=(4, 5)))


def test_nothing_is_recorded_of_a_draw():
    v = Variable(np.ones(3, "float32"))
    with Tape() as tape:
        random.normal((3,), seed=random.SeedGenerator(1))
    assert tape.entries == []
    assert math.isclose(v.numpy().sum(), 3)


@pytest.mark.parametrize("seed", ["7", 1.5, [1, 2]])
def test_bad_kind_of_seed(seed):
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        random.normal((2,), seed=seed)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match="between 0 and 2\\^32 - 1"):
        random.normal((2,), seed=seed)
    with pytest.raises(ValueError, match="between 0 and 2\\^32 - 1"):
        random.SeedGenerator(seed)


def test_other_errors():
    with pytest.raises(ValueError, match="expected an integer seed, but got 1.5"):
        random.SeedGenerator(1.5)
    with pytest.raises(ValueError, match="unknown arguments"):
        random.SeedGenerator(1, depth=3)
    with pytest.raises(ValueError, match="makes floats"):
        random.uniform((2,), dtype="int32")
    with pytest.raises(ValueError, match="makes integers"):
        random.randint((2,), 0, 3, dtype="float32")
    with pytest.raises(ValueError, match="minval < maxval"):
        random.randint((2,), 3, 3)
    with pytest.raises(ValueError, match="does not fit into int8"):
        random.randint((2,), 0, 300, dtype="int8")
    with pytest.raises(ValueError, match="shape of known sizes"):
        random.normal((None, 2))
    with pytest.raises(ValueError, match="shape of known sizes"):
        random.normal((-1, 2))
    with pytest.raises(ValueError, match="logits of shape"):
        random.categorical(np.ones(3), 2)


@pytest.mark.parametrize("name", ["gamma", "beta", "binomial"])
def test_what_is_missing_says_so(name):
    arguments = {"gamma": (1.0,), "beta": (1.0, 1.0), "binomial": (1, 0.5)}[name]
    with pytest.raises(NotImplementedError, match=f"random.{name} is not available"):
        getattr(random, name)((2,), *arguments)
