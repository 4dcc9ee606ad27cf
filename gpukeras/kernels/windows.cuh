// Where windows lie on an input (windows.py), over three axes: the geometry that convolution and pooling share.
//
// A thread has one place of the result and as many channels as it can read at once. Gradients are gathered: every place
// of the input adds up what the windows that see it give, in the order of the reference; nothing needs atomics.

// The numbers that backend/cuda.py hands over, for three axes each; the first ones may have size 1.
struct Windows {
  int space[3], grid[3], size[3], strides[3], dilation[3], lows[3];
};

// The place along an axis that place k of window o sees; outside of the input it is padding.
DEVICE int place_of(const Windows& w, int axis, int o, int k) {
  return o * w.strides[axis] - w.lows[axis] + k * w.dilation[axis];
}

// The window of an axis whose place k is p, or -1.
DEVICE int window_of(const Windows& w, int axis, int p, int k) {
  int start = p + w.lows[axis] - k * w.dilation[axis];
  int o = start / w.strides[axis];
  return start < 0 || start % w.strides[axis] || o >= w.grid[axis] ? -1 : o;
}

// The number of a place of a grid, counted through all images.
DEVICE index number_of(const int* grid, int image, int a, int b, int c) {
  return ((index(image) * grid[0] + a) * grid[1] + b) * grid[2] + c;
}

// The other way: image and place (3,) of a number.
DEVICE int place_of_number(const int* grid, unsigned number, int* place) {
#pragma unroll
  for (int axis = 2; axis >= 0; --axis) {
    place[axis] = int(number % unsigned(grid[axis]));
    number /= unsigned(grid[axis]);
  }
  return int(number);
}

template <int count>
DEVICE void load_channels(const real* x, index place, wide (&value)[count]) {
  if (count == 1) {
    value[0] = widen(x[place]);
    return;
  }
  Pack p;
  p.bits = *reinterpret_cast<const uint4*>(x + place);
#pragma unroll
  for (int c = 0; c < count; ++c) value[c] = widen(p.at[c % LANES]);
}

template <int count>
DEVICE void store_channels(real* y, index place, const wide (&value)[count]) {
  if (count == 1) {
    y[place] = to_real(value[0]);
    return;
  }
  Pack p;
#pragma unroll
  for (int c = 0; c < count; ++c) p.at[c % LANES] = to_real(value[c]);
  *reinterpret_cast<uint4*>(y + place) = p.bits;
}

DEVICE bool is_aligned(const real* x) { return reinterpret_cast<unsigned long long>(x) % 16 == 0; }

// function(image, place, channel, sum) for every place (d, h, w) of a grid and every channel; y <- sum (count,).
template <int count, class Function>
DEVICE void for_places(int n, int channels, const int* grid, Function function, real* y) {
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

// function(window, its number, tap) for the windows that see a place p of the input: those whose place `tap` it is, in
// row-major order.
template <class Function>
DEVICE void for_windows(const Windows& w, int image, const int* p, Function function) {
  int tap = 0;
  for (int a = 0; a < w.size[0]; ++a)
    for (int b = 0; b < w.size[1]; ++b)
      for (int c = 0; c < w.size[2]; ++c, ++tap) {
        int o[3] = {window_of(w, 0, p[0], a), window_of(w, 1, p[1], b), window_of(w, 2, p[2], c)};
        if (o[0] >= 0 && o[1] >= 0 && o[2] >= 0) function(o, number_of(w.grid, image, o[0], o[1], o[2]), tap);
      }
}

// How many places of a window lie inside the input.
DEVICE int places_inside(const Windows& w, const int* o) {
  int product = 1;
  for (int axis = 0; axis < 3; ++axis) {
    int inside = 0;
    for (int k = 0; k < w.size[axis]; ++k) inside += unsigned(place_of(w, axis, o[axis], k)) < unsigned(w.space[axis]);
    product *= inside;
  }
  return product;
}

