// What a step adds up: a loss, right predictions, and all that is added to the metrics' sums. Letters as in sums.py.

#include "common.cuh"
#include "labels.cuh"
#include "rows.cuh"

// part[block] <- factor sum of x
KERNEL sum_times(index n, const real* x, wide factor, wide* part) {
  wide sum = 0;
  elementwise(n, [&](wide v) { sum += v; }, reads(x));
  sum = over_row<Sum>(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = factor * sum;
}

// Whether two numbers, of which NaN is one, are alike.
DEVICE bool are_alike(wide a, wide b) { return a == b || (a != a && b != b); }

// Where the largest of a row stands, the first of equal ones, as NumPy has it; a warp's threads share the row. A thread
// keeps where the packs began that raised its maximum, and looks for the place in them once the row's is known.
DEVICE index place_of_maximum(index columns, const real* x) {
  Pieces pieces(x, columns);
  wide single = pieces.single >= 0 ? widen(x[pieces.single]) : -infinity(), largest = -infinity();
  index from = pieces.before;
  in_packs<BATCH>(x, pieces, [&](Held<BATCH>& held, index first) {
    wide before = largest;
    in_held_row(held, [&](wide v) { largest = maximum(largest, v); });
    if (!are_alike(before, largest)) from = first;
  });
  wide most = over_warp<Maximum>(maximum(single, largest));
  index at = pieces.single >= 0 && are_alike(single, most) ? pieces.single : columns;
  index end = pieces.before + pieces.packs * LANES;
  if (are_alike(largest, most)) {
    Held<BATCH> held;
    held.count = (int(end - from) / LANES - int(threadIdx.x) + WARP - 1) / WARP;
    load_packs(held, x + from);
#pragma unroll
    for (int i = 0; i < DEPTH; ++i)
#pragma unroll
      for (int k = 0; k < LANES; ++k) {
        index place = from + (i * WARP + int(threadIdx.x)) * LANES + k;
        if (i < held.count && place < at && are_alike(held.number(i, k), most)) at = place;
      }
  }
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    index other = __shfl_xor_sync(ALL_LANES, at, distance);
    if (other < at) at = other;
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
