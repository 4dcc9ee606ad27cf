"""The worker's commands, within this process and over its pipes."""

import json
import subprocess
import sys

import pytest

from bench import machine
from bench.worker import Worker


@pytest.fixture
def worker():
    worker = Worker("gpukeras")
    worker.load()
    worker.open(workload="tabular", tiny=True)
    return worker


def test_measurements_are_seconds(worker):
    answer = worker.train(epochs=3)
    assert answer["steps"] == 6 and answer["seconds"] > 0
    for measure in (worker.predict_one, worker.call_one, worker.first_step):
        assert measure()["seconds"] > 0
    assert worker.predict(rows=4, batches=2, repeats=2)["seconds"] > 0
    assert worker.memory()["bytes"] >= 0


def test_equal_weights_and_data_give_equal_losses(worker):
    other = Worker("gpukeras")
    other.load()
    other.open(workload="tabular", tiny=True)
    losses = worker.agree(steps=2)["losses"]
    assert len(losses) == 3 and losses == other.agree(steps=2)["losses"]


def test_every_turn_starts_from_the_same_weights(worker):
    worker.train(epochs=2)
    after = [array.copy() for array in worker.first]
    worker.train(epochs=1)
    assert all((one == other).all() for one, other in zip(after, worker.first, strict=True))


def test_own_weights_are_kept_on_request():
    worker = Worker("gpukeras")
    worker.load()
    worker.open(workload="tabular", tiny=True, weights=False)
    assert worker.first is None
    assert worker.train()["seconds"] > 0


def test_closing_lets_go(worker):
    worker.close()
    assert worker.model is None and worker.x is None
    worker.close()


def test_first_fit_learns_the_clouds():
    assert Worker("gpukeras").first_fit()["loss"] < 0.2


def test_answers_come_line_by_line_and_prints_do_not_disturb_them():
    commands = [{"do": "load"}, {"do": "open", "workload": "linear", "tiny": True}, {"do": "open", "workload": "no"}]
    program = "import os; os.environ['A'] = '1'; from bench import worker; worker.Worker.load = load; worker.main()"
    prints = "def load(self):\n    import os\n    print('one'); os.write(1, b'two')\n    return {'loaded': True}\n"
    run = subprocess.run(
        [sys.executable, "-c", prints + program, "gpukeras"],
        cwd=machine.ROOT,
        input="".join(json.dumps(command) + "\n" for command in commands),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert [answer.pop("idle_seconds") >= 0 for answer in answers] == [True] * 3
    assert answers[0] == {"loaded": True}
    assert "error" in answers[1]  # without load() there is no library to build with
    assert answers[2]["error"].startswith("KeyError")
    assert "one" in run.stderr and "two" in run.stderr
