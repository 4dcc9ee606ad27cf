// Cross entropies and squared errors. Formulas and letters as in loss.py.
//
// dy is one number for each row, or a single one: dy_step is 1 or 0.

#include "common.cuh"
#include "labels.cuh"
#include "rows.cuh"

// --- Integer classes: a row for a warp or a block ----------------------------------------------------------------

// largest <- max x, total <- sum of exp(x - largest) over the row
// y <- log total - (x[label] - largest), 0 where the label is no class
KERNEL sparse_crossentropy_of_logits(index rows, index columns, const real* x, const int8* label, int kind, wide* y,
                                     wide* largest, wide* total) {
  index row = row_of_threads();  // all threads of a block meet, those beyond the last row too
  Exponentials e = exponentials_of_row(row < rows ? columns : 0, row_of(x, row, columns));
  if (threadIdx.x != 0 || row >= rows) return;
  largest[row] = e.largest;
  total[row] = e.sum;
  Label l = label_of(label, kind, row, columns);
  y[row] = l.is_class ? logarithm(e.sum) - (widen(x[l.place]) - e.largest) : wide(0);
}

// dx <- scale dy (exp(x - largest) / total - 1[label]), 0 for the rows whose label is no class
KERNEL sparse_crossentropy_of_logits_backward(index rows, index columns, const real* x, const wide* largest,
                                              const wide* total, const int8* label, int kind, const wide* dy,
                                              int dy_step, wide scale, real* dx) {
  index row = row_of_threads();
  if (row >= rows) return;
  Label l = label_of(label, kind, row, columns);
  wide most = largest[row], d = l.is_class ? dy[row * dy_step] * scale : wide(0), share = d / total[row];
  wide chosen = threadIdx.x == 0 ? widen(x[l.place]) : wide(0);
  auto gradient = [=](wide v, wide& out) { out = exponential_to_real(v - most) * share; };
  map_row(columns, gradient, row_of(dx, row, columns), row_of(x, row, columns));
  gradient(chosen, chosen);
  meet_in_row();
  if (threadIdx.x == 0) dx[l.place] = to_real(chosen - d);
}

// total <- sum of x over the row, p <- x[label] / total, clipped <- p within [epsilon, 1 - epsilon]
// y <- -log clipped, 0 where the label is no class
DEVICE wide put_sparse_crossentropy(index row, index columns, wide sum, const real* x, const int8* label, int kind,
                                    wide epsilon, wide rest, wide* total, wide* p, wide* clipped) {
  Label l = label_of(label, kind, row, columns);
  wide chosen = widen(x[l.place]) / sum, c = minimum(maximum(chosen, epsilon), rest);
  total[row] = sum;
  p[row] = chosen;
  clipped[row] = c;
  return l.is_class ? -logarithm(c) : wide(0);
}

KERNEL sparse_crossentropy(index rows, index columns, const real* x, const int8* label, int kind, wide epsilon,
                           wide rest, wide* y, wide* total, wide* p, wide* clipped) {
  index row = row_of_threads();  // all threads of a block meet, those beyond the last row too
  wide sum = sum_of_row(row < rows ? columns : 0, row_of(x, row, columns));
  if (threadIdx.x != 0 || row >= rows) return;
  y[row] = put_sparse_crossentropy(row, columns, sum, x, label, kind, epsilon, rest, total, p, clipped);
}

// The same, and mean <- factor sum of y, for few and short rows: one block, a thread for a row
KERNEL mean_sparse_crossentropy(index rows, index columns, const real* x, const int8* label, int kind, wide epsilon,
                                wide rest, wide factor, wide* mean, wide* total, wide* p, wide* clipped) {
  wide losses = 0;
  for (index row = threadIdx.x; row < rows; row += THREADS) {
    wide sum = 0;
    for (index column = 0; column < columns; ++column) sum += widen(x[row * columns + column]);
    losses += put_sparse_crossentropy(row, columns, sum, x, label, kind, epsilon, rest, total, p, clipped);
  }
  losses = over_row<Sum>(losses);
  if (threadIdx.x == 0) *mean = factor * losses;
}

// dx <- scale dy (1 - 1[label] / p) / total;  0 where p was clipped or the label is no class
KERNEL sparse_crossentropy_backward(index rows, index columns, const wide* total, const wide* p, const wide* clipped,
                                    const int8* label, int kind, const wide* dy, int dy_step, wide scale, real* dx) {
  index row = row_of_threads();
  if (row >= rows) return;
  Label l = label_of(label, kind, row, columns);
  bool counts = l.is_class && p[row] == clipped[row];
  wide share = counts ? dy[row * dy_step] * scale / total[row] : wide(0);
  in_row(columns, [=](wide& out) { out = share; }, writes(row_of(dx, row, columns)));
  meet_in_row();
  if (threadIdx.x == 0) dx[l.place] = to_real(share - share / clipped[row]);
}

// dx <- d (x / total - 1[label]), d = scale dy, or 0 where p was clipped or the label is no class: the gradient of what
// became x by a softmax, for which the sum of x and its gradient is 0
KERNEL sparse_crossentropy_of_softmax_backward(index rows, index columns, const real* x, const wide* total,
                                               const wide* p, const wide* clipped, const int8* label, int kind,
                                               const wide* dy, int dy_step, wide scale, real* dx) {
  index row = row_of_threads();
  if (row >= rows) return;
  Label l = label_of(label, kind, row, columns);
  bool counts = l.is_class && p[row] == clipped[row];
  wide d = counts ? dy[row * dy_step] * scale : wide(0), share = d / total[row];
  wide chosen = threadIdx.x == 0 ? widen(x[l.place]) * share - d : wide(0);
  map_row(columns, [=](wide v, wide& out) { out = v * share; }, row_of(dx, row, columns), row_of(x, row, columns));
  meet_in_row();
  if (threadIdx.x == 0) dx[l.place] = to_real(chosen);
}

// --- Distributions over classes ----------------------------------------------------------------------------------

// The same beside weights t: the sums of t and of t (v - largest).
struct WeightedExponentials : Exponentials {
  wide weight = 0, chosen = 0;

  DEVICE void raise(wide v) {
    wide before = shift();
    Exponentials::raise(v);
    chosen -= weight * (shift() - before);
  }
  DEVICE void add(wide v, wide t) {
    Exponentials::add(v);
    weight += t;
    chosen += t * (v - shift());
  }
  DEVICE void join_row() {
    wide own = shift(), sums[2] = {weight, 0};
    Exponentials::join_row();
    sums[1] = chosen - weight * (largest - own);
    all_over_row<Sum>(sums);
    weight = sums[0];
    chosen = sums[1];
  }
};

// largest <- max x;  total and share <- sums of exp(x - largest) and of target over the row
// y <- share log total - sum of target (x - largest)
KERNEL crossentropy_of_logits(index rows, index columns, const real* x, const real* target, wide* y, wide* largest,
                              wide* total, wide* share) {
  index row = row_of_threads(), n = row < rows ? columns : 0;  // all threads of a block meet
  x = row_of(x, row, columns);
  target = row_of(target, row, columns);
  WeightedExponentials e;
  auto add = [&](wide v, wide t) {
    e.raise(v);
    e.add(v, t);
  };
  if (!begin_alike(x, target)) {
    in_row(n, add, reads(x), reads(target));
  } else {
    Pieces pieces(x, n);
    if (pieces.single >= 0) add(widen(x[pieces.single]), widen(target[pieces.single]));
    in_packs<BATCH / 2>(x, pieces, [&](Held<BATCH / 2>& held, index first) {
      Held<BATCH / 2> weights;
      weights.count = held.count;
      load_packs(weights, target + first);
      wide most = e.largest;
      in_held_row(held, [&](wide v) { most = maximum(most, v); });
      e.raise(most);
      in_held_row(held, [&](wide v, wide t) { e.add(v, t); }, weights);
    });
  }
  e.join_row();
  if (threadIdx.x != 0 || row >= rows) return;
  largest[row] = e.largest;
  total[row] = e.sum;
  share[row] = e.weight;
  y[row] = logarithm(e.sum) * e.weight - e.chosen;
}

// dx <- dy (exp(x - largest) share / total - target)
KERNEL crossentropy_of_logits_backward(index rows, index columns, const real* x, const wide* largest, const wide* total,
                                       const wide* share, const real* target, const wide* dy, int dy_step, real* dx) {
  index row = row_of_threads();
  if (row >= rows) return;
  wide most = largest[row], d = dy[row * dy_step], factor = share[row] * d / total[row];
  auto gradient = [=](wide v, wide t, wide& out) { out = exponential_to_real(v - most) * factor - t * d; };
  map_row(columns, gradient, row_of(dx, row, columns), row_of(x, row, columns), row_of(target, row, columns));
}

// --- Yes or no, and numbers: partial sums of blocks --------------------------------------------------------------

// log x of 0 < x <= 1 to as many digits as `real` holds where it is not tiny.
DEVICE wide logarithm_to_real(wide x) { return sizeof(real) == 2 ? wide(__logf(float(x))) : logarithm(x); }

// p <- x within [epsilon, 1 - epsilon];  both <- p and 1 - p
// part[block] <- -sum of target log p + (1 - target) log(1 - p)
KERNEL binary_crossentropy(index n, const real* x, const real* target, wide epsilon, wide rest, real* both,
                           wide* part) {
  wide sum = 0;
  elementwise(n, [&](wide v, wide t, wide& p, wide& not_p) {
    p = minimum(maximum(v, epsilon), rest);
    not_p = 1 - p;
    sum -= t * logarithm_to_real(p) + (1 - t) * logarithm_to_real(not_p);
  }, reads(x), reads(target), writes(both), writes(both + n));
  sum = over_row<Sum>(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

// dx <- dy (p - target) / (p (1 - p)), 0 where p was clipped
KERNEL binary_crossentropy_backward(index n, const real* x, const real* target, const real* both, const wide* dy,
                                    real* dx) {
  wide d = *dy;
  elementwise(n, [=](wide v, wide t, wide p, wide not_p, wide& out) {
    out = (p == v ? quotient(p - t, p * not_p) : wide(0)) * d;
  }, reads(x), reads(target), reads(both), reads(both + n), writes(dx));
}

// error <- prediction - target;  part[block] <- sum of error^2
KERNEL squared_error(index n, const real* prediction, const real* target, real* error, wide* part) {
  wide sum = 0;
  elementwise(n, [&](wide p, wide t, wide& out) {
    out = p - t;
    sum += out * out;
  }, reads(prediction), reads(target), writes(error));
  sum = over_row<Sum>(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}
