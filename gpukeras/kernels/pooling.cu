// Pooling, channels last. Letters as in pooling.py.

#include "common.cuh"
#include "windows.cuh"

// y <- maximum over the places of each window
template <int count>
DEVICE void max_pool_of(int n, int channels, const Windows& w, const real* x, real* y) {
  for_places<count>(n, channels, w.grid, [&](int image, const int* o, int channel, wide (&largest)[count]) {
    for (int c = 0; c < count; ++c) largest[c] = -infinity();
    for_values<count>(w, image, o, x, channels, channel, [&](int, const wide (&value)[count]) {
#pragma unroll
      for (int c = 0; c < count; ++c) largest[c] = maximum(largest[c], value[c]);
    });
  }, y);
}

KERNEL max_pool(int n, int channels, const int* windows, const real* x, real* y) {
  const Windows w = *reinterpret_cast<const Windows*>(windows);  // read once, not after every store
  if (channels % LANES == 0 && are_aligned(x, y)) max_pool_of<LANES>(n, channels, w, x, y);
  else max_pool_of<1>(n, channels, w, x, y);
}

// --- The way back where windows overlap: the place of each maximum, which then every place of the input looks for ---

template <int count>
struct alignas(count * sizeof(int16)) Taps {
  int16 at[count];
};

// tap <- the first place of each window that holds its maximum, -1 where none does
template <int count>
DEVICE void places_of_maxima_of(int n, int channels, const Windows& w, const real* x, const real* y, int16* tap) {
  unsigned runs = unsigned(channels) / count, total = unsigned(n) / count;
  for (unsigned i = unsigned(thread_of_grid()); i < total; i += unsigned(threads_of_grid())) {
    int o[3], image = place_of_number(w.grid, i / runs, o);
    wide largest[count];
    Taps<count> found;
    load_channels(y, index(i) * count, largest);
#pragma unroll
    for (int c = 0; c < count; ++c) found.at[c] = -1;
    for_values<count>(w, image, o, x, channels, int(i % runs) * count, [&](int at, const wide (&value)[count]) {
#pragma unroll
      for (int c = 0; c < count; ++c)
        if (value[c] == largest[c] && found.at[c] < 0) found.at[c] = int16(at);
    });
    reinterpret_cast<Taps<count>*>(tap)[i] = found;
  }
}

KERNEL places_of_maxima(int n, int channels, const int* windows, const real* x, const real* y, int16* tap) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (channels % LANES == 0 && are_aligned(x, y)) places_of_maxima_of<LANES>(n, channels, w, x, y, tap);
  else places_of_maxima_of<1>(n, channels, w, x, y, tap);
}

// dx <- sum of dy over the windows that see the place as their `tap`
template <int count>
DEVICE void max_pool_gradient_of(int n, int channels, const Windows& w, const real* dy, const int16* tap, real* dx) {
  for_places<count>(n, channels, w.space, [&](int image, const int* p, int channel, wide (&sum)[count]) {
    for (int c = 0; c < count; ++c) sum[c] = 0;
    for_windows(w, image, p, [&](const int*, index window, int at) {
      index place = window * channels + channel;
      Taps<count> taps = *reinterpret_cast<const Taps<count>*>(tap + place);
      wide value[count];
      load_channels(dy, place, value);
#pragma unroll
      for (int c = 0; c < count; ++c)
        if (taps.at[c] == at) sum[c] += value[c];
    });
  }, dx);
}

KERNEL max_pool_gradient(int n, int channels, const int* windows, const real* dy, const int16* tap, real* dx) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (channels % LANES == 0 && are_aligned(dy, dx)) max_pool_gradient_of<LANES>(n, channels, w, dy, tap, dx);
  else max_pool_gradient_of<1>(n, channels, w, dy, tap, dx);
}

// --- The way back where no place is seen by two windows: every array is read once ------------------------------------

// dx <- dy at the first place of each window that holds its maximum. A thread has a cell: the places from one window's
// first to before the next one's, of which the window sees some. What no window sees is set to zero.
template <int count>
DEVICE void max_pool_gradient_of_cells(int n, int channels, const Windows& w, const real* dy, const real* x,
                                       const real* y, real* dx) {
  unsigned runs = unsigned(channels) / count, total = unsigned(n) / count;
  int places = w.strides[0] * w.strides[1] * w.strides[2];
  for (unsigned i = unsigned(thread_of_grid()); i < total; i += unsigned(threads_of_grid())) {
    int o[3], image = place_of_number(w.cells, i / runs, o), channel = int(i % runs) * count;
    bool is_window = o[0] < w.grid[0] && o[1] < w.grid[1] && o[2] < w.grid[2];
    wide largest[count];
    Pack share;
    if (is_window) {
      index window = number_of(w.grid, image, o[0], o[1], o[2]) * channels + channel;
      load_pack<count>(dy, window, share);
      load_channels(y, window, largest);
    }
    Walk walk = {};
    for (int first = 0; first < places; first += TOGETHER) {
      Pack packs[TOGETHER];
      bool is_inside[TOGETHER], is_seen[TOGETHER];
      unsigned place[TOGETHER];  // of an element: there are fewer than 2^31
#pragma unroll
      for (int k = 0; k < TOGETHER; ++k, walk.next(w.strides)) {
        int p = o[0] * w.strides[0] - w.lows[0] + walk.a, q = o[1] * w.strides[1] - w.lows[1] + walk.b,
            r = o[2] * w.strides[2] - w.lows[2] + walk.c;
        is_inside[k] = first + k < places && unsigned(p) < unsigned(w.space[0]) &&
                       unsigned(q) < unsigned(w.space[1]) && unsigned(r) < unsigned(w.space[2]);
        is_seen[k] = is_inside[k] && is_window && walk.a < w.size[0] && walk.b < w.size[1] && walk.c < w.size[2];
        place[k] = unsigned(number_of(w.space, image, p, q, r)) * unsigned(channels) + unsigned(channel);
        if (is_seen[k]) load_pack<count>(x, place[k], packs[k]);
      }
#pragma unroll
      for (int k = 0; k < TOGETHER; ++k) {
        if (!is_inside[k]) continue;
        Pack gradient;
#pragma unroll
        for (int c = 0; c < count; ++c) {
          bool is_here = is_seen[k] && widen(packs[k].at[c]) == largest[c];
          gradient.at[c] = is_here ? share.at[c] : to_real(0);
          if (is_here) largest[c] = infinity() - infinity();  // no number: later places equal it no more
        }
        store_pack<count>(dx, place[k], gradient);
      }
    }
  }
}

KERNEL max_pool_gradient_disjoint(int n, int channels, const int* windows, const real* dy, const real* x, const real* y,
                                  real* dx) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (channels % LANES == 0 && are_aligned(dy, x, y, dx))
    max_pool_gradient_of_cells<LANES>(n, channels, w, dy, x, y, dx);
  else
    max_pool_gradient_of_cells<1>(n, channels, w, dy, x, y, dx);
}

// --- Means -----------------------------------------------------------------------------------------------------------

// y <- mean over the places of each window that lie inside the input
template <int count>
DEVICE void average_pool_of(int n, int channels, const Windows& w, const real* x, real* y) {
  for_places<count>(n, channels, w.grid, [&](int image, const int* o, int channel, wide (&sum)[count]) {
    for (int c = 0; c < count; ++c) sum[c] = 0;
    int inside = 0;
    for_values<count>(w, image, o, x, channels, channel, [&](int, const wide (&value)[count]) {
#pragma unroll
      for (int c = 0; c < count; ++c) sum[c] += value[c];
      ++inside;
    });
    for (int c = 0; c < count; ++c) sum[c] *= wide(1) / wide(inside);
  }, y);
}

KERNEL average_pool(int n, int channels, const int* windows, const real* x, real* y) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (channels % LANES == 0 && are_aligned(x, y)) average_pool_of<LANES>(n, channels, w, x, y);
  else average_pool_of<1>(n, channels, w, x, y);
}

// dx <- dy / count at the places of each window, where no place is seen by two; a thread has a cell, as above
template <int count>
DEVICE void average_pool_gradient_of_cells(int n, int channels, const Windows& w, const real* dy, real* dx) {
  unsigned runs = unsigned(channels) / count, total = unsigned(n) / count;
  int places = w.strides[0] * w.strides[1] * w.strides[2];
  for (unsigned i = unsigned(thread_of_grid()); i < total; i += unsigned(threads_of_grid())) {
    int o[3], image = place_of_number(w.cells, i / runs, o), channel = int(i % runs) * count;
    bool is_window = o[0] < w.grid[0] && o[1] < w.grid[1] && o[2] < w.grid[2];
    wide value[count] = {};
    if (is_window) {
      load_channels(dy, number_of(w.grid, image, o[0], o[1], o[2]) * channels + channel, value);
      wide share = wide(1) / wide(places_inside(w, o));
#pragma unroll
      for (int c = 0; c < count; ++c) value[c] *= share;
    }
    Walk walk = {};
    for (int k = 0; k < places; ++k, walk.next(w.strides)) {
      int p = o[0] * w.strides[0] - w.lows[0] + walk.a, q = o[1] * w.strides[1] - w.lows[1] + walk.b,
          r = o[2] * w.strides[2] - w.lows[2] + walk.c;
      if (unsigned(p) >= unsigned(w.space[0]) || unsigned(q) >= unsigned(w.space[1]) ||
          unsigned(r) >= unsigned(w.space[2]))
        continue;
      bool is_seen = is_window && walk.a < w.size[0] && walk.b < w.size[1] && walk.c < w.size[2];
      wide gradient[count];
#pragma unroll
      for (int c = 0; c < count; ++c) gradient[c] = is_seen ? value[c] : wide(0);
      store_channels(dx, number_of(w.space, image, p, q, r) * channels + channel, gradient);
    }
  }
}

KERNEL average_pool_gradient_disjoint(int n, int channels, const int* windows, const real* dy, real* dx) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (channels % LANES == 0 && are_aligned(dy, dx)) average_pool_gradient_of_cells<LANES>(n, channels, w, dy, dx);
  else average_pool_gradient_of_cells<1>(n, channels, w, dy, dx);
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
  if (channels % LANES == 0 && are_aligned(dy, dx)) average_pool_gradient_of<LANES>(n, channels, w, dy, dx);
  else average_pool_gradient_of<1>(n, channels, w, dy, dx);
}
