"""How much does `import gpukeras` cost above `import numpy`? Fresh processes, taken in turn.

    python -m bench.import_time

The package imports its parts at first use, so the cost of `gpukeras.Model`, which needs them all, is given too.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy  # noqa: F401  # named in the report, with its version

from bench import machine

PROGRAMS = {
    "numpy": "import numpy",
    "gpukeras": "import gpukeras, numpy",
    "first_use": "import gpukeras; gpukeras.Model",
}


def seconds(program):
    """Wall time of a process that runs one program, the start of Python included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], cwd=machine.ROOT, check=True)
    return time.perf_counter() - start


def summary(values):
    """Median and quartiles in milliseconds."""
    low, middle, high = (round(1000 * value, 1) for value in machine.quartiles(values))
    return {"median_ms": middle, "quartiles_ms": [low, high]}


def main():
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds

    for program in PROGRAMS.values():
        seconds(program)  # writes the bytecode and fills the file cache
    times = {name: [] for name in PROGRAMS}
    others = machine.Others()
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
                **machine.description(),
                "others_share": others.share(),
            }
        )
    )


if __name__ == "__main__":
    main()
