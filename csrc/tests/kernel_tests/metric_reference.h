// metric_reference.h: the metrics in float64, written down from their definitions.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/metric.h"
#include "machines.h"

namespace shapley::tests {

constexpr double kEpsilon = 0x1p-23;  // float32's spacing at 1
constexpr Metric kMetrics[] = {Metric::kCrossEntropy, Metric::kAccuracy, Metric::kSquaredError};

inline const char* metric_name(Metric metric) {
  return metric == Metric::kCrossEntropy ? "cross_entropy" : metric == Metric::kAccuracy ? "accuracy" : "squared_error";
}

// The metric of outputs z [K], each known to within `error`, and how far float32 may be from it.
inline Expected metric_reference(Metric metric, const std::vector<double>& z, double error, int64_t target,
                                 const float* target_values) {
  const int64_t n = static_cast<int64_t>(z.size());
  for (double value : z) {
    if (std::isnan(value)) return {value, 0.0};
  }
  if (metric == Metric::kCrossEntropy) {
    double greatest = z[0], magnitude = 0.0, sum = 0.0;
    for (double value : z) greatest = std::fmax(greatest, value);
    for (double value : z) {
      sum += std::exp(value - greatest);
      if (std::isfinite(value)) magnitude = std::fmax(magnitude, std::fabs(value));
    }
    const double value = std::log(sum) + greatest - z[static_cast<size_t>(target)];
    // Sums of n exponentials, each of an argument rounded to float32.
    return {value, 2.0 * error + kEpsilon * (4.0 + 2.0 * magnitude + 0.1 * std::sqrt(static_cast<double>(n)))};
  }
  if (metric == Metric::kAccuracy) {
    int64_t first = 0;
    for (int64_t k = 1; k < n; ++k) {
      if (z[static_cast<size_t>(k)] > z[static_cast<size_t>(first)]) first = k;
    }
    return {first == target ? 1.0 : 0.0, 0.0};
  }
  double sum = 0.0, slope = 0.0;
  for (int64_t k = 0; k < n; ++k) {
    const double difference = z[static_cast<size_t>(k)] - static_cast<double>(target_values[k]);
    sum += difference * difference;
    slope += 2.0 * std::fabs(difference);
  }
  const double count = static_cast<double>(n);
  return {sum / count, slope / count * error + kEpsilon * (8.0 * sum / count + 1e-3)};
}

}  // namespace shapley::tests
