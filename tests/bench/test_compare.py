"""The comparison runs, prints, reports, and survives engines that are missing or fail."""

import json

import pytest

from bench import compare, machine

ONLY_OURS = ["--engines", "gpukeras", "--tiny", "--rounds", "2", "--seconds", "0.001", "--fresh-rounds", "1"]


def test_a_run_prints_and_reports(tmp_path, capsys):
    file = tmp_path / "report.json"
    compare.main(["mlp", "tabular", *ONLY_OURS, "--environments", str(tmp_path), "--json", str(file)])
    report = json.loads(file.read_text(encoding="utf-8"))
    figures = report["figures"]
    assert {measure: set(rows) for measure, rows in figures.items()} == {
        "step": {"mlp", "tabular"},
        "predict": {"mlp"},
        "one": {"mlp", "tabular"},
        "call": {"mlp", "tabular"},
    }
    cell = figures["step"]["mlp"]["gpukeras"]
    assert len(cell["values"]) == 2 and cell["quartiles"][0] <= cell["median"] <= cell["quartiles"][1]
    assert len(report["losses"]["mlp"]["gpukeras"]) == 3
    assert report["versions"]["gpukeras"]["gpukeras"]
    (run,) = report["runs"]
    assert run["cpu"] == machine.cpu_name() and run["threads"] == machine.cores()
    assert run["others_share"] is None or 0 <= run["others_share"] <= 1
    printed = capsys.readouterr().out
    assert "Training step (ms)" in printed and "model(x) of one row" in printed


def test_fresh_processes_and_update(tmp_path, capsys):
    file = tmp_path / "report.json"
    common = [*ONLY_OURS, "--environments", str(tmp_path), "--json", str(file)]
    compare.main(["linear", "--measures", "step", *common])
    compare.main(["linear", "--measures", "first,memory,cold,size", "--update", *common])
    report = json.loads(file.read_text(encoding="utf-8"))
    assert set(report["figures"]) == {"step", "first", "memory", "cold", "size"}
    assert report["figures"]["cold"][""]["gpukeras"]["median"] > 0
    assert report["figures"]["size"][""] == {}  # no environment of its own here
    assert len(report["runs"]) == 2
    assert "Fresh process" in capsys.readouterr().out


def test_a_missing_engine_is_a_warning(tmp_path, capsys):
    options = ["linear", *ONLY_OURS[2:], "--engines", "gpukeras,jax", "--environments", str(tmp_path)]
    report = compare.main(options)
    assert set(report["figures"]["step"]["linear"]) == {"gpukeras"}
    assert "jax has no environment" in capsys.readouterr().out


def test_a_dying_engine_says_what_it_printed(tmp_path, monkeypatch):
    monkeypatch.setitem(compare.ENGINES, "gpukeras", compare.ENGINES["gpukeras"]._replace(kind="keras"))
    python = tmp_path / "gpukeras" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 3\n")
    python.chmod(0o755)
    with compare.Process("gpukeras", tmp_path) as process:
        with pytest.raises(compare.EngineError, match="no such library"):
            process.ask("load")


def test_errors_of_a_worker_are_passed_on(tmp_path):
    with compare.Process("gpukeras", tmp_path, threads=1) as process:
        process.ask("load")
        with pytest.raises(compare.EngineError, match="KeyError"):
            process.ask("open", workload="unknown")
        assert process.ask("close") == {}
        assert process.waited > 0


def test_different_losses_are_a_warning(capsys):
    comparison = compare.Comparison(compare.parse(["mlp"]))
    comparison.losses["mlp"] = {"gpukeras": [1.0, 2.0, 3.0], "jax": [1.0, 2.0, 3.001], "raw-torch": [1.0, 2.02, 3.0]}
    comparison._check_losses("mlp")
    assert not [text for text in comparison.warnings if "losses" in text]
    comparison.losses["mlp"]["torch"] = [1.001, 2.0, 3.0]
    comparison._check_losses("mlp")
    assert "torch's losses are 1.00100, 2.00000, 3.00000, where others have 1.00000" in comparison.warnings[-1]


def test_ratio_is_the_best_peer_over_gpukeras():
    medians = {"gpukeras": 2.0, "jax": 3.0, "torch": 5.0, "raw-torch": 1.0}
    assert compare.ratio(medians) == 1.5
    assert compare.ratio(medians, ("raw-torch",)) == 0.5
    assert compare.ratio({"gpukeras": 2.0}) is None
    assert compare.ratio({"jax": 2.0}) is None


def test_numbers_have_three_digits():
    assert [compare.number(value) for value in (0, 0.01234, 1.0, 12.34, 1234.5)] == [
        "0",
        "0.0123",
        "1.00",
        "12.3",
        "1234",
    ]


def test_options():
    assert compare.parse([]).measures == tuple(compare.MEASURES)
    assert compare.parse(["mlp"]).measures == compare.OF_WORKLOADS
    assert compare.parse(["--quick"]).rounds == 2 < compare.parse([]).rounds
    for wrong in (["nothing"], ["--engines", "gpukeras,theano"], ["--measures", "beauty"], ["--update"]):
        with pytest.raises(SystemExit):
            compare.parse(wrong)


def test_threads_bind_every_library():
    found = compare.variables("gpukeras", 2)
    for name in ("GPUKERAS_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC"):
        assert found[name] == "2"
    assert "OPENBLAS_NUM_THREADS" not in compare.variables("gpukeras", None)


def test_create_makes_each_environment_once(tmp_path, monkeypatch):
    commands = []

    def run(command, check):
        commands.append(command)
        if "venv" in command:
            for place in ("bin", "Scripts"):
                (tmp_path / "torch" / place).mkdir(parents=True, exist_ok=True)
            (tmp_path / "torch" / "bin" / "python").touch()

    monkeypatch.setattr(compare.subprocess, "run", run)
    compare.create(["torch", "raw-torch"], tmp_path, ["torch==1.2"])
    compare.create(["torch"], tmp_path, [])  # it is there
    assert len(commands) == 2
    assert commands[0][1:3] == ["-m", "venv"]
    assert commands[1][1:] == ["-m", "pip", "install", "--quiet", "keras", "torch==1.2"]


def test_installed_size_leaves_out_pip(tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "numpy" / "core").mkdir(parents=True)
    (site / "numpy" / "core" / "a.so").write_bytes(bytes(1000))
    (site / "one.py").write_bytes(bytes(20))
    (site / "pip").mkdir()
    (site / "pip" / "b.py").write_bytes(bytes(5000))
    (tmp_path / "jax" / "bin").mkdir(parents=True)
    (tmp_path / "jax" / "bin" / "python").touch()

    class Done:
        stdout = f"{site}\n"

    monkeypatch.setattr(compare.subprocess, "run", lambda *args, **kwargs: Done)
    assert compare.installed_size("jax", tmp_path) == 1020
    assert compare.installed_size("gpukeras", tmp_path) is None
