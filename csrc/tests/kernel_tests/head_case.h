// head_case.h: linear heads for the ops that evaluate them, their outputs in float64, and their buffers.
#pragma once

#include <memory>

#include "guarded.h"
#include "kernels/head.h"
#include "metric_reference.h"
#include "numbers.h"

namespace shapley::tests {

// Outputs [K] and how far float32 may be from them.
struct Outputs {
  std::vector<double> z, error;

  double greatest_error() const {
    double greatest = 0.0;
    for (double e : error) greatest = std::fmax(greatest, e);
    return greatest;
  }
};

// Exact data (multiples of 1/8) has the same outputs in any order of summation, and many ties; accuracy needs it.
struct HeadCase {
  int64_t n_samples, n_players, n_positions, n_outputs;
  Metric metric;
  bool exact;
  std::vector<float> features;       // [N, C, S]
  std::vector<float> weight;         // [K, C * S]
  std::vector<float> bias;           // [K] or empty
  std::vector<int64_t> classes;      // [N] or empty
  std::vector<float> target_values;  // [N, K] or empty

  HeadCase(int64_t samples, int64_t players, int64_t positions, int64_t outputs, Metric which, bool exact_data,
           uint64_t seed);

  // What player c adds to the outputs of a sample, and the sum of its terms' magnitudes as the error.
  Outputs contribution(int64_t sample, int64_t player) const;
  Outputs empty_coalition() const;
  // Adds a contribution. What was not added leaves no trace, NaN included.
  static void add(Outputs& to, const Outputs& contribution);
  // The rounding error of the magnitudes collected by add: none for exact data.
  Outputs rounded(const Outputs& sums) const;
  Expected value(const Outputs& sums, int64_t sample) const;
  std::string name() const;
};

// The case in memory, in the form that a machine's kernels read.
class HeadBuffers {
 public:
  // CUDA kernels take the weight as [C * S, K] where `transposed`, else as [K, C * S].
  HeadBuffers(const HeadCase& head, const Machine& machine, bool transposed);
  HeadParams params;

 private:
  Guarded<float> features_, weight_, bias_, target_values_;
  Guarded<int64_t> classes_;
};

// 0 .. n-1 ordered by sample, as the CPU kernels get their tasks.
std::vector<int64_t> order_by_sample(const std::vector<int64_t>& sample_index);

}  // namespace shapley::tests
