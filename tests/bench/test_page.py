"""docs/speed.md says what the committed reports say."""

import json

from bench import bare, machine, memory, page, profile, sweep

REPORT = {
    "bench": "compare",
    "date": "2020-01-02",
    "runs": [
        {
            "date": "2020-01-02",
            "cpu": "A CPU",
            "cores": 4,
            "threads": 2,
            "system": "Linux x86_64",
            "rounds": 3,
            "load_average": {"before": 0.3, "after": 1.0},
            "others_share": 0.03,
            "settings": {"OMP_NUM_THREADS": "2"},
            "warnings": ["busy"],
        }
    ],
    "differences": {"mlp": ["mlp: torch's losses are 1, where others have 2."], "linear": []},
    "versions": {"gpukeras": {"python": "3.11", "numpy": "2.0"}, "jax": {"jax": "0.5"}},
    "figures": {
        "step": {
            "mlp": {
                "gpukeras": {"median": 0.002, "quartiles": [0.0019, 0.0021], "values": [0.0019, 0.002, 0.0021]},
                "jax": {"median": 0.003, "quartiles": [0.0029, 0.0031], "values": [0.0029, 0.003, 0.0031]},
                "raw-torch": {"median": 0.001, "quartiles": [0.001, 0.001], "values": [0.001, 0.001, 0.001]},
            },
            "linear": {"gpukeras": {"median": 0.001, "quartiles": [0.001, 0.001], "values": [0.001, 0.001]}},
        },
        "cold": {"": {"gpukeras": {"median": 0.5, "quartiles": [0.5, 0.5], "values": [0.5]}}},
    },
}


def test_page_is_what_the_generator_makes_of_the_reports(capsys):
    assert page.main(["--check"]) == 0, "run python -m bench.page"
    assert "is what" in capsys.readouterr().out


def test_figures_reach_the_page():
    text = page.page({"compare": REPORT})
    assert "A CPU, 2 of 4 cores" in text and "2020-01-02" in text and "OMP_NUM_THREADS=2" in text
    assert "other processes took 3% of" in text
    step = "| mlp | 2.00 <small>1.90-2.10</small> | 3.00 <small>2.90-3.10</small> | 1.00 <small>1.00-1.00</small> "
    assert step + "| **1.50** | **0.50** |" in text
    assert "| linear | 1.00 <small>1.00-1.00</small> |  |  |  |  |" in text
    assert text.index("| linear |") < text.index("| mlp |")  # the order of the workloads
    assert "|  | 0.500 |  |" in text  # the cold start has one row
    assert "torch's losses are 1" in text and "busy" not in text
    assert "OPENBLAS_NUM_THREADS" in text and "GPUKERAS_NUM_THREADS" in text


def test_the_distance_of_what_misses_an_aim_from_its_floor():
    lines = {name: {"ms": 0.1} for name in ("loss", "metrics", "optimizer", "data", "tape", "loop")}
    found = {
        "rows": lines,
        "profiled_ms": 1.0,
        "step_ms": 2.0,
        "processor_ms": 3.0,
        "floor_ms": 0.5,
        "gflops": 1.0,
        "gb_per_second": 1.0,
    }
    about = {"date": "2020-01-02", "cpu": "A", "cores": 2, "system": "L", "versions": {}, "settings": {}}
    of_steps = {"bench": "profile", **about, "profiles": {"mlp": found, "linear": found}}
    by_hand = {"bench": "bare", **about, "rows": {"mlp": {"times": 1.25, "quartiles": [1, 2], "library": 1, "bare": 1}}}
    text = page.page({"compare": REPORT, "profile": of_steps, "bare": by_hand})
    assert (
        "| mlp | 4.0 | 3.0 | 2.0 (PyTorch by hand) | 1.25 |" in text
    )  # half of PyTorch's speed: 4 times the floor to 2
    assert "| linear | 4.0 |" not in text  # nothing to compare it with
    assert "times the floor" not in page.page({"compare": REPORT})


def test_a_gpus_figures_reach_the_page():
    gpu = {"name": "A GPU", "processors": 7, "driver": "580", "cuda": 13020}
    parts = {
        "check": [{"check": "a", "detail": "fine"}, {"check": "b", "failed": "WrongError: off"}],
        "kernels": [
            {"kernel": "copy", "dtype": "float32", "gb_per_s": 4000.4},
            {"kernel": "adam", "dtype": "float32", "share": 0.927, "aim": 0.85},
            {"kernel": "sgd", "dtype": "float32", "share": 0.79, "aim": 0.8},
        ],
        "steps": [
            {"model": "mlp", "type": "float32", "engine": "losses", "note": "equal"},
            {"model": "mlp", "type": "float32", "engine": "gpukeras captured", "batch": 128, "ms": 0.0968},
            {"model": "mlp", "type": "float32", "engine": "torch eager", "batch": 128, "ms": 1.2},
            {"model": "mlp", "type": "float32", "engine": "jax jit", "batch": 128, "ms": 0.0726},
            {"model": "gpt2", "type": "mixed_bfloat16", "engine": "gpukeras captured", "batch": 4, "ms": 10},
            {"model": "gpt2", "type": "mixed_bfloat16", "engine": "gpukeras eager", "batch": 4, "ms": 7},
            {"model": "gpt2", "type": "mixed_bfloat16", "engine": "torch max-autotune", "batch": 4, "ms": 9},
            {"model": "lstm", "type": "float32", "engine": "gpukeras captured", "batch": 4, "ms": 2},
            {"model": "lstm", "type": "float32", "engine": "jax jit", "batch": 4, "ms": 3, "date": "2019-12-31"},
        ],
    }
    versions = dict.fromkeys(("python", "numpy", "cupy", "torch", "jax"), "1.0")
    report = {"date": "2020-01-02", "gpu": gpu, "versions": versions, "parts": parts}
    text = page.page({"gpu": report})
    changed = page.page({"gpu": report | {"changed_since": ["softmax", "dropout"]}})
    assert "not measured again: softmax; dropout." in changed and "measured again" not in text
    assert "2020-01-02: A GPU, 7 processors" in text and "1 lines of its check list hold" in text
    assert "These failed: `b` (WrongError: off)." in text and "(4000 GB/s)" in text
    assert "| MLP 784-512-512-10, Adam | float32 | 128 |  | 0.0968 | 1.2 |  | 0.0726 |" in text
    assert "| `adam` | 93% |  |" in text
    assert "| MLP 784-512-512-10, Adam, batch 128: a captured step | at most 60 us | 97 us | **no** |" in text
    assert (
        "MLP 784-512-512-10, Adam, float32: best peer's time over ours | at least 1 | 0.75 (jax jit) | **no** |" in text
    )
    assert "mixed_bfloat16: best peer's time over ours | at least 0.8 | 0.90 (torch max-autotune) | yes |" in text
    assert "LSTM, 100 steps, float32: best peer's time over ours | at least 1 | no peer in this run | **no** |" in text
    assert "Of 2019-12-31, on a GPU of the same kind with the same versions: jax jit." in text
    assert "Two runs. Not at night." in page.page({"gpu": report | {"runs": ["Two runs.", "Not at night."]}})
    assert "| kernels that memory limits, float32 | 85% (adam) or 80% of a copy's bandwidth | 1 of 2 | **no** |" in text


def test_every_kind_of_report_has_its_part(tmp_path, capsys):
    commands = {
        "profile": (profile.main, ["mlp", "--rounds", "1", "--seconds", "0.001"]),
        "memory": (memory.main, ["mlp", "--calls", "20", "--fits", "10"]),
        "sweep": (sweep.main, ["samples: mlp", "--rounds", "1"]),
        "bare": (bare.main, ["mlp", "--rounds", "2", "--seconds", "0.01"]),
    }
    reports = {name: main([*options, "--tiny"]) for name, (main, options) in commands.items()}
    reports["import_time"] = machine.description() | {
        name: {"median_ms": 12.3, "quartiles_ms": [11.6, 13.4]}
        for name in ("numpy", "gpukeras", "first_use", "import_above_numpy")
    }
    text = page.page(reports)
    for title in (
        "What is aimed at, and reached",
        "Bare NumPy",
        "Where a step's time goes",
        "Page faults and growth",
        "Growth with size",
        "Import",
    ):
        assert f"\n## {title}\n" in text
    assert text.count("| mlp |") == 3 and "| samples: mlp |" in text
    assert "| `import numpy` | 12 <small>12-13</small> |" in text
    assert f"{machine.cpu_name()}, {machine.cores()} cores" in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))


def test_a_differing_page_is_noticed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "PAGE", tmp_path / "speed.md")
    assert page.main(["--check"]) == 1
    assert page.main([]) == 0
    assert page.main(["--check"]) == 0
    page.PAGE.write_text(page.PAGE.read_text(encoding="utf-8") + "more\n", encoding="utf-8")
    assert page.main(["--check"]) == 1
    assert "differs" in capsys.readouterr().out


def test_the_newest_report_of_each_kind_is_taken(tmp_path):
    for name, report in {
        "b.json": {"bench": "sweep", "date": "2020-01-02", "number": 1},
        "a.json": {"bench": "sweep", "date": "2020-01-03", "number": 2},
        "c.json": {"bench": "memory", "date": "2020-01-01", "number": 3},
        "d.json": {"date": "2020-01-01"},
    }.items():
        (tmp_path / name).write_text(json.dumps(report), encoding="utf-8")
    assert {kind: report["number"] for kind, report in page.newest(tmp_path).items()} == {"sweep": 2, "memory": 3}
