// What stands around a convolution's matrix products: columns, the way back from them, the bias. Letters as in
// convolution.py; columns are (groups, windows, places of a window, channels of a group).

#include "common.cuh"
#include "windows.cuh"

// columns[group, window, tap, channel] <- what the window sees there; 0 where it sees padding
template <int count>
DEVICE void columns_of(int n, int channels, int groups, const Windows& w, const real* x, real* columns) {
  unsigned taps = unsigned(w.size[0] * w.size[1] * w.size[2]), of_group = unsigned(channels / groups);
  unsigned runs = of_group / count, total = unsigned(n) / count, windows = unsigned(n) / taps / unsigned(channels);
  for (unsigned i = unsigned(thread_of_grid()); i < total; i += unsigned(threads_of_grid())) {
    unsigned channel = i % runs * count, rest = i / runs, tap = rest % taps;
    rest /= taps;
    unsigned group = rest / windows;
    int o[3], image = place_of_number(w.grid, rest % windows, o);
    int c = int(tap % unsigned(w.size[2])), b = int(tap / unsigned(w.size[2]) % unsigned(w.size[1]));
    int a = int(tap / unsigned(w.size[2] * w.size[1]));
    int p = place_of(w, 0, o[0], a), q = place_of(w, 1, o[1], b), r = place_of(w, 2, o[2], c);
    bool is_inside = unsigned(p) < unsigned(w.space[0]) && unsigned(q) < unsigned(w.space[1]) &&
                     unsigned(r) < unsigned(w.space[2]);
    wide value[count] = {};
    if (is_inside) load_channels(x, number_of(w.space, image, p, q, r) * channels + group * of_group + channel, value);
    store_channels(columns, index(i) * count, value);
  }
}

KERNEL columns(int n, int channels, const int* windows, int groups, const real* x, real* columns) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (channels / groups % LANES == 0 && is_aligned(x) && is_aligned(columns))
    columns_of<LANES>(n, channels, groups, w, x, columns);
  else columns_of<1>(n, channels, groups, w, x, columns);
}

// dx <- sum over the windows that see a place of the columns' entries there
template <int count>
DEVICE void sum_of_columns_at(int n, int channels, int groups, const Windows& w, const real* columns, real* dx) {
  index taps = w.size[0] * w.size[1] * w.size[2], of_group = channels / groups;
  index images = index(n) / channels / (index(w.space[0]) * w.space[1] * w.space[2]);
  index windows = images * w.grid[0] * w.grid[1] * w.grid[2];
  for_places<count>(n, channels, w.space, [&](int image, const int* p, int channel, wide (&sum)[count]) {
    index group = unsigned(channel) / unsigned(of_group), rest = unsigned(channel) % unsigned(of_group);
    for (int c = 0; c < count; ++c) sum[c] = 0;
    for_windows(w, image, p, [&](const int*, index window, int tap) {
      wide value[count];
      load_channels(columns, ((group * windows + window) * taps + tap) * of_group + rest, value);
#pragma unroll
      for (int c = 0; c < count; ++c) sum[c] += value[c];
    });
  }, dx);
}

KERNEL sum_of_columns(int n, int channels, const int* windows, int groups, const real* columns, real* dx) {
  const Windows& w = *reinterpret_cast<const Windows*>(windows);
  if (channels / groups % LANES == 0 && is_aligned(columns) && is_aligned(dx))
    sum_of_columns_at<LANES>(n, channels, groups, w, columns, dx);
  else sum_of_columns_at<1>(n, channels, groups, w, columns, dx);
}

// sum of dy over the rows
KERNEL bias_gradient(index rows, index columns, const real* dy, wide* part, wide* out) {
  put_sums_of(dy, rows, columns, part, out);
}

// dx <- dy where y > 0, else 0; and its sum over the rows
KERNEL rectifier_gradient(index rows, index columns, const real* dy, const real* y, real* dx, wide* part, wide* out) {
  bool by_packs = are_packs(columns, dy, y, dx);
  Chunk chunk = chunk_of_block(rows);
  wide sums[LANES][1] = {};
  auto rectified = [](real d, real v) { return widen(d) * wide(widen(v) > 0); };
  index first = chunk.start + threadIdx.y;
  if (by_packs) {
    index run = index(blockIdx.x) * ACROSS + threadIdx.x, runs = columns / LANES, step = DOWN * runs;
    index start = first * runs + run;
    int left = run < runs ? int(rows_of_line(chunk, threadIdx.y)) : 0;
    const uint4* from_dy = reinterpret_cast<const uint4*>(dy) + start;
    const uint4* from_y = reinterpret_cast<const uint4*>(y) + start;
    uint4* to = reinterpret_cast<uint4*>(dx) + start;
    for (; left > 0; left -= DEPTH, from_dy += DEPTH * step, from_y += DEPTH * step, to += DEPTH * step) {
      Pack d[DEPTH], v[DEPTH];
#pragma unroll
      for (int slot = 0; slot < DEPTH; ++slot) {
        if (slot >= left) break;
        d[slot].bits = from_dy[slot * step];
        v[slot].bits = from_y[slot * step];
      }
#pragma unroll
      for (int slot = 0; slot < DEPTH; ++slot) {
        if (slot >= left) break;
#pragma unroll
        for (int k = 0; k < LANES; ++k) {
          wide value = rectified(d[slot].at[k], v[slot].at[k]);
          sums[k][0] += value;
          d[slot].at[k] = to_real(value);
        }
        to[slot * step] = d[slot].bits;
      }
    }
  } else {
#pragma unroll
    for (int k = 0; k < LANES; ++k) {
      index column = first_of_tile() + column_in_tile(false, k);
      if (column >= columns) break;
#pragma unroll 2
      for (index row = first; row < chunk.stop; row += DOWN) {
        wide value = rectified(dy[row * columns + column], y[row * columns + column]);
        sums[k][0] += value;
        dx[row * columns + column] = to_real(value);
      }
    }
  }
  put_sums(sums, by_packs, columns, part, out);
}
