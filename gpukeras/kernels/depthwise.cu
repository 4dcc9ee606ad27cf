// Convolution of every channel with filters of its own. Letters as in depthwise.py: filter f = channel multiplier + i.

#include "common.cuh"
#include "windows.cuh"

// y[f] <- sum over places of x[channel] weights[place, f]
template <int count>
DEVICE void depthwise_of(int n, int filters, int multiplier, const Windows& w, const real* x, const real* weights,
                         real* y) {
  int channels = filters / multiplier;
  for_places<count>(n, filters, w.grid, [&](int image, const int* o, int filter, wide (&sum)[count]) {
    int channel = count == 1 ? filter / multiplier : filter;
    for (int k = 0; k < count; ++k) sum[k] = 0;
    for_taps(w, image, o, [&](index place, int tap) {
      wide value[count], weight[count];
      load_channels(x, place * channels + channel, value);
      load_channels(weights, index(tap) * filters + filter, weight);
#pragma unroll
      for (int k = 0; k < count; ++k) sum[k] += value[k] * weight[k];
      return true;
    });
  }, y);
}

KERNEL depthwise(int n, int filters, const int* windows, int multiplier, const real* x, const real* weights, real* y) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (multiplier == 1 && filters % LANES == 0 && is_aligned(x) && is_aligned(weights) && is_aligned(y))
    depthwise_of<LANES>(n, filters, 1, w, x, weights, y);
  else depthwise_of<1>(n, filters, multiplier, w, x, weights, y);
}

// dx[channel] <- sum over the windows that see the place, and over i, of dy[f] weights[place, f]
template <int count>
DEVICE void input_gradient_of(int n, int channels, int multiplier, const Windows& w, const real* dy,
                              const real* weights, real* dx) {
  int filters = channels * multiplier;
  for_places<count>(n, channels, w.space, [&](int image, const int* p, int channel, wide (&sum)[count]) {
    for (int k = 0; k < count; ++k) sum[k] = 0;
    for_windows(w, image, p, [&](const int*, index window, int tap) {
      for (int i = 0; i < multiplier; ++i) {
        wide d[count], weight[count];
        load_channels(dy, window * filters + channel * multiplier + i, d);
        load_channels(weights, index(tap) * filters + channel * multiplier + i, weight);
#pragma unroll
        for (int k = 0; k < count; ++k) sum[k] += d[k] * weight[k];
      }
    });
  }, dx);
}

KERNEL depthwise_input_gradient(int n, int channels, const int* windows, int multiplier, const real* dy,
                                const real* weights, real* dx) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (multiplier == 1 && channels % LANES == 0 && is_aligned(dy) && is_aligned(weights) && is_aligned(dx))
    input_gradient_of<LANES>(n, channels, 1, w, dy, weights, dx);
  else input_gradient_of<1>(n, channels, multiplier, w, dy, weights, dx);
}

// dweights[place, f] <- sum over all windows of x[channel] dy[f]; a row is a window, a column a place and a filter
KERNEL depthwise_kernel_gradient(index rows, index columns, const int* windows, int filters, int multiplier,
                                 const real* x, const real* dy, wide* part, wide* out) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  int channels = filters / multiplier;
  __shared__ wide lines[DOWN][LINE];
  Chunk chunk = chunk_of_block(rows);
#pragma unroll 1
  for (int k = 0; k < LANES; ++k) {
    unsigned column = unsigned(first_of_tile() + column_in_tile(false, k));
    int filter = int(column % unsigned(filters)), tap = int(column / unsigned(filters));
    int c = tap % w.size[2], b = tap / w.size[2] % w.size[1], a = tap / w.size[2] / w.size[1];
    wide sum = 0;
    for (index row = chunk.start + threadIdx.y; row < chunk.stop && column < columns; row += DOWN) {
      int o[3], image = place_of_number(w.grid, unsigned(row), o);
      int p = place_of(w, 0, o[0], a), q = place_of(w, 1, o[1], b), r = place_of(w, 2, o[2], c);
      bool is_inside = unsigned(p) < unsigned(w.space[0]) && unsigned(q) < unsigned(w.space[1]) &&
                       unsigned(r) < unsigned(w.space[2]);
      if (!is_inside) continue;
      index place = number_of(w.space, image, p, q, r);
      sum += widen(x[place * channels + filter / multiplier]) * widen(dy[row * filters + filter]);
    }
    put_in_line(lines, k, sum);
  }
  __syncthreads();
  put_sum_of_lines(lines, 0, false, columns, part, out);
}
