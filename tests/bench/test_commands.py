"""The smaller commands run at tiny sizes and report what they say."""

import json
import math
import subprocess
import sys

import pytest

from bench import bare, machine, memory, sweep


def test_memory(tmp_path, capsys):
    file = tmp_path / "report.json"
    memory.main(["mlp", "linear", "--calls", "20", "--fits", "10", "--tiny", "--json", str(file)])
    report = json.loads(file.read_text(encoding="utf-8"))
    assert set(report["faults_per_step"]) == {"mlp", "linear"}
    assert report["predict"]["calls"] == 20 and report["fit"]["calls"] == 10
    assert report["fit"]["growth"] == report["fit"]["resident"][-1] - report["fit"]["resident"][0]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()][-1]["loop"] == "fit"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts resident pages by /proc")
def test_memory_sees_what_stays_behind():
    program = """
from bench import machine, memory
kept = []
resident = memory.memory_over(lambda: kept.append(b"\\1" * (1 << 20)), 100)
before = machine.page_faults()
kept.append(b"\\1" * (16 << 20))
print(len(resident), resident[-1] - resident[0], machine.page_faults() - before)
"""
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, growth, faults = map(int, made.stdout.split())  # in a process of its own: no memory of earlier tests is free
    assert count == 11 and growth > 50 << 20 and faults > 1000


def test_sweep(tmp_path, capsys):
    file = tmp_path / "report.json"
    sweep.main(["--rounds", "1", "--tiny", "--json", str(file)])
    report = json.loads(file.read_text(encoding="utf-8"))
    assert set(report["sweeps"]) == set(sweep.SWEEPS)
    for found in report["sweeps"].values():
        assert len(found["sizes"]) == len(found["seconds"]) and math.isfinite(found["exponent"])
    assert "exponent" in capsys.readouterr().out


@pytest.mark.parametrize("power", [0, 1, 2])
def test_exponent_is_the_slope_at_the_large_end(power):
    sizes = [1, 10, 20, 40]
    assert sweep.exponent(sizes, [99.0, *(3.0 * size**power for size in sizes[1:])]) == pytest.approx(power)


@pytest.mark.parametrize("command", [["call_count"], ["import_time", "--rounds", "2"]], ids=lambda command: command[0])
def test_commands_print_a_line_of_json(command):
    run = subprocess.run(
        [sys.executable, "-m", f"bench.{command[0]}", *command[1:]],
        cwd=machine.ROOT,
        check=True,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    report = json.loads(run.stdout)
    assert report["bench"] == command[0]
    assert report["cpu"] == machine.cpu_name() and report["versions"]["numpy"]


def test_quartiles_lie_between_the_sorted_values():
    assert machine.quartiles([5]) == (5, 5, 5)
    assert machine.quartiles([4, 1, 3, 2, 5]) == (2, 3, 4)
    assert machine.quartiles([1, 2]) == (1.25, 1.5, 1.75)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/stat")
def test_what_other_processes_take_is_noticed(monkeypatch):
    others = machine.Others()
    assert 0 <= others.share() and others.busy > 0 and others.own > 0
    monkeypatch.setattr(machine.time, "perf_counter", lambda: others.started + 10)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine, "_own_seconds", lambda: others.own + 30)
    monkeypatch.setattr(machine, "_busy_seconds", lambda: others.busy + 31)
    assert others.share() == 0.025 and others.warning() is None
    monkeypatch.setattr(machine, "_busy_seconds", lambda: others.busy + 38)
    assert others.share() == 0.2 and "20%" in others.warning()
    monkeypatch.setattr(machine, "_busy_seconds", lambda: None)
    assert others.share() is None and others.warning() is None


@pytest.mark.parametrize("name", bare.NAMES)
def test_the_bare_step_is_the_librarys(name):
    """The same losses from the same weights: what is timed is the same computation."""
    mine, theirs = bare.losses(name, epochs=3, tiny=True)
    assert mine[2] < mine[0]
    assert theirs == pytest.approx(mine, rel=1e-5)


def test_bare(tmp_path, capsys):
    file = tmp_path / "report.json"
    bare.main(["linear", "--rounds", "2", "--seconds", "0.01", "--tiny", "--json", str(file)])
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["rows"]["linear"]["library"] > 0 < report["rows"]["linear"]["bare"]
    assert capsys.readouterr().out.startswith("linear")
