"""How the cost grows with batch size, depth and amount of data.

    python -m bench.sweep [SWEEP ...] [--rounds N] [--json FILE]

Each sweep varies one size, everything else fixed, and prints the median time for each, and the exponent: the slope of
log time over log size through the three largest sizes. 1 is linear growth; below it, something that does not grow
with the size still weighs.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np

import gpukeras as keras
from bench import machine, workloads

__all__ = ["SWEEPS", "exponent", "main"]


def _timed_fit(model, x, y, batch_size, epochs=1):
    start = time.perf_counter()
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)
    return time.perf_counter() - start


def _rows(array, count):
    return np.resize(array, (count, *array.shape[1:]))


def batch(name):
    """Seconds of a training step of a workload, by batch size."""

    def prepare(size, tiny):
        workload = workloads.WORKLOADS[name](keras, tiny)
        model = workload.compile()
        x, y = _rows(workload.x, 2 * size), _rows(workload.y, 2 * size)
        return lambda: _timed_fit(model, x, y, size) / 2

    return prepare


def depth_dense(size, tiny):
    """Seconds of a training step of a stack of Dense(256) layers, by their number."""
    units = 8 if tiny else 256
    stack = [keras.layers.Dense(units, activation="relu") for _ in range(size)]
    return _steps_of(keras.Sequential([keras.Input((units,)), *stack]), (128, units))


def depth_convolution(size, tiny):
    """Seconds of a training step of a stack of Conv2D(32, 3) layers on 16x16 images, by their number."""
    filters, side = (2, 4) if tiny else (32, 16)
    stack = [keras.layers.Conv2D(filters, 3, padding="same", activation="relu") for _ in range(size)]
    return _steps_of(keras.Sequential([keras.Input((side, side, filters)), *stack]), (32, side, side, filters))


def _steps_of(model, shape):
    """A function that gives the seconds of a step of a model whose output has its input's shape."""
    batch_size, *rest = shape
    x = np.random.default_rng(0).standard_normal((4 * batch_size, *rest), dtype=np.float32)
    model.compile("sgd", "mse")
    return lambda: _timed_fit(model, x, x, batch_size) / 4


def samples(size, tiny):
    """Seconds of an epoch of the MLP, by the number of samples."""
    workload = workloads.mlp(keras, tiny)
    model = workload.compile()
    x, y = _rows(workload.x, size), _rows(workload.y, size)
    return lambda: _timed_fit(model, x, y, workload.batch_size)


SWEEPS = {  # name -> (function that prepares a size, sizes)
    "batch: mlp": (batch("mlp"), (32, 128, 512, 2048, 8192)),
    "batch: convnet": (batch("convnet"), (16, 64, 256, 512)),
    "batch: lstm": (batch("lstm"), (16, 64, 256, 512)),
    "batch: transformer": (batch("transformer"), (8, 16, 32, 64)),
    "depth: Dense": (depth_dense, (1, 4, 16, 32, 64)),
    "depth: Conv2D": (depth_convolution, (1, 2, 4, 8, 16)),
    "samples: mlp": (samples, (1024, 4096, 16384, 65536)),
}


def exponent(sizes, seconds):
    """Slope of log(seconds) over log(size) through the last three points, by least squares."""
    x = [math.log(size) for size in sizes[-3:]]
    y = [math.log(value) for value in seconds[-3:]]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    return sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / sum((a - x_mean) ** 2 for a in x)


def main(arguments=None):
    """Measure and print; returns the report."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=f"some of {', '.join(SWEEPS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="tiny models and sizes, to see that it works")
    parser.add_argument("--json", metavar="FILE", help="where the report is written")
    options = parser.parse_args(arguments)

    others = machine.Others()
    report = {"bench": "sweep", **machine.description(), "rounds": options.rounds, "sweeps": {}}
    for name in options.sweeps or SWEEPS:
        if name not in SWEEPS:
            parser.error(f"{name!r} is none of {', '.join(SWEEPS)}")
        prepare, sizes = SWEEPS[name]
        if options.tiny:
            sizes = (4, 8, 16)
        runs = {size: prepare(size, options.tiny) for size in sizes}
        for run in runs.values():
            run()  # the first builds
        values = {size: [] for size in sizes}
        for _ in range(options.rounds):
            for size, run in runs.items():
                values[size].append(run())
        medians = [machine.quartiles(values[size])[1] for size in sizes]
        found = {"sizes": list(sizes), "seconds": medians, "exponent": exponent(sizes, medians)}
        report["sweeps"][name] = found
        cells = "  ".join(f"{size}: {1000 * value:.4g}" for size, value in zip(sizes, medians, strict=True))
        print(f"{name:20} exponent {found['exponent']:.2f}   ms by size  {cells}", flush=True)
    report["others_share"] = others.share()
    if others.warning():
        print(others.warning())
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
