"""What a step adds up: a loss, right predictions, and all that is added to the metrics' sums.

On a GPU each of these is a node of the step's graph, which takes a small model as long as a product.
"""

import itertools

import numpy as np

from gpukeras.backend import cuda, devices
from gpukeras.kernels.kernel import kernel

__all__ = ["LABELS", "MOST_ADDED", "add_all", "count_matches", "labels_of", "sum_times"]

_CUDA = cuda.Source("sums")

MOST_ADDED = 6  # numbers that one launch adds; sums.cu has it too
LABELS = "iu"  # kinds of dtype that CUDA kernels read labels from
_AT_ONCE = 1 << 14  # elements up to which one block is enough, and a second launch would take longer


def labels_of(label):
    """What CUDA kernels take for whole numbers of any type: the bytes, and how to read them (`labels.cuh`)."""
    kind = label.dtype.itemsize * (-1 if label.dtype.kind == "i" else 1)
    return devices.array_module(label).ascontiguousarray(label).view(np.int8), kind


def _launched(name, like, size, grid, block, *args):
    """The sum of what the blocks of a kernel count or add up, of which one is enough for few elements."""
    grid = 1 if size <= _AT_ONCE else grid
    parts = devices.array_module(like).empty((1, grid), cuda.wide_dtype(like.dtype))
    _CUDA.launch(name, like, (grid,), block, *args, parts)
    return (parts if grid == 1 else _CUDA.total(parts, like)).reshape(())


@kernel
def sum_times(x, factor):
    """Σ x · factor over everything, shape (); short floats are added up in float32."""
    return (x.sum() if x.dtype.itemsize >= 4 else x.sum(dtype=np.float32)) * factor


@sum_times.cuda
def sum_times(x, factor):
    return _launched("sum_times", x, x.size, cuda.grid_of(x), (cuda.THREADS,), x.size, x, factor)


@sum_times.samples
def sum_times(random, dtype):
    for shape in (1,), (128,), (7, 3), (0,), (40_000,):
        yield random(shape, dtype), 0.5 / max(shape[0], 1) ** 0.5


@kernel
def count_matches(x, label):
    """How many rows of x (rows, classes) have their largest element, the first of equal ones, at the label (rows,).

    NaN counts as the largest. Labels are whole numbers.

    Returns:
        The number, shape (), in the dtype that kernels compute in.
    """
    return (x.argmax(axis=1) == label).sum(dtype=cuda.wide_dtype(x.dtype))


@count_matches.cuda
def count_matches(x, label):
    rows, columns = x.shape
    if label.dtype.kind not in LABELS or not columns:
        return NotImplemented
    block = 32, cuda.THREADS // 32
    grid = max(min(-(-rows // block[1]), cuda.MAX_BLOCKS), 1)
    return _launched("matches_of_blocks", x, x.size, grid, block, rows, columns, x, *labels_of(label))


@count_matches.samples
def count_matches(random, dtype):
    kinds = itertools.cycle(["int32", "int64", "uint8", "int16", "uint32", "int8", "uint16", "uint64"])
    for rows, classes in (1, 1), (128, 10), (33, 70), (0, 3), (2100, 13), (7, 5), (40, 32), (9, 2):
        x = random((rows, classes), dtype)
        yield x, x.argmax(axis=1).astype(next(kinds))
    x = random((40, 1030), dtype)  # whose equal ones stand in what threads read at different times
    x[::3, 5] = x[::3, 700] = x[::3, 1029] = 9.0
    x[1::3, 900] = x[1::3, 1028] = np.nan
    yield x, x.argmax(axis=1).astype("int16")
    x = random((60, 5), dtype)
    x[::7, 1] = x[::7, 3] = 9.0
    x[::5, 2:4] = np.nan
    x[1::9] = -np.inf
    yield x, (abs(random((60,), "float32")) * 2.0).astype("int64") - 1


@kernel
def add_all(like, additions, counter=None):
    """target += source · factor for every addition (target, source, factor); counter += 1.

    Args:
        like: One of the targets.
        additions: Tuple of tuples of a target of shape (), a source of shape () or None for 1, and a number. All
            targets are different.
        counter: int32 of shape (), or None.
    """
    for target, source, factor in additions:
        target += factor if source is None else source * factor
    if counter is not None:
        counter += 1


@add_all.cuda
def add_all(like, additions, counter=None):
    if any(array.dtype != like.dtype for part in additions for array in part[:2] if array is not None):
        return NotImplemented
    for first in range(0, len(additions), MOST_ADDED):
        several = additions[first : first + MOST_ADDED]
        given = [value for addition in several for value in addition]
        given += [None, None, 0.0] * (MOST_ADDED - len(several))
        _CUDA.launch("add_all", like, (1,), (32,), *given, counter if first == 0 else None)
    return None


@add_all.samples
def add_all(random, dtype):
    for count in 1, 4, 6, 8:
        target, source = ([random((1,), dtype).reshape(()) for _ in range(count)] for _ in range(2))
        additions = tuple(
            (t, None if i % 2 else s, 0.5 + i) for i, (t, s) in enumerate(zip(target, source, strict=True))
        )
        yield target[0], additions, None if count == 4 else devices.to_device(np.array(7, "int32"))
