"""Recording and replaying steps, on a CUDA that keeps account of every call."""

import gc
import threading

import numpy as np
import pytest

from gpukeras.backend import blas, graphs
from tests import fake_cuda
from tests.strict_device import StrictArray

READ_BACK = ValueError("a device value was read")


@pytest.fixture
def cuda(monkeypatch):
    cupy = fake_cuda.install(monkeypatch)
    monkeypatch.setattr(graphs, "_cupy", lambda: cupy)
    monkeypatch.setattr(graphs, "_streams", graphs._Streams())
    return cupy.cuda


class Step:
    """Counts up in place: one kernel on state that stays, one on an output of its own."""

    def __init__(self, cuda):
        self.cuda = cuda
        self.state = np.zeros(2)
        self.runs = 0  # of the Python code
        self.failure = None  # raised when the code runs for the third time
        self.allocators = []
        self.gc = []

    def __call__(self):
        self.runs += 1
        self.allocators.append(self.cuda.allocators[-1].__self__ if self.cuda.allocators else None)
        self.gc.append(gc.isenabled())
        output = np.empty(2)

        def add():
            self.state += 1

        def write():
            output[...] = self.state * 10

        self.cuda.kernel(add)
        if self.failure is not None and self.cuda.current.recording is not None:
            raise self.failure
        self.cuda.kernel(write)
        return StrictArray(output)


@pytest.fixture
def step(cuda):
    return Step(cuda)


def test_each_call_does_the_work_once(cuda, step):
    graph = graphs.Graph(step)
    results = [graph() for _ in range(6)]
    assert [result._array[0] for result in results] == [10, 20, 30, 40, 50, 60]  # each keeps its own
    assert step.state[0] == 6 and step.runs == 3 and graph.reason is None
    assert cuda.names().count("launch") == 4 and cuda.names().count("begin_capture") == 1


def test_the_order_of_calls(cuda, step):
    graph = graphs.Graph(step)
    for _ in range(4):
        graph()
    ours = graph.stream.ptr
    assert cuda.log == [
        ("synchronize", 0),  # what was launched before on the null stream
        ("Stream", True),
        ("common.free_all_blocks",),
        ("synchronize", ours),
        ("begin_capture", ours),
        ("end_capture", ours),
        ("upload", ours),
        ("launch", ours),
        ("launch", ours),
    ]


def test_memory_of_the_graph_is_its_own(cuda, step):
    graph = graphs.Graph(step, warmup=3)
    for _ in range(5):
        graph()
    assert step.allocators == [None, None, graph.pool, graph.pool]  # what stays is made outside
    assert cuda.allocators == []


def test_no_garbage_is_collected_while_recording(cuda, step):
    graph = graphs.Graph(step)
    for _ in range(3):
        graph()
    assert step.gc == [True, True, False] and gc.isenabled()
    gc.disable()
    try:
        step.gc.clear()
        graphs.Graph(step, warmup=0)()
        assert step.gc == [False] and not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("place", "ends"),
    [("begin_capture", 0), ("function", 1), ("end_capture", 1), ("upload", 1), ("function and end_capture", 1)],
)
def test_what_cannot_be_recorded_runs_as_it_is(place, ends, cuda, step):
    error = fake_cuda.CUDARuntimeError("cudaErrorStreamCaptureUnsupported: not while capturing")
    for name in ("begin_capture", "end_capture", "upload"):
        if name in place:
            cuda.failures[name] = error
    if "function" in place:
        step.failure = READ_BACK
    graph = graphs.Graph(step)
    results = [graph() for _ in range(5)]
    assert [result._array[0] for result in results] == [10, 20, 30, 40, 50]
    expected = READ_BACK if "function" in place else error
    assert graph.reason.startswith(f"{type(expected).__name__}: {expected} (")
    names = cuda.names()
    assert names.count("begin_capture") == 1 and names.count("end_capture") == ends  # tried once, ended properly
    assert names.count("launch") == 0
    assert graph.pool is None and "pool.free_all_blocks" in names
    assert cuda.allocators == [] and gc.isenabled() and cuda.current is graph.stream
    assert graph.stream.recording is None


def test_an_interrupt_while_recording_is_no_reason(cuda, step):
    graph = graphs.Graph(step)
    graph()
    graph()
    step.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        graph()
    assert graph.reason is None and graph.graph is None and graph.pool is None
    assert graph.stream.recording is None and gc.isenabled() and cuda.allocators == []
    assert step.state[0] == 2  # the step that was interrupted did nothing
    step.failure = None
    assert graph()._array[0] == 30 and graph.graph is not None


def test_an_error_of_a_step_that_is_not_recorded_is_the_callers(cuda):
    def fail():
        raise ValueError("labels out of range")

    graph = graphs.Graph(fail)
    for _ in range(4):
        with pytest.raises(ValueError, match="labels"):
            graph()
    assert graph.reason is None and graph.calls == 0


def test_closing_frees_the_graph_before_its_pool(cuda, step):
    graph = graphs.Graph(step)
    for _ in range(3):
        graph()
    ours, pool = graph.stream.ptr, graph.pool
    pool.malloc(8)
    cuda.log.clear()
    graph.close()
    assert cuda.log == [("synchronize", ours), ("pool.free_all_blocks",)]  # a launch may be running
    assert pool not in cuda.live_pools and graph.graph is None and graph.outputs is None
    graph.close()
    with pytest.raises(RuntimeError, match="closed"):
        graph()


def test_a_forgotten_graph_frees_its_memory(cuda, step):
    graph = graphs.Graph(step)
    graph()
    graph()
    graph.pool.malloc(8)
    assert cuda.live_pools
    del graph
    assert not cuda.live_pools


def test_a_callers_stream_is_waited_for(cuda, step):
    graph = graphs.Graph(step)
    graph()
    ours = graph.stream.ptr
    theirs = cuda.Stream(non_blocking=True)
    for _ in range(3):
        cuda.log.clear()
        with theirs:
            graph()
            assert cuda.current is theirs
        order = [entry for entry in cuda.log if entry[0] in ("record", "wait_event", "launch")]
        waits = [("record", theirs.ptr), ("wait_event", ours, ("event of", theirs.ptr))]
        waited = [("record", ours), ("wait_event", theirs.ptr, ("event of", ours))]
        assert [entry for entry in order if entry[0] != "launch"] == waits + waited
        assert ("launch", ours) not in order or order.index(("launch", ours)) == 2


class TestBranches:
    """A part of a step that is computed beside the rest."""

    def test_outside_a_graph_it_is_computed_at_once(self, cuda):
        order = []
        join = graphs.aside(lambda: order.append("aside") or 7)
        assert order == ["aside"] and join() == 7
        assert cuda.names() == []

    @pytest.mark.parametrize("is_joined", [True, False])
    def test_in_a_graph_it_is_a_branch(self, cuda, is_joined):
        launched, streams = [], []

        def part(name):
            streams.append((name, cuda.current.ptr))
            cuda.kernel(lambda: launched.append(name))
            return name

        def step():
            part("before")
            join = graphs.aside(lambda: [part("aside"), graphs.aside(lambda: part("within"))()])
            part("beside")
            if is_joined:
                assert join() == ["aside", "within"]
                part("after")

        graph = graphs.Graph(step)
        graph()
        assert len({stream for _, stream in streams}) == 1  # the first call runs without the graph's pool
        graph()
        del launched[:], streams[:]
        graph()
        if not is_joined:
            assert "Unjoined" in graph.reason
            return
        assert graph.reason is None
        assert launched == ["before", "beside", "aside", "within", "after"]
        found = dict(streams)
        assert found["aside"] == found["within"] != found["before"] == found["beside"] == found["after"]
        graph()
        assert len(launched) == 10 and len(streams) == 5

    def test_one_that_fails_leaves_nothing_behind(self, cuda):
        def fail():
            raise READ_BACK

        graph = graphs.Graph(lambda: graphs.aside(fail), warmup=1)
        with pytest.raises(ValueError, match="a device value was read"):
            graph()
        assert graphs.aside(lambda: cuda.current.ptr)() == graphs.stream().ptr  # no longer the branch


def test_outputs_of_every_form_are_copied(cuda):
    array = StrictArray(np.ones(2))
    outputs = {"loss": array, "parts": (array, [array, None])}
    graph = graphs.Graph(lambda: outputs, warmup=0)
    copied = graph()
    assert copied["parts"][1][1] is None and type(copied["parts"]) is tuple and type(copied["parts"][1]) is list
    for one in (copied["loss"], copied["parts"][0], copied["parts"][1][0]):
        assert one is not array and one._array[0] == 1
    assert graphs.Graph(lambda: "loss")() == "loss"


@pytest.mark.gpu
def test_a_gpu_replays_a_step(rng):
    """Ten steps, of which the last eight are launches, to the same bits as ten steps without a graph."""
    import cupy

    start = rng.normal(size=(64, 64)).astype("float32") / 8
    x = cupy.asarray(rng.normal(size=(32, 64)).astype("float32"))

    def step_on(weights):
        y = cupy.maximum(blas.matmul(x, weights), 0)
        weights -= 0.01 * blas.matmul(x.T, y)
        return (y * y).sum()

    replayed, plain = cupy.asarray(start), cupy.asarray(start)
    graph = graphs.Graph(lambda: step_on(replayed))
    losses = [graph() for _ in range(10)]
    assert graph.reason is None and graph.graph is not None
    pool = graph.pool
    size = pool.total_bytes()
    expected = [step_on(plain) for _ in range(10)]
    np.testing.assert_array_equal(cupy.asnumpy(replayed), cupy.asnumpy(plain))
    np.testing.assert_array_equal([float(loss) for loss in losses], [float(loss) for loss in expected])
    assert pool.total_bytes() == size > 0
    graph.close()
    assert pool.total_bytes() == 0


def test_cupy_has_what_the_fake_stands_for():
    """Where CuPy is installed; it need not have a GPU."""
    cupy = pytest.importorskip("cupy")
    cuda = fake_cuda.Cuda()
    for name in ("MemoryPool", "Stream", "get_allocator", "get_current_stream", "get_device_id", "using_allocator"):
        assert hasattr(cupy.cuda, name) and hasattr(cuda, name)
    for fake, real in ((fake_cuda.Stream, cupy.cuda.Stream), (fake_cuda.Graph, cupy.cuda.Graph)):
        for name in vars(fake):
            assert name in ("__weakref__", "__dict__") or hasattr(real, name), name
    for name in ("malloc", "free_all_blocks"):
        assert hasattr(cupy.cuda.MemoryPool, name)
    assert hasattr(cupy, "get_default_memory_pool") and hasattr(cupy.ndarray, "set")
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)  # so that a step is tried again


def test_memory_comes_from_the_allocator_that_the_program_has_set(cuda, step):
    """RMM's, for instance; and a graph that is closed has given back to it what it took."""
    plain = graphs.Graph(step)
    for _ in range(3):
        plain()
    assert plain.pool.allocator is None  # CuPy's own pool stays beside the graph's
    asked = []

    def counting(size):
        asked.append(size)
        return ("memory of the program's", size)

    cuda.set_allocator(counting)
    assert asked == []  # nothing is taken before it is needed
    graph = graphs.Graph(step)
    graph()
    graph()
    assert graph.pool.malloc(1024) == ("memory of the program's", 1024) and asked == [1024]
    assert cuda.get_allocator() == counting
    graph()
    graph.close()
    assert graph.pool is None and cuda.get_allocator() == counting


# --- Streams -------------------------------------------------------------------------------------------------


def test_each_thread_has_a_stream_of_its_own(cuda):
    mine = graphs.stream()
    assert graphs.stream() is mine and mine.non_blocking and cuda.current is mine
    found = []
    thread = threading.Thread(target=lambda: found.append(graphs.stream()))
    thread.start()
    thread.join()
    assert found[0] is not mine and cuda.names().count("Stream") == 2


# --- The cache -----------------------------------------------------------------------------------------------


def test_graphs_used_last_are_kept(cuda, step, monkeypatch):
    monkeypatch.setattr(graphs, "_LONG", 0)
    cache = graphs.GraphCache(limit=2)
    first = cache.get((32, True), lambda: step)
    second = cache.get((7, True), lambda: step)
    assert cache.get((32, True), lambda: pytest.fail("made twice")) is first
    third = cache.get((32, False), lambda: step)
    assert len(cache) == 2 and (7, True) not in cache and second.function is None
    assert first.function is step and third.function is step
    cache.clear()
    assert len(cache) == 0 and first.function is None and third.function is None


def test_graphs_used_in_turn_are_kept(cuda, step):
    """A further signature has no graph until one has not been used for long."""
    cache = graphs.GraphCache(limit=2)
    a, b = cache.get("a", lambda: step), cache.get("b", lambda: step)
    for _ in range(3):
        assert cache.get("a", lambda: None) is a and cache.get("b", lambda: None) is b
        other = cache.get("c", lambda: step)
        assert "c" not in cache and len(cache) == 2
        other()
        assert other.graph is None and not cuda.live_pools
    for _ in range(4 * 2):
        cache.get("b", lambda: None)
    assert cache.get("c", lambda: step) is cache.get("c", lambda: None) and "a" not in cache


def test_an_evicted_graph_frees_its_memory(cuda, step, monkeypatch):
    monkeypatch.setattr(graphs, "_LONG", 0)
    cache = graphs.GraphCache(limit=1)
    graph = cache.get("a", lambda: step)
    for _ in range(3):
        graph()
    graph.pool.malloc(8)
    cache.get("b", lambda: step)
    assert not cuda.live_pools


def test_a_maker_that_fails_evicts_nothing(cuda, step):
    cache = graphs.GraphCache(limit=1)
    kept = cache.get("a", lambda: step)
    with pytest.raises(ZeroDivisionError):
        cache.get("b", lambda: 1 / 0)
    assert "a" in cache and kept.function is step
