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
typedef short int16;
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
#ifndef LEAST_BLOCKS  // a source that keeps more in registers says 2 before it includes this file
#define LEAST_BLOCKS 4
#endif
// That a processor can take at least: 64 registers a thread, or 128.
constexpr int BLOCKS = sizeof(wide) == 8 ? 2 : LEAST_BLOCKS;
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
DEVICE unsigned narrow_pair(float x, float y) {
  __half2 pair = __floats2half2_rn(x, y);
  return *reinterpret_cast<unsigned*>(&pair);
}
#elif defined(REAL_BFLOAT16)
DEVICE wide widen(__nv_bfloat16 x) { return __bfloat162float(x); }
DEVICE __nv_bfloat16 narrow(float x, __nv_bfloat16) { return __float2bfloat16_rn(x); }
DEVICE unsigned narrow_pair(float x, float y) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<unsigned*>(&pair);
}
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

// exp x to as many digits as `real` holds.
DEVICE wide exponential_to_real(wide x) { return sizeof(real) == 2 ? wide(__expf(float(x))) : exponential(x); }

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

// Whether arrays, of which some may not be there, begin where such accesses can.
template <class... Types>
DEVICE bool are_aligned(Types*... array) { return ((reinterpret_cast<unsigned long long>(array) % 16 == 0) && ...); }

union Pack {
  uint4 bits;
  unsigned words[4];
  real at[LANES];
  DEVICE Pack() {}

  DEVICE wide number(int k) const {
#if defined(REAL_BFLOAT16)
    // The upper half of a float's bits: of the upper number of a word that is one instruction, where a conversion is two.
    return __int_as_float(int(k % 2 ? words[k / 2] & 0xffff0000u : words[k / 2] << 16));
#else
    return widen(at[k]);
#endif
  }
  DEVICE void set(const wide (&value)[LANES]) {
#if defined(REAL_BFLOAT16) || defined(REAL_FLOAT16)
#pragma unroll
    for (int k = 0; k < LANES; k += 2) words[k / 2] = narrow_pair(value[k], value[k + 1]);  // both by one instruction
#else
#pragma unroll
    for (int k = 0; k < LANES; ++k) at[k] = to_real(value[k]);
#endif
  }
};

constexpr int DEPTH = 4;  // accesses that a thread has under way where it sums over rows

// An array of an elementwise kernel, and the elements of it that a thread has in hand. Null arrays read as zeros.
template <bool is_read, bool is_written>
struct Elements {
  real* array;
  wide value[LANES];
  uint4 fetched[2 * DEPTH];

  DEVICE bool is_aligned() const { return are_aligned(array); }

  DEVICE void load(index pack) {
    if (!is_read || !array) {
      for (int k = 0; k < LANES; ++k) value[k] = 0;
      return;
    }
    Pack p;
    p.bits = reinterpret_cast<const uint4*>(array)[pack];
#pragma unroll
    for (int k = 0; k < LANES; ++k) value[k] = p.number(k);
  }
  DEVICE void store(index pack) const {
    if (!is_written || !array) return;
    Pack p;
    p.set(value);
    reinterpret_cast<uint4*>(array)[pack] = p.bits;
  }
  DEVICE void load_one(index i, int k = 0) { value[k] = is_read && array ? widen(array[i]) : wide(0); }
  DEVICE void store_one(index i) const {
    if (is_written && array) array[i] = to_real(value[0]);
  }

  // A load in two parts: several are under way where all are fetched before the first is taken.
  DEVICE void fetch(int slot, index pack) { fetched[slot] = reinterpret_cast<const uint4*>(array)[pack]; }
  DEVICE void take(int slot) {
    Pack p;
    p.bits = fetched[slot];
#pragma unroll
    for (int k = 0; k < LANES; ++k) value[k] = p.number(k);
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
#pragma unroll 1
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

// A vector with one number, real or wide, for each column of the other arrays; none where it is missing: those numbers are
// zeros.
template <class Type>
struct OfColumns {
  static constexpr int ACCESSES = LANES * sizeof(Type) / 16;
  const Type* array;
  wide value[LANES];

  DEVICE bool is_aligned() const { return are_aligned(array); }
  DEVICE void load(int pack) {
    union Numbers {
      uint4 bits[ACCESSES];
      Type at[LANES];
      DEVICE Numbers() {}
    } numbers;
#pragma unroll
    for (int i = 0; i < ACCESSES; ++i)
      if (array) numbers.bits[i] = reinterpret_cast<const uint4*>(array)[pack * ACCESSES + i];
#pragma unroll
    for (int k = 0; k < LANES; ++k) value[k] = array ? widen(numbers.at[k]) : wide(0);
  }
  DEVICE void load_one(int column) { value[0] = array ? widen(array[column]) : wide(0); }
};
template <class Type>
DEVICE OfColumns<Type> of_columns(const Type* x) { return {x}; }

template <bool is_read, bool is_written>
DEVICE void load_at(Elements<is_read, is_written>& x, index pack, int) { x.load(pack); }
template <class Type>
DEVICE void load_at(OfColumns<Type>& x, index, int pack) { x.load(pack); }
template <bool is_read, bool is_written>
DEVICE void load_one_at(Elements<is_read, is_written>& x, index i, int) { x.load_one(i); }
template <class Type>
DEVICE void load_one_at(OfColumns<Type>& x, index, int column) { x.load_one(column); }
template <bool is_read, bool is_written>
DEVICE void store_at(const Elements<is_read, is_written>& x, index pack) { x.store(pack); }
template <class Type>
DEVICE void store_at(const OfColumns<Type>&, index) {}
template <bool is_read, bool is_written>
DEVICE void store_one_at(const Elements<is_read, is_written>& x, index i) { x.store_one(i); }
template <class Type>
DEVICE void store_one_at(const OfColumns<Type>&, index) {}

// function(elements...) for arrays (rows, columns), n elements in all and fewer than 2^31, and vectors `of_columns`.
template <class Function, class... Arrays>
DEVICE void by_column(index n, int columns, Function function, Arrays... arrays) {
  unsigned first = unsigned(thread_of_grid()), stride = unsigned(threads_of_grid()), count = unsigned(n);
  if (columns % LANES == 0 && (arrays.is_aligned() && ...)) {
    unsigned runs = unsigned(columns) / LANES, packs = count / LANES;
    for (unsigned i = first; i < packs; i += stride) {
      int run = int(i % runs);
      (load_at(arrays, i, run), ...);
#pragma unroll
      for (int k = 0; k < LANES; ++k) function(arrays.value[k]...);
      (store_at(arrays, i), ...);
    }
    return;
  }
  for (unsigned i = first; i < count; i += stride) {
    (load_one_at(arrays, i, int(i % unsigned(columns))), ...);
    function(arrays.value[0]...);
    (store_one_at(arrays, i), ...);
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

// Over the 32 threads of a warp, or over each `lanes` of them, a power of two; all of them get the result.
template <class Operation>
DEVICE wide over_warp(wide value, int lanes = WARP) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    if (distance < lanes) value = Operation::join(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

// Each number over the threads that share a row: those of one threadIdx.y, a warp or several. All of them get the results.
// All threads of a block must be there.
template <class Operation, int count>
DEVICE void all_over_row(wide (&value)[count]) {
#pragma unroll
  for (int i = 0; i < count; ++i) value[i] = over_warp<Operation>(value[i]);
  if (blockDim.x == WARP) return;
  __shared__ wide parts[count][THREADS / WARP];
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP, first = threadIdx.y * warps;
  __syncthreads();  // someone may still read the parts of the call before
#pragma unroll
  for (int i = 0; i < count; ++i)
    if (lane == 0) parts[i][first + warp] = value[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i) value[i] = over_warp<Operation>(parts[i][first + lane % warps], warps);
}

template <class Operation>
DEVICE wide over_row(wide value) {
  wide one[1] = {value};
  all_over_row<Operation>(one);
  return one[0];
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

// --- Rows that stay in registers: backend/cuda.py gives each as many threads as its numbers need -------------------

constexpr int HELD = 32;  // numbers of rows, of one array or of several, that a thread can hold

// What a thread holds of a row: packs of at most `size` numbers in all, blockDim.x packs apart.
template <int size>
struct Held {
  static constexpr int PACKS = size / LANES;
  Pack pack[PACKS];
  int count;  // of packs

  // Whether a row, which must begin at a multiple of 16 bytes, is short enough.
  static DEVICE bool fits(index columns) { return columns % LANES == 0 && columns <= index(size) * blockDim.x; }

  DEVICE void load(const real* row, index columns) {
    count = (int(columns) / LANES - int(threadIdx.x) + int(blockDim.x) - 1) / int(blockDim.x);
#pragma unroll
    for (int i = 0; i < PACKS; ++i)
      if (i < count) pack[i].bits = reinterpret_cast<const uint4*>(row)[i * blockDim.x + threadIdx.x];
  }
  DEVICE wide number(int i, int k) const { return pack[i].number(k); }
};

// The same in numbers that can be changed.
template <int size>
struct HeldWide {
  static constexpr int PACKS = size / LANES;
  wide value[size];
  int count;

  DEVICE void load(const real* row, index columns) {
    Held<size> held;
    held.load(row, columns);
    count = held.count;
#pragma unroll
    for (int i = 0; i < PACKS; ++i)
#pragma unroll
      for (int k = 0; k < LANES; ++k) value[i * LANES + k] = held.number(i, k);
  }
  DEVICE wide& number(int i, int k) { return value[i * LANES + k]; }
};

// What stands beside the numbers of a held row: another one, or an array at the same places.
template <int size>
DEVICE void load_beside(Held<size>&, index) {}
template <bool is_read, bool is_written>
DEVICE void load_beside(Elements<is_read, is_written>& x, index pack) { x.load(pack); }
template <int size>
DEVICE wide number_beside(Held<size>& x, int i, int k) { return x.number(i, k); }
template <bool is_read, bool is_written>
DEVICE wide& number_beside(Elements<is_read, is_written>& x, int, int k) { return x.value[k]; }
template <int size>
DEVICE void store_beside(const Held<size>&, index) {}
template <bool is_read, bool is_written>
DEVICE void store_beside(const Elements<is_read, is_written>& x, index pack) { x.store(pack); }

// function(numbers...) for the numbers of a row that the thread holds, and those that stand beside them.
template <class Row, class Function, class... Arrays>
DEVICE void in_held_row(Row& held, Function function, Arrays&&... arrays) {
#pragma unroll
  for (int i = 0; i < Row::PACKS; ++i) {
    if (i >= held.count) break;
    index pack = i * blockDim.x + threadIdx.x;
    (load_beside(arrays, pack), ...);
#pragma unroll
    for (int k = 0; k < LANES; ++k) function(held.number(i, k), number_beside(arrays, i, k)...);
    (store_beside(arrays, pack), ...);
  }
}

// --- Sums over rows: a block has 128 bytes of them and one chunk, 32 rows at a time --------------------------------

constexpr int ACROSS = 8, DOWN = THREADS / ACROSS;  // threads of a block: across the columns, and down the rows
constexpr int TILE = ACROSS * LANES;                // columns of a block, LANES for each thread

struct Chunk {
  index start, stop;  // of the rows; the last chunks may be empty
};
DEVICE Chunk chunk_of(index rows, index chunks, index number) {
  index size = (rows + chunks - 1) / chunks, start = number * size;
  return {start, start + size < rows ? start + size : rows};
}

// How many rows of a chunk the threads of a threadIdx.y have.
DEVICE index rows_of_line(Chunk chunk, int y) {
  index left = chunk.stop - chunk.start - y;
  return left > 0 ? (left + DOWN - 1) / DOWN : 0;
}

// Whether all rows of arrays can be read by 16 bytes.
template <class... Types>
DEVICE bool are_packs(index columns, Types*... array) { return columns % LANES == 0 && are_aligned(array...); }

// The place of a thread's column k among the block's: side by side where rows are read by 16 bytes, else as neighbours.
DEVICE int column_in_tile(bool by_packs, int k) { return by_packs ? threadIdx.x * LANES + k : threadIdx.x + ACROSS * k; }
DEVICE index first_of_tile() { return index(blockIdx.x) * TILE; }

// function(k, is first, elements...) for the thread's rows of a chunk and its columns k of each, read by 16 bytes or not; a
// thread has `depth` such reads under way.
template <int depth = DEPTH, class Function, class... Arrays>
DEVICE void down_columns(Chunk chunk, index columns, bool by_packs, Function function, Arrays... arrays) {
  int left = int(rows_of_line(chunk, threadIdx.y));
  bool is_first = true;
  if (by_packs) {
    constexpr int slots = depth / sizeof...(Arrays);
    index run = index(blockIdx.x) * ACROSS + threadIdx.x, runs = columns / LANES, step = DOWN * runs;
    if (run >= runs) return;
    index place = (chunk.start + threadIdx.y) * runs + run;
    auto take = [&](int slot) {
      (arrays.take(slot), ...);
#pragma unroll
      for (int k = 0; k < LANES; ++k) function(k, slot == 0 && is_first, arrays.value[k]...);
    };
    for (; left >= slots; left -= slots, place += slots * step) {
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) (arrays.fetch(slot, place + slot * step), ...);
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) take(slot);
      is_first = false;
    }
#pragma unroll
    for (int slot = 0; slot < slots - 1; ++slot)
      if (slot < left) (arrays.fetch(slot, place + slot * step), ...);
#pragma unroll
    for (int slot = 0; slot < slots - 1; ++slot)
      if (slot < left) take(slot);
    return;
  }
  index column = first_of_tile() + column_in_tile(false, 0), place = (chunk.start + threadIdx.y) * columns + column;
  int count = int(columns - column < TILE ? columns - column : TILE);  // of columns from the thread's first on
  for (; left > 0; --left, place += DOWN * columns) {
#pragma unroll
    for (int k = 0; k < LANES; ++k)
      if (k * ACROSS < count) (arrays.load_one(place + k * ACROSS, k), ...);
#pragma unroll
    for (int k = 0; k < LANES; ++k)
      if (k * ACROSS < count) function(k, is_first, arrays.value[k]...);
    is_first = false;
  }
}

// What the threads of a block have of its columns, in shared memory: a line for each threadIdx.y, as long that threads of a
// warp store to different banks. Column k of a thread stands at k ACROSS + threadIdx.x.
constexpr int LINE = TILE + ACROSS;

DEVICE void put_in_line(wide (*lines)[LINE], int k, wide value) {
  lines[threadIdx.y][k * ACROSS + threadIdx.x] = value;
}
DEVICE int place_in_line(bool by_packs, int column) {
  return by_packs ? column % LANES * ACROSS + column / LANES : column;
}
DEVICE int thread_of_block() { return threadIdx.y * blockDim.x + threadIdx.x; }

// part[i, chunk, column] <- sum i of the lines; or out where one chunk is all
DEVICE void put_sum_of_lines(const wide (*lines)[LINE], int i, bool by_packs, index columns, wide* part, wide* out) {
  int thread = thread_of_block(), place = place_in_line(by_packs, thread);
  index column = first_of_tile() + thread;
  if (thread >= TILE || column >= columns) return;
  wide sum = 0;
  for (int y = 0; y < DOWN; ++y) sum += lines[y][place];
  if (out) out[i * columns + column] = sum;
  else part[(i * gridDim.y + blockIdx.y) * columns + column] = sum;
}

// Warps of a block, and lines of a warp: its threads of one threadIdx.x are ACROSS lanes apart.
constexpr int WARPS = THREADS / WARP, LINES = WARP / ACROSS;

DEVICE int warp_of_block() { return threadIdx.y / LINES; }
DEVICE bool is_first_of_warp() { return threadIdx.y % LINES == 0; }

// The sum over the lines of a warp, which their first line gets.
DEVICE wide over_lines(wide value) {
#pragma unroll
  for (int line = 1; line < LINES; line *= 2) value += __shfl_down_sync(ALL_LANES, value, line * ACROSS);
  return value;
}

// total[i] <- the block's sums[k, i] of the column that has the thread's number in the tile, where there is such a column.
// The kernel is launched by backend/cuda.py as `columns`.
template <int count>
DEVICE bool sum_lines(const wide (&sums)[LANES][count], bool by_packs, index columns, wide (&total)[count]) {
  __shared__ wide lines[count][WARPS][LINE];
#pragma unroll
  for (int i = 0; i < count; ++i)
#pragma unroll
    for (int k = 0; k < LANES; ++k) {
      wide sum = over_lines(sums[k][i]);
      if (is_first_of_warp()) lines[i][warp_of_block()][k * ACROSS + threadIdx.x] = sum;
    }
  __syncthreads();
  int thread = thread_of_block(), place = place_in_line(by_packs, thread);
  if (thread >= TILE || first_of_tile() + thread >= columns) return false;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    total[i] = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) total[i] += lines[i][warp][place];
  }
  return true;
}

// part[i, chunk, column] <- the block's sums; or out where one chunk is all
template <int count>
DEVICE void put_sums(const wide (&sums)[LANES][count], bool by_packs, index columns, wide* part, wide* out) {
  wide total[count];
  if (!sum_lines(sums, by_packs, columns, total)) return;
  index column = first_of_tile() + thread_of_block();
#pragma unroll
  for (int i = 0; i < count; ++i)
    if (out) out[i * columns + column] = total[i];
    else part[(i * gridDim.y + blockIdx.y) * columns + column] = total[i];
}

DEVICE Chunk chunk_of_block(index rows) { return chunk_of(rows, gridDim.y, blockIdx.y); }

// The sums of x over its rows.
DEVICE void put_sums_of(const real* x, index rows, index columns, wide* part, wide* out) {
  bool by_packs = are_packs(columns, x);
  wide sums[LANES][1] = {};
  down_columns<2 * DEPTH>(chunk_of_block(rows), columns, by_packs, [&](int k, bool, wide v) { sums[k][0] += v; }, reads(x));
  put_sums(sums, by_packs, columns, part, out);
}

// function(chunk, numbers...) for the chunks of the thread's line, with their numbers part[0, chunk, column], part[1, ...;
// many are read at once. The kernel is launched as `sum_of_chunks`.
template <int count, class Function>
DEVICE void over_chunks(index chunks, index columns, index column, const wide* part, Function function) {
  constexpr int slots = 8 / count;
  for (index chunk = threadIdx.y; chunk < chunks; chunk += slots * DOWN) {
    wide number[slots][count];
#pragma unroll
    for (int slot = 0; slot < slots; ++slot)
#pragma unroll
      for (int i = 0; i < count; ++i)
        if (chunk + slot * DOWN < chunks)
          number[slot][i] = part[(i * chunks + chunk + slot * DOWN) * columns + column];
#pragma unroll
    for (int slot = 0; slot < slots; ++slot)
      if (chunk + slot * DOWN < chunks) function(chunk + slot * DOWN, number[slot]);
  }
}

// The block's sums over all chunks, for its first line.
template <int count>
DEVICE void sum_chunks(index chunks, index columns, index column, const wide* part, wide (&total)[count]) {
  __shared__ wide lines[count][WARPS][ACROSS];
  wide sums[count] = {};
  if (column < columns)
    over_chunks<count>(chunks, columns, column, part, [&](index, const wide (&number)[count]) {
#pragma unroll
      for (int i = 0; i < count; ++i) sums[i] += number[i];
    });
#pragma unroll
  for (int i = 0; i < count; ++i) {
    wide sum = over_lines(sums[i]);
    if (is_first_of_warp()) lines[i][warp_of_block()][threadIdx.x] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i) {
    total[i] = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) total[i] += lines[i][warp][threadIdx.x];
  }
}

DEVICE index column_of_join() { return index(blockIdx.x) * ACROSS + threadIdx.x; }

// out[k, column] <- sum of part[k, chunk, column] over the chunks; blockIdx.y is k
KERNEL sum_of_chunks(index rows, index chunks, index columns, const wide* part, wide* out) {
  index column = column_of_join();
  wide total[1];
  sum_chunks(chunks, columns, column, part + blockIdx.y * chunks * columns, total);
  if (threadIdx.y == 0 && column < columns) out[blockIdx.y * columns + column] = total[0];
}

// --- Sums over everything: partial sums of blocks, which one block adds up ----------------------------------------

// sum[k] <- sum of the row part[k], a block each
KERNEL sum_of_parts(int count, const wide* part, wide* sum) {
  wide total = 0;
  for (int i = threadIdx.x; i < count; i += THREADS) total += part[index(blockIdx.x) * count + i];
  total = over_row<Sum>(total);
  if (threadIdx.x == 0) sum[blockIdx.x] = total;
}
