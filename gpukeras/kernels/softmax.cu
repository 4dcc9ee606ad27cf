// Softmax and its logarithm: a row for one warp or several. Formulas as in softmax.py.

#include "common.cuh"

// y <- exp(x - max x) / sum of exp(x - max x), over a row; y may be x
KERNEL softmax(index rows, index columns, const real* x, real* y) {
  index row = row_of_threads();
  x = row_of(x, row, columns);
  y = row_of(y, row, columns);
  HeldWide<HELD> held;
  bool is_held = Held<HELD>::fits(columns) && are_aligned(x, y);
  if (row >= rows) columns = 0;  // nothing to do, but all threads of the block meet
  if (!is_held) {
    wide largest = row_maximum(columns, x), sum = 0;
    in_row(columns, [&](wide v) { sum += exponential_to_real(v - largest); }, reads(x));
    wide scale = 1 / over_row<Sum>(sum);
    in_row(columns, [&](wide v, wide& out) { out = exponential_to_real(v - largest) * scale; }, reads(x), writes(y));
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
  wide largest = -infinity(), sum = 0;
  auto compare = [&](wide v) { largest = maximum(largest, v); };
  auto add = [&](wide v) { sum += exponential(v - largest); };
  auto put = [&](wide v, wide& out) { out = v - largest - sum; };
  if (is_held) {
    held.load(x, columns);
    in_held_row(held, compare);
  } else {
    in_row(columns, compare, reads(x));
  }
  largest = over_row<Maximum>(largest);
  if (is_held) in_held_row(held, add);
  else in_row(columns, add, reads(x));
  sum = logarithm(over_row<Sum>(sum));
  if (is_held) in_held_row(held, put, writes(y));
  else in_row(columns, put, reads(x), writes(y));
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
  auto add = [&](wide d) { sum += d; };
  auto put = [&](wide v, wide d, wide& out) { out = d - exponential(v) * sum; };
  if (is_held) {
    held.load(y, columns);
    gradient.load(dy, columns);
    in_held_row(gradient, add);
    sum = over_row<Sum>(sum);
    in_held_row(held, put, gradient, writes(dx));
  } else {
    in_row(columns, add, reads(dy));
    sum = over_row<Sum>(sum);
    in_row(columns, put, reads(y), reads(dy), writes(dx));
  }
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
  if (!is_held) {
    in_row(columns, [&](wide v, wide d) { sum += v * d; }, reads(y), reads(dy));
    sum = over_row<Sum>(sum);
    in_row(columns, [&](wide v, wide d, wide& out) { out = v * (d - sum); }, reads(y), reads(dy), writes(dx));
    return;
  }
  held.load(y, columns);
  gradient.load(dy, columns);
  in_held_row(held, [&](wide v, wide d) { sum += v * d; }, gradient);
  sum = over_row<Sum>(sum);
  in_held_row(held, [&](wide v, wide d, wide& out) { out = v * (d - sum); }, gradient, writes(dx));
}
