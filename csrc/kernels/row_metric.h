// row_metric.h: the metric of kLanes rows at a time, one row a lane, from their outputs given a panel of columns after
// another. Nothing is kept of a row but three numbers, so the number of outputs does not matter.
//
// cross_entropy follows the running maximum: at a new panel the sum so far is scaled by exp(old - new maximum).
// A panel is summed by itself, then added. Error against exact arithmetic on the same outputs: a few 1e-7 relative to
// max(1, |z|).
#pragma once

#include "head.h"
#include "simd.h"

namespace shapley {
namespace SHAPLEY_ISA {

constexpr float kInfinity = __builtin_inff();

// The target of the sample that all rows of a vector belong to.
struct RowTarget {
  int64_t index;        // for cross_entropy and accuracy
  const float* values;  // [K], for squared_error
};

static inline RowTarget row_target(const HeadParams& head, int64_t sample) {
  const Targets& targets = head.targets;
  return {targets.classes ? targets.classes[sample] : 0,
          targets.values ? targets.values + sample * head.n_outputs : nullptr};
}

struct RowMetric {
  VecF best;    // the greatest output so far
  VecF sum;     // cross_entropy: of exp(z - best); squared_error: of squares; accuracy: the first index of best, as int
  VecF picked;  // cross_entropy: the target's output; accuracy: NaN once an output was NaN, else 0
};

constexpr int64_t kStateFloats = 3 * kLanes;  // of a RowMetric that waits in memory for its next panel

static inline RowMetric load_metric(const float* from) {
  return {load(from), load(from + kLanes), load(from + 2 * kLanes)};
}
static inline void store_metric(float* to, const RowMetric& rows) {
  store(to, rows.best);
  store(to + kLanes, rows.sum);
  store(to + 2 * kLanes, rows.picked);
}

static inline RowMetric begin_metric() {
  return {splat(-kInfinity), splat(0.0f), splat(0.0f)};
}

// columns[i] holds output first + i of every row.
template <Metric metric>
static inline void add_columns(RowMetric& rows, const VecF* columns, int64_t count, int64_t first, RowTarget target) {
  if (metric == Metric::kCrossEntropy) {
    VecF best = rows.best;
    for (int64_t i = 0; i < count; ++i) best = greater(columns[i], best);
    const VecF base = best == splat(-kInfinity) ? splat(0.0f) : best;  // else -inf - -inf would make a NaN
    VecF sum = splat(0.0f);
    for (int64_t i = 0; i < count; ++i) sum += exp_nonpositive(columns[i] - base);
    rows.sum = first > 0 ? fma(rows.sum, exp_nonpositive(rows.best - base), sum) : sum;
    rows.best = best;
    if (target.index >= first && target.index < first + count) rows.picked = columns[target.index - first];
  } else if (metric == Metric::kAccuracy) {
    VecI index = as_int(rows.sum);
    for (int64_t i = 0; i < count; ++i) {
      const VecF z = columns[i];
      index = z > rows.best ? splat_int(static_cast<int32_t>(first + i)) : index;
      rows.best = greater(z, rows.best);
      rows.picked = z == z ? rows.picked : z;
    }
    rows.sum = as_float(index);
  } else {
    VecF sum = splat(0.0f);
    for (int64_t i = 0; i < count; ++i) {
      const VecF difference = columns[i] - splat(target.values[first + i]);
      sum = fma(difference, difference, sum);
    }
    rows.sum += sum;
  }
}

template <Metric metric>
static inline VecF finish_metric(const RowMetric& rows, int64_t n_outputs, RowTarget target) {
  if (metric == Metric::kCrossEntropy) return log_positive(rows.sum) - (rows.picked - rows.best);
  if (metric == Metric::kAccuracy) {
    const VecI right = as_int(rows.sum) == splat_int(static_cast<int32_t>(target.index));
    return (right ? splat(1.0f) : splat(0.0f)) + rows.picked;
  }
  return rows.sum / splat(static_cast<float>(n_outputs));
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
