"""What the library changes about the process that it runs in."""

import os

from gpukeras.backend import blas, memory

__all__ = ["prepare"]

_is_prepared = False


def prepare():
    """Called when a model first runs: freed memory is kept for the next array, and BLAS's idle threads sleep soon.

    ``GPUKERAS_TUNE=0`` in the environment leaves the process as it is.
    """
    global _is_prepared
    if _is_prepared:
        return
    setting = os.environ.get("GPUKERAS_TUNE", "1")
    if setting not in ("0", "1"):
        raise ValueError(f"GPUKERAS_TUNE must be 0 or 1, but is {setting!r}.")
    _is_prepared = True
    if setting == "1":
        memory.keep_freed_blocks()
        blas.shorten_spinning()
