// Casts between what arrays hold and what is computed in, where the first is shorter.

#include "common.cuh"
#include "pairs.cuh"

// An array of numbers that are computed in, read in the place of `Elements`: as many of them, in as many accesses as it takes.
struct ReadWides {
  const wide* array;
  wide value[LANES];

  static constexpr int PACKS = LANES * sizeof(wide) / 16;
  union Packs {
    uint4 bits[PACKS];
    wide at[LANES];
    DEVICE Packs() {}
  };

  DEVICE bool is_aligned() const { return are_aligned(array); }
  DEVICE void load(index pack) {
    Packs p;
#pragma unroll
    for (int k = 0; k < PACKS; ++k) p.bits[k] = reinterpret_cast<const uint4*>(array)[pack * PACKS + k];
#pragma unroll
    for (int k = 0; k < LANES; ++k) value[k] = p.at[k];
  }
  DEVICE void load_one(index i) { value[0] = array[i]; }
  DEVICE void store(index) const {}
  DEVICE void store_one(index) const {}
};

// out <- x, rounded to the nearest
KERNEL narrow_all(index n, const wide* x, real* out) {
  elementwise(n, [](wide from, wide& to) { to = from; }, ReadWides{x}, writes(out));
}

// out <- x
KERNEL widen_all(index n, const real* x, wide* out) { widen_into(n, x, out); }
