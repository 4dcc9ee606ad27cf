"""The profile accounts for every layer and for the work around them."""

import json
import sys

import pytest

import gpukeras as keras
from bench import profile as profiling
from bench import workloads
from gpukeras.autograd.tape import Tape
from gpukeras.kernels.pooling import _MaxPoolGradient
from gpukeras.training.data import ArrayData
from gpukeras.training.trainer import Trainer


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_every_layer_and_everything_around_is_counted(name):
    report = profiling.profile(name, tiny=True, rounds=1, seconds=0.001)
    rows = report["rows"]
    model = workloads.WORKLOADS[name](keras, tiny=True).model
    kinds = [layer for layer in model._flatten_layers(include_self=False) if layer.weights and layer.built]
    leaves = [layer for layer in kinds if not any(sub.weights for sub in layer._flatten_layers(include_self=False))]
    assert leaves or name == "gru"
    cells = sum(type(layer).__name__.endswith("Cell") for layer in leaves)  # run by their layer, all steps at once
    counted = [row for row, line in rows.items() if line.get("gflop") or "normalization" in row or "embedding" in row]
    assert len(counted) >= len(leaves) - cells
    for row in counted:
        assert rows[row]["forward_ms"] > 0 and rows[row]["backward_ms"] > 0, row
        assert rows[row]["floor_ms"] > 0, row
    for row in ("loss", "metrics", "data", "optimizer", "tape"):
        assert rows[row]["entries_per_step"] > 0 and rows[row]["ms"] > 0, row
    assert rows["optimizer"]["entries_per_step"] == 1
    assert report["floor_ms"] < report["profiled_ms"]


def test_the_library_is_left_as_it_was():
    before = [keras.layers.Dense.call, Trainer.compute_loss, ArrayData.epoch, Tape.record, Tape.gradients]
    profiling.profile("tabular", tiny=True, rounds=1, seconds=0.001)
    after = [keras.layers.Dense.call, Trainer.compute_loss, ArrayData.epoch, Tape.record, Tape.gradients]
    assert before == after


def multiply_adds(name, part=""):
    """Multiply-adds of a workload's layers with `part` in their names, in the model's order, none left out."""
    rows = profiling.profile(name, tiny=True, rounds=1, seconds=0.001)["rows"]
    return [line["gflop"] * 1e9 / 2 for row, line in rows.items() if line.get("gflop") and part in row]


def test_multiply_adds_of_dense_layers():
    # Forward and the kernel's gradient for all; the input's gradient for those after the first.
    batch = 4
    assert multiply_adds("mlp") == pytest.approx([2 * batch * 12 * 16, 3 * batch * 16 * 16, 3 * batch * 16 * 10])


def test_multiply_adds_of_convolutions():
    batch = 4
    down = [2 * batch * 4 * 4 * 9 * 1 * 2, 3 * batch * 2 * 2 * 9 * 2 * 4]  # by the positions of the output
    up = [3 * batch * 2 * 2 * 9 * 4 * 4, 3 * batch * 4 * 4 * 9 * 4 * 2]  # transposed: of the input
    assert multiply_adds("autoencoder") == pytest.approx([*down, *up, 3 * batch * 8 * 8 * 9 * 2 * 1])


def test_multiply_adds_of_recurrences():
    batch, steps = 4, 6
    assert multiply_adds("lstm", "lstm") == pytest.approx([3 * batch * steps * (8 * 32 + 8 * 32)])
    # The series is data: no gradient through the product with it.
    assert multiply_adds("gru", "gru") == pytest.approx([batch * steps * (2 * 3 * 12 + 3 * 4 * 12)] * 2)


def test_multiply_adds_of_attention():
    batch, heads, tokens, size, width = 4, 2, 8, 4, 8
    own = 3 * 2 * batch * heads * tokens * tokens * size
    projections = [3 * batch * tokens * width * width] * 4
    assert multiply_adds("transformer", "multi_head") == pytest.approx([own, *projections] * 2)


def test_command_prints_a_table(capsys, tmp_path):
    file = tmp_path / "report.json"
    profiling.main(["linear", "mlp", "--tiny", "--rounds", "1", "--seconds", "0.001", "--json", str(file)])
    printed = capsys.readouterr().out
    assert "unprofiled" in printed and "floor ms" in printed and "optimizer" in printed
    assert list(json.loads(file.read_text(encoding="utf-8"))["profiles"]) == ["linear", "mlp"]
    with pytest.raises(SystemExit):
        profiling.main(["nothing"])


def test_rates_are_positive():
    assert profiling.product_rate(64, 2) > 0
    assert profiling.copy_rate(1 << 16, 2) > 0


def test_gradients_that_wait_still_do(monkeypatch):
    """What is timed is what runs otherwise: no tape makes arrays of gradients that convolutions take as they are."""
    callers = set()

    def noting(self, original=_MaxPoolGradient.array):
        callers.add(sys._getframe(1).f_globals["__name__"])
        return original(self)

    monkeypatch.setattr(_MaxPoolGradient, "array", noting)
    profiling.profile("convnet", rounds=1, seconds=0.001)
    assert callers <= {"gpukeras.kernels.deferred"}  # a kernel that wants the whole
