// The rows of a batch, gathered within a step's graph from arrays that change from epoch to epoch: their addresses are
// read from a table, which stays where it is.
//
//     table    for each array its address; then the address of the order of rows, or 0; the position in it; how many
//              blocks are done

#include "common.cuh"

constexpr int MOST = 4;  // arrays of a launch; batches.py has it too

// out[i] <- row order[position + i] of the source, in units that `Number` counts, of which a thread has some under way.
template <class Unit, class Number, int under_way>
DEVICE void copy_units(index rows, index size, const int8* source, const index* order, index position, int8* out) {
  const Unit* from = reinterpret_cast<const Unit*>(source);
  Number units = Number(size / sizeof(Unit)), count = Number(rows) * units;
  Number first = Number(thread_of_grid()), stride = Number(threads_of_grid());
  for (Number i = first; i < count; i += under_way * stride) {
    index place[under_way];
    Unit unit[under_way];
#pragma unroll
    for (int slot = 0; slot < under_way; ++slot) {
      Number k = i + slot * stride, row = k / units;
      place[slot] = position + row;
      if (order && k < count) place[slot] = order[place[slot]];
      place[slot] = place[slot] * units + (k - row * units);
    }
#pragma unroll
    for (int slot = 0; slot < under_way; ++slot)
      if (i + slot * stride < count) unit[slot] = from[place[slot]];
#pragma unroll
    for (int slot = 0; slot < under_way; ++slot)
      if (i + slot * stride < count) reinterpret_cast<Unit*>(out)[i + slot * stride] = unit[slot];
  }
}

template <class Unit>
DEVICE void copy_rows(index rows, index size, const int8* source, const index* order, index position, int8* out) {
  if (rows * size < (1ll << 31)) copy_units<Unit, unsigned, 4>(rows, size, source, order, position, out);
  else copy_units<Unit, index, 1>(rows, size, source, order, position, out);
}

// out_k[i] <- row order[position + i] of array first + k, of size_k bytes, for all rows i;  position += advance
// The block that is done last moves the position on, when all have read it.
KERNEL gather_rows(index rows, index* table, int arrays, int first, int advance, int8* out_0, index size_0, int8* out_1,
                   index size_1, int8* out_2, index size_2, int8* out_3, index size_3) {
  int8* outs[MOST] = {out_0, out_1, out_2, out_3};
  index sizes[MOST] = {size_0, size_1, size_2, size_3};
  const index* order = reinterpret_cast<const index*>(table[arrays]);
  index position = table[arrays + 1];
#pragma unroll
  for (int k = 0; k < MOST; ++k) {
    if (k != blockIdx.y) continue;
    const int8* source = reinterpret_cast<const int8*>(table[first + k]);
    unsigned long long places = reinterpret_cast<unsigned long long>(source) | sizes[k] |
                                reinterpret_cast<unsigned long long>(outs[k]);
    if (places % 16 == 0) copy_rows<uint4>(rows, sizes[k], source, order, position, outs[k]);
    else if (places % 4 == 0) copy_rows<unsigned>(rows, sizes[k], source, order, position, outs[k]);
    else copy_rows<int8>(rows, sizes[k], source, order, position, outs[k]);
  }
  __syncthreads();
  if (threadIdx.x != 0 || advance == 0) return;
  uint32* done = reinterpret_cast<uint32*>(table + arrays + 2);
  __threadfence();
  if (atomicAdd(done, 1u) + 1 < gridDim.x * gridDim.y) return;
  *done = 0;
  table[arrays + 1] = position + advance;
}
