"""The aims read the reports: what is better than the limit is reached, what is worse is not."""

import pytest

from bench import aims


def comparison(**figures):
    return {"compare": {"figures": figures}}


def cells(**medians):
    return {engine.replace("_", "-"): {"median": median} for engine, median in medians.items()}


def only(reports, what):
    (row,) = [row for row in aims.rows(reports) if row[0].startswith(what)]
    return row


@pytest.mark.parametrize(("mine", "is_reached"), [(0.9, True), (1.1, False)])
def test_the_best_peer_counts(mine, is_reached):
    reports = comparison(step={"mlp": cells(gpukeras=mine, jax=1.0, torch=5.0)})
    assert only(reports, "mlp")[1:] == ("at least 1.00", f"{1 / mine:.2f}", is_reached)


@pytest.mark.parametrize(
    ("name", "mine", "is_reached"), [("linear", 0.3, True), ("linear", 0.4, False), ("gru", 0.9, True)]
)
def test_small_models_are_to_be_ahead_by_more(name, mine, is_reached):
    assert only(comparison(step={name: cells(gpukeras=mine, jax=1.0)}), name)[3] is is_reached


def test_by_hand_has_aims_of_its_own():
    reports = comparison(step={"lstm": cells(gpukeras=1.2, raw_torch=1.0, jax=2.0)})
    assert [row[3] for row in aims.rows(reports)] == [True, True]  # 1.2 is within 1.3 of PyTorch by hand


def test_seconds_bytes_and_growth():
    reports = comparison(
        one={"tabular": cells(gpukeras=60e-6)},
        call={"tabular": cells(gpukeras=30e-6)},
        memory={"gru": cells(gpukeras=90e6, jax=80e6)},
        cold={"": cells(gpukeras=0.5)},
        size={"": cells(gpukeras=99e6)},
    )
    reports["memory"] = {
        "faults_per_step": {"mlp": 3.0, "gru": 101.0},
        "predict": {"calls": 100, "growth": 2e6},
        "fit": {"calls": 10, "growth": 0},
    }
    reports["sweep"] = {"sweeps": {"depth": {"exponent": 1.05}}}
    reports["import_time"] = {"import_above_numpy": {"median_ms": 101.0}}
    reached = {what: is_reached for what, _, _, is_reached in aims.rows(reports)}
    assert [what for what, is_reached in reached.items() if not is_reached] == [
        "tabular: `predict` of one row",
        "gru: peak memory of training",
        "`import gpukeras` above NumPy's",
        "page faults of a training step, at most",
        "growth over 100 calls of `predict`",
    ]
    assert len(reached) == 10


def test_nothing_measured_is_nothing_said():
    assert aims.rows({}) == []
