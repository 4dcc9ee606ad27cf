"""Threads for NumPy kernels: blocks of an array side by side, without a fight with BLAS's own threads.

A kernel cuts its work into blocks by shape alone and hands them to `run`. Whatever the number of threads, the same
blocks are computed by the same code, so the bits do not depend on it. BLAS is held to one thread while blocks with
products run: two threads that both hand work to BLAS's threads gain nothing over one.

The number of threads is GPUKERAS_NUM_THREADS or, where that is not set, the number that BLAS would use
(OPENBLAS_NUM_THREADS, or the cores of the process).
"""

import collections
import contextvars
import functools
import os
import queue
import threading
from typing import Any

from gpukeras.backend import blas

__all__ = ["count", "run", "use_count"]

_count: int | None = None  # set by use_count
_inside = threading.local()  # is_block: whether this thread is computing a block, which starts no threads of its own


def count():
    """The number of threads, the calling one included."""
    if _count is not None:
        return _count
    return _count_of_environment()


@functools.lru_cache(maxsize=1)
def _count_of_environment():
    given = os.environ.get("GPUKERAS_NUM_THREADS")
    if given:
        if not given.isdecimal() or int(given) < 1:
            raise ValueError(f"GPUKERAS_NUM_THREADS must be a whole number of at least 1, but is {given!r}.")
        return int(given)
    number = blas.thread_count()
    if number is None:
        number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return number or 1


class use_count:
    """Use this many threads for the length of a `with` block."""

    def __init__(self, number):
        self.number = number

    def __enter__(self):
        global _count
        self.before, _count = _count, self.number

    def __exit__(self, *error):
        global _count
        _count = self.before


def run(function, items, uses_blas=False):
    """Call ``function(item)`` for each item, on all threads.

    Items must not depend on each other: each writes its own part of an array that exists already. Handing work to
    a thread and waiting for it costs about 50 microseconds, so blocks should hold ten times that.

    Args:
        function: Called once per item, with NumPy's warnings as they are set where `run` is called.
        items: The blocks.
        uses_blas: Whether the function computes matrix products. Where BLAS cannot be held to one thread, such
            items run one after the other, and BLAS threads each product.
    """
    if getattr(_inside, "is_block", False) or (uses_blas and not blas.can_limit()):
        for item in items:
            function(item)
    elif uses_blas:
        with blas.one_thread():
            _share(function, items)
    else:
        _share(function, items)


def _share(function, items):
    job = Job(function, collections.deque(items))
    for _ in range(min(count(), len(job.items)) - 1):
        _workers.submit(job)
    try:
        job.drain()
    finally:
        job.close()
    if job.error is not None:
        raise job.error


class Job:
    """Items that several threads take from one queue."""

    def __init__(self, function, items):
        self.function = function
        self.items = items
        self.lock = threading.Lock()
        self.active = 0  # workers that are computing
        self.is_closed = False
        self.finished: Any = None  # a lock that the last worker releases
        self.error = None

    def drain(self):
        """Compute items until none is left."""
        _inside.is_block = True
        try:
            while True:
                try:
                    item = self.items.popleft()
                except IndexError:
                    return
                self.function(item)
        finally:
            _inside.is_block = False

    def help(self):
        """What a worker does with the job: nothing if it comes too late."""
        with self.lock:
            if self.is_closed:
                return
            self.active += 1
        try:
            self.drain()
        except BaseException as error:
            self.items.clear()
            self.error = error
        with self.lock:
            self.active -= 1
            if self.finished is not None and self.active == 0:
                self.finished.release()

    def close(self):
        """Take no more workers, and wait for those that are computing."""
        self.items.clear()
        with self.lock:
            self.is_closed = True
            if self.active:
                self.finished = threading.Lock()
                self.finished.acquire()
        if self.finished is not None:
            self.finished.acquire()


class _Workers:
    """Threads that wait for jobs; they are started when needed and live as long as the process."""

    def __init__(self):
        self.jobs = queue.SimpleQueue()
        self.threads = []

    def submit(self, job):
        if len(self.threads) < count() - 1:
            thread = threading.Thread(target=self._work, name=f"{blas.OWN_THREADS}{len(self.threads)}", daemon=True)
            self.threads.append(thread)
            thread.start()
        self.jobs.put((contextvars.copy_context(), job))  # the context holds np.errstate

    def _work(self):
        while True:
            context, job = self.jobs.get()
            context.run(job.help)
            del context, job  # a waiting thread must not keep a model's arrays alive


_workers = _Workers()


def _forget_threads():
    """A forked process has none of its parent's threads."""
    global _workers
    _workers = _Workers()
    blas.one_thread().forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
