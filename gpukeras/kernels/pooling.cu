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

// The same where no place is seen by two windows. A thread has a cell: the places from one window's first to before the
// next one's, of which the window sees some. Every array is read once; what no window sees is set to zero.
template <int count>
DEVICE void max_pool_gradient_of_cells(int n, int channels, const int (&cells)[3], const Windows& w, const real* dy,
                                       const real* x, const real* y, real* dx) {
  unsigned runs = unsigned(channels) / count, total = unsigned(n) / count;
  for (unsigned i = unsigned(thread_of_grid()); i < total; i += unsigned(threads_of_grid())) {
    int o[3], image = place_of_number(cells, i / runs, o), channel = int(i % runs) * count;
    bool is_window = o[0] < w.grid[0] && o[1] < w.grid[1] && o[2] < w.grid[2];
    wide largest[count], share[count];
    if (is_window) {
      index window = number_of(w.grid, image, o[0], o[1], o[2]) * channels + channel;
      load_channels(y, window, largest);
      load_channels(dy, window, share);
    }
    for (int a = 0; a < w.strides[0]; ++a)
      for (int b = 0; b < w.strides[1]; ++b)
        for (int c = 0; c < w.strides[2]; ++c) {
          int p = o[0] * w.strides[0] - w.lows[0] + a, q = o[1] * w.strides[1] - w.lows[1] + b,
              r = o[2] * w.strides[2] - w.lows[2] + c;
          if (unsigned(p) >= unsigned(w.space[0]) || unsigned(q) >= unsigned(w.space[1]) ||
              unsigned(r) >= unsigned(w.space[2]))
            continue;
          index place = number_of(w.space, image, p, q, r) * channels + channel;
          wide gradient[count] = {};
          if (is_window && a < w.size[0] && b < w.size[1] && c < w.size[2]) {
            wide value[count];
            load_channels(x, place, value);
#pragma unroll
            for (int k = 0; k < count; ++k) {
              if (value[k] != largest[k]) continue;
              gradient[k] = share[k];
              largest[k] = infinity() - infinity();  // no number: later places equal it no more
            }
          }
          store_channels(dx, place, gradient);
        }
  }
}

KERNEL max_pool_gradient_disjoint(int n, int channels, int cells_0, int cells_1, int cells_2, const int* windows,
                                  const real* dy, const real* x, const real* y, real* dx) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  const int cells[3] = {cells_0, cells_1, cells_2};
  if (channels % LANES == 0 && is_aligned(dy) && is_aligned(x) && is_aligned(y) && is_aligned(dx))
    max_pool_gradient_of_cells<LANES>(n, channels, cells, w, dy, x, y, dx);
  else
    max_pool_gradient_of_cells<1>(n, channels, cells, w, dy, x, y, dx);
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
