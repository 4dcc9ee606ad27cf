// One step of the recurrent cells' walks through time, between two matrix products. Letters as in recurrent.py:
//
//     n = batch units, i = (sequence, unit); step t of `time`; keep (time, batch), or null
//     gates (slots, time, n); h (time + 1, n); product (gates, n): the state times the kernel
//     dz (time, batch, columns of units); dh and dc (n)
//
// Backwards, a step's kernel first completes dh of the step t + 1 that came before it, which saves a launch: through
// (n) is what the product gave, direct (n), or null, what passed by it.

#include "common.cuh"

// Pre-activations of sigmoid gates come halved.
DEVICE wide sigmoid_of_halved(wide z) { return wide(0.5) * hyperbolic_tangent(z) + wide(0.5); }

// function(i) for every element, one at a time: steps are small, and want all the threads that there are.
template <class Function>
DEVICE void for_each(index n, Function function) {
  for (index i = thread_of_grid(); i < n; i += threads_of_grid()) function(i);
}

DEVICE bool is_kept(const bool* keep, index n, int units, int t, index i) {
  return !keep || keep[t * (n / units) + unsigned(i) / unsigned(units)];
}

// The place of dz[t, sequence, column units + unit].
DEVICE index place_in_dz(index n, int units, int columns, int t, index i, int column) {
  unsigned sequence = unsigned(i) / unsigned(units), unit = unsigned(i) % unsigned(units);
  return ((t * (n / units) + sequence) * columns + column) * units + unit;
}

// dh before step t + 1, plus dy of step t: dh <- direct + through where that step was kept, or as it was.
DEVICE wide completed(index n, int units, int t, int time, const bool* keep, const real* through, const real* direct,
                      const real* dy, const real* dh, index i) {
  wide d;
  if (through && is_kept(keep, n, units, t + 1, i)) d = widen(through[i]) + (direct ? widen(direct[i]) : wide(0));
  else d = widen(dh[i]);
  return dy ? d + widen(dy[t * n + i]) : d;
}

// dh after the last step of the walk back, which is step 0
KERNEL last_gradient(index n, int units, int time, const bool* keep, const real* through, const real* direct, real* dh) {
  for_each(n, [=](index i) {
    dh[i] = to_real(completed(n, units, -1, time, keep, through, direct, nullptr, dh, i));
  });
}

// --- Elman network -------------------------------------------------------------------------------------------------

// h_(t+1) <- tanh(z_t + product)
KERNEL simple_rnn_step(index n, int units, int t, int time, const real* product, const bool* keep, const real* gates,
                       real* h) {
  for_each(n, [=](index i) {
    wide value = hyperbolic_tangent(widen(gates[t * n + i]) + widen(product[i]));
    h[(t + 1) * n + i] = is_kept(keep, n, units, t, i) ? to_real(value) : h[t * n + i];
  });
}

// dz <- dh (1 - h^2)
KERNEL simple_rnn_step_back(index n, int units, int t, int time, const bool* keep, const real* through,
                            const real* direct, const real* dy, const real* h, real* dh, real* dz) {
  for_each(n, [=](index i) {
    wide d = completed(n, units, t, time, keep, through, direct, dy, dh, i), after = widen(h[(t + 1) * n + i]);
    dh[i] = to_real(d);
    dz[place_in_dz(n, units, 1, t, i, 0)] =
        to_real(is_kept(keep, n, units, t, i) ? d * (1 - after * after) : wide(0));
  });
}

// --- LSTM ----------------------------------------------------------------------------------------------------------

// i, f, o, g <- gates;  c <- f c + i g,  h <- o tanh(c);  slots: i, f, o, g, the c before, tanh of the c after
KERNEL lstm_step(index n, int units, int t, int time, const real* product, const bool* keep, real* gates, real* h,
                 wide* c) {
  for_each(n, [=](index e) {
    real* slot = gates + t * n + e;
    index next = time * n;
    wide i = sigmoid_of_halved(widen(slot[0]) + widen(product[e]));
    wide f = sigmoid_of_halved(widen(slot[next]) + widen(product[n + e]));
    wide o = sigmoid_of_halved(widen(slot[2 * next]) + widen(product[2 * n + e]));
    wide g = hyperbolic_tangent(widen(slot[3 * next]) + widen(product[3 * n + e]));
    wide before = c[e], after = f * before + i * g, tanh_c = hyperbolic_tangent(after);
    wide values[6] = {i, f, o, g, before, tanh_c};
#pragma unroll
    for (int k = 0; k < 6; ++k) slot[k * next] = to_real(values[k]);
    bool keeps = is_kept(keep, n, units, t, e);
    h[(t + 1) * n + e] = keeps ? to_real(o * tanh_c) : h[t * n + e];
    if (keeps) c[e] = after;
  });
}

// do = dh tanh(c),  dc += dh o (1 - tanh^2(c)),  di = dc g,  df = dc c_before,  dg = dc i;  dz = those times the slopes
// dc <- dc f
KERNEL lstm_step_back(index n, int units, int t, int time, const bool* keep, const real* through, const real* direct,
                      const real* dy, const real* gates, real* dh, wide* dc, real* dz) {
  for_each(n, [=](index e) {
    const real* slot = gates + t * n + e;
    index next = time * n;
    wide i = widen(slot[0]), f = widen(slot[next]), o = widen(slot[2 * next]), g = widen(slot[3 * next]);
    wide before = widen(slot[4 * next]), tanh_c = widen(slot[5 * next]);
    wide d_h = completed(n, units, t, time, keep, through, direct, dy, dh, e);
    wide d = dc[e] + d_h * o * (1 - tanh_c * tanh_c);
    wide values[4] = {d * g * i * (1 - i), d * before * f * (1 - f), d * i * (1 - g * g), d_h * tanh_c * o * (1 - o)};
    bool keeps = is_kept(keep, n, units, t, e);
#pragma unroll
    for (int k = 0; k < 4; ++k) dz[place_in_dz(n, units, 4, t, e, k)] = to_real(keeps ? values[k] : wide(0));
    dh[e] = to_real(d_h);
    if (keeps) dc[e] = d * f;
  });
}

// --- GRU, the reset gate after the product -------------------------------------------------------------------------

// candidate <- tanh(z + r (product + bias));  h <- z h + (1 - z) candidate;  slots: z, r, candidate, product + bias
KERNEL gru_after_step(index n, int units, int t, int time, const real* product, const real* bias, const bool* keep,
                      real* gates, real* h) {
  for_each(n, [=](index e) {
    real* slot = gates + t * n + e;
    index next = time * n;
    wide z = sigmoid_of_halved(widen(slot[0]) + widen(product[e]));
    wide r = sigmoid_of_halved(widen(slot[next]) + widen(product[n + e]));
    wide recurrent = widen(product[2 * n + e]) + (bias ? widen(bias[unsigned(e) % unsigned(units)]) : wide(0));
    wide candidate = hyperbolic_tangent(widen(slot[2 * next]) + r * recurrent), before = widen(h[t * n + e]);
    wide values[4] = {z, r, candidate, recurrent};
#pragma unroll
    for (int k = 0; k < 4; ++k) slot[k * next] = to_real(values[k]);
    bool keeps = is_kept(keep, n, units, t, e);
    h[(t + 1) * n + e] = to_real(keeps ? z * (before - candidate) + candidate : before);
  });
}

// d_candidate = dh (1 - z) (1 - candidate^2),  d_recurrent = d_candidate r,
// d_z = dh (h - candidate) z (1 - z),  d_r = d_candidate recurrent r (1 - r);  dh z passes by the product
KERNEL gru_after_step_back(index n, int units, int t, int time, const bool* keep, const real* through, real* direct,
                           const real* dy, const real* gates, const real* h, real* dh, real* dz) {
  for_each(n, [=](index e) {
    const real* slot = gates + t * n + e;
    index next = time * n;
    wide z = widen(slot[0]), r = widen(slot[next]), candidate = widen(slot[2 * next]);
    wide recurrent = widen(slot[3 * next]), before = widen(h[t * n + e]);
    wide d = completed(n, units, t, time, keep, through, direct, dy, dh, e);
    wide d_candidate = d * (1 - z) * (1 - candidate * candidate);
    wide values[4] = {d_candidate, d * (before - candidate) * z * (1 - z), d_candidate * recurrent * r * (1 - r),
                      d_candidate * r};
    bool keeps = is_kept(keep, n, units, t, e);
#pragma unroll
    for (int k = 0; k < 4; ++k) dz[place_in_dz(n, units, 4, t, e, k)] = to_real(keeps ? values[k] : wide(0));
    dh[e] = to_real(d);
    direct[e] = to_real(d * z);
  });
}

// --- GRU, the reset gate before the product ------------------------------------------------------------------------

// z, r <- gates;  reset <- r h, dropped;  slots: z, r, the candidate, reset
KERNEL gru_before_reset(index n, int units, int t, int time, const real* product, const real* dropout, real* gates,
                        const real* h, real* reset) {
  for_each(n, [=](index e) {
    real* slot = gates + t * n + e;
    index next = time * n;
    wide z = sigmoid_of_halved(widen(slot[0]) + widen(product[e]));
    wide r = sigmoid_of_halved(widen(slot[next]) + widen(product[n + e]));
    wide value = r * widen(h[t * n + e]) * (dropout ? widen(dropout[2 * n + e]) : wide(1));
    slot[0] = to_real(z);
    slot[next] = to_real(r);
    slot[3 * next] = reset[e] = to_real(value);
  });
}

// candidate <- tanh(z + product of reset);  h <- z h + (1 - z) candidate
KERNEL gru_before_step(index n, int units, int t, int time, const real* product, const bool* keep, real* gates,
                       real* h) {
  for_each(n, [=](index e) {
    real* slot = gates + t * n + e;
    index next = time * n;
    wide z = widen(slot[0]), before = widen(h[t * n + e]);
    wide candidate = hyperbolic_tangent(widen(slot[2 * next]) + widen(product[e]));
    slot[2 * next] = to_real(candidate);
    bool keeps = is_kept(keep, n, units, t, e);
    h[(t + 1) * n + e] = to_real(keeps ? z * (before - candidate) + candidate : before);
  });
}

// d_candidate = dh (1 - z) (1 - candidate^2), which goes to the last columns of dz; d_z to the first
KERNEL gru_before_candidate_back(index n, int units, int t, int time, const bool* keep, const real* through,
                                 const real* direct, const real* dy, const real* gates, const real* h, real* dh,
                                 real* d_candidate, real* dz) {
  for_each(n, [=](index e) {
    const real* slot = gates + t * n + e;
    index next = time * n;
    wide z = widen(slot[0]), candidate = widen(slot[2 * next]), before = widen(h[t * n + e]);
    wide d = completed(n, units, t, time, keep, through, direct, dy, dh, e);
    real value = to_real(d * (1 - z) * (1 - candidate * candidate));
    bool keeps = is_kept(keep, n, units, t, e);
    dh[e] = to_real(d);
    d_candidate[e] = value;
    dz[place_in_dz(n, units, 3, t, e, 0)] = to_real(keeps ? d * (before - candidate) * z * (1 - z) : wide(0));
    dz[place_in_dz(n, units, 3, t, e, 2)] = keeps ? value : to_real(0);
  });
}

// d_reset_h: the gradient of r h, dropped;  d_r = d_reset_h h r (1 - r);  dh z + d_reset_h r passes by the product
KERNEL gru_before_reset_back(index n, int units, int t, int time, const bool* keep, const real* d_reset_h,
                             const real* dropout, const real* gates, const real* h, const real* dh, real* direct,
                             real* dz) {
  for_each(n, [=](index e) {
    const real* slot = gates + t * n + e;
    wide z = widen(slot[0]), r = widen(slot[time * n]);
    wide d_reset = widen(d_reset_h[e]) * (dropout ? widen(dropout[2 * n + e]) : wide(1));
    bool keeps = is_kept(keep, n, units, t, e);
    wide d_r = d_reset * widen(h[t * n + e]) * r * (1 - r);
    dz[place_in_dz(n, units, 3, t, e, 1)] = to_real(keeps ? d_r : wide(0));
    direct[e] = to_real(widen(dh[e]) * z + d_reset * r);
  });
}
