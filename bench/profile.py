"""Where the time of a training step goes: by layer, forward and backward, and around the layers, against the floor.

    python -m bench.profile MODEL ... [--rounds N] [--json FILE]

MODEL is a workload of bench/workloads.py, or "all". The clock is switched, from outside of the library, whenever a
layer's `call` begins or ends, and when the tape walks back through an op that was recorded within it; each interval
counts for the innermost layer only. `loss`, `metrics`, `data` and `optimizer` are timed the same way; `tape` is the
walk itself and `loop` is the rest: `fit`, its callbacks, the step's own bookkeeping. Switching costs about a
microsecond; the line `unprofiled` gives the step without it.

The floor of a line is the larger of two times, both measured in the same run:

    GFLOP   its multiply-adds, times two, at the best rate of a 1024 x 1024 x 1024 product. They are counted from the
            shapes: products with the layer's matrices (once forward, once for their gradient, once for the input's
            where it is needed) and attention's two products.
    MB      its inputs, weights and outputs, and their gradients, each moved once, at the rate of copying 64 MB.
            What stays in the cache can be faster.
"""

import argparse
import collections
import contextlib
import functools
import json
import math
import time
from pathlib import Path

import numpy as np

import gpukeras as keras
from bench import machine, workloads
from gpukeras.autograd.scope import current
from gpukeras.autograd.symbolic import flatten
from gpukeras.autograd.tape import Tape
from gpukeras.autograd.tensor import Tensor
from gpukeras.training.data import ArrayData
from gpukeras.training.trainer import Trainer

__all__ = ["copy_rate", "main", "product_rate", "profile"]

AROUND = ("loss", "metrics", "data", "optimizer", "tape", "loop")  # rows below the layers


# --- The machine's rates ---------------------------------------------------------------------------------------


def product_rate(size=1024, repeats=10):
    """Multiply-adds times two, per second: the best of some float32 matrix products."""
    a, b = (np.random.default_rng(i).standard_normal((size, size), dtype=np.float32) for i in (0, 1))
    out = np.empty_like(a)
    return 2 * size**3 / _best(lambda: np.dot(a, b, out=out), repeats)


def copy_rate(size=64 << 20, repeats=10):
    """Bytes read and written per second: the best of some copies."""
    source = np.ones(size // 4, np.float32)
    target = np.zeros_like(source)
    return 2 * size / _best(lambda: np.copyto(target, source), repeats)


def _best(function, repeats):
    found = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        found = min(found, time.perf_counter() - start)
    return found


# --- The clock -------------------------------------------------------------------------------------------------


class _Clock:
    """Seconds by label; the innermost label that is entered gets the time."""

    def __init__(self):
        self.labels = [("loop", "forward")]
        self.start()

    def start(self):
        """Forget what was counted."""
        self.seconds = collections.Counter()
        self.entries = collections.Counter()
        self.last = time.perf_counter()

    def enter(self, row, direction):
        now = time.perf_counter()
        self.seconds[self.labels[-1]] += now - self.last
        self.last = now
        self.labels.append((row, direction))
        self.entries[row, direction] += 1

    def leave(self):
        now = time.perf_counter()
        self.seconds[self.labels.pop()] += now - self.last
        self.last = now


class _Shapes:
    """What a layer's call saw: shapes of its inputs and outputs, and whether the inputs' gradient is needed."""

    def __init__(self, layer, inputs, outputs):
        self.layer = layer
        self.inputs = [x.shape for x in inputs]
        self.outputs = [y.shape for y in outputs]
        self.needs_dx = any(id(x) in tape.tracked for tape in current.tapes for x in inputs)


@contextlib.contextmanager
def _switching(clock, model, shapes):
    """Within the block, layers, ops on their way back, loss, metrics, data and optimizer switch the clock."""
    with contextlib.ExitStack() as stack:

        def replace(owner, name, make):
            original = getattr(owner, name)
            stack.callback(setattr, owner, name, original)
            setattr(owner, name, functools.wraps(original)(make(original)))

        def timed(row, direction="forward"):
            def make(original):
                def call(*args, **kwargs):
                    clock.enter(row, direction)
                    try:
                        return original(*args, **kwargs)
                    finally:
                        clock.leave()

                return call

            return make

        def layer_call(original):
            def call(self, *args, **kwargs):
                clock.enter(self.path or self.name, "forward")
                try:
                    outputs = original(self, *args, **kwargs)
                finally:
                    clock.leave()
                if self not in shapes:
                    inputs = [x for x in flatten((args, kwargs)) if isinstance(x, Tensor)]
                    shapes[self] = _Shapes(self, inputs, [y for y in flatten(outputs) if isinstance(y, Tensor)])
                return outputs

            return call

        def record(original):
            def call(self, inputs, outputs, backward, needs):
                label = (clock.labels[-1][0], "backward")

                @functools.wraps(backward)  # with what it says about itself, such as that it takes deferred gradients
                def timed_backward(dy, needs):
                    clock.enter(*label)
                    try:
                        return backward(dy, needs)
                    finally:
                        clock.leave()

                return original(self, inputs, outputs, timed_backward, needs)

            return call

        def epoch(original):
            def call(*args, **kwargs):
                batches = original(*args, **kwargs)
                while True:
                    clock.enter("data", "forward")
                    try:
                        batch = next(batches)
                    except StopIteration:
                        return
                    finally:
                        clock.leave()
                    yield batch

            return call

        for owner in _definers(model._flatten_layers(), "call"):
            replace(owner, "call", layer_call)
        for owner in _definers(model.metrics, "update_state"):
            replace(owner, "update_state", timed("metrics"))
        for owner in _definers([model.optimizer], "apply"):
            replace(owner, "apply", timed("optimizer"))
        replace(Trainer, "compute_loss", timed("loss"))
        replace(ArrayData, "epoch", epoch)
        replace(Tape, "record", record)
        replace(Tape, "gradients", timed("tape", "backward"))
        yield


def _definers(objects, method):
    """The classes from which some objects have a method, each once."""
    return {next(c for c in type(one).__mro__ if method in vars(c)) for one in objects}


# --- The floor -------------------------------------------------------------------------------------------------


def _multiply_adds(layer, shapes):
    """Multiply-adds of a layer's own products: forward, and backward."""
    layers = keras.layers
    if isinstance(layer, layers.MultiHeadAttention):
        batch, targets, _ = shapes.inputs[0]
        sources = shapes.inputs[1][1]
        forward = batch * layer.num_heads * targets * sources * (layer.key_dim + (layer.value_dim or layer.key_dim))
        return forward, 2 * forward
    matrices = {v.name: v.size for v in layer.weights if len(v.shape) > 1 and "bias" not in v.name}
    if isinstance(layer, (layers.LSTM, layers.GRU, layers.SimpleRNN)):
        batch, steps, _ = shapes.inputs[0]
        inward, recurrent = matrices["kernel"], matrices["recurrent_kernel"]
        forward = batch * steps * (inward + recurrent)
        return forward, forward + batch * steps * (recurrent + (inward if shapes.needs_dx else 0))
    if isinstance(layer, (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)):
        forward = math.prod(shapes.inputs[0][:-1]) * matrices["kernel"]
    elif isinstance(layer, (layers.Conv1D, layers.Conv2D, layers.Conv3D)):
        forward = math.prod(shapes.outputs[0][:-1]) * matrices["kernel"]
    elif isinstance(layer, (layers.Dense, layers.EinsumDense)):
        # (rows, n) by (n, m) gives (rows, m): the product of all three sizes is the square of rows · n · m.
        sizes = math.prod(shapes.inputs[0]), math.prod(shapes.outputs[0]), matrices["kernel"]
        forward = math.isqrt(math.prod(sizes))
    else:
        return 0, 0
    return forward, (2 if shapes.needs_dx else 1) * forward


def _traffic(layer, shapes):
    """Elements that a layer must move: forward, and backward."""
    inputs = sum(map(math.prod, shapes.inputs))
    outputs = sum(map(math.prod, shapes.outputs))
    weights = sum(v.size for v in layer.weights)
    if isinstance(layer, keras.layers.Embedding):
        return inputs + 2 * outputs, outputs + weights  # rows out of the table; a gradient for all of it
    if any(sublayer in shapes.others for sublayer in layer._flatten_layers(include_self=False)):
        weights = 0  # they count for the sublayers
    forward = inputs + weights + outputs
    return forward, inputs + 2 * weights + outputs + (inputs if shapes.needs_dx else 0)


def _floors(model, shapes, workload, rates):
    """Row -> (GFLOP, MB, floor in ms), forward and backward together."""
    found = {}

    def enter(row, multiply_adds, elements):
        seconds = max(2 * multiply_adds / rates["flops"], 4 * elements / rates["bytes"])
        found[row] = {"gflop": 2e-9 * multiply_adds, "mb": 4e-6 * elements, "floor_ms": 1000 * seconds}

    containers = {model, getattr(model, "_functional", None)}
    for layer, seen in shapes.items():
        if layer in containers or isinstance(layer, (keras.layers.InputLayer, keras.layers.Bidirectional)):
            continue
        seen.others = shapes
        enter(layer.path or layer.name, sum(_multiply_adds(layer, seen)), sum(_traffic(layer, seen)))
    outputs = sum(map(math.prod, shapes[model].outputs))
    rows = workload.batch_size
    batch = (workload.x[:rows].nbytes + workload.y[:rows].nbytes) // 4
    parameters = sum(v.size for v in model.trainable_variables)
    state = sum(v.size for v in model.optimizer.variables)
    enter("loss", 0, 2 * outputs)
    enter("data", 0, 2 * batch)
    enter("optimizer", 0, 3 * parameters + 2 * state)  # reads gradients; reads and writes weights and its state
    return found


# --- The report ------------------------------------------------------------------------------------------------


def profile(name, tiny=False, rounds=7, seconds=0.5):
    """Profile a workload; returns what was found."""
    rates = {"flops": 0.0, "bytes": 0.0}  # the best over all rounds: on a shared machine one alone may be slow
    workload = workloads.WORKLOADS[name](keras, tiny)
    model = workload.compile()

    def fit(epochs=1):
        start = time.perf_counter()
        model.fit(workload.x, workload.y, batch_size=workload.batch_size, epochs=epochs, verbose=0)
        return time.perf_counter() - start

    def plainly(epochs):
        """Seconds of the clock and of all the process's threads together."""
        start = time.process_time()
        return fit(epochs), time.process_time() - start

    fit()
    epochs = max(1, math.ceil(seconds / fit()))
    steps = epochs * (len(workload.x) // workload.batch_size)
    clock, shapes, rounds_of = _Clock(), {}, []
    plain = []
    for _ in range(rounds):
        rates["flops"] = max(rates["flops"], product_rate(64 if tiny else 1024))
        rates["bytes"] = max(rates["bytes"], copy_rate((1 if tiny else 64) << 20))
        plain.append(plainly(epochs))
        model.run_eagerly = True  # layer by layer, where `fit` runs a list of ops if it can
        with _switching(clock, model, shapes):
            clock.start()
            fit(epochs)
            clock.enter("loop", "forward")  # settles what is still open
            clock.leave()
        model.run_eagerly = False
        rounds_of.append(dict(clock.seconds))

    def milliseconds(row, direction):
        return 1000 * machine.quartiles([round_.get((row, direction), 0.0) for round_ in rounds_of])[1] / steps

    found = [row for row, _ in clock.entries]
    order = [row for row in dict.fromkeys(found) if row not in AROUND]
    floors = _floors(model, shapes, workload, rates)
    table = {}
    for row in [*order, *AROUND]:
        forward, backward = milliseconds(row, "forward"), milliseconds(row, "backward")
        line = {"forward_ms": forward, "backward_ms": backward, "ms": forward + backward, **floors.get(row, {})}
        line["entries_per_step"] = sum(clock.entries[row, way] for way in ("forward", "backward")) / steps
        table[row] = line
    return {
        "gflops": rates["flops"] / 1e9,
        "gb_per_second": rates["bytes"] / 1e9,
        "step_ms": 1000 * machine.quartiles([seconds for seconds, _ in plain])[1] / steps,
        "processor_ms": 1000 * machine.quartiles([seconds for _, seconds in plain])[1] / steps,
        "profiled_ms": sum(line["ms"] for line in table.values()),
        "floor_ms": sum(line.get("floor_ms", 0.0) for line in table.values()),
        "rows": table,
    }


def show(name, found):
    """Print a workload's profile as a table."""
    print(f"{name}: {found['step_ms']:.3g} ms a step, {found['floor_ms']:.3g} at the floor of ", end="")
    print(f"{found['gflops']:.0f} GFLOP/s and {found['gb_per_second']:.1f} GB/s; {machine.cpu_name()}")
    heads = ("forward", "backward", "ms", "share", "GFLOP", "MB", "floor ms", "times")
    print(f"{'':44}" + "".join(f"{head:>10}" for head in heads))
    total = found["profiled_ms"]
    for row, line in found["rows"].items():
        cells = [f"{line['forward_ms']:.3f}", f"{line['backward_ms']:.3f}", f"{line['ms']:.3f}"]
        cells.append(f"{line['ms'] / total:.1%}")
        if "floor_ms" in line:
            cells += [f"{line['gflop']:.3f}", f"{line['mb']:.2f}", f"{line['floor_ms']:.3f}"]
            cells.append(f"{line['ms'] / line['floor_ms']:.1f}" if line["floor_ms"] else "-")
        print(f"{row:44}" + "".join(f"{cell:>10}" for cell in cells))
    print(f"{'sum':64}{total:>10.3f}{'':30}{found['floor_ms']:>10.3f}{total / found['floor_ms']:>10.1f}")
    print(f"{'unprofiled':64}{found['step_ms']:>10.3f}")
    print(f"{'of processors, all threads together':64}{found['processor_ms']:>10.3f}")


def main(arguments=None):
    """Profile and print; returns the report."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="+", metavar="MODEL", help=f"all, or {', '.join(workloads.WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a round")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that it works")
    parser.add_argument("--json", metavar="FILE", help="where the report is written")
    options = parser.parse_args(arguments)
    names = workloads.named([] if options.workloads == ["all"] else options.workloads, parser)
    others = machine.Others()
    report = {"bench": "profile", **machine.description(), "profiles": {}}
    for name in names:
        report["profiles"][name] = found = profile(name, options.tiny, options.rounds, options.seconds)
        show(name, found)
    report["others_share"] = others.share()
    if others.warning():
        print(others.warning())
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
