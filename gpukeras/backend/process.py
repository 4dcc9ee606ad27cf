"""What the library changes about the process that it runs in."""

import os

from gpukeras.backend import blas, memory

__all__ = ["prepare", "prepare_for_threads"]

_prepared = set()


def prepare():
    """Called when a model first trains or predicts: freed memory is kept for the next array.

    ``GPUKERAS_TUNE=0`` in the environment leaves the process as it is, here and in `prepare_for_threads`.
    """
    if "memory" not in _prepared:
        _prepare("memory", memory.keep_freed_blocks)


def prepare_for_threads():
    """Called when a kernel first multiplies matrices on our threads: OpenBLAS's idle threads leave the cores to them.

    Not for threads that do other work. A step of a multilayer perceptron, where only the optimizer starts threads, took
    8.1 ms with OpenBLAS's threads awake from product to product, and 11.8 ms when they had to be woken each time.
    """
    if "threads" not in _prepared:
        _prepare("threads", blas.shorten_spinning)


def _prepare(name, change):
    setting = os.environ.get("GPUKERAS_TUNE", "1")
    if setting not in ("0", "1"):
        raise ValueError(f"GPUKERAS_TUNE must be 0 or 1, but is {setting!r}.")
    _prepared.add(name)
    if setting == "1":
        change()
