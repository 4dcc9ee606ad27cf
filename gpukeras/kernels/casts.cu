// Casts between what arrays hold and what is computed in, where the first is shorter.

#include "common.cuh"
#include "wides.cuh"

// out <- x, rounded to the nearest
KERNEL narrow_all(index n, const wide* x, real* out) {
  elementwise(n, [](wide from, wide& to) { to = from; }, ReadWides{{const_cast<wide*>(x)}}, writes(out));
}

// out <- x
KERNEL widen_all(index n, const real* x, wide* out) {
  elementwise(n, [](wide from, wide& to) { to = from; }, reads(x), WrittenWides{{out}});
}
