"""Training steps: eager and captured, beside PyTorch and JAX. The losses of each engine are compared first.

A step is forward, backward and update of a batch, with no metrics but the mean loss. The data lie on the device: the
peers compute on one batch where it lies, gpukeras takes its rows out of more of them, as `fit` does. Products of
float32 are made in TF32 by all engines, as is gpukeras's default and JAX's.

What is timed must have been right: from the same weights, at a size that NumPy can be asked about (`gpu_models`) and
without TF32, the losses of four steps are held against NumPy's in float64; and at full size the first four losses of
each engine against those of the first one. What has not passed has no time.
"""

import contextlib
import itertools

import numpy as np

import gpukeras as keras
from bench import gpu_jax, gpu_shared, gpu_torch, workloads
from bench.gpu_models import MODELS
from bench.gpu_products import torch_clock
from bench.gpu_shared import Part, tf32, wall_clock, with_cudnn
from gpukeras.autograd.symbolic import map_structure
from gpukeras.backend import cudnn, devices
from gpukeras.training import captures, step
from gpukeras.training.data import RowsBatch, open_data

__all__ = ["PART", "WrongError", "relative_differences"]

WAYS = {"eager": {"run_eagerly": True}, "captured": {}}
POLICIES = ("float32", "mixed_bfloat16")
COMPILED = f"torch {gpu_torch.COMPILED}"

# Largest relative differences of the first loss, and of the three after updates, from those of NumPy in float64. Adam's
# first updates have the size of its rate whatever the gradient's, so that rounding shows where a gradient is small.
TOLERANCES = {"float32": (1e-4, 1e-3), "mixed_bfloat16": (3e-2, 0.15)}
# PyTorch adds the optimizers' epsilon elsewhere: in the first steps as much as small gradients are.
TOLERANCE_OF_TORCH = 0.05
TOLERANCES_AT_FULL_SIZE = 3e-2, 0.15  # with TF32 or in 16 bits, between two engines

BATCHES = 8  # of an epoch that is timed


class WrongError(Exception):
    """Losses that are not NumPy's."""


def run(bench):
    """The rows."""
    torch, jax = gpu_torch.import_torch(), gpu_jax.import_jax()
    for absent in [name for name, module in (("PyTorch", torch), ("JAX", jax)) if module is None]:
        yield {"model": absent, "engine": "is not installed, or sees no GPU"}
    judge = _Judge("tiny" if bench.is_tiny else "small")

    def row(engine, function, name, policy, *arguments):
        cells = {"model": name, "type": policy, "engine": engine}
        return bench.row(cells, lambda: function(bench, judge, name, policy, *arguments))

    models = [(name, "") for name in MODELS] if bench.models is None else bench.models
    wanted = [(name, policy) for name, asked in models for policy in POLICIES if asked in ("", policy)]
    for name, policy in wanted:
        yield row("losses", _agree, name, policy)
        for way, settings in WAYS.items():
            yield row(f"gpukeras {way}", _timed, name, policy, settings)
        if isinstance(cudnn.version_or_reason(), int):
            yield row("gpukeras own kernels", _timed_without_cudnn, name, policy)
        if torch is not None:
            yield row("losses, torch", _torch_agrees, name, policy, torch)
            yield row("torch eager", _torch, name, policy, torch, False)
    for name, policy in wanted if jax is not None else ():  # what compiles for up to minutes each, after all else
        yield row("losses, jax", _jax_agrees, name, policy, jax)
        yield row("jax jit", _jax, name, policy, jax)
    for name, policy in wanted if torch is not None else ():
        yield row(COMPILED, _torch, name, policy, torch, True)


class _Judge:
    """What is known of the losses that engines must have, those of NumPy for models of a size."""

    def __init__(self, size):
        self.size = size
        self._expected = {}  # model -> losses of NumPy in float64
        self._right = set()  # (engine, model, policy) that agreed
        self._at_full_size = {}  # model -> losses of the first engine

    def agree(self, engine, name, policy, found, later=None):
        """Require losses to be NumPy's; returns the cells of the row."""
        expected = self._expected_of(name)
        first, rest = TOLERANCES[policy]
        off = relative_differences(found, expected)
        if not _are_near(found, expected, first, later or rest):
            raise WrongError(f"{found}, but NumPy's in float64 are {expected}")
        self._right.add((engine, name, policy))
        return {"note": f"the first is off by {off[0]:.1e}, the next three by up to {max(off[1:]):.1e}"}

    def require(self, engine, name, policy):
        """Raise where an engine's losses have not agreed."""
        if (engine, name, policy) not in self._right:
            raise WrongError("its losses are not NumPy's, or were not compared: it is not timed")

    def compare(self, name, losses):
        """Require four losses at full size to be those of the engine that came first."""
        expected = self._at_full_size.setdefault(name, losses)
        if not _are_near(losses, expected, *TOLERANCES_AT_FULL_SIZE):
            raise WrongError(f"{losses} at full size, but the first engine's are {expected}")

    def _expected_of(self, name):
        if name not in self._expected:
            floatx = keras.config.floatx()
            keras.config.set_floatx("float64")
            try:
                with devices.use_device("numpy"):
                    self._expected[name] = _losses(name, self.size, "float64")
            finally:
                keras.config.set_floatx(floatx)
        return self._expected[name]


def _are_near(losses, expected, first, later):
    """Whether the first loss, and the others, differ by no more than that; a NaN does."""
    off = relative_differences(losses, expected)
    return off[0] <= first and all(difference <= later for difference in off)


def relative_differences(found, expected):
    """Of losses, which may be near zero."""
    return [abs(a - b) / max(abs(b), 1e-3) for a, b in zip(found, expected, strict=True)]


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
    """A workload with its model compiled, always with the same weights: drawn by Keras's initializers, or smaller."""
    keras.utils.set_random_seed(30)
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


def _agree(bench, judge, name, policy):
    """Losses of eager steps and of a captured one."""
    with tf32(False):
        return judge.agree("gpukeras", name, policy, _losses(name, judge.size, policy))


def _timed(bench, judge, name, policy, settings):
    """A step through `training.step`, as `fit` calls it for data on the device."""
    judge.require("gpukeras", name, policy)
    workload = _opened(name, "tiny" if bench.is_tiny else "full", policy, **settings)
    model, data = workload.model, _repeated(workload)
    batches = itertools.islice(data.epoch(), 4)
    judge.compare(name, [_loss_of_step(model, batch) for batch in batches])  # which build, write down, record

    def epoch():
        for batch in data.epoch():
            _step(model, batch)

    cells = _cells(gpu_shared.Timing(*[seconds / BATCHES for seconds in bench.time(epoch)]), workload)
    reasons = [graph.reason for graph in captures.graphs_of(model) if graph.reason]
    captures.forget(model)  # a graph holds the memory of a step
    keras.utils.clear_session()
    return cells | ({"note": f"not captured: {reasons[0]}"} if reasons else {})


def _repeated(workload):
    """The data of an epoch of `BATCHES` steps, on the device: each batch is the workload's."""

    def repeat(array):
        return devices.to_device(np.tile(array, (BATCHES, *[1] * (array.ndim - 1))))

    x, y = map_structure(repeat, (workload.x, workload.y))
    return open_data(x, y, batch_size=workload.batch_size)


def _step(model, batch):
    if type(batch) is RowsBatch:
        step.fed("train", model, batch)
    else:
        step.train(model, *batch)


def _loss_of_step(model, batch):
    model.reset_metrics()
    _step(model, batch)
    return float(model.get_metrics_result()["loss"])


def _timed_without_cudnn(bench, judge, name, policy):
    """The captured step, where all others go through cuDNN as far as it has engines."""
    with with_cudnn(False):
        return _timed(bench, judge, name, policy, WAYS["captured"])


def _cells(timing, workload):
    per_sample = int(np.prod(workload.y.shape[1:], dtype=np.int64)) if workload.y.ndim > 1 else 1
    return timing.cells() | {
        "batch": workload.batch_size,
        "per_second": workload.y.shape[0] * per_sample / timing.median,
    }


# --- Peers ----------------------------------------------------------------------------------------------------


def _of_peer(name, size):
    """A workload whose weights a peer starts from."""
    return _opened(name, size, "float32")


def _torch_agrees(bench, judge, name, policy, torch):
    made = gpu_torch.torch_step(torch, name, judge.size, _of_peer(name, judge.size), policy, is_exact=True)
    later = max(TOLERANCE_OF_TORCH, TOLERANCES[policy][1])
    return judge.agree("torch", name, policy, [float(made()) for _ in range(4)], later)


def _torch(bench, judge, name, policy, torch, is_compiled):
    judge.require("torch", name, policy)
    size = "tiny" if bench.is_tiny else "full"
    workload = _of_peer(name, size)
    made = gpu_torch.torch_step(torch, name, size, workload, policy, is_compiled)
    judge.compare(name, [float(made()) for _ in range(4)])
    timing = torch_clock(torch).measure(made, bench.seconds)
    torch.cuda.empty_cache()
    return _cells(timing, workload)


def _jax_agrees(bench, judge, name, policy, jax):
    made = gpu_jax.jax_step(jax, name, _of_peer(name, judge.size), policy, is_exact=True)
    return judge.agree("jax", name, policy, [float(made()) for _ in range(4)])


def _jax(bench, judge, name, policy, jax):
    judge.require("jax", name, policy)
    workload = _of_peer(name, "tiny" if bench.is_tiny else "full")
    made, losses = gpu_jax.jax_step(jax, name, workload, policy), []

    def run():
        losses[:] = [made()]

    judge.compare(name, [float(made()) for _ in range(4)])
    timing = wall_clock(lambda: jax.block_until_ready(losses)).measure(run, bench.seconds)
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
