// metric.h: what a row of network outputs is worth. Shared by every kernel that ends in a metric.
//
// CPU: row_metric() below. It keeps kMetricLanes partial sums, lane l of which takes the outputs l, l + kMetricLanes,
// ..., and adds them pairwise: the order depends on n_outputs alone, not on the instruction set or on addresses.
// CUDA: one warp does the same with 32 lanes (loss_difference.cu).
#pragma once

#include <cstdint>

#include "isa.h"

namespace shapley {

// All metrics are per row; lower is better except for accuracy. A row with a NaN output gives NaN.
enum class Metric : int {
  kCrossEntropy = 0,  // log(sum_k exp(z_k)) - z_target, natural logarithm
  kAccuracy = 1,      // 1 if target is the first index of the greatest output, else 0
  kSquaredError = 2,  // mean over k of (z_k - t_k)^2
};

// What the rows should have given: class numbers, or values for the squared error; the other is null.
struct Targets {
  const int64_t* classes = nullptr;  // [N]
  const float* values = nullptr;     // [N, K]
};

#ifndef __CUDACC__
namespace SHAPLEY_ISA {

constexpr int kMetricLanes = 16;

// exp(x) for x <= 0 (or NaN) within 2 ulp; at least 1e-38. Written for loops that the compiler turns into vectors.
// Cody and Waite's reduction, polynomial of Cephes' expf.
static inline float exp_nonpositive(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float shifted = SHAPLEY_FMA(x, 1.44269504088896341f, 12582912.0f);  // 1.5 * 2^23: rounds x / ln 2
  const float n = shifted - 12582912.0f;
  float r = SHAPLEY_FMA(n, -0.693359375f, x);
  r = SHAPLEY_FMA(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = SHAPLEY_FMA(p, r, 1.3981999507e-3f);
  p = SHAPLEY_FMA(p, r, 8.3334519073e-3f);
  p = SHAPLEY_FMA(p, r, 4.1665795894e-2f);
  p = SHAPLEY_FMA(p, r, 1.6666665459e-1f);
  p = SHAPLEY_FMA(p, r, 5.0000001201e-1f);
  p = SHAPLEY_FMA(p, r * r, r) + 1.0f;
  uint32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127u) << 23;  // 2^n
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof(scale));
  return p * scale;
}

static inline float sum_lanes(float* lanes) {
  for (int width = kMetricLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

// Calls body(lane values, first index) for n values, kMetricLanes at a time, the last group filled up with `fill`.
template <class Body>
static inline void for_lane_groups(const float* values, int64_t n, float fill, const Body& body) {
  int64_t k = 0;
  for (; k + kMetricLanes <= n; k += kMetricLanes) body(values + k, k);
  if (k == n) return;
  float rest[kMetricLanes];
  for (int l = 0; l < kMetricLanes; ++l) rest[l] = k + l < n ? values[k + l] : fill;
  body(rest, k);
}

static inline float cross_entropy(const float* z, int64_t n, int64_t target) {
  const float lowest = -__builtin_inff();
  float top[kMetricLanes];
  for (int l = 0; l < kMetricLanes; ++l) top[l] = lowest;
  for_lane_groups(z, n, lowest, [&](const float* group, int64_t) {
#pragma omp simd
    for (int l = 0; l < kMetricLanes; ++l) top[l] = group[l] > top[l] ? group[l] : top[l];
  });
  float greatest = lowest;
  for (int l = 0; l < kMetricLanes; ++l) greatest = top[l] > greatest ? top[l] : greatest;
  float sums[kMetricLanes] = {};
  for_lane_groups(z, n, lowest, [&](const float* group, int64_t) {
#pragma omp simd
    for (int l = 0; l < kMetricLanes; ++l) sums[l] += exp_nonpositive(group[l] - greatest);
  });
  return __builtin_logf(sum_lanes(sums)) + (greatest - z[target]);
}

static inline float accuracy(const float* z, int64_t n, int64_t target) {
  const float chosen = z[target];
  bool beaten = false;
  bool nan = false;
  for (int64_t k = 0; k < n; ++k) {
    beaten |= k < target ? z[k] >= chosen : z[k] > chosen;
    nan |= z[k] != z[k];
  }
  return nan ? __builtin_nanf("") : beaten ? 0.0f : 1.0f;
}

static inline float squared_error(const float* z, const float* target, int64_t n) {
  float sums[kMetricLanes] = {};
  int64_t k = 0;
  for (; k + kMetricLanes <= n; k += kMetricLanes) {
#pragma omp simd
    for (int l = 0; l < kMetricLanes; ++l) {
      const float d = z[k + l] - target[k + l];
      sums[l] = SHAPLEY_FMA(d, d, sums[l]);
    }
  }
  for (int l = 0; k + l < n; ++l) {
    const float d = z[k + l] - target[k + l];
    sums[l] = SHAPLEY_FMA(d, d, sums[l]);
  }
  return sum_lanes(sums) / static_cast<float>(n);
}

// The metric of one row of n outputs of the given sample.
static inline float row_metric(Metric metric, const float* z, int64_t n, const Targets& targets, int64_t sample) {
  switch (metric) {
    case Metric::kCrossEntropy: return cross_entropy(z, n, targets.classes[sample]);
    case Metric::kAccuracy: return accuracy(z, n, targets.classes[sample]);
    default: return squared_error(z, targets.values + sample * n, n);
  }
}

}  // namespace SHAPLEY_ISA
#endif

}  // namespace shapley
