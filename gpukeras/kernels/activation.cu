// Activations and their derivatives. Formulas as in activation.py; `slope`, where it is there, gets dy/dx.

#include "common.cuh"

// y <- max(x, 0)
KERNEL relu(index n, const real* x, real* y) {
  elementwise(n, [](wide v, wide& out) { out = maximum(v, 0); }, reads(x), writes(y));
}

// dx <- dy where y > 0, else 0
KERNEL relu_backward(index n, const real* dy, const real* y, real* dx) {
  elementwise(n, [](wide d, wide v, wide& out) { out = d * wide(v > 0); }, reads(dy), reads(y), writes(dx));
}

// y <- x Phi(x);  slope <- Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)
// Phi(x) = erfc(-x / sqrt(2)) / 2 keeps its digits where x is far below 0, as 1 + erf(x / sqrt(2)) does not.
KERNEL gelu(index n, const real* x, real* y, real* slope) {
  elementwise(n, [=](wide v, wide& out, wide& s) {
    wide below = wide(0.5) * complementary_error_function(v * wide(-0.70710678118654752));
    out = v * below;
    if (slope) s = below + v * exponential(wide(-0.5) * v * v) * wide(0.39894228040143268);
  }, reads(x), writes(y), writes(slope));
}

// y <- x (1 + tanh u) / 2,  u = c (x + 0.044715 x^3),  c = sqrt(2 / pi)
// slope <- c x (1 + 3 0.044715 x^2) (1 - tanh^2 u) / 2 + (1 + tanh u) / 2
KERNEL gelu_by_tanh(index n, const real* x, real* y, real* slope) {
  const wide c = wide(0.79788456080286536), a = wide(0.044715);
  elementwise(n, [=](wide v, wide& out, wide& s) {
    wide square = v * v, t = hyperbolic_tangent(v * (c + c * a * square));
    out = wide(0.5) * v * (1 + t);
    if (slope) s = wide(0.5) * c * v * (1 + 3 * a * square) * (1 - t * t) + wide(0.5) * (1 + t);
  }, reads(x), writes(y), writes(slope));
}

// y <- 1 / (1 + exp(-x))
KERNEL logistic(index n, const real* x, real* y) {
  elementwise(n, [](wide v, wide& out) { out = sigmoid(v); }, reads(x), writes(y));
}

// y <- x s,  s = 1 / (1 + exp(-x));  slope <- s + y (1 - s)
KERNEL silu(index n, const real* x, real* y, real* slope) {
  elementwise(n, [=](wide v, wide& out, wide& s) {
    wide sigma = sigmoid(v);
    out = v * sigma;
    s = sigma + out * (1 - sigma);
  }, reads(x), writes(y), writes(slope));
}

// --- Softmax: one row for a warp or a block ----------------------------------------------------------------------

// y <- exp(x - max x) / sum of exp(x - max x), over a row; y may be x
KERNEL softmax(index rows, index columns, const real* x, real* y) {
  index row = row_of_threads();
  if (row >= rows) return;
  x = row_of(x, row, columns);
  y = row_of(y, row, columns);
  wide largest = row_maximum(columns, x), sum = 0;
  in_row(columns, [&](wide v) { sum += exponential(v - largest); }, reads(x));
  wide scale = 1 / over_row<Sum>(sum);
  in_row(columns, [&](wide v, wide& out) { out = exponential(v - largest) * scale; }, reads(x), writes(y));
}

// dx <- y (dy - sum of y dy), over a row; dx may be dy
KERNEL softmax_backward(index rows, index columns, const real* y, const real* dy, real* dx) {
  index row = row_of_threads();
  if (row >= rows) return;
  y = row_of(y, row, columns);
  dy = row_of(dy, row, columns);
  dx = row_of(dx, row, columns);
  wide sum = 0;
  in_row(columns, [&](wide v, wide d) { sum += v * d; }, reads(y), reads(dy));
  sum = over_row<Sum>(sum);
  in_row(columns, [&](wide v, wide d, wide& out) { out = v * (d - sum); }, reads(y), reads(dy), writes(dx));
}
