"""All that wants a GPU, in one report: what is right, how fast the kernels, the products and whole steps are.

    python -m bench.gpu                              # everything, less than ten minutes
    python -m bench.gpu check kernels --json FILE    # some parts; the figures are written to a file
    python -m bench.gpu --tiny --seconds 0.01        # tiny sizes, to see that it works

The parts:
    check     kernels against their references, products against float64, captured steps against eager ones, memory
    kernels   time and bandwidth of each kernel that memory limits, beside a copy on the device; what limits the others
    products  cuBLASLt through gpukeras, beside CuPy and PyTorch
    steps     training steps, eager and captured, beside PyTorch and JAX; losses are compared with NumPy's first

Each part has a process of its own, since after one bad access no call to CUDA succeeds in a process; `--together` keeps
all in one. What fails is a line of the report, and the rest goes on. Times are medians over CUDA's events. The
exit status is 1 where there is no usable GPU, or a check failed.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import gpu_check, gpu_kernels, gpu_products, gpu_steps, machine
from bench.gpu_models import MODELS
from bench.gpu_shared import Bench, one_line
from gpukeras.backend import devices

__all__ = ["PARTS", "main"]

PARTS = {
    "check": gpu_check.PART,
    "kernels": gpu_kernels.PART,
    "products": gpu_products.PART,
    "steps": gpu_steps.PART,
}


def reason_against():
    """Why nothing can be measured here, with the cure; None where a GPU computes."""
    try:
        if devices.default_device() == "cupy":
            return None
    except RuntimeError:  # GPUKERAS_BACKEND=cupy, and no GPU
        pass
    is_usable, message = devices.probe()
    return "GPUKERAS_BACKEND asks for NumPy; set it to cupy" if is_usable else message


def device_facts():
    """Name, memory, driver and CUDA of the GPU, as far as they can be told."""
    cuda = devices.default_module().cuda
    runtime = getattr(cuda, "runtime", None)
    if runtime is None:
        return {"name": "a CUDA made of NumPy"}
    properties = runtime.getDeviceProperties(cuda.Device().id)
    return {
        "name": properties["name"].decode(),
        "memory": properties["totalGlobalMem"],
        "processors": properties["multiProcessorCount"],
        "driver": _driver(),
        "driver_cuda": runtime.driverGetVersion(),
        "cuda": runtime.runtimeGetVersion(),
    }


def _driver():
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip().partition("\n")[0]
    except (OSError, subprocess.TimeoutExpired):
        return None


# --- Printing -------------------------------------------------------------------------------------------------


def head(part):
    """Print a table's title and headings."""
    print(f"\n{part.title}", flush=True)
    print("  ".join(_aligned(heading, form) for _, heading, form in part.columns).rstrip(), flush=True)


def line(part, row):
    """Print a row: its cells, or those up to the first missing one and why they are missing."""
    cells = []
    for key, _, form in part.columns:
        if key not in row and "failed" in row:
            break
        cells.append(_aligned("" if row.get(key) is None else form.format(row[key]), form))
    print("  ".join([*cells, *(["FAILED: " + row["failed"]] if "failed" in row else [])]).rstrip(), flush=True)


def _aligned(text, form):
    """The text as wide as a format such as ``{:9.1f}`` or ``{:<20}`` makes it: to the left where that says so."""
    specification = form.partition(":")[2].rstrip("}")
    width = int("".join(c for c in specification.lstrip("<").partition(".")[0] if c.isdigit()) or 0)
    return text.ljust(width) if specification.startswith("<") else text.rjust(width)


# --- Running --------------------------------------------------------------------------------------------------


def run_here(name, bench, rows, save):
    """Add the rows of a part to a list and print them one by one; after each all is saved, should the next end it."""
    part = PARTS[name]
    head(part)
    try:
        for row in part.run(bench):
            line(part, row)
            rows.append(row)
            save()
    except Exception as error:  # of what comes before and between the rows
        rows.append({part.columns[0][0]: name, "failed": one_line(error)})
        line(part, rows[-1])


def run_apart(name, options, limit):
    """The rows of a part that a process of its own prints, and the versions of what it used."""
    part = PARTS[name]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        command = [sys.executable, "-m", "bench.gpu", name, "--together", "--json", str(file)]
        command += ["--seconds", str(options.seconds), "--limit", str(limit), *(["--tiny"] if options.tiny else [])]
        command += ["--models", options.models] if options.models else []
        try:
            status = subprocess.run(command, cwd=machine.ROOT, timeout=limit + 60).returncode
        except subprocess.TimeoutExpired:
            status = "no end"
        report = (
            json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"parts": {name: []}, "versions": {}}
        )
    rows = report["parts"][name]
    if status != int(name == "check" and has_failed(rows)) or not rows:
        rows.append({part.columns[0][0]: name, "failed": f"the process ended with {status}"})
        line(part, rows[-1])
    return rows, report["versions"]


def has_failed(rows):
    """Whether something is wrong in a part's rows."""
    return any("failed" in row for row in rows)


def main(arguments=None):
    """Run the parts, print them, write the report; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--json", metavar="FILE", help="where the figures are written")
    parser.add_argument(
        "--models", help="whose steps are timed, in this order, also in one type: gpt2:mixed_bfloat16,mlp"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each timing")
    parser.add_argument("--limit", type=float, default=540, help="seconds after which what has not begun is left out")
    parser.add_argument("--together", action="store_true", help="all parts in this process")
    options = parser.parse_args(arguments)
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"{name!r} is none of {', '.join(PARTS)}")
    models = options.models and [tuple(item.partition(":")[::2]) for item in options.models.split(",")]
    for name, policy in models or ():
        if name not in MODELS:
            parser.error(f"{name!r} is none of the models {', '.join(MODELS)}")
        if policy not in ("", *gpu_steps.POLICIES):
            parser.error(f"{policy!r} is none of the types {', '.join(gpu_steps.POLICIES)}")
    reason = reason_against()
    if reason is not None:
        print(f"bench.gpu needs a GPU that CuPy can compute on: {reason}")
        return 1
    names, started = options.parts or list(PARTS), time.monotonic()
    facts, found, versions = device_facts(), {}, {}

    def save():
        report = {"bench": "gpu", **machine.description(), "gpu": facts, "tiny": options.tiny, "parts": found}
        report["versions"] |= versions
        report["seconds"] = round(time.monotonic() - started)
        if options.json:
            Path(options.json).write_text(json.dumps(_finite(report), indent=1) + "\n", encoding="utf-8")

    bench = Bench(options.tiny, options.seconds, options.limit, models) if options.together else None
    if bench is None:
        print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    for name in names:
        if bench is not None:
            found[name] = []
            run_here(name, bench, found[name], save)
        else:
            left = max(options.limit - (time.monotonic() - started), 1)
            found[name], used = run_apart(name, options, left)
            versions |= used
        save()
    return int(has_failed(found.get("check", ())))


def _finite(value):
    """The report without what JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
