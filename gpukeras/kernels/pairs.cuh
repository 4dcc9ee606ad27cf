// Walks over elements in which a thread has several accesses of every array under way before it computes.

constexpr int UNDER_WAY = 2;  // packs of each array

template <bool is_written>
DEVICE void fetch(Elements<true, is_written>& x, int slot, index pack) { x.fetch(slot, pack); }
DEVICE void fetch(Elements<false, true>&, int, index) {}
template <bool is_written>
DEVICE void take(Elements<true, is_written>& x, int slot) { x.take(slot); }
DEVICE void take(Elements<false, true>&, int) {}

// function(elements...) for arrays of n elements, as `elementwise` has it; what is read must be there.
template <class Function, class... Arrays>
DEVICE void by_pairs(index n, Function function, Arrays... arrays) {
  bool is_aligned = (arrays.is_aligned() && ...);
  index first = thread_of_grid(), stride = threads_of_grid(), packs = is_aligned ? n / LANES : 0;
  for (index pack = first; pack < packs; pack += UNDER_WAY * stride) {
#pragma unroll
    for (int slot = 0; slot < UNDER_WAY; ++slot)
      if (pack + slot * stride < packs) (fetch(arrays, slot, pack + slot * stride), ...);
#pragma unroll
    for (int slot = 0; slot < UNDER_WAY; ++slot) {
      if (pack + slot * stride >= packs) break;
      (take(arrays, slot), ...);
#pragma unroll
      for (int k = 0; k < LANES; ++k) function(arrays.value[k]...);
      (arrays.store(pack + slot * stride), ...);
    }
  }
#pragma unroll 1
  for (index i = first + packs * LANES; i < n; i += stride) {
    (arrays.load_one(i), ...);
    function(arrays.value[0]...);
    (arrays.store_one(i), ...);
  }
}

template <int bytes>
struct Bits;
template <>
struct Bits<2> { typedef unsigned short type; };
template <>
struct Bits<4> { typedef unsigned type; };
template <>
struct Bits<8> { typedef unsigned long long type; };
template <>
struct Bits<16> { typedef uint4 type; };

// Numbers side by side that are read or written at once.
template <class Type, int count>
union Run {
  typedef typename Bits<count * sizeof(Type)>::type AsBits;
  AsBits bits;
  Type at[count];
  DEVICE Run() {}
};

constexpr int RUNS = 4;  // that a thread has under way

// target <- source for n elements, in runs of which each is written by 16 bytes: neighbouring threads write side by side.
DEVICE void widen_into(index n, const real* source, wide* target) {
  constexpr int COUNT = 16 / sizeof(wide);
  typedef Run<real, COUNT> Short;
  typedef Run<wide, COUNT> Wide;
  index first = thread_of_grid(), stride = threads_of_grid(), runs = are_aligned(source, target) ? n / COUNT : 0;
  for (index i = first; i < runs; i += RUNS * stride) {
    Short read[RUNS];
#pragma unroll
    for (int slot = 0; slot < RUNS; ++slot)
      if (i + slot * stride < runs) read[slot].bits = reinterpret_cast<const typename Short::AsBits*>(source)[i + slot * stride];
#pragma unroll
    for (int slot = 0; slot < RUNS; ++slot) {
      if (i + slot * stride >= runs) break;
      Wide written;
#pragma unroll
      for (int k = 0; k < COUNT; ++k) written.at[k] = widen(read[slot].at[k]);
      reinterpret_cast<uint4*>(target)[i + slot * stride] = written.bits;
    }
  }
#pragma unroll 1
  for (index i = runs * COUNT + first; i < n; i += stride) target[i] = widen(source[i]);
}
