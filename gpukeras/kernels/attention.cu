// Attention between its matrix products: the softmax of scores (pairs, keys, queries) over the keys, and its derivative.
// Letters as in attention.py; a pair is an example and a head. Blocks (32, 8) have 32 queries of a pair.

#include "common.cuh"

// What a thread works on: its query, and the place of key 0 for it in (pairs, keys, queries).
struct Column {
  index pair, query, first;
  bool is_there;
};

DEVICE Column column_of(index keys, index queries) {
  index tiles = (queries + WARP - 1) / WARP, pair = blockIdx.x / tiles;
  index query = blockIdx.x % tiles * WARP + threadIdx.x;
  return {pair, query, pair * keys * queries + query, query < queries};
}

// Over the threads of one threadIdx.x; all of them get the result. Every operation has lines of its own, and a kernel
// calls it once: nobody waits until they have been read.
template <class Operation>
DEVICE wide over_column(wide value) {
  __shared__ wide lines[8][33];
  lines[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  value = lines[0][threadIdx.x];
  for (int y = 1; y < 8; ++y) value = Operation::join(value, lines[y][threadIdx.x]);
  return value;
}

// s = scores + offset, and + hidden where the key comes later than the query, if that matters
// weights <- exp(s - max s), in the scores' place;  share <- 1 / sum of the weights;  maximum and sum over the keys
// The offset has the steps (step_0, ..., step_3) along (examples, heads, keys, queries), or is null.
KERNEL attention_weights(index heads, index keys, index queries, index step_0, index step_1, index step_2, index step_3,
                         const real* offset, bool is_causal, wide hidden, real* weights, real* share) {
  Column c = column_of(keys, queries);
  if (offset) offset += c.pair / heads * step_0 + c.pair % heads * step_1 + c.query * step_3;
  auto score = [&](index key) {
    wide s = widen(weights[c.first + key * queries]);
    if (offset) s += widen(offset[key * step_2]);
    return is_causal && key > c.query ? s + hidden : s;
  };
  wide largest = -infinity(), sum = 0;
  if (c.is_there)
    for (index key = threadIdx.y; key < keys; key += blockDim.y) largest = maximum(largest, score(key));
  largest = over_column<Maximum>(largest);
  if (c.is_there)
    for (index key = threadIdx.y; key < keys; key += blockDim.y) {
      wide e = exponential(score(key) - largest);
      weights[c.first + key * queries] = to_real(e);
      sum += e;
    }
  sum = over_column<Sum>(sum);
  if (c.is_there && threadIdx.y == 0) share[c.pair * queries + c.query] = to_real(1 / sum);
}

// ds <- weights (ds - product), with one product (pairs, queries) for all keys of a query
KERNEL scores_gradient(index keys, index queries, const real* weights, const real* product, real* ds) {
  Column c = column_of(keys, queries);
  if (!c.is_there) return;
  wide p = widen(product[c.pair * queries + c.query]);
  for (index key = threadIdx.y; key < keys; key += blockDim.y) {
    index i = c.first + key * queries;
    ds[i] = to_real(widen(weights[i]) * (widen(ds[i]) - p));
  }
}
