"""CUDA graphs: the kernels of a step are recorded once and launched together from then on.

What may not happen while a step is recorded: reading a device value or copying from the host (`float()`, `.get()`,
`asarray` of a list), waiting for a stream or an event, CuPy's own products and random numbers. Any of them raises, and
the step then runs kernel by kernel as before.

A graph replays addresses, and keeps nothing alive. So what a step changes lives in arrays that it updates in place
(weights, slots, counters, metric sums, inputs), and what it makes on the way comes from a pool of memory that belongs
to the graph alone: from CuPy's common pool the same addresses would be handed to others after the recording.
"""

import collections
import contextlib
import gc
import sys
import threading
import traceback
from typing import Any

__all__ = ["Graph", "GraphCache", "allocator", "aside", "stream"]


def _cupy():
    """CuPy: the one place where this file reaches for it."""
    import cupy

    return cupy


class _Streams(threading.local):
    def __init__(self):
        self.of_device = {}


_streams = _Streams()
_allocators = threading.local()  # what was the thread's before that of a graph's own pool
_branching = threading.local()  # the graph whose step runs in its pool, of which a part may become a branch


def stream():
    """The calling thread's stream on its device; the first call makes it and makes it current.

    CuPy starts every thread on the null stream, where nothing can be recorded. A non-blocking stream does not wait for
    that one, so what was launched there is waited for, once. What another thread computes must be waited for as well.
    """
    cuda = _cupy().cuda
    device = cuda.get_device_id()
    if device not in _streams.of_device:
        cuda.get_current_stream().synchronize()
        made = cuda.Stream(non_blocking=True)
        made.use()
        _streams.of_device[device] = made
    return _streams.of_device[device]


def allocator(cupy):
    """The allocator that the program has set, such as RMM's, also while a graph's own pool stands before it."""
    return getattr(_allocators, "outer", None) or cupy.cuda.get_allocator()


def aside(function):
    """Compute ``function()`` beside what the caller computes next, in a graph: as a branch of it, on a second stream.

    Products of small arrays leave most of a GPU idle: two that do not need one another then take the time of one.

    Args:
        function: What it reads must not be written before the branch has been joined.

    Returns:
        A function of no arguments, to be called once, that joins the branch and returns what `function` did. The caller
        must hold all that `function` reads until then: memory that is given back before would be used anew.
    """
    graph = getattr(_branching, "graph", None)
    if graph is None:
        result = function()
        return lambda: result
    _branching.graph = None  # a branch has none of its own
    try:
        before = _cupy().cuda.get_current_stream()
        branch = graph.branch()
        graph.events.append(before.record())
        branch.wait_event(graph.events[-1])
        with branch:
            result = function()
            done = branch.record()
    finally:
        _branching.graph = graph
    graph.events.append(done)

    def join():
        before.wait_event(done)
        return result

    return join


class Graph:
    """A function of no arguments that is recorded when it has run often enough; call it once per step.

    All but the last of the warm-up calls run as they are: the first steps make what stays (weights, optimizer slots)
    and compile kernels. The last one runs in the graph's own pool, which then has the blocks that the recording needs.
    The next call is recorded and launched; every later one is a launch. So each call does the step's work once, but the
    function's Python code no longer runs: what it decides, it decides for good.

    If recording fails, that call and all later ones run the function as it is. The function has then run in part
    before, so its state on the host must bear that, as a training step does, which is a transaction.

    Args:
        function: Works in place on arrays that stay, and returns arrays, None, or tuples, lists and dictionaries of
            them. Callers get copies, in memory that is their own.
        warmup: The number of calls before the recording.

    Attributes:
        reason: Why the function cannot be recorded, None as long as it can.
        is_recording: Whether the function runs to be recorded, and computes nothing.
    """

    def __init__(self, function, warmup=2):
        self.function: Any = function
        self.warmup = warmup
        self.calls = 0
        self.reason: str | None = None
        self.is_recording = False
        self.stream: Any = None
        self.pool: Any = None
        self.graph: Any = None
        self.outputs: Any = None
        self.events = []  # between branches: one that is destroyed in the middle could end the recording
        self._branch: Any = None

    def branch(self):
        """The stream of the branches."""
        if self._branch is None:
            self._branch = _cupy().cuda.Stream(non_blocking=True)
        return self._branch

    def __call__(self):
        if self.function is None:
            raise RuntimeError("This graph was closed; make a new one.")
        if self.graph is None and self.reason is None and self.calls >= self.warmup:
            self._record()
        if self.graph is not None:
            return self._in_order(self._launch)
        if self.reason is not None:
            return self.function()
        is_last = self.calls == self.warmup - 1
        outputs = self._in_order(self._run_in_pool if is_last else self.function)
        self.calls += 1
        return outputs

    def _in_order(self, run):
        """Run on the graph's stream, after what the caller's stream holds and before what it gets next."""
        if self.stream is None:
            self.stream = stream()
        current = _cupy().cuda.get_current_stream()
        if current.ptr == self.stream.ptr:
            return _copied(run())
        self.stream.wait_event(current.record())
        with self.stream:
            outputs = run()
        current.wait_event(self.stream.record())
        return _copied(outputs)  # by the caller's stream, to which the memory of the copies belongs

    def _run_in_pool(self):
        cupy = _cupy()
        if self.pool is None:
            # A pool that runs out of memory gives back its own free blocks only, so the common pool's go before.
            cupy.get_default_memory_pool().free_all_blocks()
            self.pool = _new_pool(cupy)
        before, _allocators.outer = getattr(_allocators, "outer", None), allocator(cupy)
        _branching.graph = self
        try:
            with cupy.cuda.using_allocator(self.pool.malloc):
                return self.function()
        finally:
            _branching.graph = None
            _allocators.outer = before

    def _record(self):
        if self.stream is None:
            self.stream = stream()
        was_enabled = gc.isenabled()
        try:
            self.stream.synchronize()
            gc.collect()
            gc.disable()  # a dead event or graph that is destroyed in the middle could end the recording
            with self.stream:
                self._capture()
            self.graph.upload(self.stream)
        except Exception as error:
            self.reason = f"{type(error).__name__}: {error} ({_place_of(error)})"
        finally:
            self.events.clear()
            if was_enabled:
                gc.enable()
            if self.reason is not None or self.graph is None:
                gc.collect()  # frames of the error that hold arrays of the pool
                self._release()

    def _capture(self):
        self.stream.begin_capture()
        self.is_recording = True
        try:
            outputs = self._run_in_pool()
        except BaseException:
            with contextlib.suppress(Exception):  # an invalid capture reports that once more
                self.stream.end_capture()
            raise
        finally:
            self.is_recording = False
        self.graph = self.stream.end_capture()
        self.outputs = outputs

    def _launch(self):
        self.graph.launch(self.stream)
        return self.outputs

    def _release(self):
        """Give back the graph and its memory: a pool that is merely forgotten keeps its blocks for ever."""
        if self.graph is not None:
            self.stream.synchronize()  # a launch may be running
        self.graph = self.outputs = None
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.free_all_blocks()

    def close(self):
        """Free the graph and its memory. It cannot be called any more."""
        self._release()
        self.function = None

    def __del__(self):
        with contextlib.suppress(Exception):  # at the end of the process CuPy may be gone
            self.close()


def _new_pool(cupy):
    """A pool that gets its blocks from whatever allocator the program has set, such as RMM's."""
    found = allocator(cupy)
    is_own = found == cupy.get_default_memory_pool().malloc
    return cupy.cuda.MemoryPool() if is_own else cupy.cuda.MemoryPool(found)


_LIBRARIES = {"cupy", "gpukeras", "numpy", *sys.stdlib_module_names} - {"__main__"}


def _place_of(error):
    """Which line of whose code failed: the innermost that is neither the library's nor of what it stands on."""

    def is_in(frame, names):
        name = frame.f_globals.get("__name__", "")
        return name in names or name.partition(".")[0] in names

    frames = list(traceback.walk_tb(error.__traceback__))
    others = [pair for pair in frames if not is_in(pair[0], _LIBRARIES)]
    own = [pair for pair in frames if ".backend" not in pair[0].f_globals.get("__name__", "")]
    frame, line = (others or own or frames)[-1]
    return f"{frame.f_code.co_name}, line {line} of {frame.f_code.co_filename}"


def _copied(outputs):
    """The outputs with every array copied, out of memory that the next launch writes; anything else as it is."""
    if isinstance(outputs, dict):
        return {name: _copied(output) for name, output in outputs.items()}
    if isinstance(outputs, (tuple, list)):
        copies = [_copied(output) for output in outputs]
        return type(outputs)(*copies) if hasattr(outputs, "_fields") else type(outputs)(copies)
    return outputs.copy() if hasattr(outputs, "strides") else outputs


_LONG = 4  # times as many calls as graphs are kept: then a graph is not needed any more


class GraphCache:
    """The graphs of one program by signature, a limited number of which are kept; for one thread.

    A new signature takes the place of the one that was used longest ago, if that was long ago. Of more signatures in
    turn than are kept, each would else be dropped before it comes again, and none ever launched.

    A signature is all that the function's Python code depends on: shapes and types of the inputs, whether it trains,
    which variables it trains, and so on.

    Args:
        limit: How many graphs are kept; each holds the memory of a step.
    """

    def __init__(self, limit=8):
        self.limit = limit
        self._calls = 0
        self._used = {}  # signature -> at which call it was asked for last
        self._graphs: collections.OrderedDict[Any, Graph] = collections.OrderedDict()

    def __len__(self):
        return len(self._graphs)

    def __contains__(self, signature):
        return signature in self._graphs

    def __iter__(self):
        return iter(self._graphs.values())

    def get(self, signature, make, warmup=2):
        """The graph of a signature; a new one records the function that ``make()`` returns.

        Where there is no room, one that is not kept, and never records: the signature is not ``in`` the cache then.
        """
        self._calls += 1
        graph = self._graphs.get(signature)
        if graph is not None:
            self._graphs.move_to_end(signature)
            self._used[signature] = self._calls
            return graph
        function = make()
        if len(self._graphs) >= self.limit:
            oldest = next(iter(self._graphs))
            if self._calls - self._used[oldest] < _LONG * self.limit:
                return Graph(function, sys.maxsize)
            self._graphs.pop(oldest).close()
            del self._used[oldest]
        self._used[signature] = self._calls
        graph = self._graphs[signature] = Graph(function, warmup)
        return graph

    def clear(self):
        """Close all graphs."""
        self._used.clear()
        while self._graphs:
            self._graphs.popitem()[1].close()
