// Rows that may begin anywhere, as those of an odd length do: read by 16 bytes from the first boundary on.

// Where the packs of a row stand, and the one element before or after them that a thread has. A row of no more elements
// than a warp has threads is all single elements.
struct Pieces {
  index before, packs;  // elements before the packs, and the number of packs
  index single;         // the thread's element, -1 where it has none

  DEVICE Pieces(const real* row, index columns) {
    index distance = index(-reinterpret_cast<unsigned long long>(row) % 16 / sizeof(real));
    before = columns <= WARP ? columns : distance;
    packs = (columns - before) / LANES;
    index place = threadIdx.x < before ? threadIdx.x : threadIdx.x + packs * LANES;
    single = place < columns ? place : -1;
  }
};

// Whether rows of several arrays can be read by 16 bytes at the same places.
template <class... Types>
DEVICE bool begin_alike(const real* row, const Types*... other) {
  return (((reinterpret_cast<unsigned long long>(row) - reinterpret_cast<unsigned long long>(other)) % 16 == 0) && ...);
}

template <int size>
DEVICE void load_packs(Held<size>& held, const real* from) {
  const uint4* packs = reinterpret_cast<const uint4*>(from) + threadIdx.x;
#pragma unroll
  for (int i = 0; i < Held<size>::PACKS; ++i)
    if (i < held.count) held.pack[i].bits = packs[i * blockDim.x];
}

// function(held packs, columns before them) for up to `size` elements of a thread at a time, all under way at once.
template <int size, class Function>
DEVICE void in_packs(const real* row, Pieces pieces, Function function) {
  constexpr int PACKS = Held<size>::PACKS;
  Held<size> held;
  held.count = (int(pieces.packs) - int(threadIdx.x) + int(blockDim.x) - 1) / int(blockDim.x);
  for (index first = pieces.before; held.count > 0; first += PACKS * LANES * blockDim.x, held.count -= PACKS) {
    load_packs(held, row + first);
    function(held, first);
  }
}

constexpr int BATCH = DEPTH * LANES;  // elements that a thread has under way

// function(row, beside...) for what the thread has of a row, by 16 bytes where all begin alike.
template <class Function, class... Types>
DEVICE void read_row(index columns, Function function, const real* row, const Types*... beside) {
  if (!begin_alike(row, beside...)) {
    in_row(columns, function, reads(row), reads(beside)...);
    return;
  }
  Pieces pieces(row, columns);
  if (pieces.single >= 0) function(widen(row[pieces.single]), widen(beside[pieces.single])...);
  in_packs<BATCH>(row, pieces, [&](Held<BATCH>& held, index first) {
    in_held_row(held, function, reads(beside + first)...);
  });
}

// to <- function(row, beside...) likewise.
template <class Function, class... Types>
DEVICE void map_row(index columns, Function function, real* to, const real* row, const Types*... beside) {
  if (!begin_alike(row, to, beside...)) {
    in_row(columns, function, reads(row), reads(beside)..., writes(to));
    return;
  }
  Pieces pieces(row, columns);
  if (pieces.single >= 0) {
    wide out;
    function(widen(row[pieces.single]), widen(beside[pieces.single])..., out);
    to[pieces.single] = to_real(out);
  }
  in_packs<BATCH / 2>(row, pieces, [&](Held<BATCH / 2>& held, index first) {
    in_held_row(held, function, reads(beside + first)..., writes(to + first));
  });
}

DEVICE wide sum_of_row(index columns, const real* row) {
  wide sum = 0;
  read_row(columns, [&](wide v) { sum += v; }, row);
  return over_row<Sum>(sum);
}

// The sum of exp(v - largest) over numbers v, and the largest of them.
struct Exponentials {
  wide largest = -infinity(), sum = 0;

  // What is subtracted from v: while all are -infinity their exponentials are 0, as they are beside larger numbers.
  DEVICE wide shift() const { return largest == -infinity() ? wide(0) : largest; }
  DEVICE void raise(wide v) {
    wide before = largest;
    largest = maximum(largest, v);
    sum *= exponential_to_real(before - shift());
  }
  DEVICE void add(wide v) { sum += exponential_to_real(v - shift()); }
  // Of the whole row, from what its threads have.
  DEVICE void join_row() {
    wide own = largest;
    largest = over_row<Maximum>(own);
    sum = over_row<Sum>(sum * exponential_to_real(own - largest));
  }
};

DEVICE Exponentials exponentials_of_row(index columns, const real* row) {
  Pieces pieces(row, columns);
  Exponentials e;
  if (pieces.single >= 0) {
    e.raise(widen(row[pieces.single]));
    e.add(widen(row[pieces.single]));
  }
  in_packs<BATCH>(row, pieces, [&](Held<BATCH>& held, index) {
    wide largest = e.largest;
    in_held_row(held, [&](wide v) { largest = maximum(largest, v); });
    e.raise(largest);
    in_held_row(held, [&](wide v) { e.add(v); });
  });
  e.join_row();
  return e;
}
