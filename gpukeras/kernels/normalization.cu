// Batch normalization over x (rows, channels), layer normalization over x (rows, n). Formulas as in normalization.py.

#include "common.cuh"

// --- Batch normalization: channels are the columns ---------------------------------------------------------------

constexpr int MOMENTS_DEPTH = 6;  // reads that a thread has under way

// Mean and sum of squared distances from it of `count` numbers.
struct Moments {
  wide count, mean, squares;
};

// Those of numbers of which sum and sum of squares are known, measured from `origin`.
DEVICE Moments moments_of(wide count, wide origin, wide sum, wide squares) {
  if (count == 0) return {0, 0, 0};
  wide mean = quotient(sum, count);
  return {count, origin + mean, maximum(squares - sum * mean, 0)};
}

// Those of two sets of numbers (Chan et al. 1979): distances are measured from the joint mean, so that no digits are lost.
DEVICE Moments joined(Moments a, Moments b) {
  wide count = a.count + b.count, share = quotient(b.count, maximum(count, 1)), distance = b.mean - a.mean;
  return {count, a.mean + distance * share, a.squares + b.squares + distance * distance * a.count * share};
}

// Those of the lines of a warp, which their first line gets.
DEVICE Moments over_lines(Moments own) {
#pragma unroll
  for (int line = 1; line < LINES; line *= 2) {
    wide count = __shfl_down_sync(ALL_LANES, own.count, line * ACROSS);
    wide mean = __shfl_down_sync(ALL_LANES, own.mean, line * ACROSS);
    own = joined(own, {count, mean, __shfl_down_sync(ALL_LANES, own.squares, line * ACROSS)});
  }
  return own;
}

// Those of a block's warps.
template <int width>
DEVICE Moments joined(const Moments (&warps)[WARPS][width], int place) {
  Moments all = {0, 0, 0};
#pragma unroll
  for (int warp = 0; warp < WARPS; ++warp) {
    Moments own = warps[warp][place];
    all.count += own.count;
    all.mean += own.count * own.mean;
  }
  all.mean /= maximum(all.count, 1);
#pragma unroll
  for (int warp = 0; warp < WARPS; ++warp) {
    Moments own = warps[warp][place];
    wide distance = own.mean - all.mean;
    all.squares += own.squares + own.count * distance * distance;
  }
  return all;
}

// out[0, column], out[1, column] <- mean and variance, from moments of distances from the column's first number
DEVICE void put_moments(Moments all, const real* x, index columns, index column, wide* out) {
  out[column] = widen(x[column]) + all.mean;
  out[columns + column] = all.squares / all.count;
}

// Mean and variance of the columns, or part[0, chunk, column], part[1, chunk, column] <- mean and squares of a chunk.
//
// All is measured from the column's first number, so that a small spread about a large mean keeps its digits; squares
// within a thread from the first number that the thread sees, so that a column that begins with an outlier does too.
KERNEL batch_moments(index rows, index columns, const real* x, wide* part, wide* out) {
  __shared__ Moments warps[WARPS][LINE];
  Chunk chunk = chunk_of_block(rows);
  wide first[LANES] = {}, sum[LANES] = {}, sum_of_squares[LANES] = {};
  bool by_packs = are_packs(columns, x);
  down_columns<MOMENTS_DEPTH>(chunk, columns, by_packs, [&](int k, bool is_first, wide v) {
    if (is_first) first[k] = v;
    v -= first[k];
    sum[k] += v;
    sum_of_squares[k] += v * v;
  }, reads(x));
  wide count = wide(int(rows_of_line(chunk, threadIdx.y)));
#pragma unroll
  for (int k = 0; k < LANES; ++k) {
    index column = first_of_tile() + column_in_tile(by_packs, k);
    wide origin = column < columns ? widen(x[column]) : wide(0);
    Moments own = over_lines(moments_of(count, first[k] - origin, sum[k], sum_of_squares[k]));
    if (is_first_of_warp()) warps[warp_of_block()][k * ACROSS + threadIdx.x] = own;
  }
  __syncthreads();
  int thread = thread_of_block();
  index column = first_of_tile() + thread;
  if (thread >= TILE || column >= columns) return;
  Moments all = joined(warps, place_in_line(by_packs, thread));
  if (out) {
    put_moments(all, x, columns, column, out);
  } else {
    part[blockIdx.y * columns + column] = all.mean;
    part[(gridDim.y + blockIdx.y) * columns + column] = all.squares;
  }
}

// The same from the chunks' moments. A thread measures from the mean of its first chunk.
KERNEL moments_of_chunks(index rows, index chunks, index columns, const real* x, const wide* part, wide* out) {
  __shared__ Moments warps[WARPS][ACROSS];
  index column = column_of_join(), size = chunk_of(rows, chunks, 0).stop;
  wide n = 0, first = 0, sum = 0, rest = 0, all_rows = wide(size);
  if (column < columns)
    over_chunks<2>(chunks, columns, column, part, [&](index chunk, const wide (&number)[2]) {
      index left = rows - chunk * size;  // the last chunks may be short, or empty
      wide count = left >= size ? all_rows : wide(left > 0 ? left : 0);
      if (chunk == threadIdx.y) first = number[0];
      wide distance = number[0] - first;
      n += count;
      sum += count * distance;
      rest += number[1] + count * distance * distance;
    });
  Moments own = over_lines(moments_of(n, first, sum, rest));
  if (is_first_of_warp()) warps[warp_of_block()][threadIdx.x] = own;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  put_moments(joined(warps, threadIdx.x), x, columns, column, out);
}

// y <- (x - mean) factor + offset; offset may be missing
KERNEL batch_scale(index n, int columns, const real* x, const wide* mean, const wide* factor, const wide* offset,
                   real* y) {
  by_column(n, columns, [](wide v, wide m, wide f, wide o, wide& out) { out = (v - m) * f + o; }, reads(x),
            of_columns(mean), of_columns(factor), of_columns(offset), writes(y));
}

// sums of dy and dy (x - mean)
KERNEL batch_sums(index rows, index columns, const real* x, const wide* mean, const real* dy, wide* part, wide* out) {
  bool by_packs = are_packs(columns, x, dy);
  wide m[LANES];
#pragma unroll
  for (int k = 0; k < LANES; ++k) {
    index column = first_of_tile() + column_in_tile(by_packs, k);
    m[k] = column < columns ? mean[column] : wide(0);
  }
  wide sums[LANES][2] = {};
  down_columns(chunk_of_block(rows), columns, by_packs, [&](int k, bool, wide v, wide d) {
    sums[k][0] += d;
    sums[k][1] += d * (v - m[k]);
  }, reads(x), reads(dy));
  put_sums(sums, by_packs, columns, part, out);
}

// dx <- factor (dy - dy_mean - (x - mean) slope)
KERNEL batch_scale_backward(index n, int columns, const real* x, const wide* mean, const real* dy, const wide* factor,
                            const wide* dy_mean, const wide* slope, real* dx) {
  by_column(n, columns, [](wide v, wide m, wide d, wide f, wide d_mean, wide s, wide& out) {
    out = f * (d - d_mean - (v - m) * s);
  }, reads(x), of_columns(mean), reads(dy), of_columns(factor), of_columns(dy_mean), of_columns(slope), writes(dx));
}

// --- Layer normalization: a row for one warp or several ------------------------------------------------------------

// scale <- 1 / sqrt(variance + epsilon),  z <- (x - mean) scale,  y <- z gamma + beta;  the mean is 0 where not centred
KERNEL layer_norm(index rows, index columns, const real* x, const real* gamma, const real* beta, wide epsilon,
                  bool is_centred, real* z, real* y, wide* scale) {
  index row = row_of_threads(), n = columns;
  x = row_of(x, row, columns);
  z = row_of(z, row, columns);
  y = row_of(y, row, columns);
  Held<HELD> held;
  bool is_held = held.fits(columns) && are_aligned(x, gamma, beta, z, y);
  if (row >= rows) columns = 0;  // nothing to do, but all threads of the block meet
  wide mean = 0, squares = 0;
  auto add = [&](wide v) { mean += v; };
  auto add_square = [&](wide v) { squares += (v - mean) * (v - mean); };
  if (is_held) held.load(x, columns);
  if (is_centred) {
    if (is_held) in_held_row(held, add);
    else in_row(columns, add, reads(x));
    mean = quotient(over_row<Sum>(mean), wide(n));
  }
  if (is_held) in_held_row(held, add_square);
  else in_row(columns, add_square, reads(x));
  wide s = 1 / square_root(quotient(over_row<Sum>(squares), wide(n)) + epsilon);
  if (threadIdx.x == 0 && row < rows) scale[row] = s;
  wide one = gamma ? 0 : 1;  // a gamma or beta that is missing reads as 0
  auto normalized = [=](wide v, wide& out) { out = (v - mean) * s; };
  auto scaled = [=](wide v, wide g, wide b, wide& out) { out = (v - mean) * s * (g + one) + b; };
  if (is_held) {
    in_held_row(held, normalized, writes(z));
    in_held_row(held, scaled, reads(gamma), reads(beta), writes(y));
  } else {
    in_row(columns, normalized, reads(x), writes(z));
    in_row(columns, scaled, reads(x), reads(gamma), reads(beta), writes(y));
  }
}

// g = dy gamma;  dx <- scale (g - mean of g - z mean of g z), the first mean 0 where not centred
KERNEL layer_norm_backward(index rows, index columns, const real* z, const wide* scale, const real* gamma,
                           const real* dy, bool is_centred, real* dx) {
  index row = row_of_threads(), n = columns;
  z = row_of(z, row, columns);
  dy = row_of(dy, row, columns);
  dx = row_of(dx, row, columns);
  Held<HELD / 2> held, gradient;
  bool is_held = held.fits(columns) && are_aligned(z, gamma, dy, dx);
  wide s = row < rows ? scale[row] : wide(0);
  if (row >= rows) columns = 0;  // nothing to do, but all threads of the block meet
  wide one = gamma ? 0 : 1;      // a gamma that is missing reads as 0
  wide sums[2] = {};
  auto add = [&](wide v, wide d, wide g) {
    d *= g + one;
    sums[0] += d;
    sums[1] += d * v;
  };
  if (is_held) {
    held.load(z, columns);
    gradient.load(dy, columns);
    in_held_row(held, add, gradient, reads(gamma));
  } else {
    in_row(columns, add, reads(z), reads(dy), reads(gamma));
  }
  all_over_row<Sum>(sums);
  wide mean = is_centred ? quotient(sums[0], wide(n)) : wide(0), product = quotient(sums[1], wide(n));
  auto put = [=](wide v, wide d, wide g, wide& out) { out = s * (d * (g + one) - mean - v * product); };
  if (is_held) in_held_row(held, put, gradient, reads(gamma), writes(dx));
  else in_row(columns, put, reads(z), reads(dy), reads(gamma), writes(dx));
}

// dgamma and dbeta: sums of dy z and dy over the rows
KERNEL layer_norm_sums(index rows, index columns, const real* z, const real* dy, wide* part, wide* out) {
  bool by_packs = are_packs(columns, z, dy);
  wide sums[LANES][2] = {};
  down_columns(chunk_of_block(rows), columns, by_packs, [&](int k, bool, wide v, wide d) {
    sums[k][0] += d * v;
    sums[k][1] += d;
  }, reads(z), reads(dy));
  put_sums(sums, by_packs, columns, part, out);
}

// What a thread has of every row: 8 columns, in packs where it reads by 16 bytes, side by side with other threads' packs.
constexpr int STRIP = 8;

template <bool by_packs>
struct Strip {
  static constexpr int PACKS = STRIP / LANES;
  Pack pack[PACKS];

  static DEVICE int place(int k) {
    return by_packs ? (k / LANES * blockDim.x + threadIdx.x) * LANES + k % LANES : threadIdx.x * STRIP + k;
  }
  DEVICE real& at(int k) { return pack[k / LANES].at[k % LANES]; }

  DEVICE void load(const real* row, int columns) {
    if constexpr (by_packs) {
#pragma unroll
      for (int i = 0; i < PACKS; ++i)
        if (place(i * LANES) < columns) pack[i].bits = *reinterpret_cast<const uint4*>(row + place(i * LANES));
    } else {
#pragma unroll
      for (int k = 0; k < STRIP; ++k)
        if (place(k) < columns) at(k) = row[place(k)];
    }
  }
  DEVICE void store(real* row, int columns) const {
    if constexpr (by_packs) {
#pragma unroll
      for (int i = 0; i < PACKS; ++i)
        if (place(i * LANES) < columns) *reinterpret_cast<uint4*>(row + place(i * LANES)) = pack[i].bits;
    } else {
#pragma unroll
      for (int k = 0; k < STRIP; ++k)
        if (place(k) < columns) row[place(k)] = pack[k / LANES].at[k % LANES];
    }
  }
};

// dx as above, and part[0, block, column], part[1, block, column] <- sums of dy z and dy over the block's rows, or out
// where one block has all. Each array is read once: a thread has the same columns of all its rows.
template <bool by_packs>
DEVICE void layer_norm_backward_with_sums_of(int rows, int columns, const real* z, const wide* scale,
                                             const real* gamma, const real* dy, bool is_centred, real* dx, wide* part,
                                             wide* out) {
  __shared__ wide lines[THREADS * STRIP];
  Strip<by_packs> z_strip, dy_strip;
  wide kept[STRIP], sums_of_rows[2][STRIP] = {};
  auto read_gamma = [=](int k) {
    int place = Strip<by_packs>::place(k);
    return gamma && place < columns ? widen(gamma[place]) : wide(1);
  };
#pragma unroll
  for (int k = 0; k < STRIP; ++k) kept[k] = read_gamma(k);
  // Single numbers have longer addresses, which leaves no registers to keep gamma in.
  auto gamma_at = [&](int k) { return by_packs ? kept[k] : read_gamma(k); };
  int step = gridDim.x * blockDim.y, row = int(row_of_threads()), place = row * columns;
  z += place, dy += place, dx += place, scale += row;
  for (int left = rows - blockIdx.x * blockDim.y; left > 0; left -= step) {
    int count = int(threadIdx.y) < left ? columns : 0;  // all threads of the block meet
    z_strip.load(z, count);
    dy_strip.load(dy, count);
    wide s = count ? *scale : wide(0), sums[2] = {};
#pragma unroll
    for (int k = 0; k < STRIP; ++k) {
      if (z_strip.place(k) >= count) continue;
      wide v = widen(z_strip.at(k)), d = widen(dy_strip.at(k));
      sums_of_rows[0][k] += d * v;
      sums_of_rows[1][k] += d;
      d *= gamma_at(k);
      sums[0] += d;
      sums[1] += d * v;
    }
    all_over_row<Sum>(sums);
    wide mean = is_centred ? quotient(sums[0], wide(columns)) : wide(0), product = quotient(sums[1], wide(columns));
#pragma unroll
    for (int k = 0; k < STRIP; ++k)
      dy_strip.at(k) = to_real(s * (widen(dy_strip.at(k)) * gamma_at(k) - mean - widen(z_strip.at(k)) * product));
    dy_strip.store(dx, count);  // what was dy
    z += step * columns, dy += step * columns, dx += step * columns, scale += step;
  }
  int width = blockDim.x * STRIP;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    __syncthreads();  // the lines of the sum before have been read
#pragma unroll
    for (int k = 0; k < STRIP; ++k) lines[threadIdx.y * width + z_strip.place(k)] = sums_of_rows[i][k];
    __syncthreads();
#pragma unroll 1
    for (int column = thread_of_block(); column < columns; column += THREADS) {
      wide sum = 0;
#pragma unroll 1
      for (int y = 0; y < blockDim.y; ++y) sum += lines[y * width + column];
      if (out) out[i * columns + column] = sum;
      else part[(i * gridDim.x + blockIdx.x) * columns + column] = sum;
    }
  }
}

KERNEL layer_norm_backward_with_sums(index rows, index columns, const real* z, const wide* scale, const real* gamma,
                                     const real* dy, bool is_centred, real* dx, wide* part, wide* out) {
  if (are_packs(columns, z, dy, dx))
    layer_norm_backward_with_sums_of<true>(int(rows), int(columns), z, scale, gamma, dy, is_centred, dx, part, out);
  else
    layer_norm_backward_with_sums_of<false>(int(rows), int(columns), z, scale, gamma, dy, is_centred, dx, part, out);
}
