// What the kernels share: types, accesses of 16 bytes, sums over warps and blocks.
//
// A source is compiled once for each dtype of arrays, which a macro names (backend/cuda.py):
//     real    what arrays hold
//     wide    what is computed in: double for float64, else float
//     index   counts elements; 64 bits, so that any array can be indexed
//
// Same shapes, same bits: all sums have an order that follows from the shapes alone, and no result is summed by atomics.

typedef long long index;
typedef signed char int8;
typedef unsigned int uint32;

#if defined(REAL_FLOAT64)
typedef double real;
typedef double wide;
#elif defined(REAL_FLOAT16)
#include <cuda_fp16.h>
typedef __half real;
typedef float wide;
#elif defined(REAL_BFLOAT16)
#include <cuda_bf16.h>
typedef __nv_bfloat16 real;
typedef float wide;
#else
typedef float real;
typedef float wide;
#endif

constexpr int THREADS = 256;  // of every block, in one or two dimensions
constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// The line by which backend/cuda.py finds a kernel and the types of its parameters.
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

#define DEVICE __device__ __forceinline__

// --- Numbers -----------------------------------------------------------------------------------------------------

DEVICE wide widen(float x) { return x; }
DEVICE float narrow(float x, float) { return x; }
#if defined(REAL_FLOAT64)
DEVICE wide widen(double x) { return x; }
DEVICE double narrow(double x, double) { return x; }
#elif defined(REAL_FLOAT16)
DEVICE wide widen(__half x) { return __half2float(x); }
DEVICE __half narrow(float x, __half) { return __float2half_rn(x); }
#elif defined(REAL_BFLOAT16)
DEVICE wide widen(__nv_bfloat16 x) { return __bfloat162float(x); }
DEVICE __nv_bfloat16 narrow(float x, __nv_bfloat16) { return __float2bfloat16_rn(x); }
#endif
DEVICE real to_real(wide x) { return narrow(x, real()); }

// The functions of both widths under one name. NumPy's maximum and minimum keep NaN, as fmax does not.
DEVICE wide infinity() { return wide(__int_as_float(0x7f800000)); }
DEVICE wide maximum(wide a, wide b) { return a > b || a != a ? a : b; }
DEVICE wide minimum(wide a, wide b) { return a < b || a != a ? a : b; }
#if defined(REAL_FLOAT64)
DEVICE wide square_root(wide x) { return sqrt(x); }
DEVICE wide absolute(wide x) { return fabs(x); }
DEVICE wide exponential(wide x) { return exp(x); }
DEVICE wide logarithm(wide x) { return log(x); }
DEVICE wide power(wide x, wide y) { return pow(x, y); }
DEVICE wide hyperbolic_tangent(wide x) { return tanh(x); }
DEVICE wide error_function(wide x) { return erf(x); }
DEVICE wide complementary_error_function(wide x) { return erfc(x); }
#else
DEVICE wide square_root(wide x) { return sqrtf(x); }
DEVICE wide absolute(wide x) { return fabsf(x); }
DEVICE wide exponential(wide x) { return expf(x); }
DEVICE wide logarithm(wide x) { return logf(x); }
DEVICE wide power(wide x, wide y) { return powf(x, y); }
DEVICE wide hyperbolic_tangent(wide x) { return tanhf(x); }
DEVICE wide error_function(wide x) { return erff(x); }
DEVICE wide complementary_error_function(wide x) { return erfcf(x); }
#endif

DEVICE wide logistic(wide x) { return wide(1) / (wide(1) + exponential(-x)); }

// base^exponent by repeated squaring, for 1 - base^exponent to keep its digits where powf loses some.
DEVICE wide whole_power(wide base, int exponent) {
  double result = 1.0;
  for (double square = base; exponent > 0; exponent >>= 1, square *= square)
    if (exponent & 1) result *= square;
  return wide(result);
}

// --- Elements ----------------------------------------------------------------------------------------------------

constexpr int LANES = 16 / sizeof(real);  // elements of the widest access that a thread can make

union Pack {
  uint4 bits;
  real at[LANES];
  DEVICE Pack() {}
};

// An array of an elementwise kernel, and the elements of it that a thread has in hand. Null arrays read as zeros.
template <bool is_read, bool is_written>
struct Elements {
  real* array;
  wide value[LANES];

  DEVICE bool is_aligned() const { return reinterpret_cast<unsigned long long>(array) % 16 == 0; }

  DEVICE void load(index pack) {
    if (!is_read || !array) {
      for (int k = 0; k < LANES; ++k) value[k] = 0;
      return;
    }
    Pack p;
    p.bits = reinterpret_cast<const uint4*>(array)[pack];
#pragma unroll
    for (int k = 0; k < LANES; ++k) value[k] = widen(p.at[k]);
  }
  DEVICE void store(index pack) const {
    if (!is_written || !array) return;
    Pack p;
#pragma unroll
    for (int k = 0; k < LANES; ++k) p.at[k] = to_real(value[k]);
    reinterpret_cast<uint4*>(array)[pack] = p.bits;
  }
  DEVICE void load_one(index i) { value[0] = is_read && array ? widen(array[i]) : wide(0); }
  DEVICE void store_one(index i) const {
    if (is_written && array) array[i] = to_real(value[0]);
  }
};

DEVICE Elements<true, false> reads(const real* x) { return {const_cast<real*>(x)}; }
DEVICE Elements<false, true> writes(real* x) { return {x}; }
DEVICE Elements<true, true> updates(real* x) { return {x}; }

// function(elements...) for every i of arrays of n elements, by 16 bytes where all arrays lie on such boundaries.
// Arrays may be the same array, not overlap otherwise.
template <class Function, class... Arrays>
DEVICE void elementwise(index n, Function function, Arrays... arrays) {
  index first = index(blockIdx.x) * blockDim.x + threadIdx.x, stride = index(gridDim.x) * blockDim.x;
  index packs = (arrays.is_aligned() && ...) ? n / LANES : 0;
  for (index i = first; i < packs; i += stride) {
    (arrays.load(i), ...);
#pragma unroll
    for (int k = 0; k < LANES; ++k) function(arrays.value[k]...);
    (arrays.store(i), ...);
  }
  for (index i = packs * LANES + first; i < n; i += stride) {
    (arrays.load_one(i), ...);
    function(arrays.value[0]...);
    (arrays.store_one(i), ...);
  }
}

// --- Sums and maxima ---------------------------------------------------------------------------------------------

struct Sum {
  static DEVICE wide start() { return 0; }
  static DEVICE wide join(wide a, wide b) { return a + b; }
};
struct Maximum {
  static DEVICE wide start() { return -infinity(); }
  static DEVICE wide join(wide a, wide b) { return maximum(a, b); }
};

// Over the 32 threads of a warp; all of them get the result.
template <class Operation>
DEVICE wide over_warp(wide value) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    value = Operation::join(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

// Over the threads that share a row: those of one threadIdx.y, a warp or the whole block. All of them get the result.
template <class Operation>
DEVICE wide over_row(wide value) {
  value = over_warp<Operation>(value);
  if (blockDim.x == WARP) return value;
  __shared__ wide parts[WARP];
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  __syncthreads();  // someone may still read the parts of the call before
  if (lane == 0) parts[warp] = value;
  __syncthreads();
  return over_warp<Operation>(lane < warps ? parts[lane] : Operation::start());
}
