// What the kernels share: types, accesses of 16 bytes, sums over warps and blocks.
//
// A source is compiled once for each dtype of arrays, which a macro names (backend/cuda.py):
//     real    what arrays hold
//     wide    what is computed in: double for float64, else float
//     index   counts elements; 64 bits, so that any array can be indexed
//
// Same shapes, same bits: the order of all sums follows from the shapes, and from whether arrays begin at a multiple of 16
// bytes, as all do but views of others; no result is summed by atomics.

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
constexpr int BLOCKS = sizeof(wide) == 8 ? 2 : 4;  // that a processor can take at least: 64 registers a thread, or 128
constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// The line by which backend/cuda.py finds a kernel and the types of its parameters.
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)

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
DEVICE wide quotient(wide a, wide b) { return a / b; }
#else
// a / b for 2^-126 < |b| < 2^126, off by two units of the last digit at most: no call for the cases beyond.
DEVICE wide quotient(wide a, wide b) { return __fdividef(a, b); }
DEVICE wide square_root(wide x) { return sqrtf(x); }
DEVICE wide absolute(wide x) { return fabsf(x); }
DEVICE wide exponential(wide x) { return expf(x); }
DEVICE wide logarithm(wide x) { return logf(x); }
DEVICE wide power(wide x, wide y) { return powf(x, y); }
DEVICE wide hyperbolic_tangent(wide x) { return tanhf(x); }
DEVICE wide error_function(wide x) { return erff(x); }
DEVICE wide complementary_error_function(wide x) { return erfcf(x); }
#endif

DEVICE wide sigmoid(wide x) { return wide(1) / (wide(1) + exponential(-x)); }

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

// function(elements...) for what thread `first` of `stride` has of arrays of n elements, by 16 bytes where all arrays lie
// on such boundaries. Arrays may be the same array, not overlap otherwise.
template <class Function, class... Arrays>
DEVICE void for_elements(index first, index stride, index n, Function function, Arrays... arrays) {
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

DEVICE index thread_of_grid() { return index(blockIdx.x) * blockDim.x + threadIdx.x; }
DEVICE index threads_of_grid() { return index(gridDim.x) * blockDim.x; }

// The same, the elements shared among all threads of a grid.
template <class Function, class... Arrays>
DEVICE void elementwise(index n, Function function, Arrays... arrays) {
  for_elements(thread_of_grid(), threads_of_grid(), n, function, arrays...);
}

// function(column, elements...) for arrays (rows, columns), n elements in all and fewer than 2^31.
template <class Function, class... Arrays>
DEVICE void by_column(index n, int columns, Function function, Arrays... arrays) {
  index first = thread_of_grid(), stride = threads_of_grid();
  index packs = (arrays.is_aligned() && ...) ? n / LANES : 0;
  for (index i = first; i < packs; i += stride) {
    (arrays.load(i), ...);
    int column = int(unsigned(i * LANES) % unsigned(columns));
#pragma unroll
    for (int k = 0; k < LANES; ++k) {
      function(column, arrays.value[k]...);
      column = column + 1 == columns ? 0 : column + 1;
    }
    (arrays.store(i), ...);
  }
  for (index i = packs * LANES + first; i < n; i += stride) {
    (arrays.load_one(i), ...);
    function(int(unsigned(i) % unsigned(columns)), arrays.value[0]...);
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

// The row that threads of one threadIdx.y work on; a block has as many rows as it has such.
DEVICE index row_of_threads() { return index(blockIdx.x) * blockDim.y + threadIdx.y; }

// function(elements...) for the elements of a row that the thread has; arrays point to the row.
template <class Function, class... Arrays>
DEVICE void in_row(index columns, Function function, Arrays... arrays) {
  for_elements(threadIdx.x, blockDim.x, columns, function, arrays...);
}

// What threads of the row wrote can then be read by others of them.
DEVICE void meet_in_row() {
  if (blockDim.x == WARP) __syncwarp();
  else __syncthreads();
}

DEVICE wide row_maximum(index columns, const real* x) {
  wide largest = -infinity();
  in_row(columns, [&](wide v) { largest = maximum(largest, v); }, reads(x));
  return over_row<Maximum>(largest);
}

// A place in row `row` of an array that may not be there.
template <class Type>
DEVICE Type* row_of(Type* array, index row, index columns) {
  return array ? array + row * columns : nullptr;
}

// --- Sums over rows: a block has 32 columns and one chunk of the rows, 8 rows at a time ----------------------------

struct Chunk {
  index start, stop;  // of the rows; the last chunks may be empty
};
DEVICE Chunk chunk_of(index rows, index chunks, index number) {
  index size = (rows + chunks - 1) / chunks, start = number * size;
  return {start, start + size < rows ? start + size : rows};
}

// part[k, chunk, column] <- sum of value(row, column, sums)[k] over the rows of the block's chunk, in wide; or out, in
// real, where one chunk is all. Launched by backend/cuda.py as `columns`, with blocks (32, 8).
template <int count, class Value>
DEVICE void sums_of_columns(index rows, index columns, Value value, wide* part, real* out) {
  __shared__ wide lines[8][33];
  index column = index(blockIdx.x) * WARP + threadIdx.x;
  index chunks = gridDim.y;
  Chunk chunk = chunk_of(rows, chunks, blockIdx.y);
  wide sums[count] = {};
  if (column < columns)
    for (index row = chunk.start + threadIdx.y; row < chunk.stop; row += blockDim.y) value(row, column, sums);
  for (int k = 0; k < count; ++k) {
    __syncthreads();  // the lines of the sum before have been read
    lines[threadIdx.y][threadIdx.x] = sums[k];
    __syncthreads();
    if (threadIdx.y != 0 || column >= columns) continue;
    wide sum = 0;
    for (int y = 0; y < 8; ++y) sum += lines[y][threadIdx.x];
    if (out) out[k * columns + column] = to_real(sum);
    else part[(k * chunks + blockIdx.y) * columns + column] = sum;
  }
}

// out[k, column] <- sum of part[k, chunk, column] over the chunks; blockIdx.y is k
KERNEL sum_of_chunks(index rows, index chunks, index columns, const wide* part, real* out) {
  __shared__ wide lines[8][33];
  index column = index(blockIdx.x) * WARP + threadIdx.x;
  wide sum = 0;
  if (column < columns)
    for (index chunk = threadIdx.y; chunk < chunks; chunk += blockDim.y)
      sum += part[(blockIdx.y * chunks + chunk) * columns + column];
  lines[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int y = 1; y < 8; ++y) sum += lines[y][threadIdx.x];
  out[blockIdx.y * columns + column] = to_real(sum);
}

// --- Sums over everything: partial sums of blocks, which one block adds up ----------------------------------------

// sum[k] <- sum of the row part[k], a block each
KERNEL sum_of_parts(int count, const wide* part, wide* sum) {
  wide total = 0;
  for (int i = threadIdx.x; i < count; i += THREADS) total += part[index(blockIdx.x) * count + i];
  total = over_row<Sum>(total);
  if (threadIdx.x == 0) sum[blockIdx.x] = total;
}
