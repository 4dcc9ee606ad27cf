"""Page faults of a training step, and what stays behind after many calls.

    python -m bench.memory [--calls 100000] [--fits 200] [--json FILE]

Prints a line of JSON for each workload (minor page faults per step, after warm-up), one for `predict` of one row of the
tabular model, and one for `fit`: resident memory at the beginning and at tenths of the way, in bytes.
"""

import argparse
import gc
import json
from pathlib import Path

import gpukeras as keras
from bench import machine, workloads

__all__ = ["faults_per_step", "main", "memory_over"]


def faults_per_step(name, tiny=False, epochs=2):
    """Minor page faults of each training step of a workload, after as many epochs of warm-up."""
    workload = workloads.WORKLOADS[name](keras, tiny)
    model = workload.compile()

    def fit():
        model.fit(workload.x, workload.y, batch_size=workload.batch_size, epochs=epochs, verbose=0)

    fit()
    before = machine.page_faults()
    fit()
    steps = epochs * (len(workload.x) // workload.batch_size)
    return (machine.page_faults() - before) / steps


def memory_over(call, count):
    """Resident bytes after a warm-up of a hundredth of the calls, and after each tenth of them."""
    for _ in range(max(1, count // 100)):
        call()
    gc.collect()
    found = [machine.resident_memory()]
    for _ in range(10):
        for _ in range(count // 10):
            call()
        gc.collect()
        found.append(machine.resident_memory())
    return found


def main(arguments=None):
    """Measure and print; returns the report."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"some of {', '.join(workloads.WORKLOADS)}")
    parser.add_argument("--calls", type=int, default=100_000, help="of predict")
    parser.add_argument("--fits", type=int, default=200, help="calls of fit")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that it works")
    parser.add_argument("--json", metavar="FILE", help="where the report is written")
    options = parser.parse_args(arguments)

    report = {"bench": "memory", **machine.description(), "faults_per_step": {}}
    for name in workloads.named(options.workloads, parser):
        report["faults_per_step"][name] = faults = faults_per_step(name, options.tiny)
        print(json.dumps({"workload": name, "faults_per_step": faults}), flush=True)

    workload = workloads.tabular(keras, options.tiny)
    model = workload.compile()
    x, y = workload.x[: 2 * workload.batch_size], workload.y[: 2 * workload.batch_size]
    loops = {
        "predict": (lambda: model.predict(x[:1], verbose=0), options.calls),
        "fit": (lambda: model.fit(x, y, batch_size=workload.batch_size, verbose=0), options.fits),
    }
    for name, (call, count) in loops.items():
        resident = memory_over(call, count)
        report[name] = {"calls": count, "resident": resident, "growth": resident[-1] - resident[0]}
        print(json.dumps({"loop": name, **report[name]}), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
