"""What the library changes about its process, and when."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
import gpukeras as keras

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        [np.ones(1 << 20, "float32") for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
before = faults()
model.predict(np.ones((1, 2), "float32"), verbose=0)
faults()
print(before, faults())
"""


def run_python(program, **environment):
    """What a fresh process prints."""
    made = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    return made.stdout.strip() + made.stderr.strip()


def is_glibc():
    return sys.platform.startswith("linux") and os.confstr_names.get("CS_GNU_LIBC_VERSION") is not None


@pytest.mark.skipif(not is_glibc(), reason="only glibc's allocator can be set")
def test_freed_blocks_are_kept_from_the_first_prediction_on():
    before, after = map(int, run_python(FAULTS).split())
    assert before > 5000  # forty arrays of 4 MB, a fault for each 4 KB of most
    assert after < 100


@pytest.mark.skipif(not is_glibc(), reason="only glibc's allocator can be set")
def test_the_process_can_be_left_alone():
    before, after = map(int, run_python(FAULTS, GPUKERAS_TUNE="0").split())
    assert before > 5000
    assert after > 5000


def test_a_wrong_setting_is_refused():
    assert "GPUKERAS_TUNE must be 0 or 1, but is 'no'" in run_python(FAULTS, GPUKERAS_TUNE="no")
