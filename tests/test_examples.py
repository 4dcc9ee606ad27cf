"""The example programs run, shortened, and print what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# What each example's output must match; a new example is entered here.
EXPECTED = {
    "custom_loop": r"Loop, epoch 2: loss \d.*train_step, epoch 2: .*mae \d.*the loop:",
    "digits": r"val_accuracy.*Test accuracy: \d.*gives the same predictions\.",
    "seed_chapter": r"shape=\(2, 32\), dtype=float32.*Epoch 5/5.*'accuracy'.*val_binary_accuracy",
    "transformer": r"MultiHeadAttent.*Before training: .Now is .*After training:  Now is ",
}


def test_every_example_is_known():
    assert {path.stem for path in EXAMPLES} == set(EXPECTED)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONWARNINGS": "error",
        "GPUKERAS_BACKEND": "numpy",
        "OPENBLAS_NUM_THREADS": "1",  # tests may share the cores with others
    }
    run = subprocess.run(
        [sys.executable, str(path), "--quick"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert not run.stderr
    assert re.search(EXPECTED[path.stem], run.stdout, re.DOTALL), run.stdout
    assert not list(tmp_path.iterdir()), "an example leaves files behind"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 100
