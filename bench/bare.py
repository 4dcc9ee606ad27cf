"""A training step in bare NumPy calls beside the library's: what is left for a small model when nothing is generic.

    python -m bench.bare [WORKLOAD ...] [--rounds N] [--seconds S] [--tiny] [--json FILE]

The fully connected workloads, linear, mlp and tabular, are written out by hand for their layers, their loss and their
optimizer: gather of the batch, forward, loss and accuracy, backward, update, into arrays that exist, with no tape, no
checks, no callbacks and no shapes to find out. The two take turns in one process and start from the same weights;
their losses are compared first. `times` is the library's median over the bare one's.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

import gpukeras as keras
from bench import machine, workloads
from gpukeras.backend import process

__all__ = ["NAMES", "Bare", "main"]

NAMES = ("linear", "mlp", "tabular")


class Bare:
    """A stack of dense layers with rectifiers between them, its loss and its optimizer.

    Args:
        name: One of NAMES, which decides loss and optimizer.
        weights: Kernel and bias of every layer.
        batch_size: Rows of a step.
    """

    def __init__(self, name, weights, batch_size):
        self.name = name
        sizes = [array.size for array in weights]
        ends = np.cumsum(sizes)
        self.param, self.grad, self.momenta, self.velocity, self.scratch, self.step_size = np.zeros(
            (6, ends[-1]), np.float32
        )
        places = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        for place, array in zip(places, weights, strict=True):
            self.param[place] = array.reshape(-1)
        self.weights, self.gradients = (
            [flat[place].reshape(a.shape) for place, a in zip(places, weights, strict=True)]
            for flat in (self.param, self.grad)
        )
        kernels = weights[::2]
        self.outputs = [np.empty((batch_size, kernel.shape[1]), np.float32) for kernel in kernels]
        self.inputs = np.empty((batch_size, kernels[0].shape[0]), np.float32)
        self.ones, self.rows = np.ones(batch_size, np.float32), np.arange(batch_size)
        self.count = 0
        self.loss = self.hits = 0.0

    def epoch(self, x, y, order):
        """All steps of an epoch; returns the mean loss."""
        self.loss = self.hits = 0.0
        size = len(self.rows)
        steps = len(order) // size
        for i in range(steps):
            picked = order[i * size : (i + 1) * size]
            x.take(picked, axis=0, out=self.inputs, mode="clip")
            self.step(self.inputs, y.take(picked, axis=0, mode="clip"))
        return self.loss / steps

    def step(self, x, y):
        """One update."""
        inputs = [x, *self.outputs[:-1]]
        for i, out in enumerate(self.outputs):
            np.dot(inputs[i], self.weights[2 * i], out=out)
            out += self.weights[2 * i + 1]
            if i < len(self.outputs) - 1:
                np.maximum(out, 0, out=out)
        d = getattr(self, f"_{self.name}_loss")(self.outputs[-1], y)
        for i in reversed(range(len(self.outputs))):
            np.dot(inputs[i].T, d, out=self.gradients[2 * i])
            np.dot(self.ones, d, out=self.gradients[2 * i + 1])
            if i:
                d = np.dot(d, self.weights[2 * i].T)
                d *= inputs[i] > 0
        if self.name == "linear":
            np.multiply(self.grad, 0.01, self.scratch)
            np.subtract(self.param, self.scratch, self.param)
        else:
            self._adam()

    def _linear_loss(self, y, target):
        d = y - target
        self.loss += float(np.vdot(d, d)) / len(d)
        self.hits += np.count_nonzero(y == target)
        d *= 2 / len(d)
        return d

    def _tabular_loss(self, z, target):
        p = np.exp(-z)
        p += 1
        np.reciprocal(p, out=p)
        clipped = np.clip(p, 1e-7, 1 - 1e-7)
        self.loss -= float(np.mean(target * np.log(clipped) + (1 - target) * np.log(1 - clipped)))
        self.hits += np.count_nonzero((p > 0.5) == target)
        return (p - target) * (1 / len(p))

    def _mlp_loss(self, z, label):
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        self.loss -= float(np.log(z[self.rows, label]).mean())
        self.hits += np.count_nonzero(z.argmax(axis=1) == label)
        z[self.rows, label] -= 1
        z *= 1 / len(z)
        return z

    def _adam(self):
        self.count += 1
        alpha = np.float32(0.001 * (1 - 0.999**self.count) ** 0.5 / (1 - 0.9**self.count))
        g, m, v, s, t = self.grad, self.momenta, self.velocity, self.scratch, self.step_size
        np.subtract(g, m, s)
        np.multiply(s, 0.1, s)
        np.add(m, s, m)
        np.multiply(g, g, s)
        np.subtract(s, v, s)
        np.multiply(s, 0.001, s)
        np.add(v, s, v)
        np.sqrt(v, s)
        np.add(s, 1e-7, s)
        np.multiply(m, alpha, t)
        np.divide(t, s, t)
        np.subtract(self.param, t, self.param)


def losses(name, steps=8, epochs=2, tiny=False):
    """Mean losses by epoch of the library and of the bare step, from the same weights and in the same order.

    Over few steps: rounding differs, and Adam's first updates make much of it.
    """
    workload = workloads.WORKLOADS[name](keras, tiny=tiny)
    model = workload.compile()
    bare = Bare(name, model.get_weights(), workload.batch_size)
    x, y = (a[: steps * workload.batch_size] for a in (workload.x, workload.y))
    fitted = model.fit(x, y, batch_size=workload.batch_size, epochs=epochs, shuffle=False, verbose=0)
    order = np.arange(len(x))
    return fitted.history["loss"], [bare.epoch(x, y, order) for _ in range(epochs)]


def measure(name, rounds, seconds, tiny=False):
    """Medians of both, in seconds a step, and the ratio's."""
    workload = workloads.WORKLOADS[name](keras, tiny=tiny)
    model, batch_size = workload.compile(), workload.batch_size
    x, y = workload.x, workload.y
    bare = Bare(name, model.get_weights(), batch_size)
    random = np.random.default_rng(0)
    steps = len(x) // batch_size

    def library():
        model.fit(x, y, batch_size=batch_size, verbose=0)

    def by_hand():
        bare.epoch(x, y, random.permutation(len(x)))

    found = {library: [], by_hand: []}
    for function in found:
        function()
    for _ in range(rounds):
        for function, times in found.items():
            start, epochs = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                function()
                epochs += 1
            times.append((time.perf_counter() - start) / epochs / steps)
    ratios = [a / b for a, b in zip(found[library], found[by_hand], strict=True)]
    return {
        "library": statistics.median(found[library]),
        "bare": statistics.median(found[by_hand]),
        "times": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios, n=4)[::2],
    }


def main(arguments=None):
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.bare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"some of {', '.join(NAMES)}; default: all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn, at least an epoch")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that it works")
    parser.add_argument("--json", metavar="FILE", help="where the figures are written")
    options = parser.parse_args(arguments)
    unknown = set(options.workloads) - set(NAMES)
    if unknown:
        parser.error(f"there is no bare step of {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    process.prepare()
    others = machine.Others()
    rows = {}
    for name in options.workloads or NAMES:
        for mine, bare in zip(*losses(name, tiny=options.tiny), strict=True):
            if abs(mine - bare) > 1e-4 * abs(bare):
                print(f"{name}: the losses differ, {mine} and {bare}")
        rows[name] = found = measure(name, options.rounds, options.seconds, options.tiny)
        print(
            f"{name:10} {1000 * found['library']:8.3f} ms, bare NumPy {1000 * found['bare']:8.3f} ms, "
            f"times {found['times']:.2f}"
        )
    report = {"bench": "bare", "rows": rows, **machine.description(), "others_share": others.share()}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
