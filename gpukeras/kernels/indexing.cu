// Gathers of rows, and their gradient: rows with the same number are added up, in their order and without atomics.
//
// For that the numbers come sorted, `order` says where each stood before. A warp has a chunk of them, of which it adds up runs
// of equal numbers, each thread the columns of 16 bytes. Runs that reach beyond a chunk are left in parts, which a second
// kernel adds up.

#include "common.cuh"

constexpr int CHUNK = WARP;   // sorted numbers, one for each lane; indexing.py has it too
constexpr int UNDER_WAY = sizeof(real) == 2 ? 2 : 4;  // rows that a thread reads before it adds the first

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

// The cells of an array that a thread has from a place on: all of a pack, or one.
template <bool by_packs>
DEVICE void load_cells(Pack& cells, const real* array, index place) {
  if (by_packs) cells.bits = reinterpret_cast<const uint4*>(array)[place / LANES];
  else cells.at[0] = array[place];
}
template <bool by_packs>
DEVICE void store_cells(const Pack& cells, real* array, index place) {
  if (by_packs) reinterpret_cast<uint4*>(array)[place / LANES] = cells.bits;
  else array[place] = cells.at[0];
}

// Adds up a thread's cells of the runs, from a column on.
template <bool by_packs>
DEVICE void add_runs_of(index n, index column, index columns, index count, const int* sorted, const index* order,
                        const real* values, wide* part, real* total) {
  constexpr int WIDTH = by_packs ? LANES : 1;
  int lane = threadIdx.x;
  index chunk = index(blockIdx.y) * blockDim.y + threadIdx.y, start = chunk * CHUNK;
  if (start >= n) return;
  int rows = int(n - start < CHUNK ? n - start : CHUNK);
  bool is_there = column < columns, is_row = lane < rows;
  int number = is_row ? sorted[start + lane] : -1, from = is_row ? int(order[start + lane]) : 0;
  bool goes_on = is_row && start + lane + 1 < n && sorted[start + lane + 1] == number;
  unsigned same = __ballot_sync(ALL_LANES, goes_on), ends = ~same | 1u << (rows - 1);
  unsigned first_end = ends & (0u - ends), from_before = start > 0 && sorted[start - 1] == sorted[start] ? first_end : 0;
  unsigned parts = (ends & same) | from_before;  // the ends of runs that do not lie in the chunk
  unsigned adds = ends & ~parts & __ballot_sync(ALL_LANES, number >= 0 && number < count);
  part += 2 * chunk * columns + column;

  wide sum[WIDTH] = {};
  for (int first = 0; first < rows; first += UNDER_WAY) {
    Pack value[UNDER_WAY], before[UNDER_WAY];
#pragma unroll
    for (int slot = 0; slot < UNDER_WAY; ++slot) {
      int source = __shfl_sync(ALL_LANES, from, first + slot), row = __shfl_sync(ALL_LANES, number, first + slot);
      if (!is_there || first + slot >= rows) continue;
      load_cells<by_packs>(value[slot], values, source * columns + column);
      if (adds >> (first + slot) & 1) load_cells<by_packs>(before[slot], total, row * columns + column);
    }
#pragma unroll
    for (int slot = 0; slot < UNDER_WAY; ++slot) {
      unsigned bit = 1u << (first + slot);
      int row = __shfl_sync(ALL_LANES, number, first + slot);
      if (!is_there || first + slot >= rows) continue;
#pragma unroll
      for (int k = 0; k < WIDTH; ++k) sum[k] += widen(value[slot].at[k]);
      if (!(ends & bit)) continue;
      if (adds & bit) {
        Pack after;
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) after.at[k] = to_real(widen(before[slot].at[k]) + sum[k]);
        store_cells<by_packs>(after, total, row * columns + column);
      } else if (parts & bit) {
        wide* place = part + (from_before & bit ? FROM_BEFORE : GOES_ON) * columns;
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) place[k] = sum[k];
      }
#pragma unroll
      for (int k = 0; k < WIDTH; ++k) sum[k] = 0;
    }
  }
}

// total[row] += sum of values[order[i]] over all i with sorted[i] = row, where the run of them lies in one chunk;
// part[chunk, 0 or 1] <- the sums of the other runs in the chunk
KERNEL add_runs(index n, index columns, index count, const int* sorted, const index* order, const real* values,
                wide* part, real* total) {
  index first = index(blockIdx.x) * WARP, step = index(gridDim.x) * WARP;
  if (are_packs(columns, values, total))
    for (index pack = first; pack < columns / LANES; pack += step)
      add_runs_of<true>(n, (pack + threadIdx.x) * LANES, columns, count, sorted, order, values, part, total);
  else
    for (index column = first; column < columns; column += step)
      add_runs_of<false>(n, column + threadIdx.x, columns, count, sorted, order, values, part, total);
}

// total[row] += sum of the parts of a run that begins in a chunk and goes on beyond its end
KERNEL add_parts(index n, index columns, index count, const int* sorted, const wide* part, real* total) {
  constexpr int AT_ONCE = 4;  // parts that are read before the first is added
  index column = index(blockIdx.x) * WARP + threadIdx.x, chunk = index(blockIdx.y) * blockDim.y + threadIdx.y;
  index last = (chunk + 1) * CHUNK - 1, chunks = (n + CHUNK - 1) / CHUNK;
  if (column >= columns || last + 1 >= n) return;
  int row = sorted[last];
  if (sorted[last + 1] != row || row < 0 || row >= count) return;
  if (chunk > 0 && sorted[chunk * CHUNK - 1] == row) return;  // it began before
  wide sum = part[(2 * chunk + GOES_ON) * columns + column];
  bool goes_on = true;
  for (index first = chunk + 1; goes_on; first += AT_ONCE) {
    wide next[AT_ONCE];
#pragma unroll
    for (int slot = 0; slot < AT_ONCE; ++slot) {
      index other = first + slot;
      goes_on = other < chunks && sorted[other * CHUNK] == row;
      next[slot] = goes_on ? part[(2 * other + FROM_BEFORE) * columns + column] : wide(0);
    }
#pragma unroll
    for (int slot = 0; slot < AT_ONCE; ++slot) sum += next[slot];
  }
  real* place = total + row * columns + column;
  *place = to_real(widen(*place) + sum);
}
