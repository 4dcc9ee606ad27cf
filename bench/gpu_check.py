"""What must be right before anything is timed: kernels, products, captured steps, memory, the way of the data."""

import contextlib
import importlib
import itertools
import pkgutil
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

import gpukeras as keras
import gpukeras.kernels
from bench import workloads
from bench.gpu_shared import Part, recorded, tf32, with_cudnn
from gpukeras import doctor
from gpukeras.autograd.scope import setting
from gpukeras.autograd.tape import Tape
from gpukeras.backend import cuda, cudnn, devices, dtypes, gemm
from gpukeras.backend.graphs import Graph
from gpukeras.kernels import attention, convolution
from gpukeras.kernels.kernel import registered_kernels
from gpukeras.training import captures, step
from gpukeras.training.data import to_batch

__all__ = ["PART"]

# Relative and absolute tolerance by dtype, as the tests have it.
TOLERANCES = {"float64": (1e-7, 1e-9), "float32": (2e-5, 2e-6), "float16": (4e-3, 2e-3), "bfloat16": (4e-2, 1e-2)}
SHORT = ("float16", "bfloat16")
# Between its products it stores differences of numbers that are almost equal, rounded to 16 bits.
SCALE_OF_SHORT = {"attention_backward": 4}


class WrongError(Exception):
    """A check's result is not what it has to be."""


def run(bench):
    """The rows. Kernels come last: one that reads beyond its arrays ends the process's use of the GPU."""
    for finding in doctor.diagnose(doctor.examine()):
        yield {"check": "doctor", "detail": str(finding)}
    for dtype in ("float32", "tf32", "float64", *SHORT):
        yield bench.row({"check": f"products, {dtype}"}, lambda dtype=dtype: _products(bench, dtype))
    for dtype in ("float32", "tf32", *SHORT):
        yield bench.row({"check": f"cuDNN's convolutions, {dtype}"}, lambda dtype=dtype: _convolutions(bench, dtype))
    for dtype in SHORT:
        yield bench.row({"check": f"cuDNN's attention, {dtype}"}, lambda dtype=dtype: _attention(bench, dtype))
    for name, check in (("forward", _forward), ("forward and backward", _both_ways)):
        yield bench.row({"check": f"captured {name}"}, lambda check=check: check(bench))
    for name in workloads.HEAVY[:2] if bench.is_tiny else workloads.WORKLOADS:
        yield bench.row({"check": f"captured step, {name}"}, lambda name=name: _steps(bench, name))
    yield bench.row({"check": "memory over 200 steps"}, lambda: _memory(bench))
    yield bench.row({"check": "fit, uploaded and streamed"}, lambda: _ways_of_data(bench))
    for module in pkgutil.iter_modules(gpukeras.kernels.__path__, "gpukeras.kernels."):
        importlib.import_module(module.name)
    for name, kernel in sorted(registered_kernels().items()):
        if kernel.on_cuda is None or (bench.is_tiny and ".activation." not in name):
            continue
        for dtype in ("float32", *SHORT):
            cells = {"check": f"{name.removeprefix('gpukeras.kernels.')}, {dtype}"}
            yield bench.row(cells, lambda kernel=kernel, dtype=dtype: _kernel(bench, kernel, dtype))


# --- Comparing ------------------------------------------------------------------------------------------------


def _require_equal(found, expected, what):
    for a, b in zip(found, expected, strict=True):
        if a.tobytes() != b.tobytes():
            differing = np.count_nonzero(a != b)
            raise WrongError(f"{what}: {differing} of {a.size} values differ")


def _excess(found, exact, dtype):
    """The largest error, as a multiple of the tolerance; infinite where only one is finite."""
    if found.shape != exact.shape:
        raise WrongError(f"shape {found.shape}, expected {exact.shape}")
    if not found.size:
        return 0.0
    found, exact = found.astype(np.float64), exact.astype(np.float64)
    rtol, atol = TOLERANCES[dtype]
    with np.errstate(all="ignore"):
        ratio = np.abs(found - exact) / (atol + rtol * np.abs(exact))
    same = (found == exact) | (np.isnan(found) & np.isnan(exact))
    return float(np.where(same, 0.0, np.where(np.isnan(ratio), np.inf, ratio)).max())


# --- Kernels --------------------------------------------------------------------------------------------------


def _kernel(bench, kernel, dtype):
    """A kernel's CUDA form against its reference in the next wider type, on its samples."""
    compared, worst = 0, 0.0
    for args in _samples(kernel, dtype):
        if bench.is_tiny and max((a.size for a in _arrays_in(args)), default=0) > 5000:
            continue
        given, launches = _moved(args, {}), []
        if not cuda.takes(dict(zip(kernel.parameters, given, strict=False)), kernel.strided, kernel.wide):
            continue
        # Kernels that multiply are compared in full, and not what cuDNN computes in their place.
        with recorded(launches), _poisoned(bench.xp), tf32(False), with_cudnn(False):
            result = kernel.meaning_of(kernel(*given))
        if not launches:
            continue  # the form declined
        compared += 1
        found = [devices.to_numpy(a) for a in _arrays_in((given, result))]
        wider = "float32" if dtype in SHORT else "float64"
        exact, plain = _reference(kernel, args, dtype, wider), _reference(kernel, args, dtype, "float32")
        for a, b, c in zip(found, exact, plain, strict=True):
            if a.dtype.name not in TOLERANCES:
                if not np.array_equal(a, c):
                    raise WrongError(f"sample {compared}: values of type {a.dtype} differ")
                continue
            # Where digits cancel the float32 reference is off too; the kernel may be twice as far off.
            excess = _excess(a, b, dtype)
            allowed = max(
                1.0, 2 * _excess(c, b, dtype), SCALE_OF_SHORT.get(kernel.__name__, 1) if dtype in SHORT else 1
            )
            worst = max(worst, excess)
            if excess > allowed:
                raise WrongError(f"sample {compared}: {excess:.3g} times the tolerance")
    if not compared:
        raise WrongError("the CUDA form declined all samples")
    return {"detail": f"{compared} samples, at most {worst:.2g} of the tolerance"}


def _samples(kernel, dtype):
    rng = np.random.default_rng(24)

    def random(shape, dtype):
        return rng.standard_normal(shape).astype(dtype)

    with devices.use_device("numpy"), np.errstate(over="ignore", invalid="ignore"):
        given = list(kernel.sample_function(random, "float32" if dtype == "bfloat16" else dtype))
    # NumPy's products of bfloat16 and a number are float32: what is drawn in float32 is rounded afterwards.
    if dtype == "bfloat16":
        given = [_cast(args, {"float32"}, ml_dtypes.bfloat16, {}) for args in given]
    return [kernel.typed(args, dtypes.as_dtype(dtype)) for args in given]


def _reference(kernel, args, dtype, wider):
    """All arrays of the reference's call on NumPy, computed in a wider type."""
    with devices.use_device("numpy"), np.errstate(all="ignore"):
        args = _cast(args, {dtype}, np.dtype(wider).type, {}, copies_all=True)
        return [np.asarray(a) for a in _arrays_in((args, kernel.meaning_of(kernel.reference(*args))))]


def _cast(value, names, dtype, copies, copies_all=False):
    """Arguments with the arrays of some dtypes in another one; what is one array stays one array."""
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(item, names, dtype, copies, copies_all) for item in value)
    is_meant = getattr(getattr(value, "dtype", None), "name", None) in names
    if isinstance(value, np.ndarray) and (is_meant or copies_all):
        return copies.setdefault(id(value), (value, value.astype(dtype if is_meant else value.dtype)))[1]
    return dtype(value) if is_meant else value


def _moved(value, copies):
    """Arguments with their arrays on the device, in the layout that they have."""
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(item, copies) for item in value)
    if not isinstance(value, np.ndarray):
        return value
    return copies.setdefault(id(value), (value, devices.default_module().asarray(value)))[1]


def _arrays_in(value):
    """All arrays in nested tuples and lists, in order."""
    if isinstance(value, (tuple, list)):
        return [array for item in value for array in _arrays_in(item)]
    return [value] if devices.is_array(value) or isinstance(value, np.generic) else []


@contextlib.contextmanager
def _poisoned(xp):
    """Within the block, new arrays hold NaN, so that an element that no kernel wrote is found out."""
    names = ("empty", "empty_like")
    functions = {name: getattr(xp, name) for name in names}
    before = {name: vars(xp)[name] for name in names if name in vars(xp)}

    def poisoning(function):
        def make(*args, **kwargs):
            array = function(*args, **kwargs)
            if array.size:
                array.reshape(-1).view(np.uint8).fill(0xFF)
            return array

        return make

    for name in names:
        setattr(xp, name, poisoning(functions[name]))
    try:
        yield
    finally:
        for name in names:
            delattr(xp, name)
        vars(xp).update(before)


# --- Products -------------------------------------------------------------------------------------------------


def _products(bench, kind):
    """Transposes, epilogues, results in place and added to, against float64."""
    dtype = dtypes.as_dtype("float32" if kind == "tf32" else kind)
    rng, worst, count = np.random.default_rng(25), 0.0, 0
    m, k, n = (5, 7, 6) if bench.is_tiny else (264, 520, 392)
    tolerance = "float16" if kind == "tf32" else kind  # TF32 has float16's digits
    results = [dtype, np.dtype("float32")] if kind in SHORT else [dtype]
    cases = itertools.product(
        (False, True), (False, True), (None, "bias", "relu_bias", "gelu_bias", "sum_of_a"), results
    )
    cases = [*cases, *[(a, b, "sum_of_b", dtype) for a in (False, True) for b in (False, True)]]
    for (is_a, is_b, epilogue, out_dtype), beta in itertools.product(cases, (0.0, 1.0)):
        if beta and epilogue is not None:
            continue
        host_a = (rng.standard_normal((k, m) if is_a else (m, k)) / k**0.5).astype(dtype)
        host_b = rng.standard_normal((n, k) if is_b else (k, n)).astype(dtype)
        size = m if epilogue == "sum_of_a" else n
        host_vector = rng.standard_normal(size).astype(out_dtype)
        host_out = rng.standard_normal((m, n)).astype(out_dtype)
        a, b, out, vector = (bench.xp.asarray(v) for v in (host_a, host_b, host_out, host_vector))
        a, b = a.T if is_a else a, b.T if is_b else b
        has_out = beta != 0 or out_dtype != dtype or is_a
        settings = {"epilogue": epilogue, "vector": vector} if epilogue else {}
        with tf32(kind == "tf32"):
            y = gemm.matmul(a, b, out if has_out else None, beta=beta, **settings)
        wide_a, wide_b = ((v.T if t else v).astype(np.float64) for v, t in ((host_a, is_a), (host_b, is_b)))
        exact = wide_a @ wide_b + beta * host_out.astype(np.float64)
        exact, exact_vector = _with_epilogue(epilogue, exact, wide_a, wide_b, host_vector.astype(np.float64))
        pairs = [(y, exact), *([] if exact_vector is None else [(vector, exact_vector)])]
        for value, wanted in pairs:
            excess = _excess(devices.to_numpy(value), wanted, tolerance)
            worst, count = max(worst, excess), count + 1
            # Entries near zero are sums of terms near one: the error is that of the terms.
            if excess > 10:
                case = f"transposed {is_a}, {is_b}, epilogue {epilogue}, into {out_dtype.name}, beta {beta}"
                raise WrongError(f"{case}: {excess:.3g} times the tolerance")
    return {"detail": f"{count} results, at most {worst:.2g} of the tolerance"}


def _with_epilogue(epilogue, y, a, b, vector):
    """The exact result, and the vector where it is one."""
    if epilogue is None:
        return y, None
    if epilogue in ("sum_of_a", "sum_of_b"):
        return y, a.sum(1) if epilogue == "sum_of_a" else b.sum(0)
    y = y + vector
    if epilogue == "relu_bias":
        y = np.maximum(y, 0)
    elif epilogue == "gelu_bias":
        y = 0.5 * y * (1 + np.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y**3)))
    return y, None


# --- cuDNN ----------------------------------------------------------------------------------------------------


def _without_cudnn():
    """What a row says where there is nothing to check; None where there is."""
    found = cudnn.version_or_reason()
    return {"detail": found} if isinstance(found, str) else None


def _convolutions(bench, kind):
    """All that cuDNN has an engine for, of the kernels' samples, against float64."""
    if (absent := _without_cudnn()) is not None:
        return absent
    dtype, worst, count, refused = "float32" if kind == "tf32" else kind, 0.0, 0, 0
    for kernel, function in (
        (convolution.convolve, lambda args: cudnn.convolve(*args[:3])),
        (convolution.convolve_input_gradient, lambda args: cudnn.input_gradient(*args[:4])),
        (convolution.convolve_kernel_gradient, lambda args: cudnn.kernel_gradient(*args)),
    ):
        for args in _samples(kernel, dtype):
            if len(args) > 4 or not args[0].size or (kernel is convolution.convolve and len(args) > 3):
                continue  # with a bias, which kernels of ours add
            with tf32(kind == "tf32"), _poisoned(bench.xp):
                found = function(_moved(args, {}))
            if found is None:
                refused += 1
                continue
            excess = _excess(devices.to_numpy(found), _reference(kernel, args, dtype, "float64")[-1], dtype)
            # TF32 has float16's digits; entries near zero are sums of terms near one.
            allowed = 10 * (TOLERANCES["float16"][0] / TOLERANCES["float32"][0] if kind == "tf32" else 1)
            worst, count = max(worst, excess), count + 1
            if excess > allowed:
                raise WrongError(f"{kernel.__name__}, sample {count}: {excess:.3g} times the tolerance")
    if not count:
        raise WrongError(f"cuDNN has no engine: {next(iter(cudnn.refusals().values()), 'no reason was given')}")
    return {"detail": f"{count} results, at most {worst:.2g} of the tolerance; no engine for {refused}"}


def _attention(bench, dtype):
    """Outputs and gradients, causal and not, against float32."""
    if (absent := _without_cudnn()) is not None:
        return absent
    rng, worst, shape = np.random.default_rng(28), 0.0, (2, 128, 4, 64)
    for is_causal in (False, True):
        host = [rng.standard_normal(shape).astype(dtypes.as_dtype(dtype)).transpose(0, 2, 1, 3) for _ in range(5)]
        q, k, v, y, dy, dq, dk, dv = (bench.xp.asarray(a) for a in (*host, *host[:3]))
        log_sums = cudnn.attention(q, k, v, y, 0.125, is_causal)
        if log_sums is None or not cudnn.attention_gradients(q, k, v, y, log_sums, dy, 0.125, is_causal, dq, dk, dv):
            raise WrongError(f"cuDNN has no engine: {next(iter(cudnn.refusals().values()), 'no reason was given')}")
        wide = [a.astype(np.float32) for a in host]
        exact = [np.empty_like(a) for a in wide[:3]]
        kept = attention.attention.reference(*wide[:3], None, wide[3], 0.125, is_causal)
        attention.attention_backward.reference(*wide[:4], *kept, wide[4], None, 0.125, is_causal, *exact)
        for name, a, b in zip(("y", "dq", "dk", "dv"), (y, dq, dk, dv), (wide[3], *exact), strict=True):
            excess = _excess(devices.to_numpy(a), b, dtype)
            worst = max(worst, excess)
            if excess > SCALE_OF_SHORT["attention_backward"]:
                raise WrongError(f"{name}, causal {is_causal}: {excess:.3g} times the tolerance")
    return {"detail": f"at most {worst:.2g} of the tolerance"}


# --- Captured steps -------------------------------------------------------------------------------------------


def _opened(name, **settings):
    """A tiny workload's model from the weights that every engine starts from, and a batch on the device."""
    keras.utils.set_random_seed(26)
    workload = workloads.WORKLOADS[name](keras, tiny=True)
    model = workload.model
    model.compile(workload.optimizer, workload.loss, **settings)
    workloads.reset(model)
    rows = workload.batch_size
    return model, to_batch((workload.x[:rows], workload.y[:rows]))


def _replayed(function, count):
    """What a captured function gives at each of its launches."""
    graph = Graph(function)
    try:
        for _ in range(3):
            found = graph()
        if graph.graph is None:
            raise WrongError(f"it was not captured: {graph.reason}")
        for _ in range(count):
            found = graph()
        return found
    finally:
        graph.close()


def _forward(bench):
    model, (x, _, _) = _opened("mlp")
    expected = [devices.to_numpy(model(x).array)]
    found = [devices.to_numpy(_replayed(lambda: model(x).array, 10))]
    _require_equal(found, expected, "outputs")
    return {"detail": "equal bit for bit"}


def _both_ways(bench):
    model, (x, y, _) = _opened("mlp")
    one = bench.xp.ones((), "float32")

    def gradients():
        with Tape() as tape, setting(training=True):
            loss = model.compute_loss(x=x, y=y, y_pred=model(x))
        return tape.gradients([(loss, one)], model.trainable_variables)

    expected = [devices.to_numpy(g) for g in gradients()]
    _require_equal([devices.to_numpy(g) for g in _replayed(gradients, 10)], expected, "gradients")
    return {"detail": "equal bit for bit"}


def _steps(bench, name):
    """A whole step many times over: launched, and kernel by kernel."""
    count = 6 if bench.is_tiny else 1003 if name == "mlp" else 103

    def weights(**settings):
        model, batch = _opened(name, **settings)
        for _ in range(count):
            step.train(model, *batch)
        if not settings:
            (graph,) = captures.graphs_of(model)
            if graph.graph is None:
                raise WrongError(f"it was not captured: {graph.reason}")
        return [devices.to_numpy(v.array) for v in model.variables + model.optimizer.variables]

    _require_equal(weights(), weights(run_eagerly=True), f"weights after {count} steps")
    return {"detail": f"weights equal bit for bit after {count} steps"}


def _memory(bench):
    """The pool must not grow once a step is captured."""
    pool = bench.xp.get_default_memory_pool()
    detail = []
    for settings in ({}, {"run_eagerly": True}):
        model, batch = _opened("mlp", **settings)
        for _ in range(10):
            step.train(model, *batch)
        before = pool.total_bytes()
        for _ in range(200):
            step.train(model, *batch)
        grown = pool.total_bytes() - before
        detail.append(f"{'eager' if settings else 'captured'} {before / 1e6:.1f} MB")
        if grown > 0:
            raise WrongError(f"{detail[-1]} grew by {grown} bytes")
    return {"detail": ", ".join(detail) + ", and no more after 200 steps"}


def _ways_of_data(bench):
    """A data set that lies on the device trains to the weights of one that is streamed from a file."""
    x, y, batch_size = workloads.data("mlp", tiny=bench.is_tiny)

    def weights(x, y):
        keras.utils.set_random_seed(27)
        workload = workloads.mlp(keras, tiny=bench.is_tiny)
        model = workload.compile()
        model.fit(x, y, batch_size=batch_size, epochs=3, verbose=0)
        return [devices.to_numpy(v.array) for v in model.variables]

    with tempfile.TemporaryDirectory() as folder:
        mapped = []
        for name, array in (("x", x), ("y", y)):
            np.save(Path(folder) / f"{name}.npy", array)
            mapped.append(np.load(Path(folder) / f"{name}.npy", mmap_mode="r"))
        _require_equal(weights(*mapped), weights(x, y), "weights")
        mapped.clear()
    return {"detail": "weights equal bit for bit"}


PART = Part("Checks", (("check", "check", "{:<48}"), ("detail", "", "{}")), run)
