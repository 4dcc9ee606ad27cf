"""Every kernel in every form gives what its reference gives, on the kernel's own samples."""

import contextlib
import importlib
import pkgutil

import ml_dtypes
import numpy as np
import pytest

import gpukeras.kernels
from gpukeras.backend import cuda, devices, dtypes
from gpukeras.kernels.kernel import registered_kernels
from tests.emulator.compile import reason_to_skip, schedule
from tests.helpers import TOLERANCES, assert_close

for _module in pkgutil.iter_modules(gpukeras.kernels.__path__, "gpukeras.kernels."):
    importlib.import_module(_module.name)

KERNELS = registered_kernels()


def samples(kernel, dtype, seed):
    """The samples anew: forms write into them, so that each form needs its own."""
    rng = np.random.default_rng(seed)

    def random(shape, dtype):
        return devices.to_device(rng.standard_normal(shape).astype(dtype))

    with np.errstate(over="ignore", invalid="ignore"):  # of float16
        return list(kernel.sample_function(random, dtype))


def arrays_in(value):
    """All arrays in nested tuples and lists, in order."""
    if isinstance(value, (tuple, list)):
        return [array for item in value for array in arrays_in(item)]
    return [value] if devices.is_array(value) or isinstance(value, np.generic) else []


@pytest.fixture(params=["numpy", "strict"])
def both_devices(request):
    from tests import strict_device

    strict_device.install()
    with devices.use_device(request.param):
        yield request.param


def test_there_are_kernels():
    assert KERNELS


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_every_form_equals_the_reference(name, dtype, seed, both_devices):
    kernel = KERNELS[name]
    given = samples(kernel, dtype, seed)
    expected = samples(kernel, dtype, seed)
    assert given, f"{name} yields no samples"
    for i, (args, reference_args) in enumerate(zip(given, expected, strict=True)):
        result = kernel.meaning_of(kernel(*args))
        reference = kernel.meaning_of(kernel.reference(*reference_args))
        actual = arrays_in((args, result))
        wanted = arrays_in((reference_args, reference))
        assert len(actual) == len(wanted) and actual, f"{name}: sample {i} has no arrays to compare"
        for a, b in zip(actual, wanted, strict=True):
            assert a.dtype == b.dtype, f"{name}: sample {i} gave {a.dtype}, the reference {b.dtype}"
            assert_close(a, b, dtype=dtype if a.dtype.kind == "f" else None, err_msg=f"{name}, sample {i}")


# CUDA C on the emulator.

CUDA_KERNELS = {name: kernel for name, kernel in KERNELS.items() if kernel.on_cuda is not None}
GUARD = 16  # elements before and after every array, which no kernel may touch


@pytest.fixture
def emulator():
    from tests.emulator import device

    if reason_to_skip():
        pytest.skip(reason_to_skip())
    device.install()
    return device


@contextlib.contextmanager
def recorded(launches):
    """Within the block, the names of launched kernels are added to a list."""
    launch = cuda.Source.launch

    def recording(self, name, *args, **kwargs):
        launches.append(name)
        launch(self, name, *args, **kwargs)

    cuda.Source.launch = recording
    try:
        yield
    finally:
        cuda.Source.launch = launch


class Guarded:
    """Copies of arrays with guards around them, on the emulator; `shift` elements off a boundary of 16 bytes."""

    def __init__(self, device, shift):
        self.device, self.shift = device, shift
        self.copies = {}  # id of an array -> copy; the arrays, which must not go before the ids
        self.bases = []

    def __call__(self, value):
        if isinstance(value, (tuple, list)):
            return type(value)(self(item) for item in value)
        if not isinstance(value, np.ndarray):
            return value
        if id(value) not in self.copies:
            self.copies[id(value)] = value, self.device.EmulatorArray(self._copy(value))
        return self.copies[id(value)][1]

    def _copy(self, array):
        if not array.flags.c_contiguous:
            return array.copy("K")
        base = np.empty(array.size + 2 * GUARD + self.shift, array.dtype)
        base.view(np.uint8).fill(0xFF)
        view = base[GUARD + self.shift : base.size - GUARD].reshape(array.shape)
        view[...] = array
        self.bases.append(base)
        return view

    def check(self, name):
        for base in self.bases:
            for guard in base[: GUARD + self.shift], base[base.size - GUARD :]:
                assert (guard.view(np.uint8) == 0xFF).all(), f"{name} wrote beyond an array's end"


def cast(value, names, dtype, copies):
    """Arguments with the arrays of some dtypes in another one; what is one array stays one array."""
    if isinstance(value, (tuple, list)):
        return type(value)(cast(item, names, dtype, copies) for item in value)
    if getattr(getattr(value, "dtype", None), "name", None) in names:
        if not isinstance(value, np.ndarray):
            return dtype(value)
        return copies.setdefault(id(value), (value, value.astype(dtype)))[1]
    return value


# Kernels whose float32 reference is itself off by more than the tolerance: they are compared with the float64 result,
# and may be off by twice as much as the reference.
JUDGED_BY_FLOAT64 = {
    "gpukeras.kernels.optimizer.ftrl",  # digits cancel in the difference of two powers
    "gpukeras.kernels.normalization.layer_norm_backward",  # NumPy adds up thousands of rows one after the other
}


SHORT = ("float16", "bfloat16")
# Between its products it stores differences of numbers that are almost equal, rounded to 16 bits.
SCALE_OF_SHORT = {"gpukeras.kernels.attention.attention_backward": 4}


def cuda_samples(kernel, dtype, seed):
    given = samples(kernel, dtypes.as_dtype(dtype), seed)
    # A product with a number turns bfloat16 into float32.
    given = cast(given, {"float32"}, ml_dtypes.bfloat16, {}) if dtype == "bfloat16" else given
    return [kernel.typed(args, dtypes.as_dtype(dtype)) for args in given]


MOST = 300_000  # elements of an array, where a larger one would show nothing more


def small_samples(kernel, seed):
    """Those without the arrays that are large only for the CPU's threads."""
    return [args for args in cuda_samples(kernel, "float32", seed) if all(a.size <= MOST for a in arrays_in(args))]


def run_on_emulator(kernel, args, device, order, shift, guard=Guarded):
    """All arrays that a kernel was given and returned, on the emulator; None where it runs no CUDA C for them."""
    guarded, launches = guard(device, shift), []
    given = guarded(args)
    if not cuda.takes(dict(zip(kernel.parameters, given, strict=False)), kernel.strided, kernel.wide):
        return None
    with devices.use_device("emulator"), schedule(order), recorded(launches), np.errstate(all="ignore"):
        result = kernel.meaning_of(kernel(*given))
    guarded.check(kernel.__name__)
    return arrays_in((given, result)) if launches else None


def run_reference(kernel, args):
    """What the reference gives on a device, which is what the CUDA C stands for there; on NumPy some may differ."""
    from tests import strict_device

    strict_device.install()
    given = moved(args, strict_device.StrictArray, {})
    with devices.use_device("strict"), np.errstate(all="ignore"):
        return arrays_in((given, kernel.meaning_of(kernel.reference(*given))))


def moved(value, make, copies):
    """Arguments with their arrays on a device; what is one array stays one array."""
    if isinstance(value, (tuple, list)):
        return type(value)(moved(item, make, copies) for item in value)
    if not isinstance(value, np.ndarray):
        return value
    return copies.setdefault(id(value), (value, make(value)))[1]


def run_on_gpu(kernel, args):
    """The same on a GPU."""
    import cupy

    given, launches = moved(args, cupy.asarray, {}), []
    if not cuda.takes(dict(zip(kernel.parameters, given, strict=False)), kernel.strided, kernel.wide):
        return None
    with devices.use_device("cupy"), recorded(launches):
        result = kernel.meaning_of(kernel(*given))
    return arrays_in((given, result)) if launches else None


def compare_with_reference(name, dtype, seed, run):
    kernel, compared = CUDA_KERNELS[name], 0
    for i, args in enumerate(cuda_samples(kernel, dtype, seed)):
        actual = run(kernel, args)
        if actual is None:
            continue
        compared += 1
        is_judged_by_float64 = dtype == "float32" and name in JUDGED_BY_FLOAT64
        exact = run_reference(kernel, cast(args, {"float32"}, np.float64, {})) if is_judged_by_float64 else ()
        wanted = run_reference(kernel, cast(args, set(SHORT), np.float32, {}))  # 16 bits are judged by float32
        for k, (a, b) in enumerate(zip(actual, wanted, strict=True)):
            assert a.dtype == b.dtype or (a.dtype.name == dtype and dtype in SHORT and b.dtype == np.float32)
            if exact:
                errors = [np.abs(devices.to_numpy(v) - devices.to_numpy(exact[k])).max() for v in (a, b)]
                assert errors[0] <= 2 * errors[1] + 1e-6, f"{name}, sample {i}"
            else:
                is_float = a.dtype.name in TOLERANCES
                scale = SCALE_OF_SHORT.get(name, 1) if dtype in SHORT else 1
                assert_close(a, b, dtype=dtype if is_float else None, scale=scale, err_msg=f"{name}, sample {i}")
    assert compared, f"{name}: its CUDA form declined all samples"


@pytest.mark.parametrize("dtype", ["float32", "float64", *SHORT])
@pytest.mark.parametrize("name", sorted(CUDA_KERNELS))
def test_cuda_form_equals_the_reference(name, dtype, seed, emulator):
    compare_with_reference(name, dtype, seed, lambda kernel, args: run_on_emulator(kernel, args, emulator, seed, 0))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64", *SHORT])
@pytest.mark.parametrize("name", sorted(CUDA_KERNELS))
def test_cuda_form_equals_the_reference_on_a_gpu(name, dtype, seed):
    compare_with_reference(name, dtype, seed, run_on_gpu)


@pytest.mark.parametrize("name", sorted(CUDA_KERNELS))
def test_another_schedule_gives_the_same_bits(name, seed, emulator):
    kernel = CUDA_KERNELS[name]
    first, second = [], []
    for order, found in (0, first), (seed, second):
        for args in small_samples(kernel, seed):
            arrays = run_on_emulator(kernel, args, emulator, order, 0)
            found.append(arrays and [devices.to_numpy(a).tobytes() for a in arrays])
    assert first == second


@pytest.mark.parametrize("name", sorted(CUDA_KERNELS))
def test_arrays_may_lie_anywhere(name, seed, emulator):
    kernel = CUDA_KERNELS[name]
    for aligned, further in zip(*(small_samples(kernel, seed) for _ in range(2)), strict=True):
        # One element further they cannot be accessed by 16 bytes, and sums may go in another order.
        expected = run_on_emulator(kernel, aligned, emulator, 0, 0)
        actual = run_on_emulator(kernel, further, emulator, seed, 1)
        for a, b in zip(actual or (), expected or (), strict=True):
            assert_close(a, b, err_msg=name)


def test_columns_on_the_gpu_are_made_in_parts(emulator, monkeypatch, rng):
    from gpukeras.kernels import convolution
    from gpukeras.kernels.windows import windows_of

    x, weights = rng.standard_normal((5, 7, 6, 4), "float32"), rng.standard_normal((3, 3, 4, 2), "float32")
    windows = windows_of((7, 6), (3, 3), (1, 1), "same", (1, 1))
    dy = rng.standard_normal((5, 7, 6, 2), "float32")
    monkeypatch.setattr(convolution, "_MOST_COLUMNS", 2 * 7 * 6 * 9 * 4 * 4)  # two of five images
    launches = []
    with devices.use_device("emulator"), recorded(launches):
        arrays = [emulator.EmulatorArray(a) for a in (x, weights, dy)]
        y = convolution.convolve(*arrays[:2], windows)
        dx = convolution.convolve_input_gradient(arrays[2], arrays[1], windows, 1)
        dweights = convolution.convolve_kernel_gradient(arrays[0], arrays[2], windows, 1)
    assert launches == ["columns"] * 3 + ["sum_of_columns"] * 3 + ["columns"] * 3
    assert_close(y, convolution.convolve.reference(x, weights, windows))
    assert_close(dx, convolution.convolve_input_gradient.reference(dy, weights, windows, 1))
    assert_close(dweights, convolution.convolve_kernel_gradient.reference(x, dy, windows, 1))
