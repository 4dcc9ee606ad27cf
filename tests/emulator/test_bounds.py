"""No kernel reads or writes beyond an array: all run under AddressSanitizer, which is shown to find such accesses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import gpukeras.kernels
from tests.emulator import sanitized
from tests.emulator.compile import reason_to_skip

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

ROOT = Path(__file__).parents[2]
FOLDER = Path(gpukeras.kernels.__file__).parent


def run(*arguments):
    """Exit status and output of Python with the sanitizer."""
    if sanitized.sanitizer() is None:
        pytest.skip("g++ comes without AddressSanitizer (apt-get install libasan8)")
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=sanitized.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def report(output):
    """What ran last, and what was found then."""
    lines = output.splitlines()
    start = [i for i, line in enumerate(lines) if re.search("ERROR: |runtime error: |Traceback|FAILURES", line)]
    return "\n".join(lines[max(start[0] - 2, 0) : start[0] + 30] if start else lines[-30:])


def test_no_kernel_accesses_what_lies_outside():
    status, output = run("-m", "tests.emulator.sanitized")
    assert status == 0, report(output)
    walked = set(re.findall(r"^([\w.]+): (\w+), sample", output, re.MULTILINE))
    assert walked == {(name, dtype) for name in sanitized.CUDA_KERNELS for dtype in sanitized.DTYPES}


BEYOND = r"heap-buffer-overflow.*located 0 bytes (to the right of|after)"
BEFORE, MISALIGNED, INDEX = "use-after-poison", "misaligned address", "index 8 out of bounds"
RELU, COUNT = ("activation.cu", "relu", "relu"), ("sums.cu", "count_matches", "matches_of_blocks")
LOOP = "common.cuh", "i = packs * LANES + first; i < n;", "i = packs * LANES + first; i <= n;"

# Mistakes of one element in kernels as they are: which one (file, name, function in CUDA C); the file with the mistake,
# what is replaced, by what; a part of the line that makes the access, if it is another one; what is reported; the type
# and shift of arrays.
MISTAKES = {
    "read": (RELU, LOOP, "widen(array[i]) : wide(0)", BEYOND, "float32", 0),
    "read of 16 bits": (RELU, LOOP, "widen(array[i]) : wide(0)", BEYOND, "float16", 0),
    "read of 16 bytes": (
        RELU,
        ("common.cuh", "index i = first; i < packs;", "index i = first; i <= packs;"),
        "p.bits = reinterpret_cast<const uint4*>(array)[pack];",
        BEYOND,
        "float32",
        0,
    ),
    "write": (RELU, ("common.cuh", "array[i] = to_real(", "array[i + 1] = to_real("), None, BEYOND, "float32", 1),
    "read before": (RELU, ("common.cuh", "? widen(array[i])", "? widen(array[i - 1])"), None, BEFORE, "float16", 0),
    "16 bytes off their boundary": (
        RELU,
        ("common.cuh", "(arrays.is_aligned() && ...) ? n / LANES : 0;", "n / LANES;"),
        "p.bits = reinterpret_cast<const uint4*>(array)[pack];",
        MISALIGNED,
        "float32",
        1,
    ),
    "shared memory": (
        COUNT,
        ("sums.cu", "counts[threadIdx.y] = ", "counts[threadIdx.y + 1] = "),
        None,
        INDEX,
        "float32",
        0,
    ),
}
PROGRAM = """
import importlib, sys
from tests.emulator import sanitized
module, name, old, new, dtype, shift = sys.argv[1:]
sanitized.install()
source = importlib.import_module(module)._CUDA
assert source.text.count(old) == 1
source.__dict__["text"] = source.text.replace(old, new)
sanitized.walk([f"{module}.{name}"], dtype, [int(shift)])
"""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_with_its_kernel_and_line(mistake):
    (source, name, function), (file, old, new), access, found, dtype, shift = MISTAKES[mistake]
    module = f"gpukeras.kernels.{source.removesuffix('.cu')}"
    status, output = run("-c", PROGRAM, module, name, old, new, dtype, str(shift))
    assert status, "nothing was found"
    assert f"{module}.{name}: {dtype}" in output and re.search(found, output, re.DOTALL), report(output)
    before, *after = (FOLDER / file).read_text(encoding="utf-8").replace(old, new).split(access or new)
    assert len(after) == 1 and f"{file}:{before.count(chr(10)) + 1}" in output, report(output)
    assert found in (MISALIGNED, INDEX) or re.search(rf"in {function} .*{source}:\d+", output), report(output)
