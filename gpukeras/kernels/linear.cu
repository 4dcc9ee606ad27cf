// What stands around matrix products: bias and rectifier in one pass, and the gradient of a bias.

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
