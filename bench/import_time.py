"""How much does `import gpukeras` cost above `import numpy`? Fresh processes, taken in turn.

    python bench/import_time.py

The package imports its parts at first use, so the cost of `gpukeras.Model`, which needs them all, is given too.
"""

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


PROGRAMS = {
    "numpy": "import numpy",
    "gpukeras": "import gpukeras, numpy",
    "first_use": "import gpukeras; gpukeras.Model",
}


def seconds(program):
    """Wall time of a process that runs one program, the start of Python included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
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

    for program in PROGRAMS.values():
        seconds(program)  # writes the bytecode and fills the file cache
    times = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            times[name].append(seconds(program))
    floor = times["numpy"]

    print(
        json.dumps(
            {
                "bench": "import_time",
                **{name: summary(values) for name, values in times.items()},
                "import_above_numpy": summary([a - b for a, b in zip(times["gpukeras"], floor, strict=True)]),
                "first_use_above_numpy": summary([a - b for a, b in zip(times["first_use"], floor, strict=True)]),
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
