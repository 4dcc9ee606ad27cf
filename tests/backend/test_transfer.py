"""Rows on their way to the device: values, order of copies, and what stays behind."""

import sys
import types

import numpy as np
import pytest

from gpukeras.backend import devices, memory, transfer
from gpukeras.backend.transfer import BatchStream, Rows
from tests import strict_device
from tests.fake_transfer import FakeCuda
from tests.strict_device import StrictArray

X = np.arange(46, dtype=np.float32).reshape(23, 2)
Y = np.arange(23, dtype=np.int64) * 3
ORDER = np.random.default_rng(0).permutation(23)


@pytest.fixture
def strict():
    strict_device.install()
    with devices.use_device("strict"):
        yield


def batches_of(array, order, size):
    ordered = array if order is None else array[order]
    return [ordered[i : i + size] for i in range(0, len(array), size)]


def sent(stream, array, size=4, order=ORDER):
    """Batches of the array, sent one after the other without anyone reading them."""
    taken = []
    for start in range(0, len(array), size):
        rows = order[start : start + size]
        taken += stream.send(lambda hosts, rows=rows: np.copyto(hosts[0], array[rows]), len(rows))
    return taken


def are_right(cuda, taken, array=X, size=4, order=ORDER):
    expected = batches_of(array, order, size)
    return [np.array_equal(cuda.read(one), other) for one, other in zip(taken, expected, strict=True)]


class TestBatchStream:
    @pytest.mark.parametrize("chance", [None, *range(10)])
    def test_batches_arrive_and_stay(self, chance):
        cuda = FakeCuda(rng=None if chance is None else np.random.default_rng(chance))
        stream = BatchStream([(4, 2)], [X.dtype], cuda)
        first = sent(stream, X)
        stream.finish()
        second = sent(stream, X[::-1].copy())
        stream.finish()
        assert all(are_right(cuda, first)) and all(are_right(cuda, second, X[::-1]))
        assert cuda.made == {"pinned": 3, "device": 3}

    @pytest.mark.parametrize("wait", ["copies waits", "computing waits", "host waits for events"])
    def test_each_wait_is_needed(self, wait):
        cuda = FakeCuda(ignored=(wait,))
        assert not all(are_right(cuda, sent(BatchStream([(4, 2)], [X.dtype], cuda), X)))

    def test_memory_of_slots_is_not_written_before_its_former_owner_is_done(self):
        for is_right in (True, False):
            cuda = FakeCuda()
            stream = BatchStream([(4, 2)], [X.dtype], cuda)
            if not is_right:
                for slot in stream.slots:
                    slot.emptied.position = None
            taken = sent(stream, X[:4], order=np.arange(4))
            stream.finish()
            assert are_right(cuda, taken, X[:4], order=None) == [is_right]

    def test_the_host_gathers_ahead_of_the_device(self):
        cuda = FakeCuda()
        stream = BatchStream([(4, 2)], [X.dtype], cuda)
        done = cuda.computing.done
        sent(stream, X[:12], order=np.arange(12))
        assert "host waits for events" not in cuda.log and cuda.computing.done == done
        sent(stream, X[:4], order=np.arange(4))  # the first slot again: its upload must have left the host
        assert cuda.log.count("host waits for events") == 1

    def test_order_of_a_batch(self):
        cuda = FakeCuda()
        stream = BatchStream([(4, 2), (4,)], [X.dtype, Y.dtype], cuda)
        cuda.log.clear()

        def gather(hosts):
            cuda.log.append("gather")
            for host in hosts:
                host[...] = 1

        stream.send(gather, 3)
        assert cuda.log == ["gather", "copies waits", "upload", "upload", "computing waits"]

    @pytest.mark.parametrize("where", ["gather", "upload"])
    def test_an_error_leaves_nothing_running(self, where, monkeypatch):
        cuda = FakeCuda()
        stream = BatchStream([(4, 2)], [X.dtype], cuda)
        taken = sent(stream, X[:8], order=np.arange(8))
        if where == "gather":
            with pytest.raises(OSError):
                stream.send(lambda hosts: (_ for _ in ()).throw(OSError("file is gone")), 4)
        else:
            with monkeypatch.context() as patch:
                patch.setattr(cuda, "copy", lambda device: (_ for _ in ()).throw(MemoryError()))
                with pytest.raises(MemoryError):
                    sent(stream, X[8:12], order=np.arange(4))
        stream.finish()
        assert stream.copies.done == stream.copies.count
        taken += sent(stream, X[8:], order=np.arange(15))
        assert all(are_right(cuda, taken, order=None))


def making(order):
    """The function that makes an order where it is wanted."""
    return None if order is None else lambda xp: xp.asarray(order)


def rows(arrays, batch_size=5, order=None, dtypes=None):
    made = Rows(arrays, dtypes or [a.dtype for a in arrays], batch_size)
    return made, list(made.batches(making(order)))


def assert_batches(batches, arrays, size=5, order=None):
    for i, array in enumerate(arrays):
        expected = batches_of(array, order, size)
        for batch, values in zip(batches, expected, strict=True):
            assert type(batch[i]) is StrictArray and batch[i].dtype == values.dtype
            np.testing.assert_array_equal(batch[i]._array, values)


@pytest.mark.parametrize("order", [None, ORDER], ids=["in order", "shuffled"])
class TestRows:
    def test_what_fits_is_uploaded_once(self, strict, order, monkeypatch):
        uploads = []
        to_device = devices.to_device
        monkeypatch.setattr(devices, "to_device", lambda value: uploads.append(value) or to_device(value))
        made, batches = rows([X, Y], order=order)
        assert_batches(batches, [X, Y], order=order)
        assert_batches(list(made.batches(making(order))), [X, Y], order=order)
        assert len(uploads) == 2  # and no order

    @pytest.mark.parametrize("share", [0.5, 0.51])
    def test_what_does_not_fit_is_streamed(self, strict, order, monkeypatch, share):
        cuda = FakeCuda(is_synchronous=True)
        monkeypatch.setattr(transfer, "_cuda", lambda: cuda)
        monkeypatch.setattr(memory, "free_memory", lambda: (X.nbytes + Y.nbytes) / share)
        made, batches = rows([X, Y], order=order)
        assert_batches(batches, [X, Y], order=order)
        assert_batches(list(made.batches(making(order))), [X, Y], order=order)
        assert (made._stream is None) == (share <= 0.5)
        assert cuda.log.count("upload") == (0 if share <= 0.5 else 20)

    def test_mapped_arrays_are_streamed(self, strict, order, monkeypatch, tmp_path):
        cuda = FakeCuda(is_synchronous=True)
        monkeypatch.setattr(transfer, "_cuda", lambda: cuda)
        np.save(tmp_path / "x.npy", X)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        _, batches = rows([mapped, Y], order=order)
        assert_batches(batches, [X, Y], order=order)
        assert cuda.made == {"pinned": 3, "device": 3} and cuda.log.count("upload") == 5

    def test_a_device_without_streams(self, strict, order, monkeypatch):
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
        _, batches = rows([X, Y], order=order)
        assert_batches(batches, [X, Y], order=order)

    def test_memory_in_pieces(self, strict, order, monkeypatch):
        def refuse(array, dtype):
            raise MemoryError

        monkeypatch.setattr(transfer, "_upload", refuse)
        assert_batches(rows([X, Y], order=order)[1], [X, Y], order=order)

    @pytest.mark.parametrize("free", [None, 0])
    def test_dtypes_and_layouts(self, strict, order, free, monkeypatch):
        monkeypatch.setattr(memory, "free_memory", lambda: free)
        monkeypatch.setattr(transfer, "_cuda", lambda: FakeCuda(is_synchronous=True))
        monkeypatch.setattr(transfer, "_CHUNK", 40)
        arrays = [X.astype("float64"), np.asfortranarray(X), X.astype(">f4"), np.repeat(X, 2, axis=1)[:, ::2]]
        arrays += [StrictArray(np.asfortranarray(X)), StrictArray(X.astype("float64")), StrictArray(X)]
        _, batches = rows(arrays, order=order, dtypes=[X.dtype] * len(arrays))
        assert_batches(batches, [X] * len(arrays), order=order)

    def test_arrays_on_the_device_stay_there(self, strict, order, monkeypatch):
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
        on_device = StrictArray(X)
        monkeypatch.setattr(strict_device, "to_numpy", None)
        with strict_device.forbid_host_reads():
            _, batches = rows([on_device], order=order)
        assert_batches(batches, [X], order=order)
        assert np.shares_memory(batches[0][0]._array, X) == (order is None)

    @pytest.mark.parametrize("gathered", [1, 80, 121, 1000])
    def test_batches_are_gathered_many_at_a_time(self, strict, order, gathered, monkeypatch):
        monkeypatch.setattr(transfer, "_ALIGNMENT", 40)
        monkeypatch.setattr(transfer, "_GATHERED", gathered)
        takes = []
        take = StrictArray.__getattr__

        def counted(self, name):
            takes.append(name)
            return take(self, name)

        monkeypatch.setattr(StrictArray, "__getattr__", counted)
        made, batches = rows([X, Y[:, None][:, :0], X[:, 0]], order=order)  # 40, 0 and 20 bytes a batch
        assert_batches(batches, [X, Y[:, None][:, :0], X[:, 0]], order=order)
        count = 0 if order is None else {1: 5, 80: 3, 121: 2, 1000: 1}[gathered] + 5 + 5
        assert takes.count("take") == count
        assert_batches(list(made.batches(making(order))), [X, Y[:, None][:, :0], X[:, 0]], order=order)

    @pytest.mark.parametrize("size", [1, 23, 100])
    def test_batch_sizes(self, strict, order, size, monkeypatch):
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
        cuda = FakeCuda(is_synchronous=True)
        monkeypatch.setattr(transfer, "_cuda", lambda: cuda)
        assert_batches(rows([X, Y], size, order)[1], [X, Y], size, order)

    def test_an_epoch_that_ends_early(self, strict, order, monkeypatch):
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
        cuda = FakeCuda(is_synchronous=True, rng=np.random.default_rng(0))
        monkeypatch.setattr(transfer, "_cuda", lambda: cuda)
        made = Rows([X], [X.dtype], 5)
        epoch = made.batches(making(order))
        first = [next(epoch), next(epoch)]
        del epoch
        assert cuda.log[-1] == "host waits for copies"
        assert all(stream.done == stream.count for stream in cuda.streams)
        assert_batches(list(made.batches(making(order))), [X], order=order)
        for batch, values in zip(first, batches_of(X, order, 5)[:2], strict=True):
            np.testing.assert_array_equal(batch[0]._array, values)

    def test_rows_of_nothing(self, strict, order):
        empty = np.zeros((23, 0), np.float32)
        assert_batches(rows([empty, Y], order=order)[1], [empty, Y], order=order)


class TestCuPy:
    """The two places that reach for CuPy, with a stand-in for it."""

    @pytest.fixture
    def cupy(self, monkeypatch):
        strict_device.install()
        calls = []

        def note(name):
            return lambda *args, **settings: calls.append((name, args, settings))

        pool = types.SimpleNamespace(
            free_bytes=lambda: 30, used_bytes=lambda: 50, get_limit=lambda: 0, malloc=note("malloc")
        )
        cuda = types.SimpleNamespace(
            Stream=note("Stream"),
            Event=note("Event"),
            get_current_stream=note("current"),
            get_allocator=lambda: pool.malloc,
            runtime=types.SimpleNamespace(memGetInfo=lambda: (100, 1000)),
        )
        made = types.ModuleType("cupy")
        vars(made).update(
            cuda=cuda, empty=note("empty"), get_default_memory_pool=lambda: pool, calls=calls, pool=pool, ndarray=()
        )
        cupyx = types.ModuleType("cupyx")
        vars(cupyx).update(empty_pinned=note("pinned"))
        monkeypatch.setitem(sys.modules, "cupy", made)
        monkeypatch.setitem(sys.modules, "cupyx", cupyx)
        monkeypatch.setitem(devices._modules, "cupy", made)
        with devices.use_device("cupy"):
            yield made

    def test_free_memory(self, cupy):
        assert memory.free_memory() == 130
        cupy.pool.get_limit = lambda: 120
        assert memory.free_memory() == 70
        cupy.cuda.get_allocator = lambda: print  # another's, which says nothing of what it keeps
        assert memory.free_memory() == 100
        cupy.cuda.runtime.memGetInfo = None
        assert memory.free_memory() is None
        with devices.use_device("numpy"):
            assert memory.free_memory() is None

    def test_what_is_called(self, cupy):
        cuda = transfer._cuda()
        cuda.stream()
        cuda.event()
        cuda.current_stream()
        cuda.pinned((2,), "f4")
        cuda.empty((2,), "f4")
        device = types.SimpleNamespace(set=lambda *a, **s: cupy.calls.append(("set", a, s)), copy=lambda: "copied")
        cuda.upload(device, "host", "stream")
        assert cuda.copy(device) == "copied"
        assert cupy.calls == [
            ("Stream", (), {"non_blocking": True}),
            ("Event", (), {"disable_timing": True}),
            ("current", (), {}),
            ("pinned", ((2,), "f4"), {}),
            ("empty", ((2,), "f4"), {}),
            ("set", ("host",), {"stream": "stream"}),
        ]

    def test_a_device_without_cuda_has_none(self):
        strict_device.install()
        with devices.use_device("strict"):
            assert transfer._cuda() is None
