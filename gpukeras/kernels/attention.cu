// Attention between its matrix products: the softmax of scores (pairs, queries, keys) over the keys, and its derivative.
// Letters as in attention.py; a pair is an example and a head. A warp has a short row, a block a long one.

#include "common.cuh"

// What a row of scores belongs to, and how many keys its query sees.
struct Query {
  index example, head, query, visible;
};

DEVICE Query query_of(index row, index heads, index queries, index keys, bool is_causal) {
  index pair = index(unsigned(row) / unsigned(queries)), query = index(unsigned(row) % unsigned(queries));
  return {pair / heads, pair % heads, query, is_causal && query + 1 < keys ? query + 1 : keys};
}

// function(key, elements...) for the first `visible` keys of those that the thread has of a row; the others, which are
// not read, get 0 in arrays that are written.
template <class Function, class... Arrays>
DEVICE void for_keys(index keys, index visible, Function function, Arrays... arrays) {
  index packs = (arrays.is_aligned() && ...) ? keys / LANES : 0;
  for (index i = threadIdx.x; i < packs; i += blockDim.x) {
    index key = i * LANES;
    if (key < visible) (arrays.load(i), ...);
#pragma unroll
    for (int k = 0; k < LANES; ++k) {
      if (key + k < visible) function(key + k, arrays.value[k]...);
      else ((arrays.value[k] = 0), ...);
    }
    (arrays.store(i), ...);
  }
  for (index i = packs * LANES + threadIdx.x; i < keys; i += blockDim.x) {
    if (i < visible) {
      (arrays.load_one(i), ...);
      function(i, arrays.value[0]...);
    } else {
      ((arrays.value[0] = 0), ...);
    }
    (arrays.store_one(i), ...);
  }
}

// s = scores + offset, for the keys up to the query where it is causal
// weights <- exp(s - max s) / sum of exp(s - max s), in the scores' place, and 0 for later keys
// The offset has the steps (step_0, ..., step_3) along (examples, heads, queries, keys), or is null. In float16 it has
// -inf for keys that are `hidden`, which shall count alike where a query sees none.
KERNEL attention_weights(index rows, index keys, index heads, index queries, index step_0, index step_1, index step_2,
                         index step_3, const real* offset, bool is_causal, wide hidden, real* weights) {
  index row = row_of_threads();
  if (row >= rows) return;
  Query q = query_of(row, heads, queries, keys, is_causal);
  weights = row_of(weights, row, keys);
  if (offset) offset += q.example * step_0 + q.head * step_1 + q.query * step_2;
  auto score = [=](index key, wide s) {
    if (!offset) return s;
    s += widen(offset[key * step_3]);
    return sizeof(real) == 2 ? maximum(s, hidden) : s;
  };
  wide largest = -infinity(), sum = 0;
  for_keys(q.visible, q.visible, [&](index key, wide s) { largest = maximum(largest, score(key, s)); }, reads(weights));
  largest = over_row<Maximum>(largest);
  for_keys(q.visible, q.visible, [&](index key, wide s) { sum += exponential(score(key, s) - largest); },
           reads(weights));
  wide share = 1 / over_row<Sum>(sum);
  for_keys(keys, q.visible, [&](index key, wide& s) { s = exponential(score(key, s) - largest) * share; },
           updates(weights));
}

// ds <- sight weights (ds - sum of weights ds), over a row; 0 for later keys where it is causal
// The sight of a query has the steps (step_0, step_1, step_2) along (examples, heads, queries), or is null for 1.
KERNEL scores_gradient(index rows, index keys, index heads, index queries, index step_0, index step_1, index step_2,
                       const real* sight, bool is_causal, const real* weights, real* ds) {
  index row = row_of_threads();
  if (row >= rows) return;
  Query q = query_of(row, heads, queries, keys, is_causal);
  weights = row_of(weights, row, keys);
  ds = row_of(ds, row, keys);
  wide sum = 0, factor = sight ? widen(sight[q.example * step_0 + q.head * step_1 + q.query * step_2]) : wide(1);
  for_keys(q.visible, q.visible, [&](index, wide w, wide d) { sum += w * d; }, reads(weights), reads(ds));
  sum = over_row<Sum>(sum);
  for_keys(keys, q.visible, [&](index, wide w, wide& d) { d = factor * w * (d - sum); }, reads(weights), updates(ds));
}
