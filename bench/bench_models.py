"""A training step and a prediction of every workload, by pytest-benchmark.

    python -m pytest bench

The device is the library's choice: set GPUKERAS_BACKEND to decide. Add --benchmark-json=FILE to keep the figures.
"""

import pytest

import gpukeras as keras
from bench.workloads import WORKLOADS
from gpukeras import ops


@pytest.fixture(params=WORKLOADS)
def batch(request):
    """A compiled model after one step, with a batch that lies on the device."""
    workload = WORKLOADS[request.param](keras)
    model = workload.compile()
    x = ops.convert_to_tensor(workload.x[: workload.batch_size])
    y = ops.convert_to_tensor(workload.y[: workload.batch_size])
    model.train_on_batch(x, y)
    return model, x, y


def test_training_step(benchmark, batch):
    """Forward, backward, update and metrics of one batch, through train_on_batch."""
    model, x, y = batch
    benchmark(model.train_on_batch, x, y)


def test_prediction(benchmark, batch):
    """The outputs for one batch, through predict_on_batch."""
    model, x, _ = batch
    benchmark(model.predict_on_batch, x)
