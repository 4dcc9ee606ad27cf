// What stands around an update rule, on flat arrays and in place. Formulas as in updates.py.

#include "common.cuh"
#include "pairs.cuh"

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

// target_k <- source_k for the array k of a block's second index, of up to eight
KERNEL copy_all(wide* target_0, const real* source_0, index n_0, wide* target_1, const real* source_1, index n_1,
                wide* target_2, const real* source_2, index n_2, wide* target_3, const real* source_3, index n_3,
                wide* target_4, const real* source_4, index n_4, wide* target_5, const real* source_5, index n_5,
                wide* target_6, const real* source_6, index n_6, wide* target_7, const real* source_7, index n_7) {
  wide* target = nullptr;
  const real* source = nullptr;
  index n = 0;
  switch (blockIdx.y) {
    case 0: target = target_0, source = source_0, n = n_0; break;
    case 1: target = target_1, source = source_1, n = n_1; break;
    case 2: target = target_2, source = source_2, n = n_2; break;
    case 3: target = target_3, source = source_3, n = n_3; break;
    case 4: target = target_4, source = source_4, n = n_4; break;
    case 5: target = target_5, source = source_5, n = n_5; break;
    case 6: target = target_6, source = source_6, n = n_6; break;
    case 7: target = target_7, source = source_7, n = n_7; break;
  }
  widen_into(n, source, target);
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
  by_pairs(n, [&](wide& g) {
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
