// Dropout without a stored mask: the backward pass draws the same bits again.

#include "common.cuh"
#include "pairs.cuh"
#include "philox.cuh"

constexpr int GROUP = 8;  // elements that a thread draws for at once: one counter by half words, two by whole ones

// Bit k: whether element 8 group + k is kept; as `bernoulli` of backend/random.py has it.
DEVICE uint32 kept(uint32 group, uint32 key, uint32 draw, uint32 threshold, bool by_half_words) {
  uint32 mask = 0;
  if (by_half_words) {
    uint4 w = random_words(group, key, draw);
    uint32 words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int k = 0; k < GROUP; ++k) mask |= uint32((words[k / 2] >> 16 * (k % 2) & 0xffff) >= threshold) << k;
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 w = random_words(2 * group + half, key, draw);
      uint32 words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) mask |= uint32(words[k] >= threshold) << (4 * half + k);
    }
  }
  return mask;
}

// y <- x scale where the element's random number is at least the threshold, else 0;  state holds key and draw
//
// A warp has 64 groups at a time, or 128 of 16 bits, which it reads before it draws. It reads and writes them pack by pack, its lanes side by
// side; the masks come from the lanes that drew them.
KERNEL dropout(index n, const real* x, const uint32* state, index threshold, bool by_half_words, wide scale, real* y) {
  constexpr int PACKS = GROUP / LANES, BATCH = PACKS == 1 ? 4 : 2;  // packs of a group, groups of a thread at a time
  constexpr int OF_WARP = BATCH * WARP;
  uint32 key = state[0], draw = state[1];
  bool drops_all = threshold > 0xffffffff;
  index groups = are_aligned(x, y) ? n / GROUP / OF_WARP * OF_WARP : 0;
  int lane = threadIdx.x % WARP;
  const uint4* x_packs = reinterpret_cast<const uint4*>(x);
  uint4* y_packs = reinterpret_cast<uint4*>(y);
  for (index first = thread_of_grid() / WARP * OF_WARP; first < groups; first += threads_of_grid() * BATCH) {
    index place = first * PACKS + lane;
    Pack packs[BATCH * PACKS];
#pragma unroll
    for (int p = 0; p < BATCH * PACKS; ++p) packs[p].bits = x_packs[place + p * WARP];
#pragma unroll
    for (int b = 0; b < BATCH; ++b) {
      uint32 group = uint32(first) + b * WARP + lane;
      uint32 mask = drops_all ? 0 : kept(group, key, draw, uint32(threshold), by_half_words);
#pragma unroll
      for (int p = 0; p < PACKS; ++p) {
        int pack = p * WARP + lane;
        uint32 bits = PACKS == 1 ? mask : __shfl_sync(ALL_LANES, mask, pack / PACKS) >> pack % PACKS * LANES;
        Pack& own = packs[b * PACKS + p];
#pragma unroll
        for (int k = 0; k < LANES; ++k)
          own.at[k] = to_real(bits >> k & 1 ? widen(own.at[k]) * scale : wide(0));
        y_packs[place + (b * PACKS + p) * WARP] = own.bits;
      }
    }
  }
  for (index group = groups + thread_of_grid(); group * GROUP < n; group += threads_of_grid()) {
    uint32 mask = drops_all ? 0 : kept(uint32(group), key, draw, uint32(threshold), by_half_words);
    for (int k = 0; k < GROUP && group * GROUP + k < n; ++k) {
      index i = group * GROUP + k;
      y[i] = to_real(mask >> k & 1 ? widen(x[i]) * scale : wide(0));
    }
  }
}

// A mask of bytes beside `Elements`, all that belong to a pack at once.
struct Mask {
  const int8* array;
  bool value[LANES];
  Run<int8, LANES> fetched[UNDER_WAY];

  DEVICE bool is_aligned() const { return reinterpret_cast<unsigned long long>(array) % LANES == 0; }
  DEVICE void load_one(index i) { value[0] = array[i]; }
  DEVICE void store(index) const {}
  DEVICE void store_one(index) const {}
};
DEVICE void fetch(Mask& x, int slot, index pack) {
  x.fetched[slot].bits = reinterpret_cast<const Run<int8, LANES>::AsBits*>(x.array)[pack];
}
DEVICE void take(Mask& x, int slot) {
#pragma unroll
  for (int k = 0; k < LANES; ++k) x.value[k] = x.fetched[slot].at[k];
}

// y <- x scale where all bits of the mask are set, 0 where none is
KERNEL masked(index n, const real* x, const int8* mask, wide scale, real* y) {
  by_pairs(n, [=](wide v, bool is_kept, wide& out) { out = is_kept ? v * scale : wide(0); }, reads(x), Mask{mask},
           writes(y));
}
