// Batch normalization over x (rows, channels), layer normalization over x (rows, n). Formulas as in normalization.py.

#include "common.cuh"

// --- Batch normalization: channels are the columns ---------------------------------------------------------------

// Mean and sum of squared distances from it of `count` numbers, which join without loss of digits (Chan et al. 1979).
struct Moments {
  wide count, mean, squares;
};

DEVICE Moments joined(Moments a, Moments b) {
  if (b.count == 0) return a;
  wide count = a.count + b.count, share = b.count / count, distance = b.mean - a.mean;
  return {count, a.mean + distance * share, a.squares + b.squares + distance * distance * a.count * share};
}

// Over the threads of a column, of one threadIdx.x; the first of them gets the result.
DEVICE Moments joined_over_column(Moments own) {
  __shared__ wide count[8][33];
  __shared__ wide mean[8][33];
  __shared__ wide squares[8][33];
  int x = threadIdx.x, y = threadIdx.y;
  count[y][x] = own.count;
  mean[y][x] = own.mean;
  squares[y][x] = own.squares;
  __syncthreads();
  if (y == 0)
    for (int k = 1; k < 8; ++k) own = joined(own, {count[k][x], mean[k][x], squares[k][x]});
  return own;
}

// out[0, column], out[1, column] <- mean and variance, from moments of distances from the column's first number
DEVICE void put_moments(Moments all, const real* x, index columns, index column, real* out) {
  out[column] = to_real(widen(x[column]) + all.mean);
  out[columns + column] = to_real(all.squares / all.count);
}

// Mean and variance of the columns, or part[0, chunk, column], part[1, chunk, column] <- mean and squares of a chunk.
//
// All is measured from the column's first number, so that a small spread about a large mean keeps its digits; squares
// within a thread from the first number that the thread sees, so that a column that begins with an outlier does too.
KERNEL batch_moments(index rows, index columns, const real* x, wide* part, real* out) {
  index column = index(blockIdx.x) * WARP + threadIdx.x, chunks = gridDim.y;
  Chunk chunk = chunk_of(rows, chunks, blockIdx.y);
  wide count = 0, origin = 0, first = 0, sum = 0, squares = 0;
  if (column < columns) {
    origin = widen(x[column]);
    for (index row = chunk.start + threadIdx.y; row < chunk.stop; row += blockDim.y) {
      wide v = widen(x[row * columns + column]);
      if (count == 0) first = v;
      v -= first;
      sum += v;
      squares += v * v;
      ++count;
    }
  }
  wide mean = count > 0 ? sum / count : wide(0);
  Moments all = joined_over_column({count, first - origin + mean, maximum(squares - sum * mean, 0)});
  if (threadIdx.y != 0 || column >= columns) return;
  if (out) {
    put_moments(all, x, columns, column, out);
  } else {
    part[blockIdx.y * columns + column] = all.mean;
    part[(chunks + blockIdx.y) * columns + column] = all.squares;
  }
}

// The same from the chunks' moments
KERNEL moments_of_chunks(index rows, index chunks, index columns, const real* x, const wide* part, real* out) {
  index column = index(blockIdx.x) * WARP + threadIdx.x;
  Moments all = {0, 0, 0};
  if (column < columns)
    for (index k = threadIdx.y; k < chunks; k += blockDim.y) {
      Chunk chunk = chunk_of(rows, chunks, k);
      wide count = wide(chunk.stop > chunk.start ? chunk.stop - chunk.start : 0);
      all = joined(all, {count, part[k * columns + column], part[(chunks + k) * columns + column]});
    }
  all = joined_over_column(all);
  if (threadIdx.y == 0 && column < columns) put_moments(all, x, columns, column, out);
}

// y <- (x - mean) factor + offset; offset may be missing
KERNEL batch_scale(index n, int columns, const real* x, const real* mean, const real* factor, const real* offset,
                   real* y) {
  by_column(n, columns, [=](int c, wide v, wide& out) {
    out = (v - widen(mean[c])) * widen(factor[c]);
    if (offset) out += widen(offset[c]);
  }, reads(x), writes(y));
}

// sums of dy and dy (x - mean)
KERNEL batch_sums(index rows, index columns, const real* x, const real* mean, const real* dy, wide* part, real* out) {
  sums_of_columns<2>(rows, columns, [=](index row, index column, wide* sums) {
    wide d = widen(dy[row * columns + column]);
    sums[0] += d;
    sums[1] += d * (widen(x[row * columns + column]) - widen(mean[column]));
  }, part, out);
}

// dx <- factor (dy - dy_mean - (x - mean) slope)
KERNEL batch_scale_backward(index n, int columns, const real* x, const real* mean, const real* dy, const real* factor,
                            const real* dy_mean, const real* slope, real* dx) {
  by_column(n, columns, [=](int c, wide v, wide d, wide& out) {
    out = widen(factor[c]) * (d - widen(dy_mean[c]) - (v - widen(mean[c])) * widen(slope[c]));
  }, reads(x), reads(dy), writes(dx));
}

// --- Layer normalization: a row for a warp or a block --------------------------------------------------------------

// scale <- 1 / sqrt(variance + epsilon),  z <- (x - mean) scale,  y <- z gamma + beta;  the mean is 0 where not centred
KERNEL layer_norm(index rows, index columns, const real* x, const real* gamma, const real* beta, wide epsilon,
                  bool is_centred, real* z, real* y, real* scale) {
  index row = row_of_threads();
  if (row >= rows) return;
  x = row_of(x, row, columns);
  wide mean = 0, squares = 0;
  if (is_centred) {
    in_row(columns, [&](wide v) { mean += v; }, reads(x));
    mean = quotient(over_row<Sum>(mean), wide(columns));
  }
  in_row(columns, [&](wide v) { squares += (v - mean) * (v - mean); }, reads(x));
  wide s = 1 / square_root(quotient(over_row<Sum>(squares), wide(columns)) + epsilon);
  if (threadIdx.x == 0) scale[row] = to_real(s);
  in_row(columns, [=](wide v, wide g, wide b, wide& z_out, wide& y_out) {
    z_out = (v - mean) * s;
    y_out = (gamma ? z_out * g : z_out) + b;  // a beta that is missing reads as 0
  }, reads(x), reads(gamma), reads(beta), writes(row_of(z, row, columns)), writes(row_of(y, row, columns)));
}

// g = dy gamma;  dx <- scale (g - mean of g - z mean of g z), the first mean 0 where not centred
KERNEL layer_norm_backward(index rows, index columns, const real* z, const real* scale, const real* gamma,
                           const real* dy, bool is_centred, real* dx) {
  index row = row_of_threads();
  if (row >= rows) return;
  z = row_of(z, row, columns);
  dy = row_of(dy, row, columns);
  dx = row_of(dx, row, columns);
  wide one = gamma ? 0 : 1;  // a gamma that is missing reads as 0
  wide mean = 0, product = 0, s = widen(scale[row]);
  in_row(columns, [&](wide v, wide d, wide g) {
    d *= g + one;
    mean += d;
    product += d * v;
  }, reads(z), reads(dy), reads(gamma));
  mean = is_centred ? quotient(over_row<Sum>(mean), wide(columns)) : wide(0);
  product = quotient(over_row<Sum>(product), wide(columns));
  in_row(columns, [=](wide v, wide d, wide g, wide& out) {
    out = s * (d * (g + one) - mean - v * product);
  }, reads(z), reads(dy), reads(gamma), writes(dx));
}

// dgamma and dbeta: sums of dy z and dy over the rows
KERNEL layer_norm_sums(index rows, index columns, const real* z, const real* dy, wide* part, real* out) {
  sums_of_columns<2>(rows, columns, [=](index row, index column, wide* sums) {
    wide d = widen(dy[row * columns + column]);
    sums[0] += d * widen(z[row * columns + column]);
    sums[1] += d;
  }, part, out);
}
