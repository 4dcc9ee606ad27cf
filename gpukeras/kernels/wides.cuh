// Arrays of what is computed in, beside those of what arrays hold.

// An array of numbers that are computed in, in the place of `Elements`: as many of them, in as many accesses as it takes.
struct Wides {
  wide* array;
  wide value[LANES];

  static constexpr int PACKS = LANES * sizeof(wide) / 16;
  union Packs {
    uint4 bits[PACKS];
    wide at[LANES];
    DEVICE Packs() {}
  };

  DEVICE bool is_aligned() const { return are_aligned(array); }
};

struct ReadWides : Wides {
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

struct WrittenWides : Wides {
  DEVICE void load(index) {}
  DEVICE void load_one(index) {}
  DEVICE void store(index pack) const {
    Packs p;
#pragma unroll
    for (int k = 0; k < LANES; ++k) p.at[k] = value[k];
#pragma unroll
    for (int k = 0; k < PACKS; ++k) reinterpret_cast<uint4*>(array)[pack * PACKS + k] = p.bits[k];
  }
  DEVICE void store_one(index i) const { array[i] = value[0]; }
};
