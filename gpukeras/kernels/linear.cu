// What stands around matrix products: bias and rectifier in one pass, and the gradient of a bias; and products with few
// outputs, which have too few blocks in the library.

#include "common.cuh"

// y <- y + bias, and the positive part of it where it is rectified; bias may be missing
KERNEL finish(index n, int columns, const real* bias, bool is_rectified, real* y) {
  by_column(n, columns, [=](wide b, wide& v) {
    if (bias) v += b;
    if (is_rectified) v = maximum(v, 0);
  }, of_columns(bias), updates(y));
}

// sum of x over its rows
KERNEL sum_of_rows(index rows, index columns, const real* x, wide* part, wide* out) {
  put_sums_of(x, rows, columns, part, out);
}

// --- Products with few outputs: letters as in linear.py; m is 32 at most, and arrays have no more than 2^23 numbers ----

constexpr int FEW = 32;  // outputs, as linear.py has it
constexpr int MANY = 4;  // rows of a block where there are many

// Pack `number` of an array of `size` numbers; zeros beyond its end.
DEVICE Pack pack_of(const real* array, int number, int size, bool by_packs) {
  Pack p;
  if (by_packs) {
    p.bits = reinterpret_cast<const uint4*>(array)[number];
  } else {
#pragma unroll
    for (int k = 0; k < LANES; ++k) p.at[k] = number * LANES + k < size ? array[number * LANES + k] : to_real(0);
  }
  return p;
}

// put(i, array[i]) for `size` numbers, shared among the threads of a block
template <class Put>
DEVICE void for_block(const real* array, int size, Put put) {
  bool by_packs = are_packs(size, array);
  for (int number = thread_of_block(); number * LANES < size; number += THREADS) {
    Pack p = pack_of(array, number, size, by_packs);
#pragma unroll
    for (int k = 0; k < LANES; ++k)
      if (number * LANES + k < size) put(number * LANES + k, widen(p.at[k]));
  }
}

// `count` rows of y for a block, which has their x, and then its threads' sums, in `stage`.
//
// A thread has packs of the kernel as far apart that each begins in the same column: then its LANES sums are always of the
// same outputs.
template <int count, bool by_packs>
DEVICE void few_outputs(int rows, int n, int m, const real* x, const real* kernel, const real* bias, bool is_rectified,
                        real* y, wide* stage) {
  constexpr int slots = by_packs ? (count == 1 ? 24 : 8) / LANES : 1;  // packs that a thread has under way
  int thread = threadIdx.x, row = blockIdx.x * count, there = rows - row < count ? rows - row : count;
  int period = m;  // threads whose packs have all columns alike
#pragma unroll
  for (int k = LANES; k > 1; k /= 2) period = period % 2 ? period : period / 2;
  int threads = THREADS / period * period, step = threads * LANES / m, size = n * m;
  int packs = thread < threads ? (size + LANES - 1) / LANES : 0;
  Pack held[slots];
  auto fetch = [&](int pack) {
#pragma unroll
    for (int slot = 0; slot < slots; ++slot)
      if (pack + slot * threads < packs) held[slot] = pack_of(kernel, pack + slot * threads, size, by_packs);
  };
  fetch(thread);
  for_block(x + row * n, there * n, [=](int i, wide v) { stage[i] = v; });
  for (int i = there * n + thread; i < count * n; i += THREADS) stage[i] = 0;
  __syncthreads();
  wide sums[count][LANES] = {};
  int place = thread * LANES / m;  // of x, for the first number of a pack; those of the others are `further`, 4 bits each
  unsigned further = 0;
#pragma unroll
  for (int k = 0; k < LANES; ++k) further |= unsigned((thread * LANES + k) / m - place) << 4 * k;
  for (int pack = thread; pack < packs; pack += slots * threads) {
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
      if (pack + slot * threads >= packs) break;
#pragma unroll
      for (int k = 0; k < LANES; ++k) {
        wide w = widen(held[slot].at[k]);
        int at = place + int(further >> 4 * k & 15);
#pragma unroll
        for (int r = 0; r < count; ++r)
          if (by_packs || at < n) sums[r][k] += stage[r * n + at] * w;
      }
      place += step;
    }
    fetch(pack + slots * threads);
  }
  __syncthreads();  // all have read x
#pragma unroll
  for (int r = 0; r < count; ++r)
#pragma unroll
    for (int k = 0; k < LANES; ++k) stage[(r * LANES + k) * THREADS + thread] = sums[r][k];
  __syncthreads();
  int lanes = WARP;
  while (lanes > 1 && count * m * lanes > THREADS) lanes /= 2;
  int output = thread / lanes, r = output / m, column = output % m;
  wide sum = 0;
  if (r < there) {
#pragma unroll 4
    for (int i = column + thread % lanes * m; i < threads * LANES; i += lanes * m)
      sum += stage[(r * LANES + i % LANES) * THREADS + i / LANES];
  }
  sum = over_warp<Sum>(sum, lanes);
  if (r >= there || thread % lanes != 0) return;
  if (bias) sum += widen(bias[column]);
  y[(row + r) * m + column] = to_real(is_rectified ? maximum(sum, 0) : sum);
}

// y <- x kernel + bias, and the positive part of it where it is rectified; bias may be missing.
// x of a block's rows, 1 or MANY of them, has STAGE numbers at most.
constexpr int STAGE = MANY * LANES * THREADS;

KERNEL linear_of_few(int rows, int n, int m, bool has_many, const real* x, const real* kernel, const real* bias,
                     bool is_rectified, real* y) {
  __shared__ wide stage[STAGE];
  bool by_packs = are_packs(n * m, kernel);
  if (has_many && by_packs) few_outputs<MANY, true>(rows, n, m, x, kernel, bias, is_rectified, y, stage);
  else if (has_many) few_outputs<MANY, false>(rows, n, m, x, kernel, bias, is_rectified, y, stage);
  else if (by_packs) few_outputs<1, true>(rows, n, m, x, kernel, bias, is_rectified, y, stage);
  else few_outputs<1, false>(rows, n, m, x, kernel, bias, is_rectified, y, stage);
}

// dx <- dy kernel^T, for DOWN rows and TILE columns a block
KERNEL input_gradient_of_few(int rows, int n, int m, const real* dy, const real* kernel, real* dx) {
  struct alignas(16) Run {
    wide at[LANES];
  };
  __shared__ Run weights[FEW][ACROSS];
  __shared__ wide gradients[DOWN * FEW];
  int first = blockIdx.x * TILE, row = blockIdx.y * DOWN;
  int columns = n - first < TILE ? n - first : TILE, there = rows - row < DOWN ? rows - row : DOWN;
  for_block(dy + row * m, there * m, [&](int i, wide d) { gradients[i] = d; });
  for_block(kernel + first * m, columns * m, [&](int i, wide w) {
    int place = unsigned(i) / unsigned(m);
    weights[i - place * m][place / LANES].at[place % LANES] = w;
  });
  __syncthreads();
  int from = threadIdx.x * LANES;
  if (int(threadIdx.y) >= there || from >= columns) return;
  wide sums[LANES] = {};
#pragma unroll 4
  for (int j = 0; j < m; ++j) {
    wide d = gradients[threadIdx.y * m + j];
    Run run = weights[j][threadIdx.x];
#pragma unroll
    for (int k = 0; k < LANES; ++k) sums[k] += d * run.at[k];
  }
  int place = (row + int(threadIdx.y)) * n + first + from;
  Elements<false, true> out = writes(dx);
#pragma unroll
  for (int k = 0; k < LANES; ++k) out.value[k] = sums[k];
  if (are_packs(n, dx)) {
    out.store(place / LANES);
  } else {
    for (int k = 0; k < LANES && from + k < columns; ++k) dx[place + k] = to_real(sums[k]);
  }
}

// dkernel <- x^T dy, and dbias <- sum of dy over the rows by the last block where it is there; for 16 bits either are `real`
// or `wide` ones.
//
// A block has TWO packs of x's columns; a thread has one of them, PAIR columns of dy, and the rows of one line.
constexpr int TWO = 2, PAIR = 2;

struct alignas(8) Pair {
  wide at[PAIR];
};

template <bool by_packs>
DEVICE void gradients_of(int rows, int n, int m, const real* x, const real* dy, real* dkernel, real* dbias,
                         wide* wide_dkernel, wide* wide_dbias, Pair (*parts)[THREADS]) {
  constexpr int slots = !by_packs ? 1 : LANES == 8 ? 4 : 6;  // rows that a thread has under way
  int thread = threadIdx.x, width = TWO * ((m + PAIR - 1) / PAIR);  // threads of a line
  int line = thread / width, lines = THREADS / width, column = thread % width / TWO * PAIR;
  int tile = blockIdx.x * TWO * LANES, first = tile + thread % TWO * LANES;
  bool is_bias = tile >= n;  // dbias is the product with a column of ones
  wide sums[LANES][PAIR] = {};
  for (int row = line < lines ? line : rows; row < rows; row += slots * lines) {
    Pack held[slots];
    real held_dy[slots][PAIR];
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
      int at = row + slot * lines;
      if (at >= rows) break;
      if (is_bias) held[slot].at[0] = to_real(1);
      else if (first < n) held[slot] = pack_of(x + at * n + first, 0, n - first, by_packs);
#pragma unroll
      for (int c = 0; c < PAIR; ++c) held_dy[slot][c] = column + c < m ? dy[at * m + column + c] : to_real(0);
    }
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
      if (row + slot * lines >= rows) break;
#pragma unroll
      for (int k = 0; k < LANES; ++k)
#pragma unroll
        for (int c = 0; c < PAIR; ++c) sums[k][c] += widen(held[slot].at[k]) * widen(held_dy[slot][c]);
    }
  }
#pragma unroll
  for (int k = 0; k < LANES; ++k)
#pragma unroll
    for (int c = 0; c < PAIR; ++c) parts[k][thread].at[c] = sums[k][c];
  __syncthreads();
  int count = width * PAIR;  // sums of a line for each k
  for (int i = thread; i < (is_bias ? count : LANES * count); i += THREADS) {
    int k = i / count, of_line = i % count / PAIR, c = i % PAIR;
    wide sum = 0;
#pragma unroll 8
    for (int y = 0; y < lines; ++y) sum += parts[k][y * width + of_line].at[c];
    int place = tile + of_line % TWO * LANES + k, output = of_line / TWO * PAIR + c;
    if (output >= m) continue;
    if (is_bias) {
      if (place != tile) continue;
      if (wide_dbias) wide_dbias[output] = sum;
      else dbias[output] = to_real(sum);
    } else if (place < n) {
      if (wide_dkernel) wide_dkernel[place * m + output] = sum;
      else dkernel[place * m + output] = to_real(sum);
    }
  }
}

KERNEL gradients_of_few(int rows, int n, int m, const real* x, const real* dy, real* dkernel, real* dbias,
                        wide* wide_dkernel, wide* wide_dbias) {
  __shared__ Pair parts[LANES][THREADS];
  if (are_packs(n, x)) gradients_of<true>(rows, n, m, x, dy, dkernel, dbias, wide_dkernel, wide_dbias, parts);
  else gradients_of<false>(rows, n, m, x, dy, dkernel, dbias, wide_dkernel, wide_dbias, parts);
}
