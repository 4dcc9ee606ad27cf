// What stands around matrix products: bias and rectifier in one pass, and the gradient of a bias.

#include "common.cuh"

// y <- y + bias, and the positive part of it where it is rectified; bias may be missing
KERNEL finish(index n, int columns, const real* bias, bool is_rectified, real* y) {
  by_column(n, columns, [=](int column, wide& v) {
    if (bias) v += widen(bias[column]);
    if (is_rectified) v = maximum(v, 0);
  }, updates(y));
}

// sum of x over its rows
KERNEL sum_of_rows(index rows, index columns, const real* x, wide* part, real* out) {
  sums_of_columns<1>(rows, columns, [=](index row, index column, wide* sums) {
    sums[0] += widen(x[row * columns + column]);
  }, part, out);
}
