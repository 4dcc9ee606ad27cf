// The part of CUDA C that gpukeras's kernels use, for g++: every CUDA thread is a fiber, one block runs at a time.
//
// Kernels are built from their unchanged text, but for `__shared__` declarations, which compile.py turns into calls of
// `emulator::shared`. runtime.cpp holds the scheduler.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

#define __device__
#define __global__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct Dimensions {
  unsigned x, y, z;
};

namespace emulator {

enum Meeting { BLOCK, WARP_SYNC, SHUFFLE, BALLOT };

struct Thread {
  Dimensions index;
  unsigned number;  // in the block
  uint64_t given;   // to the other lanes of a warp
  uint64_t taken;   // from them
  unsigned source;  // lane that a shuffle reads
  unsigned mask;
  Meeting meeting;
};

extern Thread* current;
extern Dimensions block_index, block_size, grid_size;

void meet(Meeting meeting, unsigned mask);
void* shared(const void* tag, size_t bytes);  // of the running block: the same memory for the same tag
void* dynamic_shared();
const char* launch(void (*body)(void**), void** args, const unsigned* grid, const unsigned* block, size_t dynamic_bytes,
                   unsigned seed, bool flushes_denormals);

template <class T>
inline T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  current->given = 0;
  __builtin_memcpy(&current->given, &value, sizeof(T));
  current->source = source;
  meet(SHUFFLE, mask);
  T result;
  __builtin_memcpy(&result, &current->taken, sizeof(T));
  return result;
}

inline unsigned lane() { return current->number % 32; }

}  // namespace emulator

#define threadIdx (emulator::current->index)
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

#define EMULATED_SHARED(type, name, ...)                                                    \
  static char name##_tag;                                                                   \
  using name##_type = type __VA_ARGS__;                                                     \
  name##_type& name = *static_cast<name##_type*>(emulator::shared(&name##_tag, sizeof(name##_type)))
#define EMULATED_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(emulator::dynamic_shared())

inline void __syncthreads() { emulator::meet(emulator::BLOCK, 0); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::meet(emulator::WARP_SYNC, mask); }
inline void __threadfence() {}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source) {
  return emulator::shuffle(mask, value, source & 31);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int distance) {
  return emulator::shuffle(mask, value, emulator::lane() ^ distance);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  unsigned source = emulator::lane() + distance;
  return emulator::shuffle(mask, value, source < 32 ? source : emulator::lane());
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
  unsigned lane = emulator::lane();
  return emulator::shuffle(mask, value, lane < distance ? lane : lane - distance);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  emulator::current->given = predicate;
  emulator::meet(emulator::BALLOT, mask);
  return unsigned(emulator::current->taken);
}
inline bool __any_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) != 0; }
inline bool __all_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, !predicate) == 0; }

// Threads never run at the same moment, so that plain code is atomic.
template <class T>
inline T atomicAdd(T* place, T value) {
  T before = *place;
  *place = before + value;
  return before;
}
template <class T>
inline T atomicMax(T* place, T value) {
  T before = *place;
  if (value > before) *place = value;
  return before;
}
template <class T>
inline T atomicExch(T* place, T value) {
  T before = *place;
  *place = value;
  return before;
}

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline float __int_as_float(int bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
inline int __float_as_int(float x) {
  int bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
template <class T>
inline T __ldg(const T* place) {
  return *place;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
#define __expf(x) expf(x)  // glibc declares functions of these names
#define __logf(x) logf(x)
