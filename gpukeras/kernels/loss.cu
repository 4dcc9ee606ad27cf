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
  map_row(columns, row_of(x, row, columns), row_of(dx, row, columns), gradient);
  gradient(chosen, chosen);
  meet_in_row();
  if (threadIdx.x == 0) dx[l.place] = to_real(chosen - d);
}

// total <- sum of x over the row, p <- x[label] / total, clipped <- p within [epsilon, 1 - epsilon]
// y <- -log clipped, 0 where the label is no class
KERNEL sparse_crossentropy(index rows, index columns, const real* x, const int8* label, int kind, wide epsilon,
                           wide rest, wide* y, wide* total, wide* p, wide* clipped) {
  index row = row_of_threads();  // all threads of a block meet, those beyond the last row too
  wide sum = sum_of_row(row < rows ? columns : 0, row_of(x, row, columns));
  if (threadIdx.x != 0 || row >= rows) return;
  Label l = label_of(label, kind, row, columns);
  wide chosen = widen(x[l.place]) / sum, c = minimum(maximum(chosen, epsilon), rest);
  total[row] = sum;
  p[row] = chosen;
  clipped[row] = c;
  y[row] = l.is_class ? -logarithm(c) : wide(0);
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

// --- Distributions over classes ----------------------------------------------------------------------------------

// y <- sum of target (log sum exp x - x);  e <- exp(x - max x), total and share <- sums of e and target over the row
KERNEL crossentropy_of_logits(index rows, index columns, const real* x, const real* target, real* y, real* e,
                              real* total, real* share) {
  index row = row_of_threads();
  if (row >= rows) return;
  wide largest = row_maximum(columns, row_of(x, row, columns)), sum = 0, weight = 0, chosen = 0;
  in_row(columns, [&](wide v, wide t, wide& out) {
    weight += t;
    chosen += t * (v - largest);
    out = exponential(v - largest);
    sum += out;
  }, reads(row_of(x, row, columns)), reads(row_of(target, row, columns)), writes(row_of(e, row, columns)));
  sum = over_row<Sum>(sum);
  weight = over_row<Sum>(weight);
  chosen = over_row<Sum>(chosen);
  if (threadIdx.x != 0) return;
  total[row] = to_real(sum);
  share[row] = to_real(weight);
  y[row] = to_real(logarithm(sum) * weight - chosen);
}

// dx <- dy (e share / total - target)
KERNEL crossentropy_of_logits_backward(index rows, index columns, const real* e, const real* total, const real* share,
                                       const real* target, const real* dy, int dy_step, real* dx) {
  index row = row_of_threads();
  if (row >= rows) return;
  wide d = widen(dy[row * dy_step]), factor = widen(share[row]) * d / widen(total[row]);
  in_row(columns, [=](wide v, wide t, wide& out) { out = v * factor - t * d; }, reads(row_of(e, row, columns)),
         reads(row_of(target, row, columns)), writes(row_of(dx, row, columns)));
}

// --- Yes or no, and numbers: partial sums of blocks --------------------------------------------------------------

// p <- x within [epsilon, 1 - epsilon];  both <- p and 1 - p
// part[block] <- -sum of target log p + (1 - target) log(1 - p)
KERNEL binary_crossentropy(index n, const real* x, const real* target, wide epsilon, wide rest, real* both,
                           wide* part) {
  wide sum = 0;
  elementwise(n, [&](wide v, wide t, wide& p, wide& not_p) {
    p = minimum(maximum(v, epsilon), rest);
    not_p = 1 - p;
    sum -= t * logarithm(p) + (1 - t) * logarithm(not_p);
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
