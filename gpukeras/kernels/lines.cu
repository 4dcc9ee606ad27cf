// Matrices copied line by line into longer or shorter lines.

#include "common.cuh"

// out[i, j] <- x[i, j] for the rows and columns that x has, else 0. Out is written 16 bytes at a time; x is read so where
// both stand at such boundaries.
KERNEL fit_lines(index rows, index columns, index x_rows, index x_columns, const real* x, real* out) {
  index row = row_of_threads();
  if (row >= rows) return;
  x += row * x_columns;
  out += row * columns;
  index known = row < x_rows ? (x_columns < columns ? x_columns : columns) : 0;
  index head = index(-reinterpret_cast<unsigned long long>(out) % 16 / sizeof(real));
  head = head < known ? head : known;
  index packs = (known - head) / LANES;
  bool is_aligned = are_aligned(x + head);
  for (index i = threadIdx.x; i < packs; i += blockDim.x) {
    Pack p;
    const real* from = x + head + i * LANES;
    if (is_aligned) {
      p.bits = *reinterpret_cast<const uint4*>(from);
    } else {
#pragma unroll
      for (int k = 0; k < LANES; ++k) p.at[k] = from[k];
    }
    reinterpret_cast<uint4*>(out + head)[i] = p.bits;
  }
  for (index i = threadIdx.x; i < head; i += blockDim.x) out[i] = x[i];
  for (index i = head + packs * LANES + threadIdx.x; i < columns; i += blockDim.x)
    out[i] = i < known ? x[i] : to_real(0);
}
