// Activations and their derivatives. Formulas as in activation.py; `slope`, where it is there, gets dy/dx.

#include "common.cuh"
#include "pairs.cuh"

// y <- max(x, 0)
KERNEL relu(index n, const real* x, real* y) {
  elementwise(n, [](wide v, wide& out) { out = maximum(v, 0); }, reads(x), writes(y));
}

// dx <- dy where y > 0, else 0
KERNEL relu_backward(index n, const real* dy, const real* y, real* dx) {
  elementwise(n, [](wide d, wide v, wide& out) { out = d * wide(v > 0); }, reads(dy), reads(y), writes(dx));
}

// Phi(x), and exp(-x^2 / 2). erfc(-x / sqrt(2)) / 2 keeps its digits where x is far below 0, as 1 + erf(x / sqrt(2)) does not.
//
// For 16 bits a polynomial in u = 1 / (1 + 0.31 |x|) does: times exp(-x^2 / 2) it is Phi(-|x|) to within 5e-6 of it for
// |x| < 14, beyond which the result is 0 or 1. Fitted to the ratio of both on that range, for the smallest relative error.
DEVICE wide normal_distribution(wide x, wide& density) {
  if constexpr (sizeof(real) != 2) {
    density = exponential(wide(-0.5) * x * x);
    return wide(0.5) * complementary_error_function(x * wide(-0.70710678118654752));
  }
  density = exponential_to_real(wide(-0.5) * x * x);
  wide u = quotient(1, 1 + wide(0.31) * absolute(x)), ratio = wide(-0.073929358);
  ratio = ratio * u + wide(0.18045098);
  ratio = ratio * u + wide(0.015744013);
  ratio = ratio * u + wide(0.13343013);
  ratio = ratio * u + wide(0.12044120);
  ratio = (ratio * u + wide(0.12386071)) * u;
  wide tail = ratio * density;
  return x < 0 ? tail : 1 - tail;
}

// y <- x Phi(x);  slope <- Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)
KERNEL gelu(index n, const real* x, real* y, real* slope) {
  by_pairs(n, [=](wide v, wide& out, wide& s) {
    wide density, below = normal_distribution(v, density);
    out = v * below;
    if (slope) s = below + v * density * wide(0.39894228040143268);
  }, reads(x), writes(y), writes(slope));
}

// y <- x (1 + tanh u) / 2,  u = c (x + 0.044715 x^3),  c = sqrt(2 / pi);  (1 + tanh u) / 2 = s = 1 / (1 + exp(-2 u))
// slope <- s + 2 c x (1 + 3 0.044715 x^2) s (1 - s)
KERNEL gelu_by_tanh(index n, const real* x, real* y, real* slope) {
  const wide c = wide(1.5957691216057307), a = wide(0.044715);  // twice the c above
  by_pairs(n, [=](wide v, wide& out, wide& d) {
    wide square = v * v, e = exponential_to_real(-v * (c + c * a * square)), s = quotient(1, 1 + e);
    out = v * s;
    d = s + out * (c + 3 * c * a * square) * (1 - s);
  }, reads(x), writes(y), writes(slope));
}

// 1 / (1 + exp(-x)) to as many digits as `real` holds
DEVICE wide sigmoid_to_real(wide x) { return quotient(1, 1 + exponential_to_real(-x)); }

// y <- 1 / (1 + exp(-x))
KERNEL logistic(index n, const real* x, real* y) {
  by_pairs(n, [](wide v, wide& out) { out = sigmoid_to_real(v); }, reads(x), writes(y));
}

// y <- x s,  s = 1 / (1 + exp(-x));  slope <- s + y (1 - s)
KERNEL silu(index n, const real* x, real* y, real* slope) {
  by_pairs(n, [=](wide v, wide& out, wide& s) {
    wide sigma = sigmoid_to_real(v);
    out = v * sigma;
    s = sigma + out * (1 - sigma);
  }, reads(x), writes(y), writes(slope));
}
