import math
import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest

from gpukeras.backend import devices, random, threads
from tests import strict_device
from tests.strict_device import forbid_host_reads, strict

strict_device.install()

PHI = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)))


def words(text):
    return tuple(int(word, 16) for word in text.split())


# Known answers of the Random123 distribution: counter, key, result.
KNOWN = [
    ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter, key, expected):
    assert random.philox(words(counter), words(key)) == words(expected)


def test_random_bits_known_answer(device):
    xp = devices.default_module()
    bits = devices.to_numpy(random.random_bits(0, 0, 4, xp, second_key=0))
    assert tuple(bits.tolist()) == words(KNOWN[0][2])


def test_random_bits_are_philox_of_position_draw_and_stream(device):
    xp = devices.default_module()
    # More than two blocks, the last one partial, and a count that is no multiple of four.
    count = 4 * (2 * random._BLOCK + 5) + 3
    bits = devices.to_numpy(random.random_bits(2**32 - 1, 77, count, xp, stream=3))
    assert bits.shape == (count,)
    assert bits.dtype == np.uint32
    for i in (0, 1, random._BLOCK - 1, random._BLOCK, 2 * random._BLOCK + 4):
        expected = random.philox((i, 0, 77, 3), (2**32 - 1, random._SECOND_KEY))
        assert tuple(bits[4 * i : 4 * i + 4].tolist()) == expected
    assert bits[-1] == random.philox((2 * random._BLOCK + 5, 0, 77, 3), (2**32 - 1, random._SECOND_KEY))[2]


@pytest.mark.parametrize("count", [4 * random._THREADED, 4 * (random._THREADED + random._THREAD_BLOCK) + 7])
def test_words_made_on_threads_are_philox_and_do_not_depend_on_them(count, monkeypatch):
    found = []
    for number in (1, 2, 3):
        with threads.use_count(number):
            found.append(random.random_bits(9, np.uint32([5]), count, np))
    for i in (0, random._THREAD_BLOCK - 1, random._THREAD_BLOCK, count // 4 - 1):
        expected = random.philox((i, 0, 5, 0), (9, random._SECOND_KEY))
        assert tuple(found[0][4 * i : 4 * i + 4].tolist()) == expected
    monkeypatch.setattr(random, "_THREADED", 1 << 40)
    found.append(random.random_bits(9, 5, count, np))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5])
def test_a_short_request_is_the_start_of_a_long_one(count):
    assert (random.random_bits(1, 2, count, np) == random.random_bits(1, 2, 100, np)[:count]).all()


@pytest.mark.parametrize("count", [1, 7, 4 * random._SMALL, 4 * random._SMALL + 1])
def test_draws_made_ahead_are_the_same(count):
    for draw in (0, 1, random._GROUP - 1, random._GROUP, 100, 2**32 - 1):
        expected = random.random_bits(8, draw, count, np, stream=2)
        state = np.uint32([8, draw])
        bits = random.random_bits(state[:1], state[1:], count, np, stream=2)
        assert (bits == expected).all()
        bits[...] = 0  # the caller's own
        assert (random.random_bits(8, state[1:], count, np, stream=2) == expected).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ["uniform", "normal", "truncated_normal"])
def test_devices_give_the_same_bits(name, dtype):
    draw = getattr(random, name)
    on_numpy = draw(5, 6, 40_001, np, dtype)
    with forbid_host_reads():
        key, counter = strict.asarray(np.uint32([5])), strict.asarray(np.uint32([6]))
        on_device = draw(key, counter, 40_001, strict, dtype)
    assert (devices.to_numpy(on_device).tobytes()) == on_numpy.tobytes()


def test_integers_have_the_same_bits_on_both_devices():
    for draw in (
        lambda xp: random.randint(5, 6, 999, -7, 9, xp),
        lambda xp: random.randint(5, 6, 999, -(2**62), 2**62, xp),
        lambda xp: random.permutation(5, 6, 999, xp),
        lambda xp: random.bernoulli(5, 6, 999, 0.3, xp),
    ):
        with forbid_host_reads():
            on_device = draw(strict)
        assert (devices.to_numpy(on_device) == draw(np)).all()


def distance(sample, distribution):
    """Kolmogorov-Smirnov's distance of a sample from a distribution function, times sqrt(n)."""
    values = distribution(np.sort(sample.astype(np.float64)))
    n = len(values)
    steps = np.arange(n + 1) / n
    return max((steps[1:] - values).max(), (values - steps[:-1]).max()) * math.sqrt(n)


# P(distance > 1.95) is 0.001; the seeds are fixed, so these tests do not flicker.
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_normal_is_normal(seed, dtype):
    n = 200_000
    z = random.normal(seed, 0, n, np, dtype)
    assert z.dtype == dtype
    assert distance(z, PHI) < 1.95
    z = z.astype(np.float64)
    # Five standard errors of each moment.
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n)
    for bound in (2.0, 3.0, 4.0):
        expected = n * math.erfc(bound / math.sqrt(2))
        assert abs((abs(z) > bound).sum() - expected) < 5 * math.sqrt(expected) + 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_truncated_normal_is_truncated_and_normal(dtype):
    z = random.truncated_normal(3, 0, 200_000, np, dtype)
    assert abs(z).max() <= 2
    assert abs(z).max() > 1.999
    inside = 1 - 2 * PHI(-2.0)
    assert distance(z, lambda values: (PHI(values) - PHI(-2.0)) / inside) < 1.95
    assert abs(z.std(dtype=np.float64) - 0.87962566) < 0.005


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_is_uniform(dtype):
    u = random.uniform(3, 0, 200_000, np, dtype)
    assert u.dtype == dtype
    assert 0 <= u.min() and u.max() < 1
    assert distance(u, lambda values: values) < 1.95
    # Neighbours know nothing of each other, nor draws, nor seeds.
    for other in (u[1:], random.uniform(3, 1, 199_999, np), random.uniform(4, 0, 199_999, np)):
        assert abs(np.corrcoef(u[:199_999], other)[0, 1]) < 5 / math.sqrt(200_000)


def test_bits_are_balanced():
    bits = random.random_bits(9, 9, 100_000, np)
    for position in range(32):
        ones = int(((bits >> position) & 1).sum())
        assert abs(ones - 50_000) < 5 * math.sqrt(25_000)


def test_quantile_meets_the_exact_one():
    p = np.concatenate([np.linspace(0.001, 0.999, 999), 10.0 ** -np.arange(4, 16), 1 - 2.0 ** -np.arange(8, 52)])
    exact = np.array([NormalDist().inv_cdf(value) for value in p])
    np.testing.assert_allclose(random._normal_quantile(p, np), exact, rtol=2e-8, atol=2e-8)


def test_logarithm_meets_the_exact_one():
    v = np.concatenate([np.linspace(1e-3, 1.0, 1000), 2.0 ** -np.arange(0, 60), 1 - 2.0 ** -np.arange(2, 50)])
    np.testing.assert_allclose(random._minus_log(v, np), -np.log(v), rtol=1e-9, atol=0)


def test_randint_covers_its_range_evenly():
    values = random.randint(1, 2, 70_000, -3, 4, np)
    counts = np.bincount(values + 3, minlength=7)
    assert values.min() == -3 and values.max() == 3
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 30  # chi-squared, 6 degrees: P < 0.0001


@pytest.mark.parametrize(("minval", "maxval"), [(0, 1), (0, 2**32), (0, 2**32 + 1), (-(2**63), 2**63), (2**62, 2**63)])
def test_randint_stays_in_wide_and_narrow_ranges(minval, maxval):
    values = random.randint(1, 2, 1000, minval, maxval, np).tolist()
    assert all(minval <= value < maxval for value in values)
    if maxval - minval > 1:
        middle = (minval + maxval) // 2
        assert 400 < sum(value < middle for value in values) < 600


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_bernoulli(probability):
    share = random.bernoulli(1, 2, 100_000, probability, np).mean()
    assert abs(share - probability) <= 5 * math.sqrt(probability * (1 - probability) / 100_000)


def test_permutation_is_one_and_every_place_is_equally_likely():
    orders = np.stack([random.permutation(7, draw, 5, np) for draw in range(2000)])
    assert (np.sort(orders, axis=1) == np.arange(5)).all()
    counts = np.stack([np.bincount(orders[:, place], minlength=5) for place in range(5)])
    assert abs(counts - 400).max() < 5 * math.sqrt(320)


def test_the_process_hands_out_the_same_seeds_after_set_seed():
    random.set_seed(11)
    first = [random.next_seed() for _ in range(5)]
    assert len(set(first)) == 5
    np.random.random(3)  # a stray call changes nothing
    token = random.process_seed()[1]
    random.set_seed(11)
    assert [random.next_seed() for _ in range(5)] == first
    assert random.process_seed()[1] is not token
    assert random.get_seed() == 11
    random.set_seed(12)
    assert random.next_seed() not in first


def test_seeds_do_not_depend_on_the_hash_seed():
    code = "from gpukeras.backend import random; random.set_seed(3); print(random.next_seed())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1")
    }
    random.set_seed(3)
    assert seen == {f"{random.next_seed()}\n"}


def test_unseeded_processes_differ():
    first, second = random._Process(), random._Process()
    assert first.seed != second.seed


@pytest.mark.parametrize("seed", [1.5, "7", None, -1, 2**32])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="set_random_seed expected"):
        random.set_seed(seed)


def test_too_many_words():
    with pytest.raises(ValueError, match="Draw in parts"):
        random.random_bits(0, 0, 2**34 + 1, np)
