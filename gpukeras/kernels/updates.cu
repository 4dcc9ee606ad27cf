// What stands around an update rule, on flat arrays and in place. Formulas as in updates.py.

#include "common.cuh"

// part[block] <- sum of x^2 over the block's elements
KERNEL squares_of_blocks(index n, const real* x, wide* part) {
  wide sum = 0;
  elementwise(n, [&](wide v) { sum += v * v; }, reads(x));
  sum = over_row<Sum>(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

// x <- x norm / max(sqrt(squares), norm)
KERNEL scale_by_norm(index n, const wide* squares, wide norm, real* x) {
  wide factor = norm / maximum(square_root(*squares), norm);
  elementwise(n, [&](wide& v) { v *= factor; }, updates(x));
}

// param <- param - rate param
KERNEL decay(index n, const wide* rate, real* param) {
  wide r = *rate;
  elementwise(n, [&](wide& p) { p -= p * r; }, updates(param));
}

// average <- momentum average + (1 - momentum) x
KERNEL moving_average(index n, const real* x, const wide* momentum, real* average) {
  wide m = *momentum;
  elementwise(n, [&](wide v, wide& a) { a = m * a + (1 - m) * v; }, reads(x), updates(average));
}

// target <- source where the condition holds
KERNEL copy_where(index n, const real* source, const bool* condition, real* target) {
  if (*condition) elementwise(n, [&](wide s, wide& t) { t = s; }, reads(source), writes(target));
}

// --- Loss scales -------------------------------------------------------------------------------------------------

// part[block] <- how many of the block's elements of grad are not finite;  grad <- grad / scale
KERNEL unscale(index n, const wide* scale, real* grad, wide* part) {
  wide s = *scale, count = 0;
  elementwise(n, [&](wide& g) {
    count += wide(!(absolute(g) < infinity()));
    g /= s;
  }, updates(grad));
  count = over_row<Sum>(count);
  if (threadIdx.x == 0) part[blockIdx.x] = count;
}

// scale <- scale / 2 after a step that was not finite, 2 scale after growth_steps finite ones;  counter counts those
KERNEL adapt_scale(const bool* is_finite, int growth_steps, real* scale, int* counter) {
  bool is_full = *counter == growth_steps - 1;
  wide factor = is_full ? 2 : 1;
  *scale = to_real(widen(*scale) * (*is_finite ? factor : wide(0.5)));
  *counter = *is_finite && !is_full ? *counter + 1 : 0;
}
