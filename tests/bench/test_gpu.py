"""Every part of the GPU's report runs at tiny size on a CUDA made of NumPy, with its kernels emulated."""

import importlib
import json
import math
import pkgutil
import types

import numpy as np
import pytest

import gpukeras as keras
from bench import gpu as command
from bench import gpu_check, gpu_jax, gpu_rooflines, gpu_shared, gpu_steps, gpu_torch
from bench.gpu_models import MODELS, weights_of
from gpukeras import config, kernels
from gpukeras.backend import cudnn, devices
from gpukeras.kernels import activation, convolution
from gpukeras.kernels.kernel import registered_kernels
from tests import fake_cudnn
from tests.emulator import compile as emulator

pytest_plugins = ["tests.fake_gpu"]
needs_emulator = pytest.mark.skipif(emulator.reason_to_skip() is not None, reason=str(emulator.reason_to_skip()))
QUICKLY = ["--together", "--tiny", "--seconds", "0.001"]


@needs_emulator
@pytest.mark.parametrize("name", command.PARTS)
def test_a_part_runs_without_a_failure(gpu_with_kernels, name, tmp_path, capsys):
    file = tmp_path / "report.json"
    assert command.main([name, *QUICKLY, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "FAILED" not in printed and "not captured" not in printed
    assert printed.count("\n") > 10 and command.PARTS[name].title in printed
    report = json.loads(file.read_text(encoding="utf-8"))
    assert set(report["parts"]) == {name} and len(report["parts"][name]) > 5
    assert report["gpu"]["name"] and report["date"] and report["versions"]["gpukeras"]
    assert registered_kernels()["gpukeras.kernels.activation.gelu"].on_cuda is not None
    if name != "check":
        assert all(row["low_ms"] <= row["ms"] <= row["high_ms"] for row in report["parts"][name] if "ms" in row)


def test_without_a_gpu_one_line_says_so_with_the_cure(capsys, monkeypatch):
    monkeypatch.setattr(devices, "probe", lambda: (False, "CuPy is not installed; pip install it"))
    with devices.use_device("numpy"):
        assert command.main(["kernels"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "bench.gpu needs a GPU that CuPy can compute on: CuPy is not installed; pip install it"
    monkeypatch.setattr(devices, "probe", lambda: (True, "GPU"))
    with devices.use_device("numpy"):
        assert command.main(["kernels"]) == 1
    assert "set it to cupy" in capsys.readouterr().out


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["graphics"])
    assert "'graphics' is none of check, kernels" in capsys.readouterr().err


def test_an_unknown_model_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["steps", "--models", "mlp,vgg"])
    assert "'vgg' is none of the models mlp, convnet" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["steps", "--models", "mlp:float8"])
    assert "'float8' is none of the types float32, mixed_bfloat16" in capsys.readouterr().err


def test_steps_of_some_models(gpu, capsys, monkeypatch):
    for module, name in ((gpu_torch, "import_torch"), (gpu_jax, "import_jax")):
        monkeypatch.setattr(module, name, lambda: None)
    assert command.main(["steps", "--models", "mlp:mixed_bfloat16", *QUICKLY]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "gpukeras" in line or "losses" in line]
    assert {(row[0], row[1]) for row in rows} == {("mlp", "mixed_bfloat16")} and len(rows) == 3


class TestWhatIsBroken:
    """It is a line of the report, and the rest goes on."""

    @needs_emulator
    def test_a_row(self, gpu_with_kernels, capsys, monkeypatch):
        def broken(arrays):
            raise RuntimeError("cudaErrorInvalidValue\nand more")

        relu = gpu_rooflines.ROOFLINES["relu"]
        monkeypatch.setitem(gpu_rooflines.ROOFLINES, "relu", relu._replace(arguments=broken))
        assert command.main(["kernels", *QUICKLY]) == 0
        printed = capsys.readouterr().out
        assert f"{'relu':<38}  float32    FAILED: RuntimeError: cudaErrorInvalidValue\n" in printed
        assert printed.count("FAILED") == 2  # for each type
        assert "max_pool_gradient" in printed

    def test_a_part_between_its_rows(self, gpu, capsys, monkeypatch):
        def run(bench):
            yield {"check": "first", "detail": "well"}
            raise MemoryError("no memory")

        part = command.PARTS["check"]._replace(run=run)
        monkeypatch.setitem(command.PARTS, "check", part)
        assert command.main(["check", "products", *QUICKLY]) == 1
        printed = capsys.readouterr().out
        assert "first" in printed and "FAILED: MemoryError: no memory" in printed and "TFLOP/s" in printed

    def test_a_part_whose_process_dies(self, gpu, capsys, monkeypatch):
        class Died:
            returncode = -11

        monkeypatch.setattr(command.subprocess, "run", lambda *arguments, **settings: Died)
        assert command.main(["check", "kernels", "--tiny"]) == 1
        assert capsys.readouterr().out.count("FAILED: the process ended with -11") == 2

    def test_a_part_whose_process_dies_in_its_midst(self, gpu, capsys, monkeypatch, tmp_path):
        """What it has found is kept."""

        def run(part_command, **settings):
            class Died:
                returncode = -6

            assert part_command[1:3] == ["-m", "bench.gpu"]
            assert command.main(part_command[3:]) == 0
            return Died

        monkeypatch.setattr(command.subprocess, "run", run)
        file = tmp_path / "report.json"
        assert command.main(["products", "--tiny", "--seconds", "0.001", "--json", str(file)]) == 0
        report = json.loads(file.read_text(encoding="utf-8"))
        *rows, last = report["parts"]["products"]
        assert last == {"product": "products", "failed": "the process ended with -6"}
        assert len(rows) > 5 and all(row["tflops"] > 0 for row in rows)
        assert report["versions"]["gpukeras"] and "a CUDA made of NumPy" in capsys.readouterr().out

    def test_what_there_is_no_time_for(self, gpu, capsys):
        assert command.main(["products", *QUICKLY, "--limit", "0"]) == 0
        printed = capsys.readouterr().out
        assert printed.count("FAILED: no time was left") == printed.count("FAILED") > 5


class TestChecksFindOut:
    pytestmark = needs_emulator

    def test_a_wrong_kernel(self, gpu_with_kernels, monkeypatch):
        bench = gpu_shared.Bench(is_tiny=True)
        right = activation.gelu.on_cuda

        def wrong(x, y, slope=None):
            right(x, y, slope)
            y *= 1.001

        monkeypatch.setattr(activation.gelu, "on_cuda", wrong)
        with pytest.raises(gpu_check.WrongError, match="times the tolerance"):
            gpu_check._kernel(bench, activation.gelu, "float32")

    def test_a_kernel_that_declines(self, gpu_with_kernels, capsys, monkeypatch):
        monkeypatch.setattr(activation.relu, "on_cuda", lambda x: NotImplemented)
        with pytest.raises(gpu_check.WrongError, match="declined all samples"):
            gpu_check._kernel(gpu_shared.Bench(is_tiny=True), activation.relu, "float32")
        command.main(["kernels", *QUICKLY])
        failed = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
        assert len(failed) == 2 and all(line.startswith("relu ") and "the reference ran" in line for line in failed)

    def test_an_element_that_no_kernel_wrote(self, gpu_with_kernels, monkeypatch):
        bench = gpu_shared.Bench(is_tiny=True)
        right = activation.relu.on_cuda

        def incomplete(x):
            y = right(x)
            unwritten = bench.xp.empty(x.shape, x.dtype)
            unwritten.reshape(-1)[1:] = y.reshape(-1)[1:]
            return unwritten

        monkeypatch.setattr(activation.relu, "on_cuda", incomplete)
        with pytest.raises(gpu_check.WrongError, match="inf times the tolerance"):
            gpu_check._kernel(bench, activation.relu, "float32")

    def test_a_step_that_is_not_captured(self, gpu):
        gpu.failures["begin_capture"] = RuntimeError("capture is not supported")
        bench = gpu_shared.Bench(is_tiny=True)
        with pytest.raises(gpu_check.WrongError, match="it was not captured: .*capture is not supported"):
            gpu_check._forward(bench)
        with (
            pytest.warns(UserWarning, match="runs without a CUDA graph"),
            pytest.raises(gpu_check.WrongError, match="it was not captured"),
        ):
            gpu_check._steps(bench, "mlp")

    def test_memory_that_grows(self, gpu, monkeypatch):
        bench = gpu_shared.Bench(is_tiny=True)
        sizes = iter(range(0, 100, 8))
        pool = bench.xp.get_default_memory_pool()
        monkeypatch.setattr(pool, "total_bytes", lambda: next(sizes))
        with pytest.raises(gpu_check.WrongError, match="captured 0.0 MB grew by 8 bytes"):
            gpu_check._memory(bench)


class TestRooflines:
    def test_every_kernel_with_cuda_c_has_one_or_a_reason(self):
        for module in pkgutil.iter_modules(kernels.__path__, "gpukeras.kernels."):
            importlib.import_module(module.name)
        with_cuda = {kernel.__name__ for kernel in registered_kernels().values() if kernel.on_cuda is not None}
        assert set(gpu_rooflines.ROOFLINES) | set(gpu_rooflines.REASONS) == with_cuda
        assert not set(gpu_rooflines.ROOFLINES) & set(gpu_rooflines.REASONS)
        assert len(with_cuda) == sum(kernel.on_cuda is not None for kernel in registered_kernels().values())

    @needs_emulator
    @pytest.mark.parametrize(
        ("name", "dtype"), [(name, dtype) for name, r in gpu_rooflines.ROOFLINES.items() for dtype in r.dtypes]
    )
    def test_bytes_are_those_that_are_read_and_written(self, gpu_with_kernels, name, dtype):
        """What is read shows in the results when it is spoilt before; of the arrays larger than a vector."""
        roofline = gpu_rooflines.ROOFLINES[name]
        arrays = gpu_rooflines.Arrays(gpu_shared.Bench(is_tiny=True), 1 << 13, dtype)

        def outcome(spoilt=None):
            """The arguments, what each held before and holds after the call, and the other arrays that came of it."""
            arguments = roofline.typed_arguments(arrays)
            given = distinct(arguments)
            if spoilt is not None:
                given[spoilt].reshape(-1)[...] = np.nan if given[spoilt].dtype.kind in "fV" else 0
            before = [a.tobytes() for a in given]
            returned = distinct(roofline.kernel(*arguments), is_scalar_one=True)
            devices.default_module().cuda.get_current_stream().synchronize()
            return given, before, [a.tobytes() for a in given], [a for a in returned if not is_in(a, given)]

        given, before, after, made = outcome()
        written = [i for i in range(len(given)) if before[i] != after[i]]

        def results(after, made):
            return [after[i] for i in written] + [a.tobytes() for a in made]

        read = [i for i in range(len(given)) if results(*outcome(i)[2:]) != results(after, made)]
        moved = made + [given[i] for i in written + read]
        once = roofline._replace(again=0).bytes(arrays)
        assert once == sum(a.nbytes for a in moved if a.size > arrays.size // 8)
        assert roofline.bytes(arrays) - once == roofline.again * arrays.size * arrays.dtype.itemsize


def distinct(value, is_scalar_one=False):
    """The arrays in nested tuples, each once; those of shape () as well, or not."""
    if isinstance(value, (tuple, list)):
        found = []
        for part in value:
            found += [a for a in distinct(part, is_scalar_one) if not is_in(a, found)]
        return found
    return [value] if hasattr(value, "tobytes") and (value.ndim or is_scalar_one) else []


def is_in(array, arrays):
    """Whether it is one of them."""
    return any(array is other for other in arrays)


def test_a_clock_repeats_what_is_short():
    calls = []

    def between(run):
        before = len(calls)
        run()
        return 0.001 * (len(calls) - before)

    timing = gpu_shared.Clock(between).measure(lambda: calls.append(1), 0.09)
    assert timing.low == timing.median == timing.high == pytest.approx(0.001)
    assert len(calls) == 3 + 9 * 10
    long = gpu_shared.Clock(between).measure(lambda: calls.append(1), 0.0005)
    assert long.median == pytest.approx(0.001) and len(calls) == 3 + 90 + 3 + 3


def test_events_time_where_there_are_some(gpu):
    log = []

    class Event:
        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("synchronize")

    class Cuda:
        pass

    Cuda.Event, Cuda.get_elapsed_time = Event, staticmethod(lambda start, stop: 2.0)
    module = type("cupy", (), {"cuda": Cuda})
    assert gpu_shared.cupy_clock(module).between(lambda: log.append("run")) == 0.002
    assert log == ["record", "run", "record", "synchronize"]


def test_numbers_without_a_word_in_json_are_left_out():
    assert command._finite({"a": [1.0, math.nan, (math.inf,)]}) == {"a": [1.0, None, [None]]}


class TestPeers:
    """What is timed beside ours is the same computation: from the same weights the same losses."""

    def losses_of(self, made):
        return [float(made()) for _ in range(4)]

    @pytest.mark.oracle
    @pytest.mark.parametrize("policy", gpu_steps.POLICIES)
    @pytest.mark.parametrize("name", MODELS)
    def test_in_jax(self, name, policy):
        import jax

        judge = gpu_steps._Judge("tiny")
        made = gpu_jax.jax_step(jax, name, gpu_steps._of_peer(name, "tiny"), policy, is_exact=True)
        later = 0.4 if name == "resnet18" and policy != "float32" else None  # statistics of four images in 16 bits
        judge.agree("jax", name, policy, self.losses_of(made), later)

    @pytest.mark.parametrize("policy", gpu_steps.POLICIES)
    @pytest.mark.parametrize("name", MODELS)
    def test_in_pytorch(self, name, policy):
        torch = pytest.importorskip("torch")
        judge, workload = gpu_steps._Judge("tiny"), gpu_steps._of_peer(name, "tiny")
        made = gpu_torch.torch_step(torch, name, "tiny", workload, policy, is_exact=True, device="cpu")
        later = 0.4 if name == "resnet18" and policy != "float32" else gpu_steps.TOLERANCE_OF_TORCH
        judge.agree("torch", name, policy, self.losses_of(made), later)

    @pytest.mark.parametrize("name", MODELS)
    def test_have_every_trainable_weight(self, name):
        model = MODELS[name](keras, "tiny").model
        arrays = [array for layers in weights_of(model).values() for layer in layers for array in layer]
        assert sum(array.size for array in arrays) == sum(math.prod(v.shape) for v in model.trainable_variables)

    def test_that_differ_are_not_timed(self):
        judge = gpu_steps._Judge("tiny")
        judge._expected["mlp"] = [2.0, 1.9, 1.8, 1.7]
        with pytest.raises(gpu_steps.WrongError, match=r"NumPy's in float64 are \[2.0, "):
            judge.agree("jax", "mlp", "float32", [2.001, 1.9, 1.8, 1.7])
        with pytest.raises(gpu_steps.WrongError):
            judge.agree("jax", "mlp", "float32", [2.0, 1.9, float("nan"), 1.7])
        with pytest.raises(gpu_steps.WrongError, match="it is not timed"):
            judge.require("jax", "mlp", "float32")
        assert "off by 0.0e+00" in judge.agree("jax", "mlp", "float32", [2.0, 1.9, 1.8, 1.701])["note"]
        judge.require("jax", "mlp", "float32")
        judge.compare("mlp", [2.3, 2.2, 2.1, 2.0])
        judge.compare("mlp", [2.31, 2.1, 2.0, 1.9])
        for wrong in ([2.5, 2.2, 2.1, 2.0], [2.3, 2.2, 2.1, 1.0], [2.3, 2.2, float("nan"), 2.0]):
            with pytest.raises(gpu_steps.WrongError, match=r"at full size, but the first engine's are \[2.3, "):
                judge.compare("mlp", wrong)

    def test_as_they_are_run(self, gpu, monkeypatch, capsys):
        """With PyTorch and JAX that are not there, each row of theirs stands in the report."""
        losses = iter([])

        def made(*arguments, **settings):
            judge = gpu_steps._Judge("tiny")
            expected = judge._expected_of("mlp")
            return lambda: next(losses, expected[0]) if not settings.get("is_exact") else expected[made.count()]

        counts = iter(range(10_000))
        made.count = lambda: next(counts) % 4
        clock = gpu_shared.wall_clock(lambda: None)
        fake = types.SimpleNamespace(
            cuda=types.SimpleNamespace(empty_cache=lambda: None), block_until_ready=lambda losses: None
        )
        for name in set(MODELS) - {"mlp"}:
            monkeypatch.delitem(MODELS, name)
        for module, names in ((gpu_torch, ("import_torch", "torch_step")), (gpu_jax, ("import_jax", "jax_step"))):
            monkeypatch.setattr(module, names[0], lambda: fake)
            monkeypatch.setattr(module, names[1], made)
        monkeypatch.setattr(gpu_steps, "torch_clock", lambda torch: clock)
        assert command.main(["steps", *QUICKLY]) == 0
        printed = capsys.readouterr().out
        assert "FAILED" not in printed
        for engine in ("losses, torch", "torch eager", "losses, jax", "jax jit", "torch max-autotune"):
            assert printed.count(f"  {engine} ") == 2


@needs_emulator
class TestCudnn:
    @pytest.fixture(autouse=True)
    def installed(self, gpu_with_kernels, monkeypatch):
        fake_cudnn.install(monkeypatch, gpu_with_kernels.kernel)
        monkeypatch.setattr(cudnn, "version_or_reason", lambda: 91002)

    def test_checks(self):
        bench = gpu_shared.Bench(is_tiny=True)
        for kind in ("float32", "tf32", "float16"):
            assert "results, at most" in gpu_check._convolutions(bench, kind)["detail"]
        assert "at most" in gpu_check._attention(bench, "bfloat16")["detail"]
        # Kernels are checked without it.
        assert gpu_check._kernel(bench, convolution.convolve, "float32")
        assert config.is_cudnn_enabled()

    def test_what_is_wrong_is_found(self, monkeypatch):
        bench, right = gpu_shared.Bench(is_tiny=True), fake_cudnn.kernel_gradient
        monkeypatch.setattr(fake_cudnn, "kernel_gradient", lambda x, dy, d, window: right(x, dy * 1.001, d, window))
        with pytest.raises(gpu_check.WrongError, match="convolve_kernel_gradient, sample"):
            gpu_check._convolutions(bench, "float32")
        fake_cudnn.refused |= {"conv_fprop", "conv_dgrad", "conv_wgrad", "sdpa_backward"}
        with pytest.raises(gpu_check.WrongError, match="cuDNN has no engine: No engine for conv_fprop"):
            cudnn._planned.cache_clear()
            gpu_check._convolutions(bench, "float32")
        with pytest.raises(gpu_check.WrongError, match="cuDNN has no engine"):
            gpu_check._attention(bench, "float16")

    def test_steps_with_and_without_it(self, capsys, monkeypatch):
        for name in set(MODELS) - {"convnet"}:
            monkeypatch.delitem(MODELS, name)
        assert command.main(["steps", *QUICKLY]) == 0
        printed = capsys.readouterr().out
        assert printed.count("gpukeras own kernels") == 2 and "FAILED" not in printed
        assert {"conv_fprop", "conv_wgrad"} <= {graph.operation for graph in fake_cudnn.graphs}
