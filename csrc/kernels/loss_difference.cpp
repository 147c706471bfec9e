#include "loss_difference.h"

namespace shapley::SHAPLEY_ISA {

void loss_difference_cpu(const LossDifferenceParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t sample = p.sample_index ? p.sample_index[row] : row;
    const float value = row_metric(p.metric, p.outputs + row * p.n_outputs, p.n_outputs, p.targets, sample);
    p.out[row] = p.baseline ? value - p.baseline[sample] : value;
  }
}

}  // namespace shapley::SHAPLEY_ISA
