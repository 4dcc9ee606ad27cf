// Matrices copied line by line, to another distance of the lines.

#include "common.cuh"

// out[i, j] <- x[i, j], lines being x_step and out_step elements apart; 16 bytes are written at a time, and read where
// both stand at such boundaries
KERNEL copy_lines(index rows, index columns, index x_step, const real* x, index out_step, real* out) {
  index row = row_of_threads();
  if (row >= rows) return;
  x += row * x_step;
  out += row * out_step;
  index head = index(-reinterpret_cast<unsigned long long>(out) % 16 / sizeof(real));
  head = head < columns ? head : columns;
  index packs = (columns - head) / LANES;
  for (index i = threadIdx.x; i < head; i += blockDim.x) out[i] = x[i];
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
  for (index i = head + packs * LANES + threadIdx.x; i < columns; i += blockDim.x) out[i] = x[i];
}
