// Pooling over three spatial axes, of which the first ones may have size 1; channels last. Letters as in pooling.py.
//
// A thread has one place of the result and as many channels as it can read at once. Gradients are gathered: every place
// of x adds up what the windows that see it give, in the order of the reference, so that nothing needs atomics.

#include "common.cuh"

// The numbers that pooling.py hands over, for the three axes each.
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
    unsigned rest = i / runs;
    int channel = int(i % runs) * count, place[3];
    for (int axis = 2; axis >= 0; --axis) {
      place[axis] = int(rest % unsigned(grid[axis]));
      rest /= unsigned(grid[axis]);
    }
    wide sum[count];
    function(int(rest), place, channel, sum);
    store_channels(y, index(i) * count, sum);
  }
}

// function(place in memory of x) for the places of a window that lie inside the input, in row-major order.
template <class Function>
DEVICE void for_taps(const Windows& w, int image, const int* o, int channels, int channel, Function function) {
  for (int a = 0; a < w.size[0]; ++a)
    for (int b = 0; b < w.size[1]; ++b)
      for (int c = 0; c < w.size[2]; ++c) {
        int p = place_of(w, 0, o[0], a), q = place_of(w, 1, o[1], b), r = place_of(w, 2, o[2], c);
        bool is_inside = unsigned(p) < unsigned(w.space[0]) && unsigned(q) < unsigned(w.space[1]) &&
                         unsigned(r) < unsigned(w.space[2]);
        if (!is_inside) continue;
        index place = ((index(image) * w.space[0] + p) * w.space[1] + q) * w.space[2] + r;
        if (!function(place * channels + channel)) return;
      }
}

// function(window, place in memory of y) for the windows that see a place p of the input, by the place of the window
// that p is, in row-major order.
template <class Function>
DEVICE void for_windows(const Windows& w, int image, const int* p, int channels, int channel, Function function) {
  for (int a = 0; a < w.size[0]; ++a)
    for (int b = 0; b < w.size[1]; ++b)
      for (int c = 0; c < w.size[2]; ++c) {
        int o[3] = {window_of(w, 0, p[0], a), window_of(w, 1, p[1], b), window_of(w, 2, p[2], c)};
        if (o[0] < 0 || o[1] < 0 || o[2] < 0) continue;
        index place = ((index(image) * w.grid[0] + o[0]) * w.grid[1] + o[1]) * w.grid[2] + o[2];
        function(o, place * channels + channel);
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

// y <- maximum over the places of each window
template <int count>
DEVICE void max_pool_of(int n, int channels, const Windows& w, const real* x, real* y) {
  for_places<count>(n, channels, w.grid, [&](int image, const int* o, int channel, wide (&largest)[count]) {
    for (int c = 0; c < count; ++c) largest[c] = -infinity();
    for_taps(w, image, o, channels, channel, [&](index place) {
      wide value[count];
      load_channels(x, place, value);
#pragma unroll
      for (int c = 0; c < count; ++c) largest[c] = maximum(largest[c], value[c]);
      return true;
    });
  }, y);
}

KERNEL max_pool(int n, int channels, const int* windows, const real* x, real* y) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (channels % LANES == 0 && is_aligned(x) && is_aligned(y)) max_pool_of<LANES>(n, channels, w, x, y);
  else max_pool_of<1>(n, channels, w, x, y);
}

// dx <- sum of dy over the windows that see the place and have their maximum there, and at no earlier place
KERNEL max_pool_gradient(int n, int channels, const int* windows, const real* dy, const real* x, const real* y,
                         real* dx) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  for_places<1>(n, channels, w.space, [&](int image, const int* p, int channel, wide (&sum)[1]) {
    index own = (((index(image) * w.space[0] + p[0]) * w.space[1] + p[1]) * w.space[2] + p[2]) * channels + channel;
    wide value = widen(x[own]);
    sum[0] = 0;
    for_windows(w, image, p, channels, channel, [&](const int* o, index window) {
      if (value != widen(y[window])) return;
      bool is_first = true;
      for_taps(w, image, o, channels, channel, [&](index place) {
        if (place != own) is_first = widen(x[place]) != value;
        return is_first && place != own;
      });
      if (is_first) sum[0] += widen(dy[window]);
    });
  }, dx);
}

// y <- mean over the places of each window that lie inside the input
template <int count>
DEVICE void average_pool_of(int n, int channels, const Windows& w, const real* x, real* y) {
  for_places<count>(n, channels, w.grid, [&](int image, const int* o, int channel, wide (&sum)[count]) {
    for (int c = 0; c < count; ++c) sum[c] = 0;
    int inside = 0;
    for_taps(w, image, o, channels, channel, [&](index place) {
      wide value[count];
      load_channels(x, place, value);
#pragma unroll
      for (int c = 0; c < count; ++c) sum[c] += value[c];
      ++inside;
      return true;
    });
    for (int c = 0; c < count; ++c) sum[c] *= wide(1) / wide(inside);
  }, y);
}

KERNEL average_pool(int n, int channels, const int* windows, const real* x, real* y) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (channels % LANES == 0 && is_aligned(x) && is_aligned(y)) average_pool_of<LANES>(n, channels, w, x, y);
  else average_pool_of<1>(n, channels, w, x, y);
}

// dx <- sum of dy / count over the windows that see the place
template <int count>
DEVICE void average_pool_gradient_of(int n, int channels, const Windows& w, const real* dy, real* dx) {
  for_places<count>(n, channels, w.space, [&](int image, const int* p, int channel, wide (&sum)[count]) {
    for (int c = 0; c < count; ++c) sum[c] = 0;
    for_windows(w, image, p, channels, channel, [&](const int* o, index window) {
      wide value[count], share = wide(1) / wide(places_inside(w, o));
      load_channels(dy, window, value);
#pragma unroll
      for (int c = 0; c < count; ++c) sum[c] += value[c] * share;
    });
  }, dx);
}

KERNEL average_pool_gradient(int n, int channels, const int* windows, const real* dy, real* dx) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (channels % LANES == 0 && is_aligned(dy) && is_aligned(dx)) average_pool_gradient_of<LANES>(n, channels, w, dy, dx);
  else average_pool_gradient_of<1>(n, channels, w, dy, dx);
}
