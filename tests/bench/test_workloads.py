"""The workloads are what their descriptions say, and the same in every process."""

import ast
from pathlib import Path

import numpy as np
import pytest

import bench
import gpukeras as keras
from bench import workloads

PARAMETERS = {
    "linear": 3,
    "mlp": 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10,
    "convnet": 320 + 18496 + 73856 + 11530,
    "residual": 992 + 18_688 + 58_112 + 230_912 + 1290,
    "lstm": 10_000 * 128 + 4 * 128 * (128 + 128 + 1) + 129,
    "gru": 2 * 3 * 32 * (14 + 32 + 2) + 65,
    "transformer": 462_336,
    "tabular": 32 * 64 + 64 + 64 * 64 + 64 + 65,
    "autoencoder": 320 + 18496 + 36928 + 18464 + 289,
}


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_sizes_are_those_of_the_description(name):
    workload = workloads.WORKLOADS[name](keras)
    assert workload.model.count_params() == PARAMETERS[name]
    assert len(workload.x) == len(workload.y)
    assert len(workload.x) % workload.batch_size == 0  # one shape of batch: compilers compile once
    assert len(workload.x) >= 4 * workload.batch_size


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_tiny_forms_train(name):
    workload = workloads.WORKLOADS[name](keras, tiny=True)
    model = workload.compile()
    workloads.reset(model)
    before = model.get_weights()
    history = model.fit(workload.x, workload.y, batch_size=workload.batch_size, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert len(history) == 1 + len(workload.metrics)
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


def test_data_and_weights_are_the_same_every_time():
    for one, other in zip(workloads.data("mlp", True), workloads.data("mlp", True), strict=True):
        np.testing.assert_array_equal(one, other)
    shapes = [(3, 4), (4,), (2, 2, 3, 4)]
    first, vector, last = workloads.arrays_like(shapes)
    np.testing.assert_array_equal(last, workloads.arrays_like(shapes)[2])
    assert vector is None and first.shape == (3, 4) and first.dtype == np.float32


def test_reset_gives_every_engine_the_same_matrices():
    models = [workloads.mlp(keras, tiny=True).compile() for _ in range(2)]
    for model in models:
        workloads.reset(model)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


def test_heavy_workloads_are_written_by_hand():
    source = Path(bench.__file__).with_name("raw_torch.py").read_text(encoding="utf-8")  # needs torch to be imported
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_NETWORKS":
            assert tuple(ast.literal_eval(key) for key in node.value.keys) == workloads.HEAVY
            return
    raise AssertionError("raw_torch.py has no _NETWORKS")


def test_inference_is_measured_on_workloads():
    assert {*workloads.HEAVY, *workloads.INFERENCE, *workloads.ONE_ROW} <= {*workloads.WORKLOADS}
