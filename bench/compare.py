"""The same Keras script on gpukeras and on Keras with JAX, PyTorch and TensorFlow, side by side on one machine.

    python -m bench.compare --create                     # once: makes the environments, then measures everything
    python -m bench.compare                              # everything, many minutes
    python -m bench.compare mlp lstm                     # step and inference of two workloads
    python -m bench.compare mlp --measures step --engines gpukeras,jax --rounds 5

Every engine lives in its own virtual environment and process. The processes stay up and take turns: each trains for
about a third of a second, then the next, so that what disturbs the machine disturbs all. Printed are the median
and the quartiles over the rounds; `ahead` is the best Keras engine's median over gpukeras's (above 1: gpukeras is
ahead), `raw` the same for PyTorch by hand, which neither shuffles through Keras nor computes metrics.

Before timing, every engine starts from the same weights and reports its losses of the first nine steps; a difference
is printed. Everything runs on the CPU.
"""

import argparse
import collections
import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine, workloads

__all__ = ["ENGINES", "main", "ratio"]

MEASURES = {  # name -> what the table is called, its unit, and how many of them a second or a byte has
    "step": ("Training step", "ms", 1e3),
    "predict": ("predict(), each 256 rows of many", "ms", 1e3),
    "one": ("predict() of one row", "ms", 1e3),
    "call": ("model(x) of one row", "ms", 1e3),
    "first": ("First step in a fresh process, compilation included", "s", 1),
    "memory": ("Peak memory of training above that after the import", "MB", 1e-6),
    "cold": ("Fresh process: import, build, fit of the linear model for five epochs", "s", 1),
    "size": ("Installed", "MB", 1e-6),
}
OF_WORKLOADS = ("step", "predict", "one", "call")  # quick, and all that is measured when workloads are named

PAUSE = 0.05  # seconds between two engines' turns: OpenBLAS's and OpenMP's threads spin that long after work

TENSORFLOW = "tensorflow-cpu" if platform.machine() in ("x86_64", "AMD64") else "tensorflow"


class Engine(NamedTuple):
    """How an engine is started: its worker's kind, its environment's folder, what is installed there."""

    kind: str
    environment: str
    requirements: tuple
    variables: dict


ENGINES = {
    "gpukeras": Engine("gpukeras", "gpukeras", (str(machine.ROOT),), {"GPUKERAS_BACKEND": "numpy"}),
    "jax": Engine("keras", "jax", ("keras", "jax"), {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}),
    "torch": Engine("keras", "torch", ("keras", "torch"), {"KERAS_BACKEND": "torch"}),
    "tensorflow": Engine("keras", "tensorflow", ("keras", TENSORFLOW), {"KERAS_BACKEND": "tensorflow"}),
    "raw-torch": Engine("raw-torch", "torch", ("keras", "torch"), {}),
}
PEERS = ("jax", "torch", "tensorflow")


# --- Environments ----------------------------------------------------------------------------------------------


def interpreter(name, folder):
    """The Python of an engine's environment; for gpukeras, where it has none, the one that is running."""
    for place in ("bin/python", "Scripts/python.exe"):
        path = Path(folder) / ENGINES[name].environment / place
        if path.exists():
            return str(path)
    return sys.executable if name == "gpukeras" else None


def create(names, folder, pins):
    """Make the environments that are not there yet; `pins` replace requirements of the same name."""
    pins = {pin.partition("==")[0]: pin for pin in pins}
    for environment, requirements in {(ENGINES[n].environment, ENGINES[n].requirements) for n in names}:
        path = Path(folder) / environment
        if path.exists():
            continue
        wanted = [pins.get(requirement, requirement) for requirement in requirements]
        print(f"Creating {path}: {' '.join(wanted)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
        python = next(path / place for place in ("bin/python", "Scripts/python.exe") if (path / place).exists())
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)


def installed_size(name, folder):
    """Bytes of an environment's packages without pip and setuptools, None where it has none of its own."""
    python = interpreter(name, folder)
    if not (Path(folder) / ENGINES[name].environment).exists():
        return None
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip())
    tools = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    entries = [entry for entry in site.iterdir() if not entry.name.startswith(tools)]
    files = [file for entry in entries for file in ([entry] if entry.is_file() else entry.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


# --- Workers ---------------------------------------------------------------------------------------------------


class EngineError(Exception):
    """An engine answered with an error, or died."""


class Process:
    """An engine at work in a process of its own."""

    def __init__(self, name, folder, threads=None):
        self.name = name
        self.waited = self.idled = 0.0
        self._answered = None
        python = interpreter(name, folder)
        if python is None:
            raise EngineError(f"{name} has no environment in {folder}; --create makes it.")
        self._errors = tempfile.TemporaryFile()
        self._home = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [python, "-m", "bench.worker", ENGINES[name].kind],
            cwd=machine.ROOT,
            env=inherited() | variables(name, threads) | {"KERAS_HOME": self._home.name},  # nobody's own settings
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )

    def ask(self, do, **arguments) -> dict[str, Any]:
        """Have a command done; returns its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._answered is not None:
            self.waited += time.perf_counter() - self._answered
        with contextlib.suppress(BrokenPipeError):  # it died: the missing answer tells
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            tail = self._errors.read().decode(errors="replace").strip().splitlines()[-5:]
            raise EngineError(f"{self.name} ended during {do!r}: " + " | ".join(tail))
        answer = json.loads(line)
        self._answered = time.perf_counter()
        self.idled += answer.pop("idle_seconds")
        if "error" in answer:
            raise EngineError(f"{self.name}, {do!r}: {answer['error']}")
        return answer

    def close(self):
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()  # closes the pipes and waits
        self._errors.close()
        self._home.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def inherited():
    """This process's environment, without what forces NumPy's BLAS to kernels that it would not choose."""
    return {name: value for name, value in os.environ.items() if name not in machine.FORCING}


def variables(name, threads):
    """Environment variables of an engine's process."""
    result = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", **ENGINES[name].variables}
    if threads:
        names = [f"{library}_NUM_THREADS" for library in ("GPUKERAS", "OPENBLAS", "OMP", "MKL")]
        names += ["TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC", "BENCH_CORES"]  # NPROC is JAX's
        result |= dict.fromkeys(names, str(threads))
    return result


# --- Measuring -------------------------------------------------------------------------------------------------


class Comparison:
    """Measures, prints row by row, and keeps all figures for the report."""

    def __init__(self, options):
        self.options = options
        self.engines = options.engines
        self.figures = {}  # measure -> row -> engine -> list of values in seconds or bytes
        self.losses = {}  # workload -> engine -> losses
        self.differences = {}  # workload -> sentences on losses that differ
        self.versions = {}
        self.warnings = []
        self.idle = {}
        self.before = machine.load_average()
        self.others = machine.Others()

    def warn(self, text):
        """Print a warning and keep it for the report."""
        print(f"  warning: {text}", flush=True)
        self.warnings.append(text)

    def start(self, names):
        """Processes by name, those that start."""
        processes = {}
        for name in names:
            try:
                process = Process(name, self.options.environments, self.options.threads)
                try:
                    self.versions[name] = process.ask("load")["versions"]
                except EngineError:
                    process.close()
                    raise
                processes[name] = process
            except EngineError as error:
                self.warn(str(error))
        return processes

    # - Warm: the processes stay, the workload changes

    def run_warm(self, names):
        """Steps and inference of some workloads."""
        by_hand = any(name in workloads.HEAVY for name in names)
        processes = self.start([engine for engine in self.engines if by_hand or engine != "raw-torch"])
        try:
            for measure in OF_WORKLOADS:
                if measure in self.options.measures:
                    self.figures[measure] = {}
            if "step" in self.options.measures:
                self.head("step")
            for name in names:
                self._run_workload(name, processes)
            for name, process in processes.items():
                self.idle[name] = process.idled / max(process.waited, 1e-9)
                if self.idle[name] > 0.1:
                    self.warn(f"{name} used {self.idle[name]:.0%} of a core while others had their turn.")
        finally:
            for process in processes.values():
                process.close()
        for measure in ("predict", "one", "call"):
            if self.figures.get(measure):
                self.head(measure)
                for row in self.figures[measure]:
                    self.row(measure, row)

    def _run_workload(self, name, processes):
        opened = {}
        for engine, process in processes.items():
            if engine == "raw-torch" and name not in workloads.HEAVY:
                continue
            try:
                process.ask("open", workload=name, tiny=self.options.tiny)
                losses = process.ask("agree", steps=2 if self.options.tiny else 4)["losses"]
            except EngineError as error:
                self.warn(str(error))
                continue
            self.losses.setdefault(name, {})[engine] = losses
            opened[engine] = process
        if "step" in self.options.measures:
            self._take_turns("step", name, opened, "train", "epochs")
            self.row("step", name)
        self._check_losses(name)
        if name in workloads.INFERENCE:
            self._take_turns("predict", name, opened, "predict", "repeats")
        if name in workloads.ONE_ROW:
            keras = {engine: process for engine, process in opened.items() if engine != "raw-torch"}
            self._take_turns("one", name, keras, "predict_one", "repeats")
            self._take_turns("call", name, keras, "call_one", "repeats")
        for process in opened.values():
            process.ask("close")

    def _take_turns(self, measure, row, processes, command, count_name):
        """Rounds in which each engine repeats a command for about as long as the others."""
        if measure not in self.options.measures:
            return
        counts, values = {}, collections.defaultdict(list)

        def ask(engine, count):
            try:
                return processes[engine].ask(command, **{count_name: count})
            except EngineError as error:
                self.warn(str(error))
                del processes[engine]
                return None

        processes = dict(processes)
        for engine in list(processes):
            # The first steps have been done; the first prediction compiles.
            answer = ask(engine, 1) if command == "train" else ask(engine, 1) and ask(engine, 1)
            if answer:
                counts[engine] = max(1, math.ceil(self.options.seconds / (answer["seconds"] * answer.get("steps", 1))))
        for turn in range(self.options.rounds):
            order = list(processes)
            for engine in order if turn % 2 == 0 else reversed(order):
                time.sleep(PAUSE)
                answer = ask(engine, counts[engine])
                if answer:
                    values[engine].append(answer["seconds"])
        self.figures.setdefault(measure, {})[row] = dict(values)

    def _check_losses(self, name):
        """Engines that do the same work have the same loss."""
        losses = self.losses.get(name, {})
        reference = losses.get("gpukeras") or next(iter(losses.values()), None)
        found = self.differences[name] = []
        for engine, values in losses.items():
            # The first loss is of the same weights. Later ones also tell of the update, in which PyTorch places
            # RMSprop's epsilon elsewhere, and Keras on TensorFlow moves only those rows of an embedding that occur.
            tolerances = [1e-4] + [2e-2 if engine == "raw-torch" else 1e-3] * (len(values) - 1)
            triples = zip(reference, values, tolerances, strict=True)
            if not all(abs(ours - theirs) <= tolerance * abs(ours) for ours, theirs, tolerance in triples):
                found.append(f"{name}: {engine}'s losses are {_list(values)}, where others have {_list(reference)}.")
                self.warn(found[-1])

    # - Fresh: a process for every value

    def run_fresh(self, names):
        """First step, peak memory, cold start."""
        engines = [engine for engine in self.engines if engine != "raw-torch"]
        if "first" in self.options.measures or "memory" in self.options.measures:
            for name in names:
                for _ in range(self.options.fresh_rounds):
                    for engine in engines:
                        self._in_fresh_process(engine, self._first_and_memory, name)
        if "cold" in self.options.measures:
            for _ in range(self.options.fresh_rounds):
                for engine in engines:
                    self._in_fresh_process(engine, self._cold, "")
        for measure in ("first", "memory", "cold"):
            if measure in self.options.measures:
                self.head(measure)
                for row in self.figures.get(measure, {}):
                    self.row(measure, row)

    def _in_fresh_process(self, engine, measure, row):
        time.sleep(PAUSE)
        start = time.perf_counter()
        try:
            with Process(engine, self.options.environments, self.options.threads) as process:
                for name, value in measure(process, row, start):
                    if name in self.options.measures:
                        rows = self.figures.setdefault(name, {}).setdefault(row, {})
                        rows.setdefault(engine, []).append(value)
        except EngineError as error:
            self.warn(str(error))

    def _first_and_memory(self, process, workload, start):
        self.versions[process.name] = process.ask("load")["versions"]
        process.ask("open", workload=workload, tiny=self.options.tiny, weights=False)
        yield "first", process.ask("first_step")["seconds"]
        process.ask("train")
        yield "memory", process.ask("memory")["bytes"]

    def _cold(self, process, row, start):
        process.ask("first_fit")
        yield "cold", time.perf_counter() - start

    def run_sizes(self):
        """Bytes on disk of each environment."""
        if "size" not in self.options.measures:
            return
        sizes = {name: installed_size(name, self.options.environments) for name in self.engines if name != "raw-torch"}
        self.figures["size"] = {"": {name: [size] for name, size in sizes.items() if size is not None}}
        self.head("size")
        self.row("size", "")

    # - Printing

    def head(self, measure):
        """A table's title and columns."""
        title, unit, _ = MEASURES[measure]
        print(f"\n{title} ({unit}): median (quartiles)")
        names = "".join(f"{name:>24}" for name in self.engines)
        print(f"{'':12}{names}{'ahead':>8}{'raw':>7}", flush=True)

    def row(self, measure, name):
        """A table's line."""
        values = self.figures.get(measure, {}).get(name, {})
        factor = MEASURES[measure][2]
        cells = "".join(f"{_cell(values.get(engine), factor):>24}" for engine in self.engines)
        medians = {engine: machine.quartiles(v)[1] for engine, v in values.items()}
        print(f"{name:12}{cells}{_ratio(ratio(medians)):>8}{_ratio(ratio(medians, ('raw-torch',))):>7}", flush=True)

    def report(self, before=None):
        """All of it, for JSON; times in seconds, sizes in bytes. `before`: a report whose other figures are kept."""
        warning = self.others.warning()  # the engines have ended, so that their time is our own
        if warning:
            self.warn(warning)
        report = {"bench": "compare", "runs": [], "versions": {}, "losses": {}, "differences": {}, "figures": {}}
        report |= before or {}
        run = {
            **machine.description(),
            "others_share": self.others.share(),
            "load_average": {"before": self.before, "after": machine.load_average()},
            "threads": self.options.threads or machine.cores(),
            "rounds": self.options.rounds,
            "fresh_rounds": self.options.fresh_rounds,
            "seconds_a_round": self.options.seconds,
            "rows": {measure: list(rows) for measure, rows in self.figures.items()},
            "idle_share": {name: round(share, 4) for name, share in self.idle.items()},
            "warnings": self.warnings,
        }
        for earlier in report["runs"]:  # of which only those rows are kept that were not measured again
            for measure, rows in earlier["rows"].items():
                earlier["rows"][measure] = [row for row in rows if row not in run["rows"].get(measure, ())]
        report["runs"] = [earlier for earlier in report["runs"] if any(earlier["rows"].values())] + [run]
        report["date"] = run["date"]
        report["versions"].update(self.versions)
        report["losses"].update(self.losses)
        report["differences"].update(self.differences)
        for measure, rows in self.figures.items():
            for row, cells in rows.items():
                summaries = {name: _summary(values) for name, values in cells.items()}
                report["figures"].setdefault(measure, {})[row] = summaries
        return report


def ratio(medians, others=PEERS):
    """The best of some engines' medians over gpukeras's; None where one is missing."""
    found = [medians[name] for name in others if name in medians]
    return min(found) / medians["gpukeras"] if found and medians.get("gpukeras") else None


def _summary(values):
    low, middle, high = machine.quartiles(values)
    rounded = [float(f"{value:.4g}") for value in (low, middle, high, *values)]
    return {"median": rounded[1], "quartiles": [rounded[0], rounded[2]], "values": rounded[3:]}


def _cell(values, factor):
    if not values:
        return "-"
    low, middle, high = (number(factor * value) for value in machine.quartiles(values))
    return f"{middle} ({low}-{high})" if len(values) > 1 else middle


def number(value):
    """Three significant digits, without an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def _ratio(value):
    return "-" if value is None else f"{value:.2f}"


def _list(losses):
    return ", ".join(f"{loss:.5f}" for loss in losses)


def parse(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def names(known):
        def convert(text):
            chosen = text.split(",")
            unknown = [name for name in chosen if name not in known]
            if unknown:
                raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
            return chosen

        return convert

    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"some of {', '.join(workloads.WORKLOADS)}")
    parser.add_argument("--engines", type=names(ENGINES), default=list(ENGINES), help="separated by commas")
    parser.add_argument(
        "--measures",
        type=names(MEASURES),
        help=f"some of {','.join(MEASURES)}; default: all, or {','.join(OF_WORKLOADS)} where workloads are named",
    )
    parser.add_argument("--rounds", type=int, help="turns of each engine; 9 by default")
    parser.add_argument("--fresh-rounds", type=int, help="fresh processes for each value of first, memory, cold; 3")
    parser.add_argument("--seconds", type=float, help="length of a turn, at least an epoch; 0.3")
    parser.add_argument("--threads", type=int, help="cores that every engine may use; all by default")
    parser.add_argument("--json", metavar="FILE", help="where the figures are written")
    parser.add_argument("--update", action="store_true", help="keep those figures in FILE that are not measured again")
    parser.add_argument("--environments", metavar="FOLDER", default=machine.ROOT / ".bench", help="default: .bench/")
    parser.add_argument("--create", action="store_true", help="create the environments that are missing, by pip")
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="NAME==VERSION",
        help="version to install with --create; where from is pip's business (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL)",
    )
    parser.add_argument("--quick", action="store_true", help="a few short rounds, to see that it works")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that it works")
    options = parser.parse_args(arguments)
    options.names = workloads.named(options.workloads, parser)
    if options.update and not options.json:
        parser.error("--update needs --json FILE")
    options.measures = options.measures or (OF_WORKLOADS if options.workloads else tuple(MEASURES))
    for name, quick, usual in (("rounds", 2, 9), ("fresh_rounds", 1, 3), ("seconds", 0.05, 0.3)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    return options


def main(arguments=None):
    """Measure and print; returns the report."""
    options = parse(arguments)
    if options.create:
        create(options.engines, options.environments, options.pin)
    used = options.threads or machine.cores()
    print(f"{machine.cpu_name()}, {used} of {machine.cores()} cores, {platform.platform()}")
    comparison = Comparison(options)
    if set(options.measures) & set(OF_WORKLOADS):
        comparison.run_warm(options.names)
    comparison.run_fresh(options.names)
    comparison.run_sizes()
    before = None
    if options.update and Path(options.json).exists():
        before = json.loads(Path(options.json).read_text(encoding="utf-8"))
    report = comparison.report(before)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
