// Dropout without a stored mask: the backward pass draws the same bits again.

#include "common.cuh"
#include "philox.cuh"

constexpr int GROUP = 8;  // elements that a thread draws for at once: one counter by half words, two by whole ones

// Bit k: whether element 8 group + k is kept; as `bernoulli` of backend/random.py has it.
DEVICE uint32 kept(uint32 group, uint32 key, uint32 draw, index threshold, bool by_half_words) {
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
KERNEL dropout(index n, const real* x, const uint32* state, index threshold, bool by_half_words, wide scale, real* y) {
  Elements<true, false> in = reads(x);
  Elements<false, true> out = writes(y);
  bool is_aligned = in.is_aligned() && out.is_aligned();
  uint32 key = state[0], draw = state[1];
  for (index group = thread_of_grid(); group * GROUP < n; group += threads_of_grid()) {
    uint32 mask = kept(uint32(group), key, draw, threshold, by_half_words);
    if (is_aligned && (group + 1) * GROUP <= n) {
#pragma unroll
      for (int part = 0; part < GROUP / LANES; ++part) {
        index pack = group * (GROUP / LANES) + part;
        in.load(pack);
#pragma unroll
        for (int k = 0; k < LANES; ++k) out.value[k] = mask >> (part * LANES + k) & 1 ? in.value[k] * scale : wide(0);
        out.store(pack);
      }
    } else {
      for (int k = 0; k < GROUP && group * GROUP + k < n; ++k) {
        index i = group * GROUP + k;
        y[i] = to_real(mask >> k & 1 ? widen(x[i]) * scale : wide(0));
      }
    }
  }
}

// y <- x scale where all bits of the mask are set, 0 where none is
KERNEL masked(index n, const real* x, const int8* mask, wide scale, real* y) {
  for (index i = thread_of_grid(); i < n; i += threads_of_grid())
    y[i] = to_real(mask[i] ? widen(x[i]) * scale : wide(0));
}
