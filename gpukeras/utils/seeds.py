"""One seed for everything."""

import gc
import random as python_random

import numpy as np

from gpukeras.autograd import symbolic
from gpukeras.backend import memory, random

__all__ = ["clear_session", "set_random_seed"]


def set_random_seed(seed):
    """Seed gpukeras, and Python's and NumPy's global generators for the program's own use.

    From here on every bit of a run is fixed: initial weights, shuffling, dropout. gpukeras draws from
    counters of its own, so that calls of `np.random` or `random` in between change nothing.

    Args:
        seed: Whole number from 0 to 2**32 - 1.

    Example:
        >>> set_random_seed(1)
        >>> a = keras.random.uniform((2,))
        >>> set_random_seed(1)
        >>> np.array_equal(a, keras.random.uniform((2,)))
        True
    """
    if not hasattr(seed, "__index__") or not 0 <= int(seed) < 2**32:
        raise ValueError(f"set_random_seed takes a whole number from 0 to 2**32 - 1, but got {seed!r}.")
    python_random.seed(int(seed))
    np.random.seed(int(seed))
    random.set_seed(int(seed))


def clear_session(free_memory=True):
    """Start the numbering of automatic names anew.

    Args:
        free_memory: Whether memory that no object holds any more is collected and given back to the system. Without
            it, the library keeps such memory for its next arrays.

    Example:
        >>> clear_session()
        >>> keras.layers.Dense(1).name
        'dense'
    """
    symbolic.clear_names()
    if free_memory:
        gc.collect()
        memory.release()
