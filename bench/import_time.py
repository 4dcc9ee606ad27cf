"""How much does `import gpukeras` cost above `import numpy`? Fresh processes, taken in turn."""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def seconds(module):
    """Wall time of a process that imports one module, the start of Python included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, check=True)
    return time.perf_counter() - start


def summary(values):
    """Median and quartiles in milliseconds."""
    low, middle, high = (round(1000 * q, 1) for q in statistics.quantiles(values, n=4))
    return {"median_ms": middle, "quartiles_ms": [low, high]}


def cpu_name():
    """The processor's name as the system knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def main():
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds

    modules = ("numpy", "gpukeras")
    for module in modules:
        seconds(module)  # writes the bytecode and fills the file cache
    times = {module: [] for module in modules}
    for _ in range(rounds):
        for module in modules:
            times[module].append(seconds(module))
    differences = [ours - floor for floor, ours in zip(*times.values(), strict=True)]

    print(
        json.dumps(
            {
                "bench": "import_time",
                **{module: summary(values) for module, values in times.items()},
                "difference": summary(differences),
                "rounds": rounds,
                "python": platform.python_version(),
                "numpy_version": np.__version__,
                "cpu": cpu_name(),
                "date": datetime.date.today().isoformat(),
            }
        )
    )


if __name__ == "__main__":
    main()
