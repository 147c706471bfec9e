// metric.h: what a row of network outputs is worth. Shared by every kernel that ends in a metric.
#pragma once

#include <cstdint>

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

}  // namespace shapley
