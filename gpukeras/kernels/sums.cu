// What a step adds up: a loss, right predictions, and all that is added to the metrics' sums. Letters as in sums.py.

#include "common.cuh"
#include "labels.cuh"

// part[block] <- factor sum of x
KERNEL sum_times(index n, const real* x, wide factor, wide* part) {
  wide sum = 0;
  elementwise(n, [&](wide v) { sum += v; }, reads(x));
  sum = over_row<Sum>(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = factor * sum;
}

// Whether b comes before a among what may be the largest: it is larger, or NaN; where both are alike, it stands before.
DEVICE bool precedes(wide b, index at_b, wide a, index at_a) {
  bool a_is_nan = a != a, b_is_nan = b != b;
  if (a_is_nan || b_is_nan) return b_is_nan && (!a_is_nan || at_b < at_a);
  return b > a || (b == a && at_b < at_a);
}

// Where the largest of a row stands, the first of equal ones, as NumPy has it; a warp's threads share the row.
DEVICE index place_of_maximum(index columns, const real* x) {
  wide largest = -infinity();
  index at = columns;
  for (index i = threadIdx.x; i < columns; i += WARP)
    if (precedes(widen(x[i]), i, largest, at)) {
      largest = widen(x[i]);
      at = i;
    }
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    wide other = __shfl_xor_sync(ALL_LANES, largest, distance);
    index at_other = __shfl_xor_sync(ALL_LANES, at, distance);
    if (precedes(other, at_other, largest, at)) {
      largest = other;
      at = at_other;
    }
  }
  return at;
}

// part[block] <- the number of rows whose largest element stands where the label says; a warp has a row
KERNEL matches_of_blocks(index rows, index columns, const real* x, const int8* label, int kind, wide* part) {
  __shared__ wide counts[THREADS / WARP];
  wide count = 0;
  for (index row = row_of_threads(); row < rows; row += index(gridDim.x) * blockDim.y)
    count += place_of_maximum(columns, x + row * columns) == label_at(label, kind, row);
  if (threadIdx.x == 0) counts[threadIdx.y] = count;
  __syncthreads();
  if (threadIdx.x != 0 || threadIdx.y != 0) return;
  for (int i = 1; i < THREADS / WARP; ++i) count += counts[i];
  part[blockIdx.x] = count;
}

// target += factor source for up to six numbers, by a thread each, where a source that is not there is 1;  counter += 1
KERNEL add_all(real* target_0, const real* source_0, wide factor_0, real* target_1, const real* source_1, wide factor_1,
               real* target_2, const real* source_2, wide factor_2, real* target_3, const real* source_3, wide factor_3,
               real* target_4, const real* source_4, wide factor_4, real* target_5, const real* source_5, wide factor_5,
               int* counter) {
  real* target = nullptr;
  const real* source = nullptr;
  wide factor = 0;
  switch (threadIdx.x) {
    case 0: target = target_0, source = source_0, factor = factor_0; break;
    case 1: target = target_1, source = source_1, factor = factor_1; break;
    case 2: target = target_2, source = source_2, factor = factor_2; break;
    case 3: target = target_3, source = source_3, factor = factor_3; break;
    case 4: target = target_4, source = source_4, factor = factor_4; break;
    case 5: target = target_5, source = source_5, factor = factor_5; break;
    case 6: if (counter) *counter += 1; break;
  }
  if (target) *target = to_real(widen(*target) + (source ? widen(*source) * factor : factor));
}
