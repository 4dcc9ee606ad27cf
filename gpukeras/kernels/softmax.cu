// Softmax and its logarithm: a row for one warp or several. Formulas as in softmax.py.

#include "common.cuh"
#include "rows.cuh"

// y <- exp(x - max x) / sum of exp(x - max x), over a row; y may be x
KERNEL softmax(index rows, index columns, const real* x, real* y) {
  index row = row_of_threads();
  x = row_of(x, row, columns);
  y = row_of(y, row, columns);
  HeldWide<HELD> held;
  bool is_held = Held<HELD>::fits(columns) && are_aligned(x, y);
  if (row >= rows) columns = 0;  // nothing to do, but all threads of the block meet
  if (!is_held) {
    Exponentials e = exponentials_of_row(columns, x);
    wide scale = 1 / e.sum;
    map_row(columns, [=](wide v, wide& out) { out = exponential_to_real(v - e.largest) * scale; }, y, x);
    return;
  }
  held.load(x, columns);
  wide largest = -infinity(), sum = 0;
  in_held_row(held, [&](wide v) { largest = maximum(largest, v); });
  largest = over_row<Maximum>(largest);
  in_held_row(held, [&](wide& v) { sum += v = exponential_to_real(v - largest); });
  wide scale = 1 / over_row<Sum>(sum);
  in_held_row(held, [&](wide v, wide& out) { out = v * scale; }, writes(y));
}

// y <- x - max x - log sum exp(x - max x), over a row; y may be x
KERNEL log_softmax(index rows, index columns, const real* x, real* y) {
  index row = row_of_threads();
  x = row_of(x, row, columns);
  y = row_of(y, row, columns);
  Held<HELD> held;
  bool is_held = held.fits(columns) && are_aligned(x, y);
  if (row >= rows) columns = 0;  // nothing to do, but all threads of the block meet
  if (!is_held) {
    Exponentials e = exponentials_of_row(columns, x);
    wide logarithm_of_sum = logarithm(e.sum);
    map_row(columns, [=](wide v, wide& out) { out = v - e.largest - logarithm_of_sum; }, y, x);
    return;
  }
  held.load(x, columns);
  wide largest = -infinity(), sum = 0;
  in_held_row(held, [&](wide v) { largest = maximum(largest, v); });
  largest = over_row<Maximum>(largest);
  in_held_row(held, [&](wide v) { sum += exponential_to_real(v - largest); });
  sum = logarithm(over_row<Sum>(sum));
  in_held_row(held, [&](wide v, wide& out) { out = v - largest - sum; }, writes(y));
}

// dx <- dy - exp(y) sum of dy, over a row; dx may be dy
KERNEL log_softmax_backward(index rows, index columns, const real* y, const real* dy, real* dx) {
  index row = row_of_threads();
  y = row_of(y, row, columns);
  dy = row_of(dy, row, columns);
  dx = row_of(dx, row, columns);
  Held<HELD / 2> held, gradient;
  bool is_held = held.fits(columns) && are_aligned(y, dy, dx);
  if (row >= rows) columns = 0;  // nothing to do, but all threads of the block meet
  wide sum = 0;
  auto put = [&](wide v, wide d, wide& out) { out = d - exponential_to_real(v) * sum; };
  if (!is_held) {
    sum = sum_of_row(columns, dy);
    map_row(columns, put, dx, y, dy);
    return;
  }
  held.load(y, columns);
  gradient.load(dy, columns);
  in_held_row(gradient, [&](wide d) { sum += d; });
  sum = over_row<Sum>(sum);
  in_held_row(held, put, gradient, writes(dx));
}

// dx <- y (dy - sum of y dy), over a row; dx may be dy
KERNEL softmax_backward(index rows, index columns, const real* y, const real* dy, real* dx) {
  index row = row_of_threads();
  y = row_of(y, row, columns);
  dy = row_of(dy, row, columns);
  dx = row_of(dx, row, columns);
  Held<HELD / 2> held, gradient;
  bool is_held = held.fits(columns) && are_aligned(y, dy, dx);
  if (row >= rows) columns = 0;  // nothing to do, but all threads of the block meet
  wide sum = 0;
  auto add = [&](wide v, wide d) { sum += v * d; };
  auto put = [&](wide v, wide d, wide& out) { out = v * (d - sum); };
  if (!is_held) {
    read_row(columns, add, y, dy);
    sum = over_row<Sum>(sum);
    map_row(columns, put, dx, y, dy);
    return;
  }
  held.load(y, columns);
  gradient.load(dy, columns);
  in_held_row(held, add, gradient);
  sum = over_row<Sum>(sum);
  in_held_row(held, put, gradient, writes(dx));
}
