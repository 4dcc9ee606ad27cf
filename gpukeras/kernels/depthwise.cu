// Convolution of every channel with filters of its own. Letters as in depthwise.py: filter f = channel multiplier + i.

#define LEAST_BLOCKS 2  // strips of windows stay in registers

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

// --- Windows three places wide that follow one another along the last axis, one filter a channel ---------------------
//
// A thread has LANES channels of a strip: STRIP windows side by side, which see each place up to three times. What a row of
// them sees is read once.

constexpr int STRIP = 4;                   // with longer ones the registers do not suffice; depthwise.py has it, too
constexpr int WIDTH = 3;                   // of the windows, likewise
constexpr int SEEN = STRIP + WIDTH - 1;    // places of a row

struct Strip {
  int image, o[3];  // the first window
};
DEVICE Strip strip_of(const Windows& w, unsigned number, unsigned strips_of_line) {
  unsigned line = number / strips_of_line, rest = divided(line, w.grid[1]), image = divided(rest, w.grid[0]);
  return {int(image), {int(rest - image * unsigned(w.grid[0])), int(line - rest * unsigned(w.grid[1])),
                       int(number - line * strips_of_line) * STRIP}};
}
DEVICE unsigned strips_of_line(const Windows& w) { return unsigned(w.grid[2] + STRIP - 1) / STRIP; }

// By 16 bytes where all arrays begin at such boundaries.
template <bool by_packs>
DEVICE Pack pack_at(const real* from) {
  Pack p;
  if constexpr (by_packs) {
    p.bits = *reinterpret_cast<const uint4*>(from);
  } else {
#pragma unroll
    for (int c = 0; c < LANES; ++c) p.at[c] = from[c];
  }
  return p;
}

// What the rows a, b of a strip's windows see of x; places outside of it are not read.
template <bool by_packs>
struct Row {
  Pack pack[SEEN];
  int first;  // along the last axis
  bool is_inside;

  DEVICE Row(const Windows& w, const Strip& s, int a, int b, const real* x, int channels, int channel) {
    int p = place_of(w, 0, s.o[0], a), q = place_of(w, 1, s.o[1], b);
    first = s.o[2] - w.lows[2];
    is_inside = unsigned(p) < unsigned(w.space[0]) && unsigned(q) < unsigned(w.space[1]);
    if (!is_inside) return;
    x += (number_of(w.space, s.image, p, q, 0) + first) * channels + channel;
#pragma unroll
    for (int j = 0; j < SEEN; ++j, x += channels)
      if (has(w, j)) pack[j] = pack_at<by_packs>(x);
  }
  DEVICE bool has(const Windows& w, int j) const { return unsigned(first + j) < unsigned(w.space[2]); }
};

template <bool by_packs>
DEVICE void walk_in_strips(int n, int channels, const Windows& w, bool is_flipped, const real* x, const real* weights,
                           real* y) {
  unsigned runs = unsigned(channels) / LANES, strips = strips_of_line(w);
  int step = is_flipped ? -channels : channels;
  if (is_flipped) weights += (w.size[0] * w.size[1] * WIDTH - 1) * channels;
  for (unsigned i = unsigned(thread_of_grid()); i < unsigned(n); i += unsigned(threads_of_grid())) {
    Strip s = strip_of(w, i / runs, strips);
    int channel = int(i % runs) * LANES;
    const real* weights_of_row = weights + channel;
    wide sum[STRIP][LANES] = {};
    for (int a = 0; a < w.size[0]; ++a)
      for (int b = 0; b < w.size[1]; ++b, weights_of_row += WIDTH * step) {
        Row<by_packs> row(w, s, a, b, x, channels, channel);
        if (!row.is_inside) continue;
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) {
          Pack weight = pack_at<by_packs>(weights_of_row + k * step);
#pragma unroll
          for (int o = 0; o < STRIP; ++o)
            if (row.has(w, o + k))
#pragma unroll
              for (int c = 0; c < LANES; ++c) sum[o][c] += widen(row.pack[o + k].at[c]) * widen(weight.at[c]);
        }
      }
    real* to = y + (number_of(w.grid, s.image, s.o[0], s.o[1], 0) + s.o[2]) * channels + channel;
#pragma unroll
    for (int o = 0; o < STRIP; ++o, to += channels) {
      if (s.o[2] + o >= w.grid[2]) break;
      Elements<false, true> out = writes(to);
#pragma unroll
      for (int c = 0; c < LANES; ++c) out.value[c] = sum[o][c];
      if constexpr (by_packs) {
        out.store(0);
      } else {
#pragma unroll
        for (int c = 0; c < LANES; ++c) to[c] = to_real(sum[o][c]);
      }
    }
  }
}

// y <- sum over places of x weights[place], with the weights in reverse order where they are flipped; n strips of LANES
// channels
KERNEL depthwise_in_strips(int n, int channels, const int* windows, bool is_flipped, const real* x, const real* weights,
                           real* y) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (are_aligned(x, weights, y)) walk_in_strips<true>(n, channels, w, is_flipped, x, weights, y);
  else walk_in_strips<false>(n, channels, w, is_flipped, x, weights, y);
}

// sums[c, row and place of it] += what they see of x, times dy, for the strips of a chunk
template <int rows_of_window, bool by_packs>
DEVICE void sum_in_strips(index rows, index columns, const Windows& w, const real* x, const real* dy,
                          wide (&sums)[LANES][rows_of_window * WIDTH]) {
  Chunk chunk = chunk_of_block(rows);
  unsigned strips = strips_of_line(w);
  unsigned channel = unsigned(first_of_tile()) + threadIdx.x * LANES;
  if (channel >= unsigned(columns)) return;
  for (unsigned i = unsigned(chunk.start) + threadIdx.y; i < unsigned(chunk.stop); i += DOWN) {
    Strip s = strip_of(w, i, strips);
    int first = s.o[2] - w.lows[2], windows = w.grid[2] - s.o[2];  // windows that are there
    // There are fewer than 2^31 elements.
    unsigned at = (unsigned(number_of(w.grid, s.image, s.o[0], s.o[1], 0)) + s.o[2]) * unsigned(columns) + channel;
    Pack gradients[STRIP];
#pragma unroll
    for (int o = 0; o < STRIP; ++o, at += unsigned(columns))
      if (o < windows) gradients[o] = pack_at<by_packs>(dy + at);
#pragma unroll
    for (int row = 0; row < rows_of_window; ++row) {
      int p = place_of(w, 0, s.o[0], w.size[1] == 1 ? row : 0), q = place_of(w, 1, s.o[1], w.size[1] == 1 ? 0 : row);
      if (unsigned(p) >= unsigned(w.space[0]) || unsigned(q) >= unsigned(w.space[1])) continue;
      at = (unsigned(number_of(w.space, s.image, p, q, 0)) + first) * unsigned(columns) + channel;
#pragma unroll
      for (int j = 0; j < SEEN; ++j, at += unsigned(columns)) {
        if (unsigned(first + j) >= unsigned(w.space[2])) continue;
        Pack seen = pack_at<by_packs>(x + at);
#pragma unroll
        for (int k = 0; k < WIDTH; ++k)
          if (j >= k && j - k < STRIP && j - k < windows)
#pragma unroll
            for (int c = 0; c < LANES; ++c)
              sums[c][row * WIDTH + k] += widen(seen.at[c]) * widen(gradients[j - k].at[c]);
      }
    }
  }
}

template <int rows_of_window>
DEVICE void put_sums_of_strips(index rows, index columns, const Windows& w, const real* x, const real* dy, wide* part,
                               wide* out) {
  wide sums[LANES][rows_of_window * WIDTH] = {};
  if (are_aligned(x, dy)) sum_in_strips<rows_of_window, true>(rows, columns, w, x, dy, sums);
  else sum_in_strips<rows_of_window, false>(rows, columns, w, x, dy, sums);
  put_sums(sums, true, columns, part, out);
}

// dweights[place, channel] <- sum over all windows of x dy, for windows of one or three rows. A row here is a strip.
KERNEL depthwise_kernel_gradient_in_strips(index rows, index columns, const int* windows, const real* x, const real* dy,
                                           wide* part, wide* out) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (w.size[0] * w.size[1] == 1) put_sums_of_strips<1>(rows, columns, w, x, dy, part, out);
  else put_sums_of_strips<3>(rows, columns, w, x, dy, part, out);
}
