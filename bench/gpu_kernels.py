"""Kernels: time, bandwidth, and its share of what a copy on the device reaches, or why there is no such share.

A kernel is timed as a step runs it, in a CUDA graph: launched one by one, those of half a gigabyte take less time than
Python needs to launch them.
"""

from bench.gpu_rooflines import REASONS, ROOFLINES, Arrays
from bench.gpu_shared import Part, Timing, recorded
from gpukeras.backend.graphs import Graph

__all__ = ["AIM", "AIM_OF_ADAM", "PART"]

AIM, AIM_OF_ADAM = 0.80, 0.85  # of the copy's bandwidth

_CALLS = 8  # of a graph


def run(bench):
    """The rows; the copy's first, by which the others are judged."""
    size = (1 << 13) if bench.is_tiny else 1 << 26
    copied = {}
    yield bench.row({"kernel": "copy", "dtype": "float32"}, lambda: _copy(bench, size, copied))
    for dtype in ("float32", "bfloat16"):
        for name, roofline in ROOFLINES.items():
            if dtype in roofline.dtypes:
                cells = {"kernel": name, "dtype": dtype}
                yield bench.row(cells, lambda name=name, r=roofline, d=dtype: _kernel(bench, name, r, size, d, copied))
    for name, reason in REASONS.items():
        yield {"kernel": name, "dtype": "all", "note": f"no share: {reason}"}


def _copy(bench, size, copied):
    x, y = bench.random((size,)), bench.xp.empty(size, "float32")
    cells = _cells(bench, lambda: bench.xp.copyto(y, x), 2 * y.nbytes, "copy", {})
    copied["gb_per_s"] = cells["gb_per_s"]
    return cells


def _kernel(bench, name, roofline, size, dtype, copied):
    arrays, launches = Arrays(bench, size, dtype), []
    call = roofline.call(arrays)
    with recorded(launches):
        call()
    if not launches:
        raise RuntimeError("no CUDA kernel was launched, the reference ran instead")
    return _cells(bench, call, roofline.bytes(arrays), name, copied)


def _timed(bench, call):
    """The `Timing` of a call, many of which are launched together."""

    def calls():
        for _ in range(_CALLS):
            call()

    graph = Graph(calls)
    try:
        for _ in range(graph.warmup + 1):
            graph()
        if graph.reason is not None:
            raise RuntimeError(f"not captured: {graph.reason}")
        return Timing(*[seconds / _CALLS for seconds in bench.time(graph, bench.seconds / 2)])  # of a hundred rows
    finally:
        graph.close()


def _cells(bench, call, moved, name, copied):
    timing = _timed(bench, call)
    cells = timing.cells() | {"mb": moved / 1e6, "gb_per_s": moved / timing.median / 1e9}
    if copied:
        share, aim = cells["gb_per_s"] / copied["gb_per_s"], AIM_OF_ADAM if name == "adam" else AIM
        cells |= {"share": share, "aim": aim, "reached": "yes" if share >= aim else "no"}
    return cells


PART = Part(
    "Kernels: bandwidth, and its share of a copy's on the device",
    (
        ("kernel", "kernel", "{:<38}"),
        ("dtype", "type", "{:<9}"),
        ("ms", "ms", "{:9.4f}"),
        ("low_ms", "quartiles", "{:9.4f}"),
        ("high_ms", "", "{:9.4f}"),
        ("mb", "MB moved", "{:9.1f}"),
        ("gb_per_s", "GB/s", "{:8.1f}"),
        ("share", "share", "{:6.0%}"),
        ("aim", "aim", "{:5.0%}"),
        ("reached", "reached", "{:>7}"),
        ("note", "", "{}"),
    ),
    run,
)
