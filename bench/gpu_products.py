"""Matrix products: TFLOP/s of cuBLASLt through gpukeras, beside CuPy's own and PyTorch's."""

import math

from bench.gpu_shared import Clock, Part, tf32
from bench.gpu_torch import import_torch
from gpukeras.backend import gemm

__all__ = ["PART", "torch_clock"]

SHAPES = {  # name -> shapes of both operands; the last one as attention has it
    "128 x 784 x 512": ((128, 784), (784, 512)),
    "4096 x 4096 x 4096": ((4096, 4096), (4096, 4096)),
    "8192 x 8192 x 8192": ((8192, 8192), (8192, 8192)),
    "96 of 1024 x 64 x 1024": ((96, 1024, 64), (96, 64, 1024)),
}
TINY = {"5 x 7 x 6": ((5, 7), (7, 6)), "2 of 5 x 4 x 5": ((2, 5, 4), (2, 4, 5))}
TYPES = {"float32": ("float32", False), "tf32": ("float32", True), "float16": ("float16", True)}
TYPES |= {"bfloat16": ("bfloat16", True)}


def torch_clock(torch):
    """A clock by PyTorch's events on its current stream."""

    def between(run):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3

    return Clock(between)


def run(bench):
    """The rows."""
    torch = import_torch()
    for shape, operands in (TINY if bench.is_tiny else SHAPES).items():
        flops = 2 * math.prod(operands[0]) * operands[1][-1]
        for name, (dtype, is_tf32) in TYPES.items():
            for engine in ("gpukeras", "cupy", "torch"):
                if (engine == "torch" and torch is None) or (engine == "cupy" and name == "tf32"):
                    continue
                cells = {"product": shape, "dtype": name, "engine": engine}

                def measure(engine=engine, operands=operands, dtype=dtype, is_tf32=is_tf32, flops=flops):
                    if engine == "torch":
                        timing = _torch(torch, bench, operands, dtype, is_tf32)
                    else:
                        timing = _cupy(bench, operands, dtype, is_tf32, engine == "gpukeras")
                    return timing.cells() | {"tflops": flops / timing.median / 1e12}

                yield bench.row(cells, measure)


def _cupy(bench, operands, dtype, is_tf32, is_ours):
    a, b = (bench.random(shape, dtype) for shape in operands)
    multiply = gemm.matmul if is_ours else bench.xp.matmul
    out = bench.xp.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
    with tf32(is_tf32):
        return bench.time((lambda: multiply(a, b, out)) if is_ours else (lambda: multiply(a, b)))


def _torch(torch, bench, operands, dtype, is_tf32):
    torch.backends.cuda.matmul.allow_tf32 = is_tf32
    a, b = (torch.randn(shape, device="cuda").to(getattr(torch, dtype)) for shape in operands)
    out = torch.matmul(a, b)
    return torch_clock(torch).measure(lambda: torch.matmul(a, b, out=out), bench.seconds)


PART = Part(
    "Matrix products",
    (
        ("product", "product", "{:<24}"),
        ("dtype", "type", "{:<10}"),
        ("engine", "engine", "{:<10}"),
        ("ms", "ms", "{:9.4f}"),
        ("low_ms", "quartiles", "{:9.4f}"),
        ("high_ms", "", "{:9.4f}"),
        ("tflops", "TFLOP/s", "{:9.2f}"),
    ),
    run,
)
