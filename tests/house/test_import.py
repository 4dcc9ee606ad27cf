"""`import gpukeras` stays light: what is heavy or optional is imported when first used."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

LATE = {"cupy", "h5py", "jax", "keras", "ml_dtypes", "rich", "tensorflow", "torch"}

LIST_IMPORTED = """
import json, sys
before = set(sys.modules)
import gpukeras
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_import_loads_nothing_heavy(record_property):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIST_IMPORTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    own = [name for name in loaded if name.partition(".")[0] == "gpukeras"]
    record_property("gpukeras_modules", len(own))
    print(f"import gpukeras loads {len(own)} modules of its own, {len(loaded)} in all")
    heavy = sorted(LATE.intersection(loaded))
    assert not heavy, f"import gpukeras also imports {', '.join(heavy)}"
