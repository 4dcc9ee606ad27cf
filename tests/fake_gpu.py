"""Fixtures of a GPU that is made of NumPy, for what runs on CuPy: ``pytest_plugins = ["tests.fake_gpu"]``."""

import functools

import pytest

from gpukeras.backend import cublaslt, cuda, devices, gemm, graphs, transfer
from tests import fake_cublaslt, fake_cuda, fake_transfer, strict_device
from tests.emulator import compile as emulator


@pytest.fixture
def gpu(monkeypatch):
    """The fake CuPy as the default device, whose streams record products and all array code."""
    cupy = fake_cuda.install(monkeypatch)
    cupy.get_default_memory_pool().total_bytes = lambda: 0  # NumPy's memory is in no pool
    library = fake_cublaslt.Library()
    multiply = library.cublasLtMatmul

    def launch(handle, description, *arguments):
        library.next += 1  # a launch means what is described now: the plan's next product has another vector
        library.objects[library.next] = dict(library.objects[description])
        cupy.cuda.kernel(functools.partial(multiply, handle, library.next, *arguments))
        return 0

    library.cublasLtMatmul = launch
    monkeypatch.setattr(cublaslt, "_library", lambda: library)
    monkeypatch.setattr(graphs, "_cupy", lambda: cupy)
    monkeypatch.setattr(graphs, "_LIBRARIES", graphs._LIBRARIES | {"tests.strict_device", "strict_device"})
    monkeypatch.setattr(graphs, "_streams", graphs._Streams())
    monkeypatch.setattr(transfer, "_cuda", lambda: fake_transfer.FakeCuda(is_synchronous=True))
    monkeypatch.setattr(cuda, "_launchers", {})
    made_once = cublaslt.handle, cublaslt.workspace, gemm._planned
    for made in made_once:
        made.cache_clear()
    monkeypatch.setattr(strict_device, "_recording", lambda: cupy.cuda.current.recording)
    with devices.use_device("cupy"):
        yield cupy.cuda
    for made in made_once:
        made.cache_clear()


_streams_of = []  # the fake whose streams launch CUDA C: sources keep their functions from test to test


def _launcher(text, options, label):
    def launch(name, run, *arguments):
        kernel = functools.partial(run, *arguments)
        kernel.label = name
        _streams_of[-1].kernel(kernel)

    functions = emulator.compile_for_cpu(text, options, label)
    return {name: functools.partial(launch, name, run) for name, run in functions.items()}


@pytest.fixture
def gpu_with_kernels(gpu):
    """The same, with all that is CUDA C run by the emulator, when its stream launches it."""
    _streams_of.append(gpu)
    cuda.add_launcher("cupy", _launcher)  # in a table that goes with the test
    return gpu
