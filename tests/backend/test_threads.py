"""Blocks on several threads: all of them run once, errors come back, BLAS and the bits are left alone."""

import os
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from gpukeras.backend import blas, threads


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("blocks", [0, 1, 2, 17])
def test_each_item_runs_once(number, blocks):
    seen = []
    with threads.use_count(number):
        threads.run(seen.append, range(blocks))
    assert sorted(seen) == list(range(blocks))


def test_several_threads_take_part():
    both_there = threading.Barrier(2, timeout=30)
    names = set()

    def meet(_):
        both_there.wait()  # one thread alone would wait in vain
        names.add(threading.current_thread().name)

    with threads.use_count(2):
        threads.run(meet, range(2))
    assert len(names) == 2


def test_run_waits_for_the_slowest():
    done = []

    def work(i):
        time.sleep(0.02 if i == 0 else 0)
        done.append(i)

    for _ in range(5):
        done.clear()
        with threads.use_count(3):
            threads.run(work, range(3))
        assert sorted(done) == [0, 1, 2]


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_in_any_thread_reaches_the_caller(number):
    def fail(i):
        if i == 3:
            raise ValueError("block 3")

    with threads.use_count(number):
        for _ in range(10):
            with pytest.raises(ValueError, match="block 3"):
                threads.run(fail, range(6))
        seen = []
        threads.run(seen.append, range(4))  # and the threads still work
    assert sorted(seen) == [0, 1, 2, 3]


def test_an_error_of_a_worker_reaches_the_caller():
    both_there = threading.Barrier(2, timeout=30)

    def fail(_):
        both_there.wait()
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("from a worker")

    with threads.use_count(2), pytest.raises(ValueError, match="from a worker"):
        threads.run(fail, range(2))


def test_runs_within_a_block_are_serial():
    names = []

    def outer(_):
        inner = []
        threads.run(lambda _: inner.append(threading.current_thread().name), range(4))
        names.append(set(inner))

    with threads.use_count(4):
        threads.run(outer, range(4))
    assert len(names) == 4
    assert all(len(inner) == 1 for inner in names)


def test_several_callers_at_once():
    def caller(results, i):
        total = np.zeros(20)
        for _ in range(50):
            threads.run(lambda k: total.__setitem__(k, total[k] + k), range(20))
        results[i] = total

    results = [None] * 4
    with threads.use_count(3):
        callers = [threading.Thread(target=caller, args=(results, i)) for i in range(4)]
        for one in callers:
            one.start()
        for one in callers:
            one.join()
    for total in results:
        np.testing.assert_array_equal(total, 50.0 * np.arange(20))


def test_blocks_see_the_warnings_of_the_caller():
    both_there = threading.Barrier(2, timeout=30)

    def divide(_):
        both_there.wait()
        np.divide(np.ones(3), np.zeros(3))

    with threads.use_count(2), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        threads.run(divide, range(2))


@pytest.mark.skipif(not blas.can_limit(), reason="this NumPy's BLAS does not let its threads be set")
def test_blas_has_one_thread_within_blocks_and_its_own_afterwards():
    library = blas._library()
    before = library.get_count()
    counts = []
    with threads.use_count(2):
        threads.run(lambda _: counts.append(library.get_count()), range(4), uses_blas=True)
        with pytest.raises(ZeroDivisionError):
            threads.run(lambda _: 1 / 0, range(4), uses_blas=True)
    assert counts == [1] * 4
    assert library.get_count() == blas.thread_count() == before


@pytest.mark.skipif(not blas.can_limit(), reason="this NumPy's BLAS does not let its threads be set")
def test_a_limit_for_a_while_does_not_change_the_number_that_blas_is_said_to_use():
    before = blas.thread_count()
    with blas.one_thread():
        assert blas.thread_count() == before


def test_without_a_way_to_limit_blas_products_run_one_after_the_other(monkeypatch):
    monkeypatch.setattr(blas, "_library", lambda: None)
    names = []
    with threads.use_count(4):
        threads.run(lambda _: names.append(threading.current_thread().name), range(8), uses_blas=True)
    assert len(names) == 8
    assert set(names) == {threading.current_thread().name}


def run_python(program, **environment):
    """What a fresh process prints."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OPENBLAS_NUM_THREADS",)}
    made = subprocess.run(
        [sys.executable, "-c", program], env={**kept, **environment}, capture_output=True, text=True, timeout=120
    )
    return made.stdout.strip() + made.stderr.strip()


COUNT = "from gpukeras.backend import threads; print(threads.count())"


def test_the_environment_chooses_the_number():
    assert run_python(COUNT, GPUKERAS_NUM_THREADS="3") == "3"
    if blas.can_limit():
        assert run_python(COUNT, OPENBLAS_NUM_THREADS="1") == "1"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_is_refused(value):
    assert f"GPUKERAS_NUM_THREADS must be a whole number of at least 1, but is {value!r}" in run_python(
        COUNT, GPUKERAS_NUM_THREADS=value
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_starts_threads_of_its_own():
    program = """
import os, warnings
import numpy as np
from gpukeras.backend import threads
warnings.simplefilter("ignore")
total = np.zeros(8)
work = lambda i: total.__setitem__(i, i)
with threads.use_count(3):
    threads.run(work, range(8), uses_blas=True)
    if (child := os.fork()) == 0:
        total[:] = 0
        threads.run(work, range(8), uses_blas=True)
        os._exit(0 if total.sum() == 28 else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(program) == "0"


SPINNING = """
import numpy as np
from gpukeras.backend import blas, process, threads
a = np.random.default_rng(0).normal(size=(300, 300)).astype("float32")
before = a @ a
{start}
with threads.use_count(2):
    threads.run(lambda _: None, range(4))
process.prepare()
library = blas._library()
timeout = getattr(getattr(library, "file", None), "openblas_thread_timeout", None)
print(np.array_equal(a @ a, before), None if timeout is None else timeout())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is OpenBLAS's for Linux")
@pytest.mark.parametrize(
    ("environment", "start", "timeout"),
    [
        ({}, "", 18),
        ({"GPUKERAS_TUNE": "0"}, "", 0),
        ({"OPENBLAS_THREAD_TIMEOUT": "22"}, "", 22),
        ({}, "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", 0),
    ],
)
def test_idle_blas_threads_leave_the_cores_alone(environment, start, timeout):
    program = SPINNING.format(start=start)
    equal, actual = run_python(program, OPENBLAS_NUM_THREADS="2", **environment).split()
    assert equal == "True"
    assert actual in (str(timeout), "None")
