"""Memory: flat buffers are tested with the optimizers; here scratch arrays and what is given back."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from gpukeras.backend import memory

# --- Scratch arrays --------------------------------------------------------------------------------------------


def address(array):
    return array.__array_interface__["data"][0]


def test_scratch_memory_is_used_again():
    memory.release()
    with memory.scratch((1000, 30), np.dtype("float32")) as first:
        assert first.shape == (1000, 30) and first.dtype == np.float32 and first.flags.writeable
        home = address(first)
    with memory.scratch((700,), np.dtype("float64")) as second:  # smaller, of another dtype
        assert address(second) == home


def test_scratch_arrays_in_use_at_once_are_apart():
    with memory.scratch((100,), np.dtype("float32")) as a, memory.scratch((100,), np.dtype("float32")) as b:
        a[...], b[...] = 1, 2
        assert (a == 1).all() and (b == 2).all()


def test_a_larger_scratch_array_takes_the_place_of_the_largest():
    memory.release()
    for size in (10, 1000, 100_000):
        with memory.scratch((size,), np.dtype("uint8")):
            pass
    assert [buffer.nbytes for buffer in memory._scratch.free.buffers] == [100_000]


def test_scratch_of_no_elements():
    with memory.scratch((0, 5), np.dtype("float32")) as array:
        assert array.shape == (0, 5)


def test_threads_have_scratch_of_their_own():
    homes = []

    def use():
        with memory.scratch((50,), np.dtype("float32")) as array:
            homes.append(address(array))
            both_there.wait()

    both_there = threading.Barrier(2, timeout=30)
    users = [threading.Thread(target=use) for _ in range(2)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert len(set(homes)) == 2


def test_poisoned_scratch_shows_as_nan_to_those_who_kept_a_view():
    with memory.poison(), memory.scratch((3,), np.dtype("float32")) as array:
        array[...] = 1
        kept = array[1:]
        assert (kept == 1).all()
    assert np.isnan(kept).all()


def test_release_drops_free_scratch_of_all_threads():
    homes, may_end = [], threading.Event()

    def use():
        with memory.scratch((50,), np.dtype("float32")):
            pass
        homes.append(memory._scratch.free)
        may_end.wait(30)

    user = threading.Thread(target=use)
    user.start()
    with memory.scratch((64,), np.dtype("float32")):
        pass
    while not homes:
        pass
    assert homes[0].buffers and memory._scratch.free.buffers
    memory.release()
    assert not homes[0].buffers and not memory._scratch.free.buffers
    may_end.set()
    user.join()


# --- The process's allocator -----------------------------------------------------------------------------------


def run_python(program):
    """The numbers that a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


has_glibc = pytest.mark.skipif(memory._glibc() is None, reason="the settings are glibc's")


@has_glibc
def test_kept_blocks_of_any_size_cost_no_page_faults():
    """A second array of 200 MB lies where the first lay."""
    faults = run_python("""
import resource
import numpy as np
from gpukeras.backend import memory
memory.keep_freed_blocks()
for size in (50_000_000, 10_000):
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(size, "float32")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
""")
    assert faults[0] > 90  # at least one for each huge page of 2 MB
    assert faults[1] < 9 and faults[3] < 9


@has_glibc
@pytest.mark.parametrize(("megabytes", "is_given_back"), [(400, False), (2000, True)])
def test_more_than_a_gigabyte_of_free_memory_is_given_back(megabytes, is_given_back):
    if memory.kept() == 0:
        pytest.skip("glibc before 2.33 does not tell how much is free")
    before, after = run_python(f"""
import numpy as np
from bench import machine
from gpukeras.backend import memory
memory.keep_freed_blocks()
arrays = [np.ones(25_000_000, "float32") for _ in range({megabytes // 100})]
above = np.ones(1_000_000)  # so that the heap's end stays where it is
del arrays
print(machine.resident_memory())
memory.limit_kept()
print(machine.resident_memory())
""")
    assert (before - after > megabytes << 19) == is_given_back
