"""The emulator itself: it computes what a GPU would, and finds the mistakes that it is there to find."""

from pathlib import Path

import numpy as np
import pytest

import gpukeras.kernels
from gpukeras.backend import cuda, random
from tests.emulator.compile import compile_for_cpu, reason_to_skip, schedule

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

FLOAT32 = cuda.compile_options(np.dtype("float32"))
COMMON = (Path(gpukeras.kernels.__file__).parent / "common.cuh").read_text(encoding="utf-8")

TWO_SUMS = """
KERNEL two_sums(const float* x, float* y) {
  float first = over_row<Sum>(x[threadIdx.x]), second = over_row<Sum>(first * x[threadIdx.x]);
  y[threadIdx.x] = first + second;
}
"""
PHILOX = (Path(gpukeras.kernels.__file__).parent / "philox.cuh").read_text(encoding="utf-8")


def compiled(kernels, common=COMMON):
    return compile_for_cpu(common + kernels, FLOAT32, "test.cu")


def launch(function, *args, grid=(1,), block=(256,), shared_bytes=0):
    function(grid, block, args, shared_bytes)


def two_sums(common):
    x, y = np.arange(256, dtype=np.float32) / 256, np.empty(256, np.float32)
    launch(compiled(TWO_SUMS, common)["two_sums"], x, y)
    return np.array_equal(y, np.full(256, x.sum() + x.sum() * x.sum(), np.float32))


@pytest.mark.parametrize("seed", range(4))
def test_sums_over_a_block(seed):
    with schedule(seed):
        assert two_sums(COMMON)


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_barrier_is_found(number):
    start = COMMON.index("DEVICE void all_over_row(")
    stop = COMMON.index("\n}\n", start)
    before, between, after = COMMON[start:stop].split("__syncthreads();")
    over_row = (
        before + ("__syncthreads();" if number else "") + between + ("" if number else "__syncthreads();") + after
    )
    common = COMMON[:start] + over_row + COMMON[stop:]
    results = []
    for seed in range(4):
        with schedule(seed):
            results.append(two_sums(common))
    assert not all(results)


def test_undefined_values_are_nan():
    kernels = """
KERNEL undefined(float* y) {
  __shared__ float of_block[4];
  extern __shared__ float of_launch[];
  if (threadIdx.x >= 8) return;
  y[0] = of_block[1];
  y[1] = of_launch[1];
  y[2] = __shfl_sync(0xff, 1.0f, 9);
}
"""
    y = np.zeros(3, np.float32)
    launch(compiled(kernels)["undefined"], y, grid=(2,), block=(32,), shared_bytes=16)
    assert np.isnan(y).all()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 100) __syncthreads();", "only a part of the threads"),
        ("if (threadIdx.x < 32) __syncthreads(); else if (threadIdx.x < 64) __syncwarp(); else __syncthreads();", ""),
        ("if (threadIdx.x % 32 < 16) __syncwarp(); else __syncthreads();", "deadlock"),
        ("if (threadIdx.x & 1) __syncwarp(); else __shfl_sync(ALL_LANES, 1, 0);", "different functions"),
        ("__syncwarp(1);", "not in its own mask"),
    ],
)
def test_a_divergent_barrier_is_found(body, message):
    function = compiled(f"KERNEL diverges(int* y) {{ if (blockIdx.x == 2) {{ {body} }} }}")["diverges"]
    with pytest.raises(RuntimeError, match=rf"{message}.* in block \(2, 0, 0\)"):
        launch(function, np.zeros(1, np.int32), grid=(3,))


def test_a_launch_that_cuda_refuses():
    function = compiled("KERNEL nothing(int* y) {}")["nothing"]
    for grid, block in ((0,), (1,)), ((1,), (1025,)), ((1, 70000), (1,)):
        with pytest.raises(RuntimeError, match="CUDA refuses"):
            launch(function, np.zeros(1, np.int32), grid=grid, block=block)


def test_indices_votes_and_atomics():
    kernels = """
KERNEL count(int* numbers, int* odd, int* sum) {
  int place = ((blockIdx.y * gridDim.x + blockIdx.x) * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  numbers[place] = place;
  unsigned votes = __ballot_sync(ALL_LANES, place % 2);
  bool any = __any_sync(ALL_LANES, threadIdx.x == 31), all = __all_sync(ALL_LANES, place % 2);
  odd[place] = (votes >> threadIdx.x & 1) && any && !all;
  atomicAdd(sum, __shfl_down_sync(ALL_LANES, 1, 1) + __shfl_up_sync(ALL_LANES, 1, 1));
}
"""
    function = compiled(kernels)["count"]
    for seed in range(3):
        numbers, odd, total = np.empty(384, np.int32), np.empty(384, np.int32), np.zeros(1, np.int32)
        with schedule(seed):
            launch(function, numbers, odd, total, grid=(3, 2), block=(32, 2))
        assert np.array_equal(numbers, np.arange(384)) and np.array_equal(odd, numbers % 2) and total[0] == 768


def test_the_order_of_blocks_follows_from_the_seed():
    function = compiled("KERNEL last(int* y) { y[0] = blockIdx.x; }")["last"]
    found = []
    for seed in (0, 1, 2, 3, 1):
        y = np.zeros(1, np.int32)
        with schedule(seed):
            launch(function, y, grid=(100,), block=(1,))
        found.append(y[0])
    assert found[0] == 99 and len(set(found[:4])) > 1 and found[4] == found[1]


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_short_number_is_converted_as_numpy_does(name):
    import ml_dtypes

    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    kernels = """
KERNEL widen_all(const real* x, float* y) {
  int i = blockIdx.x * THREADS + threadIdx.x;
  y[i] = widen(x[i]);
}
KERNEL narrow_all(int n, const float* x, real* y) {
  int i = blockIdx.x * THREADS + threadIdx.x;
  if (i < n) y[i] = to_real(x[i]);
}
"""
    functions = compile_for_cpu(COMMON + kernels, cuda.compile_options(dtype), "test.cu")
    x, y = np.arange(2**16, dtype=np.uint16).view(dtype), np.empty(2**16, np.float32)
    launch(functions["widen_all"], x, y, grid=(256,))
    subnormal = np.abs(x.astype(np.float32)) < 2.0**-126  # the GPU makes them zeros
    np.testing.assert_array_equal(y[~subnormal], x.astype(np.float32)[~subnormal])
    # What lies between two numbers, in the middle of them and beyond the largest one.
    finite = np.sort(y[np.isfinite(y)])
    middle = finite[:-1] + (finite[1:] - finite[:-1]) / 2
    beyond = np.float32([65519.9, 65520, 1e30, -3.4e38])
    wide = np.concatenate([y[~subnormal], middle, np.nextafter(middle, np.float32(-np.inf)), beyond])
    wide = wide[~(np.abs(wide) < 2.0**-126) | (wide == 0)]
    short = np.empty(wide.size, dtype)
    launch(functions["narrow_all"], np.int32(wide.size), wide, short, grid=(-(-wide.size // 256),))
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(short.astype(np.float32), wide.astype(dtype).astype(np.float32))


def test_denormals_are_flushed_as_on_the_gpu():
    function = compiled("KERNEL half(const float* x, float* y) { y[0] = x[0] * 0.5f; }")["half"]
    y = np.ones(1, np.float32)
    launch(function, np.array([np.finfo("float32").tiny]), y, block=(1,))
    assert y[0] == 0 and np.finfo("float32").tiny * np.float32(0.5) > 0


def test_philox_gives_its_known_answer_and_the_words_of_the_host():
    kernels = """
KERNEL words(uint32 key, uint32 draw, uint32* known, uint32* drawn) {
  uint4 of_zeros = philox(make_uint4(0, 0, 0, 0), 0, 0), w = random_words(threadIdx.x, key, draw);
  uint32 zeros[4] = {of_zeros.x, of_zeros.y, of_zeros.z, of_zeros.w}, words[4] = {w.x, w.y, w.z, w.w};
  for (int k = 0; k < 4; ++k) {
    known[k] = zeros[k];
    drawn[4 * threadIdx.x + k] = words[k];
  }
}
"""
    known, drawn = np.empty(4, np.uint32), np.empty(4 * 256, np.uint32)
    launch(compiled(PHILOX + kernels)["words"], np.uint32(123456789), np.uint32(7), known, drawn)
    assert [hex(n) for n in known] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]  # Salmon et al. 2011
    np.testing.assert_array_equal(drawn, random.random_bits(123456789, 7, 1024, np))
