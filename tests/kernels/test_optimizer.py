"""The update rules against their references to the last bit, in blocks and on threads; what is off, to a tolerance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukeras.backend import blas, threads
from gpukeras.kernels import blocks, optimizer, updates
from tests.helpers import assert_close
from tests.kernels.cutting import CUTS, DTYPES, EXAMPLES, THREADS, assert_same_bits, laid_out, read_only, small_blocks

RATE, STEP = object(), object()  # stand for arrays of shape ()
RULES = {  # the kernel, its slots ("any" sign, "positive", or None for one that is left out), its settings
    "sgd": ("sgd", [], [RATE]),
    "sgd_momentum": ("sgd_momentum", ["any"], [RATE, 0.9, False]),
    "sgd_nesterov": ("sgd_momentum", ["any"], [RATE, 0.9, True]),
    "adagrad": ("adagrad", ["positive"], [RATE, 1e-7]),
    "rmsprop": ("rmsprop", ["positive", None, None], [RATE, 0.9, 0.0, 1e-7]),
    "rmsprop_centered": ("rmsprop", ["positive", "any", None], [RATE, 0.9, 0.0, 1e-7]),
    "rmsprop_momentum": ("rmsprop", ["positive", None, "any"], [RATE, 0.9, 0.8, 1e-7]),
    "rmsprop_both": ("rmsprop", ["positive", "any", "any"], [RATE, 0.9, 0.8, 1e-7]),
    "adamax": ("adamax", ["any", "positive"], [STEP, RATE, 0.9, 0.999, 1e-7]),
    "nadam": ("nadam", ["any", "positive"], [RATE, STEP, RATE, 0.9, 0.999, 1e-7]),
    "adadelta": ("adadelta", ["positive", "positive"], [RATE, 0.95, 1e-7]),
    "ftrl": ("ftrl", ["positive", "any"], [RATE, -0.5, 0.1, 0.2, 0.3, 0.4]),
    "ftrl_power": ("ftrl", ["positive", "any"], [RATE, -0.7, 0.0, 0.0, 0.0, 0.0]),
    "lion": ("lion", ["any"], [RATE, 0.9, 0.99]),
    "moving_average": ("moving_average", [], [RATE]),
}
ADAM = {
    "adam": ("adam", ["any", "positive", None], [STEP, RATE, 0.9, 0.999, 1e-7]),
    "amsgrad": ("adam", ["any", "positive", "positive"], [STEP, RATE, 0.9, 0.999, 1e-7]),
}
SIZES = st.integers(0, 45)
LAYOUTS = st.sampled_from(["plain", "plain", "reversed", "stepped"])  # of flat arrays
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e-30])
AROUND_LIMITS = [blocks.BLOCK - 1, blocks.BLOCK, blocks.BLOCK + 1, blocks.THREADED - 1, blocks.THREADED + 1, 600_001]


def arrays_of(rule, size, dtype, seed, layout="plain", is_special=False):
    """Parameters, gradients (read-only) and slots, then the settings."""
    _, kinds, given_settings = rule
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(size) for _ in range(2)]
    for kind in kinds:
        slot = None if kind is None else rng.standard_normal(size)
        arrays.append(0.1 + slot * slot if kind == "positive" else slot)
    if is_special and size:
        for array in (arrays[0], arrays[1]):
            array[rng.integers(0, size, 3)] = rng.choice(SPECIAL, 3)
    arrays = [None if a is None else laid_out(a.astype(dtype), layout) for a in arrays]
    read_only(arrays[1])
    scalars = {RATE: np.array(0.1, dtype), STEP: np.array(seed % 5, "int32")}
    return arrays, [scalars.get(value, value) for value in given_settings]


def updated(rule, problem, is_reference=False):
    """All arrays after one update."""
    arrays, given_settings = arrays_of(rule, **problem)
    function = getattr(updates if rule[0] == "moving_average" else optimizer, rule[0])
    with np.errstate(all="ignore"):
        (function.reference if is_reference else function)(*arrays, *given_settings)
    return [a for a in arrays if a is not None]


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=25, **EXAMPLES)
@given(size=SIZES, dtype=DTYPES, cut=CUTS, layout=LAYOUTS, is_special=st.booleans(), seed=st.integers(0, 99))
def test_rules_give_the_bits_of_the_reference(name, size, dtype, cut, layout, is_special, seed):
    problem = {"size": size, "dtype": dtype, "seed": seed, "layout": layout, "is_special": is_special}
    expected = updated(RULES[name], problem, is_reference=True)
    for count in THREADS:
        with small_blocks(cut, count):
            actual = updated(RULES[name], problem)
            updated(RULES[name], {**problem, "seed": seed + 1})  # must not touch what the first call has left
        for a, b in zip(actual, expected, strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("name", RULES)
def test_rules_around_the_limits_of_blocks(name):
    for size in AROUND_LIMITS:
        problem = {"size": size, "dtype": "float32", "seed": size}
        expected = updated(RULES[name], problem, is_reference=True)
        with threads.use_count(3):
            actual = updated(RULES[name], problem)
        for a, b in zip(actual, expected, strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("name", ADAM)
@settings(max_examples=40, **EXAMPLES)
@given(size=SIZES, dtype=DTYPES, cut=CUTS, layout=LAYOUTS, has_blas=st.booleans(), seed=st.integers(0, 99))
def test_adam_is_near_the_reference(name, size, dtype, cut, layout, has_blas, seed):
    if layout != "plain":
        has_blas = False  # its pass is for arrays in one piece
    problem = {"size": size, "dtype": dtype, "seed": seed, "layout": layout}
    expected = updated(ADAM[name], problem, is_reference=True)
    found = []
    for count in THREADS:
        with small_blocks(cut, count, (blas, "_MANY", 1 if has_blas else 1 << 15)):
            found.append(updated(ADAM[name], problem))
            updated(ADAM[name], {**problem, "seed": seed + 1})  # must not touch what the first call has left
    for actual in found:
        for a, first, b in zip(actual, found[0], expected, strict=True):
            assert_same_bits(a, first)
            assert_close(a, b, dtype)


@pytest.mark.parametrize("name", ADAM)
def test_adam_around_the_limits_of_blocks(name):
    for size in AROUND_LIMITS:
        problem = {"size": size, "dtype": "float32", "seed": size}
        expected = updated(ADAM[name], problem, is_reference=True)
        found = []
        for count in (1, 3):
            with threads.use_count(count):
                found.append(updated(ADAM[name], problem))
        for a, other, b in zip(*found, expected, strict=True):
            assert_same_bits(a, other)
            assert_close(a, b)


@settings(max_examples=40, **EXAMPLES)
@given(size=SIZES | st.just(70_001), dtype=DTYPES, layout=LAYOUTS, seed=st.integers(0, 99))
def test_lamb_sizes_its_steps_by_norms(size, dtype, layout, seed):
    """There is no form for NumPy: against float64."""
    rule = ("lamb", ["any", "positive"], [STEP, RATE, 0.9, 0.99, 1e-7])
    problem = {"size": size, "dtype": dtype, "seed": seed, "layout": layout}
    (p, g, m, v), _ = arrays_of(rule, **problem)
    p, g, m, v = (a.astype(np.float64) for a in (p, g, m, v))
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    t = seed % 5 + 1
    step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-7)
    norms = np.linalg.norm(p), np.linalg.norm(step)
    p -= 0.1 * (norms[0] / norms[1] if min(norms) > 0 else 1.0) * step
    actual = updated(rule, problem)
    updated(rule, {**problem, "seed": seed + 1})
    for a, b in zip(actual, (p, g, m, v), strict=True):
        assert_close(a, b, dtype)


def test_lamb_without_a_norm():
    """The ratio is 1 where the parameters or the step are zero."""
    zero, one = np.zeros(3), np.ones(3)
    settings = np.array(0, "int32"), np.array(0.1), 0.5, 0.5, 0.0
    param = zero.copy()
    optimizer.lamb(param, one, zero.copy(), zero.copy(), *settings)
    assert_close(param, -0.1 * one)  # by 0.5 / 0.5 / sqrt(0.5 / 0.5)
    param = one.copy()
    optimizer.lamb(param, zero, zero.copy(), one.copy(), *settings)
    assert_same_bits(param, one)


@settings(max_examples=60, **EXAMPLES)
@given(
    size=SIZES | st.sampled_from(AROUND_LIMITS[:3]),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    layout=LAYOUTS,
    norm=st.sampled_from([1e-3, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_sums_of_squares_and_norms(size, dtype, layout, norm, seed):
    x, other = (
        laid_out(np.random.default_rng(s).standard_normal(size).astype(dtype), layout) for s in (seed, seed + 1)
    )
    wide = x.astype(np.float64)
    read_only(x)
    square = updates.sum_of_squares(x)
    updates.sum_of_squares(other)
    assert square.shape == () and square.dtype == ("float32" if dtype == "float16" else dtype)
    assert_close(square, (wide * wide).sum())
    x = laid_out(x, layout)
    updates.scale_by_norm(x, norm)
    updates.scale_by_norm(other, norm)
    assert_close(x, wide * (norm / max(np.linalg.norm(wide), norm)), dtype)


@settings(max_examples=40, **EXAMPLES)
@given(
    size=SIZES,
    dtype=DTYPES,
    cut=CUTS,
    layout=LAYOUTS,
    rate=st.sampled_from([0.0, 1e-9, 0.3]),
    condition=st.booleans(),
    seed=st.integers(0, 99),
)
def test_decay_and_conditions_give_the_bits_of_the_reference(size, dtype, cut, layout, rate, condition, seed):
    (first, source), _ = arrays_of(("", [], []), size, dtype, seed, layout, is_special=True)
    rates = rate, np.array(rate, dtype)  # of Python or of shape ()
    condition = np.array(condition)

    def all_of_them(is_reference):
        def form(kernel):
            return kernel.reference if is_reference else kernel

        arrays = [laid_out(first, layout) for _ in range(4)]
        with np.errstate(all="ignore"):
            for array, number in zip(arrays, rates, strict=False):
                form(updates.decay)(array, number)
            form(updates.copy_where)(arrays[2], source, condition)
            form(updates.update_where)(condition, lambda: arrays[3].fill(7), arrays[3:])
        return arrays

    expected = all_of_them(True)
    for count in THREADS:
        with small_blocks(cut, count):
            actual = all_of_them(False)
            all_of_them(False)  # must not touch what the first call has left
        for a, b in zip(actual, expected, strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("layout", [slice(None, None, 2), slice(None, None, -2)])
def test_adam_takes_flat_arrays_with_steps(layout):
    n, found = 1 << 15, []
    for form in (optimizer.adam, optimizer.adam.reference):
        p, m, v = (np.zeros(2 * n, "float32")[layout] for _ in range(3))
        g = np.linspace(-1, 1, 2 * n, dtype="float32")[layout]
        form(p, g, m, v, None, np.array(0, "int32"), np.array(0.1, "float32"), 0.9, 0.999, 1e-7)
        found.append((p, m, v))
    for a, b in zip(*found, strict=True):
        assert_close(a, b)
