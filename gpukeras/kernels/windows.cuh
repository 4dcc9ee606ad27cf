// Where windows lie on an input (windows.py), over three axes: the geometry that convolution and pooling share.
//
// A thread has one place of the result and as many channels as it can read at once. Gradients are gathered: every place
// of the input adds up what the windows that see it give, in the order of the reference; nothing needs atomics.

// A number that others are divided by, by a product and a shift (backend/cuda.py: `divisor`).
struct Divisor {
  int number;
  unsigned multiplier, shift;
  DEVICE operator int() const { return number; }
};
DEVICE unsigned divided(unsigned n, const Divisor& by) { return (__umulhi(n, by.multiplier) + n) >> by.shift; }

// The numbers that backend/cuda.py hands over, for three axes each; the first ones may have size 1.
struct Windows {
  Divisor space[3], grid[3], cells[3], strides[3];
  int size[3], dilation[3], lows[3];
};

// The place along an axis that place k of window o sees; outside of the input it is padding.
DEVICE int place_of(const Windows& w, int axis, int o, int k) {
  return o * w.strides[axis] - w.lows[axis] + k * w.dilation[axis];
}

// The windows of an axis whose place k is p, for k = 0, 1, ...
struct WindowsAt {
  int window, rest;

  DEVICE WindowsAt(const Windows& w, int axis, int p) {
    int start = p + w.lows[axis];
    window = int(divided(unsigned(start), w.strides[axis]));
    rest = start - window * w.strides[axis];
  }
  DEVICE bool is_there(const Windows& w, int axis) const { return rest == 0 && unsigned(window) < unsigned(w.grid[axis]); }
  DEVICE void next(const Windows& w, int axis) {
    for (rest -= w.dilation[axis]; rest < 0; rest += w.strides[axis]) --window;
  }
};

// The number of a place of a grid, counted through all images; there are fewer than 2^31.
DEVICE index number_of(const Divisor* grid, int image, int a, int b, int c) {
  return unsigned(((image * grid[0] + a) * grid[1] + b) * grid[2] + c);
}

// The other way: image and place (3,) of a number.
DEVICE int place_of_number(const Divisor* grid, unsigned number, int* place) {
#pragma unroll
  for (int axis = 2; axis >= 0; --axis) {
    unsigned rest = divided(number, grid[axis]);
    place[axis] = int(number - rest * unsigned(grid[axis]));
    number = rest;
  }
  return int(number);
}

template <int count>
DEVICE void load_pack(const real* x, index place, Pack& p) {
  if (count == 1) p.at[0] = x[place];
  else p.bits = *reinterpret_cast<const uint4*>(x + place);
}
template <int count>
DEVICE void store_pack(real* y, index place, const Pack& p) {
  if (count == 1) y[place] = p.at[0];
  else *reinterpret_cast<uint4*>(y + place) = p.bits;
}

template <int count>
DEVICE void load_channels(const real* x, index place, wide (&value)[count]) {
  Pack p;
  load_pack<count>(x, place, p);
#pragma unroll
  for (int c = 0; c < count; ++c) value[c] = widen(p.at[c % LANES]);
}

template <int count>
DEVICE void store_channels(real* y, index place, const wide (&value)[count]) {
  Pack p;
#pragma unroll
  for (int c = 0; c < count; ++c) p.at[c % LANES] = to_real(value[c]);
  store_pack<count>(y, place, p);
}

DEVICE bool is_aligned(const real* x) { return are_aligned(x); }

// function(image, place, channel, sum) for every place (d, h, w) of a grid and every channel; y <- sum (count,).
template <int count, class Function>
DEVICE void for_places(int n, int channels, const Divisor* grid, Function function, real* y) {
  unsigned runs = unsigned(channels) / count, total = unsigned(n) / count;
  for (unsigned i = unsigned(thread_of_grid()); i < total; i += unsigned(threads_of_grid())) {
    int place[3], image = place_of_number(grid, i / runs, place);
    wide sum[count];
    function(image, place, int(i % runs) * count, sum);
    store_channels(y, index(i) * count, sum);
  }
}

// function(number of the place of the input, tap) for the places of a window that lie inside the input, in row-major
// order, until it returns false.
template <class Function>
DEVICE void for_taps(const Windows& w, int image, const int* o, Function function) {
  int tap = 0;
  for (int a = 0; a < w.size[0]; ++a)
    for (int b = 0; b < w.size[1]; ++b)
      for (int c = 0; c < w.size[2]; ++c, ++tap) {
        int p = place_of(w, 0, o[0], a), q = place_of(w, 1, o[1], b), r = place_of(w, 2, o[2], c);
        bool is_inside = unsigned(p) < unsigned(w.space[0]) && unsigned(q) < unsigned(w.space[1]) &&
                         unsigned(r) < unsigned(w.space[2]);
        if (is_inside && !function(number_of(w.space, image, p, q, r), tap)) return;
      }
}

// Places of a box of `sizes`, one after the other in row-major order.
struct Walk {
  int a, b, c;
  template <class Sizes>
  DEVICE void next(const Sizes& sizes) {
    if (++c < sizes[2]) return;
    c = 0;
    if (++b < sizes[1]) return;
    b = 0;
    ++a;
  }
};

constexpr int TOGETHER = 4;  // packs of an input that a thread has under way

// function(tap, values (count,)) for what a window sees of x (places, channels) inside the input, in row-major order.
template <int count, class Function>
DEVICE void for_values(const Windows& w, int image, const int* o, const real* x, int channels, int channel,
                       Function function) {
  int taps = w.size[0] * w.size[1] * w.size[2];
  Walk walk = {};
  for (int first = 0; first < taps; first += TOGETHER) {
    Pack packs[TOGETHER];
    bool is_inside[TOGETHER];
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i, walk.next(w.size)) {
      int p = place_of(w, 0, o[0], walk.a), q = place_of(w, 1, o[1], walk.b), r = place_of(w, 2, o[2], walk.c);
      is_inside[i] = first + i < taps && unsigned(p) < unsigned(w.space[0]) && unsigned(q) < unsigned(w.space[1]) &&
                     unsigned(r) < unsigned(w.space[2]);
      if (is_inside[i]) load_pack<count>(x, number_of(w.space, image, p, q, r) * channels + channel, packs[i]);
    }
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i) {
      if (!is_inside[i]) continue;
      wide value[count];
#pragma unroll
      for (int c = 0; c < count; ++c) value[c] = widen(packs[i].at[c % LANES]);
      function(first + i, value);
    }
  }
}

// function(window, its number, tap) for the windows that see a place p of the input: those whose place `tap` it is, in
// row-major order.
template <class Function>
DEVICE void for_windows(const Windows& w, int image, const int* p, Function function) {
  int tap = 0;
  WindowsAt a(w, 0, p[0]);
  for (int i = 0; i < w.size[0]; ++i, a.next(w, 0)) {
    WindowsAt b(w, 1, p[1]);
    for (int j = 0; j < w.size[1]; ++j, b.next(w, 1)) {
      WindowsAt c(w, 2, p[2]);
      for (int k = 0; k < w.size[2]; ++k, ++tap, c.next(w, 2)) {
        if (!a.is_there(w, 0) || !b.is_there(w, 1) || !c.is_there(w, 2)) continue;
        int o[3] = {a.window, b.window, c.window};
        function(o, number_of(w.grid, image, o[0], o[1], o[2]), tap);
      }
    }
  }
}

// How many places of a window lie inside the input.
DEVICE int places_inside(const Windows& w, const int* o) {
  int product = 1;
  for (int axis = 0; axis < 3; ++axis) {
    int inside = 0;
#pragma unroll 1
    for (int k = 0; k < w.size[axis]; ++k) inside += unsigned(place_of(w, axis, o[axis], k)) < unsigned(w.space[axis]);
    product *= inside;
  }
  return product;
}

