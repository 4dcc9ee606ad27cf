"""Walks through time: the CPU's forms against the references, on drawn shapes and on any number of threads."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukeras.backend import threads
from gpukeras.kernels import recurrent, walks
from tests.helpers import assert_close

# For each cell: its gates, the slots of its arrays of gates, the columns of dz per unit.
CELLS = {"simple_rnn": (1, 1, 1), "lstm": (4, 6, 4), "gru_after": (3, 4, 4), "gru_before": (3, 4, 3)}

PROBLEMS = st.fixed_dictionaries(
    {
        "time": st.integers(0, 7),
        "batch": st.sampled_from([0, 1, 2, 3, 8, 17]),
        "units": st.sampled_from([1, 2, 5, 16]),
        "is_masked": st.booleans(),
        "has_dropout": st.booleans(),
        "has_dy": st.booleans(),
        "has_fill": st.booleans(),
        "dtype": st.sampled_from(["float32", "float64"]),
        "seed": st.integers(0, 99),
    }
)
PLAIN = {"time": 7, "batch": 17, "units": 5, "is_masked": True, "has_dropout": False, "has_dy": True}
PLAIN |= {"has_fill": True, "dtype": "float32", "seed": 0}


@pytest.fixture(params=["ahead", "halves"])
def shared(monkeypatch, request):
    """Share out small problems as if they were large ones: the input's part ahead of the walk, or walks of halves."""
    for name in ("_THREADED", "_FEW_STEPS", "_SHARED", "_RUN_ROWS", "_FILLED_ROWS"):
        monkeypatch.setattr(walks, name, 1)
    if request.param == "halves":
        monkeypatch.setattr(walks, "_HALVED", 1)
    monkeypatch.setattr(walks, "_FACTORS", 100)


def walk(cell, problem, is_reference=False):
    """Forwards, then backwards with two sums: all arrays that were written, and the sum."""
    gates, slots, columns = CELLS[cell]
    time, batch, units, dtype = (problem[name] for name in ("time", "batch", "units", "dtype"))
    rng = np.random.default_rng(problem["seed"])

    def random(*shape):
        return rng.standard_normal(shape).astype(dtype)

    z, h, kernel = random(slots, time, batch, units), random(time + 1, batch, units), 0.3 * random(units, gates * units)
    dropout = np.where(random(gates, batch, units) > 0, 0, 2).astype(dtype) if problem["has_dropout"] else None
    keep = random(time, batch, 1) > 0 if problem["is_masked"] else None
    dz, dh = random(time, batch, columns * units), random(batch, units)
    dy = random(time, batch, units) if problem["has_dy"] else None
    matrices, c, dc, bias = walks.by_gate(kernel, gates), random(batch, units), random(batch, units), random(units)
    forward, backward = getattr(recurrent, f"{cell}_forward"), getattr(recurrent, f"{cell}_backward")
    if is_reference:
        forward, backward = forward.reference, backward.reference
    products = np.zeros((time, batch), dtype)
    of_input, place = z[:gates].copy(), z[:gates]

    def fill_gates(steps):
        place[:, steps] = of_input[:, steps]

    if problem["has_fill"]:
        place[...] = np.nan

    def fill(steps):
        products[steps] += dz[steps].sum(axis=2)

    sums = (fill, lambda steps: np.einsum("tbi,tbj->ij", h[:-1][steps], dz[steps]))
    before = {"lstm": (c,), "gru_after": ()}.get(cell, ())
    after = {"gru_after": (bias,)}.get(cell, ())
    forward(z, h, *before, matrices, *after, dropout, keep, fill_gates if problem["has_fill"] else None)
    kept = {"simple_rnn": (h,), "lstm": (z,)}.get(cell, (z, h))
    found = backward(dz, dy, dh, *((dc,) if cell == "lstm" else ()), *kept, kernel, dropout, keep, sums)
    assert len(found) == 2 and found[0] is None
    return [*([] if cell == "simple_rnn" else [z]), h, c, dz, dh, dc, products, found[1]]


@pytest.mark.parametrize("cell", CELLS)
@given(problem=PROBLEMS)
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shared_walks_equal_the_reference(cell, shared, problem):
    with threads.use_count(2):
        actual = walk(cell, problem)
    for a, b in zip(actual, walk(cell, problem, is_reference=True), strict=True):
        assert_close(a, b, scale=20)  # sums of up to 7 * 17 terms, and gradients that add up from step to step


@pytest.mark.parametrize("cell", CELLS)
@given(problem=PROBLEMS)
@settings(max_examples=30, derandomize=True, deadline=None)
def test_plain_walks_equal_the_reference(cell, problem):
    for a, b in zip(walk(cell, problem), walk(cell, problem, is_reference=True), strict=True):
        assert_close(a, b, scale=20)  # as above


@pytest.mark.parametrize("cell", CELLS)
def test_the_bits_do_not_depend_on_the_number_of_threads(cell, shared):
    expected = None
    for count in (1, 2, 3, 2):
        with threads.use_count(count):
            bits = [array.tobytes() for array in walk(cell, PLAIN)]
        assert expected is None or bits == expected
        expected = bits


def test_a_step_waits_until_dz_is_complete(shared):
    """The sums are called for every step once, with dz as the walk leaves it."""
    seen, at_the_end = [], np.empty((7, 3, 8), "float32")
    rng = np.random.default_rng(0)
    h, kernel = rng.standard_normal((8, 3, 8)).astype("float32"), np.eye(8, dtype="float32")
    dz, dh = np.full((7, 3, 8), np.nan, "float32"), np.ones((3, 8), "float32")

    def look(steps):
        seen.extend(range(7)[steps])
        at_the_end[steps] = dz[steps]

    with threads.use_count(3):
        recurrent.simple_rnn_backward(dz, None, dh, h, kernel, None, None, (look,))
    assert sorted(seen) == list(range(7))
    assert np.isfinite(dz).all() and np.array_equal(at_the_end, dz)


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_the_input_ends_the_walk(shared, count):
    gates, h = np.zeros((1, 7, 3, 8), "float32"), np.zeros((8, 3, 8), "float32")

    def fail(steps):
        if steps.stop > 3:
            raise ZeroDivisionError

    with threads.use_count(count), pytest.raises(ZeroDivisionError):
        recurrent.simple_rnn_forward(gates, h, np.eye(8, dtype="float32")[None], None, None, fail)


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_a_sum_ends_the_walk(shared, count):
    dz, dh, h = np.empty((7, 3, 8), "float32"), np.ones((3, 8), "float32"), np.zeros((8, 3, 8), "float32")

    def fail(steps):
        raise ZeroDivisionError

    sums = (lambda steps: dz[steps].sum(), fail, lambda steps: dz[steps].sum())
    with threads.use_count(count), pytest.raises(ZeroDivisionError):
        recurrent.simple_rnn_backward(dz, None, dh, h, np.eye(8, dtype="float32"), None, None, sums)


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_the_walk_ends_it(shared, count):
    dz, dh, h = np.empty((7, 3, 8), "float32"), np.ones((3, 8), "float32"), np.zeros((8, 3, 8), "float32")
    with threads.use_count(count), pytest.raises(ValueError):
        recurrent.simple_rnn_backward(
            dz, None, dh, h, np.ones((9, 9), "float32"), None, None, (lambda steps: dz[steps],)
        )


def test_terms_are_added_in_the_order_of_their_places():
    """Large, small, and minus large: another order would give another sum."""
    terms = [1e20, 1.0, -1e20, 1.0]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        total = walks._Sum()
        workers = [threading.Thread(target=total.add, args=(place, np.array([terms[place]]))) for place in order]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=10)
        assert total.value[0] == 1.0
