"""Training steps: eager, from the list of ops and captured, beside PyTorch and JAX. Losses are compared first.

A step is forward, backward and update of a batch that lies on the device, without the way of the data and without
metrics but the mean loss. Products of float32 are made in TF32 by all engines, as is gpukeras's default and JAX's.
"""

import contextlib

import numpy as np

import gpukeras as keras
from bench import gpu_peers, workloads
from bench.gpu_models import MODELS
from bench.gpu_products import import_torch, torch_clock
from bench.gpu_shared import Part, tf32, wall_clock, with_cudnn
from gpukeras.backend import cudnn, devices
from gpukeras.training import captures, step
from gpukeras.training.data import to_batch

__all__ = ["PART"]

WAYS = {"eager": {"run_eagerly": True}, "op list": {"jit_compile": False}, "captured": {}}
POLICIES = ("float32", "mixed_bfloat16")

# Largest relative differences of the first loss, and of the three after updates, from those of NumPy in float64. Adam's
# first updates have the size of its rate whatever the gradient's, so that rounding shows where a gradient is small.
TOLERANCES = {"float32": (1e-4, 1e-3), "mixed_bfloat16": (3e-2, 0.15)}


class WrongError(Exception):
    """Losses that are not NumPy's."""


def run(bench):
    """The rows."""
    torch, jax = import_torch(), gpu_peers.import_jax()
    for absent in [name for name, module in (("PyTorch", torch), ("JAX", jax)) if module is None]:
        yield {"model": absent, "engine": "is not installed, or sees no GPU"}
    for name in MODELS:
        expected = {}
        for policy in POLICIES:
            cells = {"model": name, "type": policy, "engine": "losses"}
            yield bench.row(cells, lambda name=name, policy=policy, known=expected: _agree(bench, name, policy, known))
        for policy in POLICIES:
            for way, settings in WAYS.items():
                cells = {"model": name, "type": policy, "engine": f"gpukeras {way}"}
                yield bench.row(cells, lambda name=name, p=policy, s=settings: _timed(bench, name, p, s))
            if isinstance(cudnn.version_or_reason(), int):
                cells = {"model": name, "type": policy, "engine": "gpukeras own kernels"}
                yield bench.row(cells, lambda name=name, policy=policy: _timed_without_cudnn(bench, name, policy))
            if torch is not None:
                cells = {"model": name, "type": policy, "engine": "torch eager"}
                yield bench.row(cells, lambda name=name, policy=policy: _torch(bench, torch, name, policy, False))
    for name in MODELS:  # what compiles for up to a minute each, after all else
        for policy in POLICIES:
            if jax is not None and name in gpu_peers.JAX_MODELS:
                cells = {"model": name, "type": policy, "engine": "jax jit"}
                yield bench.row(cells, lambda name=name, policy=policy: _jax(bench, jax, name, policy))
            if torch is not None:
                cells = {"model": name, "type": policy, "engine": "torch compiled"}
                yield bench.row(cells, lambda name=name, policy=policy: _torch(bench, torch, name, policy, True))


# --- gpukeras -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _policy(name):
    """Within the block, layers are made with a policy."""
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(None)  # floatx's again, also where floatx is another one just now


def _opened(name, size, policy, **settings):
    """A workload with its model compiled; smaller ones start from the weights that every engine starts from."""
    with _policy(policy):
        workload = MODELS[name](keras, size)
    workload.model.compile(workload.optimizer, workload.loss, **settings)
    if size != "full":
        workloads.reset(workload.model)
    return workload


def _losses(name, size, policy, steps=4):
    """The losses of some steps on the same batch."""
    workload = _opened(name, size, policy)
    fitted = workload.model.fit(
        workload.x, workload.y, batch_size=workload.batch_size, epochs=steps, shuffle=False, verbose=0
    )
    return [float(loss) for loss in fitted.history["loss"]]


def _agree(bench, name, policy, known):
    """Losses of eager steps and of a captured one, without TF32, against NumPy's in float64."""
    size = "tiny" if bench.is_tiny else "small"
    if not known:
        floatx = keras.config.floatx()
        keras.config.set_floatx("float64")
        try:
            with devices.use_device("numpy"):
                known["losses"] = _losses(name, size, "float64")
        finally:
            keras.config.set_floatx(floatx)
    with tf32(False):
        found = _losses(name, size, policy)
    off = [abs(a - b) / max(abs(b), 1e-3) for a, b in zip(found, known["losses"], strict=True)]
    if not (off[0] <= TOLERANCES[policy][0] and max(off) <= TOLERANCES[policy][1]):  # NaN is wrong too
        raise WrongError(f"{found}, but NumPy's in float64 are {known['losses']}")
    return {"note": f"the first is off by {off[0]:.1e}, the next three by up to {max(off[1:]):.1e}"}


def _timed(bench, name, policy, settings):
    """A step through `training.step`, as `fit` calls it."""
    workload = _opened(name, "tiny" if bench.is_tiny else "full", policy, **settings)
    model, batch = workload.model, to_batch((workload.x, workload.y))
    for _ in range(4):  # builds, writes down, records
        step.train(model, *batch)
    cells = _cells(bench.time(lambda: step.train(model, *batch)), workload)
    reasons = [graph.reason for graph in captures.graphs_of(model) if graph.reason]
    captures.forget(model)  # a graph holds the memory of a step
    keras.utils.clear_session()
    return cells | ({"note": f"not captured: {reasons[0]}"} if reasons else {})


def _timed_without_cudnn(bench, name, policy):
    """The captured step, where all others go through cuDNN as far as it has engines."""
    with with_cudnn(False):
        return _timed(bench, name, policy, WAYS["captured"])


def _cells(timing, workload):
    per_sample = int(np.prod(workload.y.shape[1:], dtype=np.int64)) if workload.y.ndim > 1 else 1
    return timing.cells() | {
        "batch": workload.batch_size,
        "per_second": workload.y.shape[0] * per_sample / timing.median,
    }


# --- Peers ----------------------------------------------------------------------------------------------------


def _torch(bench, torch, name, policy, is_compiled):
    workload = MODELS[name](keras, "tiny" if bench.is_tiny else "full")
    made = gpu_peers.torch_step(torch, name, "tiny" if bench.is_tiny else "full", workload, policy, is_compiled)
    timing = torch_clock(torch).measure(made, bench.seconds)
    torch.cuda.empty_cache()
    return _cells(timing, workload)


def _jax(bench, jax, name, policy):
    workload = MODELS[name](keras, "tiny" if bench.is_tiny else "full")
    made, state = gpu_peers.jax_step(jax, name, workload, policy)
    timing = wall_clock(lambda: jax.block_until_ready(state)).measure(made, bench.seconds)
    return _cells(timing, workload)


PART = Part(
    "Training steps: samples or tokens a second",
    (
        ("model", "model", "{:<9}"),
        ("type", "type", "{:<15}"),
        ("engine", "engine", "{:<20}"),
        ("batch", "batch", "{:6}"),
        ("ms", "ms", "{:9.3f}"),
        ("low_ms", "quartiles", "{:9.3f}"),
        ("high_ms", "", "{:9.3f}"),
        ("per_second", "a second", "{:12,.0f}"),
        ("note", "", "{}"),
    ),
    run,
)
