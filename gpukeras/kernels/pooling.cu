// Pooling, channels last. Letters as in pooling.py.

#include "common.cuh"
#include "windows.cuh"

// y <- maximum over the places of each window
template <int count>
DEVICE void max_pool_of(int n, int channels, const Windows& w, const real* x, real* y) {
  for_places<count>(n, channels, w.grid, [&](int image, const int* o, int channel, wide (&largest)[count]) {
    for (int c = 0; c < count; ++c) largest[c] = -infinity();
    for_taps(w, image, o, [&](index place, int) {
      wide value[count];
      load_channels(x, place * channels + channel, value);
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
    index own = number_of(w.space, image, p[0], p[1], p[2]);
    wide value = widen(x[own * channels + channel]);
    sum[0] = 0;
    for_windows(w, image, p, [&](const int* o, index window, int) {
      if (value != widen(y[window * channels + channel])) return;
      bool is_first = true;
      for_taps(w, image, o, [&](index place, int) {
        if (place != own) is_first = widen(x[place * channels + channel]) != value;
        return is_first && place != own;
      });
      if (is_first) sum[0] += widen(dy[window * channels + channel]);
    });
  }, dx);
}

// y <- mean over the places of each window that lie inside the input
template <int count>
DEVICE void average_pool_of(int n, int channels, const Windows& w, const real* x, real* y) {
  for_places<count>(n, channels, w.grid, [&](int image, const int* o, int channel, wide (&sum)[count]) {
    for (int c = 0; c < count; ++c) sum[c] = 0;
    int inside = 0;
    for_taps(w, image, o, [&](index place, int) {
      wide value[count];
      load_channels(x, place * channels + channel, value);
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
    for_windows(w, image, p, [&](const int* o, index window, int) {
      wide value[count], share = wide(1) / wide(places_inside(w, o));
      load_channels(dy, window * channels + channel, value);
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
