// Gathers of rows, and their gradient: rows with the same number are added up, in their order and without atomics.
//
// For that the numbers come sorted, `order` says where each stood before. A thread has one column of a chunk of them, in which it
// adds up runs of equal numbers. Runs that reach beyond a chunk are left in parts, which a second kernel adds up.

#include "common.cuh"

constexpr int CHUNK = 64;  // sorted numbers; indexing.py has it too

// The row of a number that may count from the end, or on beyond it
DEVICE unsigned row_of_number(int number, int count) {
  int rest = number % count;
  return unsigned(rest < 0 ? rest + count : rest);
}

// y[i] <- x[rows[i]]; y has n elements in all, fewer than 2^31
KERNEL take_rows(index n, int columns, int count, const real* x, const int* rows, real* y) {
  unsigned first = unsigned(thread_of_grid()), stride = unsigned(threads_of_grid());
  if (are_packs(columns, x, y)) {
    unsigned runs = unsigned(columns) / LANES, packs = unsigned(n) / LANES;
    const uint4* source = reinterpret_cast<const uint4*>(x);
    for (unsigned i = first; i < packs; i += stride)
      reinterpret_cast<uint4*>(y)[i] = source[index(row_of_number(rows[i / runs], count)) * runs + i % runs];
    return;
  }
  for (unsigned i = first; i < unsigned(n); i += stride)
    y[i] = x[index(row_of_number(rows[i / unsigned(columns)], count)) * columns + i % unsigned(columns)];
}

// The rows of part: what a run from before has in the chunk, and what a run has that begins here and goes on.
enum { FROM_BEFORE = 0, GOES_ON = 1 };

DEVICE bool is_same(const index* sorted, index n, index a, index b) {
  return a >= 0 && b < n && sorted[a] == sorted[b];
}

// total[row, column] += sum, where there is such a row
DEVICE void add(index row, index count, index columns, index column, wide sum, real* total) {
  if (row < 0 || row >= count) return;
  real* place = total + row * columns + column;
  *place = to_real(widen(*place) + sum);
}

// total[row] += sum of values[order[i]] over all i with sorted[i] = row, where the run of them lies in one chunk;
// part[chunk, 0 or 1] <- the sums of the other runs in the chunk
KERNEL add_runs(index n, index columns, index count, const index* sorted, const index* order, const real* values,
                wide* part, real* total) {
  index column = index(blockIdx.x) * WARP + threadIdx.x, chunk = index(blockIdx.y) * blockDim.y + threadIdx.y;
  index start = chunk * CHUNK, stop = start + CHUNK < n ? start + CHUNK : n;
  if (column >= columns) return;
  bool began_before = is_same(sorted, n, start - 1, start);
  wide sum = 0;
  for (index i = start; i < stop; ++i) {
    sum += widen(values[order[i] * columns + column]);
    if (is_same(sorted, n, i, i + 1) && i + 1 < stop) continue;
    bool goes_on = is_same(sorted, n, i, i + 1);
    if (began_before) part[(2 * chunk + FROM_BEFORE) * columns + column] = sum;
    else if (goes_on) part[(2 * chunk + GOES_ON) * columns + column] = sum;
    else add(sorted[i], count, columns, column, sum, total);
    began_before = false;
    sum = 0;
  }
}

// total[row] += sum of the parts of a run that begins in a chunk and goes on beyond its end
KERNEL add_parts(index n, index columns, index count, const index* sorted, const wide* part, real* total) {
  index column = index(blockIdx.x) * WARP + threadIdx.x, chunk = index(blockIdx.y) * blockDim.y + threadIdx.y;
  index last = (chunk + 1) * CHUNK - 1, chunks = (n + CHUNK - 1) / CHUNK;
  if (column >= columns || chunk >= chunks || !is_same(sorted, n, last, last + 1)) return;
  if (is_same(sorted, n, chunk * CHUNK - 1, last)) return;  // it began before
  wide sum = part[(2 * chunk + GOES_ON) * columns + column];
  for (index next = chunk + 1; next < chunks && sorted[next * CHUNK] == sorted[last]; ++next)
    sum += part[(2 * next + FROM_BEFORE) * columns + column];
  add(sorted[last], count, columns, column, sum, total);
}
