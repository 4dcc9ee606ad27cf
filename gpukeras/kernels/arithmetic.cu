// Arithmetic of two arrays alike.

#include "common.cuh"
#include "pairs.cuh"

// out <- a + b
KERNEL add(index n, const real* a, const real* b, real* out) {
  by_pairs(n, [](wide x, wide y, wide& to) { to = x + y; }, reads(a), reads(b), writes(out));
}

// out <- a - b
KERNEL subtract(index n, const real* a, const real* b, real* out) {
  by_pairs(n, [](wide x, wide y, wide& to) { to = x - y; }, reads(a), reads(b), writes(out));
}

// out <- a b
KERNEL multiply(index n, const real* a, const real* b, real* out) {
  by_pairs(n, [](wide x, wide y, wide& to) { to = x * y; }, reads(a), reads(b), writes(out));
}
