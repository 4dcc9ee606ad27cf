"""Writes docs/speed.md from the newest report of each kind in bench/results/.

    python -m bench.page [--check]

A report is what a command wrote with --json; its date and its field `bench` say which it is. With --check nothing is
written, and the exit status is 1 where the page is not what the reports say.
"""

import argparse
import json
import sys
from pathlib import Path

from bench import aims, gpu_page, machine
from bench.compare import ENGINES, MEASURES, number, ratio
from bench.markdown import paragraph, table
from bench.workloads import WORKLOADS

__all__ = ["main", "newest", "page"]

AROUND = ("loss", "metrics", "data", "optimizer", "tape", "loop")  # a profile's rows that are no layers

RESULTS = machine.ROOT / "bench" / "results"
PAGE = machine.ROOT / "docs" / "speed.md"

TITLES = {"gpukeras": "gpukeras", "jax": "Keras, JAX", "torch": "Keras, PyTorch", "tensorflow": "Keras, TensorFlow"}
TITLES["raw-torch"] = "PyTorch by hand"

INTRODUCTION = """\
# Speed

This page is written by `python -m bench.page` from the reports in `bench/results/`; no figure is typed by hand. First
comes the CPU, at the end a GPU.
"""

COMPARISON = """\
## Beside Keras

The same Keras script runs on gpukeras and on Keras with each of its other backends, and for some models beside a loop
written by hand in PyTorch. Every engine has its own virtual environment and its own process. The processes take turns,
a third of a second each, while the others sleep; given are medians, and in small print the quartiles, over the turns.
Times on shared machines drift by a factor of two from hour to hour; the ratios within a row, measured side by side,
drift less.

- **ahead** is the best Keras engine's median over gpukeras's: above 1, gpukeras is ahead of all of them.
- **by hand** is the same for PyTorch by hand, which shuffles and gathers its batches and sums its loss, but has no
  callbacks, no metrics and no data adapters.

All engines start from the same weights, see the same batches, and are checked to have the same losses over the first
nine steps. `python -m bench.compare --create` makes the environments and measures all of this again.
"""

EXPLANATIONS = {
    "step": "Through `fit`, from the beginning of the first epoch to the end of the last, over the number of steps; "
    "shuffling, metrics and callbacks included. What `fit` does once is left out.",
    "predict": "`model.predict(x, batch_size=256, verbose=0)` on 4096 rows, over 16.",
    "one": "`model.predict(x[:1], verbose=0)`.",
    "call": "`model(x[:1])`, until the result is there.",
    "first": "From the compiled model to the end of its first step, in a new process.",
    "memory": "Most memory that a new process held while it trained for an epoch, above what it held after importing "
    "the library and its models. The training data (0.1 to 26 MB, the same for all) are in it.",
    "cold": "A new process imports the library, builds a linear model and fits it for five epochs of 2000 points; from "
    "the start of Python to the result.",
    "size": "Files in the environment's site-packages, without pip and setuptools.",
}

THREADS = """\
## Threads, bits and memory

`OPENBLAS_NUM_THREADS` sets how many threads NumPy's BLAS uses for a matrix product, by default all cores;
`GPUKERAS_NUM_THREADS` sets how many gpukeras uses for the passes around them, by default as many as BLAS. gpukeras cuts
its work by shapes alone, so the number of its own threads never changes a bit of a result. OpenBLAS cuts by the number
of its threads: another `OPENBLAS_NUM_THREADS`, or another number of cores, may change last bits. So may other threads
that compute at the same time: while blocks of gpukeras multiply matrices, OpenBLAS is held to one thread in the whole
process.

When a model first trains or predicts, gpukeras asks glibc to keep freed blocks for the next array instead of giving
each back to the system at once. This holds for the whole process. Where more than 1 GB is free at the end of `fit`,
`evaluate` or `predict`, it goes back; `keras.utils.clear_session()` gives all of it back. `GPUKERAS_TUNE=0` leaves the
allocator, and how long OpenBLAS's idle threads wait, as they are. The number of threads is read when the first of them
is needed. `os.fork()` in the midst of a product of another thread's may hang, as in NumPy alone.
"""


REASONS = """\
Why an aim is missed:

- **Small models** (linear, tabular): from its third repetition on a step is a list of some forty NumPy calls, without
  layers around them. What the calls alone take is measured under "Bare NumPy" below. The rest is Python: a walk back
  over the list, metrics, callbacks, an update that can be undone. JAX runs one compiled function.
- **mlp**: a step is its matrix products and Adam's passes over 670,000 parameters; nothing generic is left to take away
  (see "Bare NumPy"). Compiled engines make Adam's eight passes in one.
- **Convolutions** (convnet, residual): columns are copied three times for a 3 x 3 kernel before they are multiplied.
  Others convolve without copies, in machine code made for the shape. "Where a step's time goes" sets each against the
  floor of its products and bytes.
- **Passes between products** (residual, transformer: normalization, activations): NumPy makes one pass for each
  operation, where a compiled engine makes one for all. Two threads that call NumPy wait for Python's lock at each
  call.
"""


def newest(folder=RESULTS):
    """The newest report of each kind, by name."""
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if "bench" in report and report["date"] >= found.get(report["bench"], report)["date"]:
            found[report["bench"]] = report
    return found


def page(reports):
    """The text of the page."""
    parts = [INTRODUCTION, _aims(reports)]
    for kind, write in WRITERS.items():
        if kind in reports:
            parts.append(write(reports[kind]))
    parts.append(THREADS)
    return "\n".join(parts)


def _setting(report):
    """One sentence on where and when."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if name != "gpukeras")
    settings = "".join(f", {name}={value}" for name, value in report["settings"].items())
    share = report.get("others_share")
    others = "" if share is None else f"; other processes took {share:.0%} of the cores' time"
    return paragraph(
        f"Measured on {report['date']}: {report['cpu']}, {report['cores']} cores, {report['system']}, {versions}"
        f"{settings}{others}."
    )


def _aims(reports):
    """The aims and what is reached of them."""
    found = aims.rows(reports)
    rows = [[what, aim, measured, "yes" if is_reached else "**no**"] for what, aim, measured, is_reached in found]
    reached = sum(is_reached for *_, is_reached in found)
    return "\n".join(
        [
            "## What is aimed at, and reached\n",
            paragraph(f"{reached} of {len(found)} aims on two cores are reached in the reports below."),
            table(["", "aim", "measured", "reached"], rows),
            REASONS,
            *_distances(reports),
        ]
    )


def _distances(reports):
    """How far each model whose step misses an aim is from its floors; nothing where a report is missing."""
    if not {"compare", "profile"} <= set(reports):
        return []
    profiles, bare = reports["profile"]["profiles"], reports.get("bare", {"rows": {}})["rows"]
    rows = []
    for name in aims.missed(reports):
        if name not in profiles:
            continue
        medians = aims.medians(reports["compare"]["figures"], "step", name)
        times = profiles[name]["step_ms"] / profiles[name]["floor_ms"]
        best = min((engine for engine in medians if engine != "gpukeras"), key=medians.__getitem__)
        theirs = times * medians[best] / medians["gpukeras"]
        by_hand = f"{bare[name]['times']:.2f}" if name in bare else ""
        shared = profiles[name]["processor_ms"] / reports["profile"]["cores"] / profiles[name]["floor_ms"]
        rows.append([name, f"{times:.1f}", f"{shared:.1f}", f"{theirs:.1f} ({TITLES[best]})", by_hand])
    if not rows:
        return []
    return [
        paragraph(
            "How far these are from what the machine could do: a step over the floor of its products and bytes, as "
            '"Where a step\'s time goes" has it; over the same, the time that its NumPy calls take the cores, were it '
            "shared among them without a pause, and the fastest engine's, by the ratio of both in the comparison; and "
            "the step over the same one in bare NumPy."
        ),
        table(["", "times the floor", "no core idle", "fastest engine", "times bare NumPy"], rows),
    ]


def _bare(report):
    rows = []
    for name, found in report["rows"].items():
        low, high = found["quartiles"]
        times = f"{found['times']:.2f} <small>{low:.2f}-{high:.2f}</small>"
        rows.append([name, number(1e3 * found["library"]), number(1e3 * found["bare"]), times])
    return "\n".join(
        [
            "## Bare NumPy\n",
            paragraph(
                "A training step beside the same step written out in NumPy calls for this one model, with no tape, no "
                "checks and no callbacks, in the same process by turns. `python -m bench.bare` measures it."
            ),
            _setting(report),
            table(["", "gpukeras, ms", "bare NumPy, ms", "times"], rows),
        ]
    )


def _comparison(report):
    runs = report["runs"]
    last = runs[-1]
    dates = " and ".join(sorted({run["date"] for run in runs}))
    others = max(run["others_share"] or 0.0 for run in runs)
    settings = "".join(f", {name}={value}" for name, value in last["settings"].items())
    versions = []
    for engine, found in report["versions"].items():
        if engine != "raw-torch":
            listed = ", ".join(f"{name} {version}" for name, version in found.items())
            versions.append(f"{TITLES[engine]}: {listed}")
    text = [
        COMPARISON,
        paragraph(
            f"Measured on {dates}: {last['cpu']}, {last['threads']} of {last['cores']} cores, {last['system']}"
            f"{settings}; {last['rounds']} turns; other processes took {others:.0%} of the cores' time at "
            f"most. {'; '.join(versions)}."
        ),
    ]
    text += [_measure(measure, report["figures"][measure]) for measure in MEASURES if measure in report["figures"]]
    differences = [difference for found in report["differences"].values() for difference in found]
    if differences:
        text.append("Losses that differ by more than rounding does:\n")
        text.append("".join(f"- {difference}\n" for difference in differences))
    return "\n".join(text)


def _measure(measure, rows):
    title, unit, factor = MEASURES[measure]
    engines = [engine for engine in ENGINES if any(engine in cells for cells in rows.values())]
    has_raw = "raw-torch" in engines
    head = [unit, *(TITLES[engine] for engine in engines), "ahead", *(["by hand"] if has_raw else [])]
    lines = []
    for name in sorted(rows, key=[*WORKLOADS, ""].index):
        cells = rows[name]
        medians = {engine: cell["median"] for engine, cell in cells.items()}
        line = [name, *(_cell(cells.get(engine), factor) for engine in engines), _ratio(ratio(medians))]
        if has_raw:
            line.append(_ratio(ratio(medians, ("raw-torch",))))
        lines.append(line)
    return f"### {title}\n\n{paragraph(EXPLANATIONS[measure])}\n{table(head, lines)}"


def _cell(cell, factor):
    if cell is None:
        return ""
    middle = number(factor * cell["median"])
    if len(cell["values"]) < 2:
        return middle
    low, high = (number(factor * value) for value in cell["quartiles"])
    return f"{middle} <small>{low}-{high}</small>"


def _ratio(value):
    return "" if value is None else f"**{value:.2f}**"


def _profile(report):
    rows = []
    for name, found in report["profiles"].items():
        lines = found["rows"]
        layers = [line for row, line in lines.items() if row not in AROUND]
        around = [lines[row]["ms"] for row in ("loss", "metrics", "optimizer", "data")]
        parts = [sum(line["forward_ms"] for line in layers), sum(line["backward_ms"] for line in layers)]
        parts += [around[0] + around[1], around[2], around[3], lines["tape"]["ms"] + lines["loop"]["ms"]]
        shares = [f"{part / found['profiled_ms']:.0%}" for part in parts]
        floor = found["floor_ms"]
        rows.append([name, number(found["step_ms"]), *shares, number(floor), f"{found['step_ms'] / floor:.1f}"])
    gflops = [found["gflops"] for found in report["profiles"].values()]
    gigabytes = [found["gb_per_second"] for found in report["profiles"].values()]
    head = ["", "ms a step", "layers forward", "backward", "loss, metrics", "optimizer", "data", "tape, loop"]
    return "\n".join(
        [
            "## Where a step's time goes\n",
            paragraph(
                "Shares of a training step, and how many times the floor it takes. The floor counts each layer's "
                f"matrix products at the best rate measured beside it ({min(gflops):.0f}-{max(gflops):.0f} GFLOP/s), "
                f"or its arrays moved once at the rate of a large copy ({min(gigabytes):.0f}-{max(gigabytes):.0f} "
                "GB/s), whichever is longer. For a small model it is next to nothing: there the step is the number of "
                "NumPy calls times their cost, and Python's. `python -m bench.profile MODEL` lists every layer."
            ),
            _setting(report),
            table([*head, "floor, ms", "times"], rows),
        ]
    )


def _memory(report):
    rows = [[name, f"{faults:.1f}"] for name, faults in report["faults_per_step"].items()]
    text = [
        "## Page faults and growth\n",
        paragraph(
            "Minor page faults of a training step, after warm-up: memory that the system had to hand out anew. "
            "`python -m bench.memory` counts them."
        ),
        _setting(report),
        table(["workload", "faults a step"], rows),
    ]
    for name in ("predict", "fit"):
        loop = report[name]
        text.append(
            f"{loop['calls']:,} calls of `{name}` on the tabular model changed resident memory by "
            f"{loop['growth'] / 1e6:.2f} MB.\n"
        )
    return "\n".join(text)


def _sweep(report):
    rows = []
    for name, sweep in report["sweeps"].items():
        cells = zip(sweep["sizes"], sweep["seconds"], strict=True)
        listed = ", ".join(f"{size}: {number(1000 * seconds)}" for size, seconds in cells)
        rows.append([name, f"{sweep['exponent']:.2f}", listed])
    return "\n".join(
        [
            "## Growth with size\n",
            paragraph(
                "Cost of a training step against batch size and depth, and of an epoch against the number of samples. "
                "The exponent is the slope of log time over log size through the three largest sizes; 1 is linear. "
                "`python -m bench.sweep` measures it."
            ),
            _setting(report),
            table(["sweep", "exponent", "ms by size"], rows),
        ]
    )


def _import(report):
    programs = {
        "numpy": "`import numpy`",
        "gpukeras": "`import gpukeras, numpy`",
        "first_use": "`import gpukeras; gpukeras.Model`",
    }
    rows = []
    for name, program in programs.items():
        low, high = report[name]["quartiles_ms"]
        rows.append([program, f"{report[name]['median_ms']:.0f} <small>{low:.0f}-{high:.0f}</small>"])
    return "\n".join(
        [
            "## Import\n",
            paragraph(
                "Fresh processes, the start of Python included. The package imports its parts at first use, so the "
                "cost of `gpukeras.Model`, which needs them all, is given too. `python -m bench.import_time` measures "
                "it."
            ),
            _setting(report),
            table(["program", "ms"], rows),
        ]
    )


WRITERS = {
    "compare": _comparison,
    "bare": _bare,
    "profile": _profile,
    "memory": _memory,
    "sweep": _sweep,
    "import_time": _import,
    "gpu": gpu_page.section,
}


def main(arguments=None):
    """Write the page, or compare; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the page is right")
    options = parser.parse_args(arguments)
    text = page(newest())
    if options.check:
        is_right = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print("docs/speed.md " + ("is what" if is_right else "differs from what") + " bench/results/ says.")
        return 0 if is_right else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
