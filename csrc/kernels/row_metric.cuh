// row_metric.cuh: the metric of one row on the device, from its outputs a panel of columns after another. One thread
// keeps a row, or several keep parts of it that merge() brings together. The CPU's twin is row_metric.h.
#pragma once

#include "cuda_launch.h"
#include "head.h"

namespace shapley {
namespace {

struct RowMetric {
  float best = -INFINITY;  // the greatest output so far
  float sum = 0.0f;        // cross_entropy: of exp(z - best); squared_error: of squares
  float picked = 0.0f;     // cross_entropy: the target's output; accuracy: NaN once an output was NaN
  int64_t index = 0;       // accuracy: the first index of best
};

struct RowTarget {
  int64_t index;
  const float* values;
  bool valid;
};

__device__ __forceinline__ RowTarget row_target(const HeadParams& head, int64_t sample) {
  RowTarget target = {0, nullptr, sample >= 0 && sample < head.n_samples};
  if (!target.valid) return target;
  if (head.metric == Metric::kSquaredError) {
    target.values = head.targets.values + sample * head.n_outputs;
  } else {
    target.index = head.targets.classes[sample];
    target.valid = target.index >= 0 && target.index < head.n_outputs;
  }
  return target;
}

// exp(z - base) of an output or maximum z, where base is the greatest: 0 for the maximum of no outputs.
__device__ __forceinline__ float scaled_exp(float z, float greatest) {
  return expf(z - (greatest == -INFINITY ? 0.0f : greatest));
}

// outputs(i) is output first + i of the row, 0 <= i < count <= kColumns. Loops are unrolled: outputs may be registers.
template <int kColumns, class Outputs>
__device__ __forceinline__ void add_columns(Metric metric, RowMetric& row, const Outputs& outputs, int count,
                                            int64_t first, const RowTarget& target) {
  if (metric == Metric::kCrossEntropy) {
    float best = row.best;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) best = i < count ? fmaxf(best, outputs(i)) : best;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (i >= count) break;
      const float z = outputs(i);
      sum += scaled_exp(z, best);
      if (first + i == target.index) row.picked = z;
    }
    row.sum = fmaf(row.sum, scaled_exp(row.best, best), sum);
    row.best = best;
  } else if (metric == Metric::kAccuracy) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (i >= count) break;
      const float z = outputs(i);
      if (z > row.best) {
        row.best = z;
        row.index = first + i;
      }
      if (z != z) row.picked = z;
    }
  } else {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (i >= count) break;
      const float difference = outputs(i) - target.values[first + i];
      sum = fmaf(difference, difference, sum);
    }
    row.sum += sum;
  }
}

// Two parts of a row. Which is `row` and which `other` has to be fixed, for the same bits on every run.
__device__ __forceinline__ void merge(Metric metric, RowMetric& row, const RowMetric& other) {
  row.picked += other.picked;
  if (metric == Metric::kCrossEntropy) {
    const float best = fmaxf(row.best, other.best);
    row.sum = row.sum * scaled_exp(row.best, best) + other.sum * scaled_exp(other.best, best);
    row.best = best;
  } else if (metric == Metric::kAccuracy) {
    if (other.best > row.best || (other.best == row.best && other.index < row.index)) {
      row.best = other.best;
      row.index = other.index;
    }
  } else {
    row.sum += other.sum;
  }
}

__device__ __forceinline__ float finish_metric(Metric metric, const RowMetric& row, int64_t n_outputs,
                                               const RowTarget& target) {
  if (metric == Metric::kCrossEntropy) return logf(row.sum) - (row.picked - row.best);
  if (metric == Metric::kAccuracy) return (row.index == target.index ? 1.0f : 0.0f) + row.picked;
  return row.sum / static_cast<float>(n_outputs);
}

}  // namespace
}  // namespace shapley
