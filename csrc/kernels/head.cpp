#include "head.h"

#include "simd.h"

namespace shapley {
namespace SHAPLEY_ISA {

void pack_head_cpu(const PackHeadParams& params, int64_t begin, int64_t end) {
  const int64_t n_panels = (params.n_outputs + kLanes - 1) / kLanes;
  for (int64_t panel = 0; panel < n_panels; ++panel) {
    float* to = params.panels + panel * params.columns * kLanes;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t k = panel * kLanes + lane;
      const float* row = k < params.n_outputs ? params.weight + k * params.columns : nullptr;
      for (int64_t column = begin; column < end; ++column) to[column * kLanes + lane] = row ? row[column] : 0.0f;
    }
  }
  if (begin > 0) return;
  for (int64_t k = 0; k < n_panels * kLanes; ++k) {
    params.bias_panels[k] = params.bias && k < params.n_outputs ? params.bias[k] : 0.0f;
  }
}

void mean_positions_cpu(const MeanPositionsParams& params, int64_t begin, int64_t end) {
  const int64_t n_positions = params.n_positions;
  for (int64_t row = begin; row < end; ++row) {
    const float* values = params.values + row * n_positions;
    double sum = 0.0;
    for (int64_t s = 0; s < n_positions; ++s) sum += values[s];
    params.means[row] = static_cast<float>(sum / static_cast<double>(n_positions));
  }
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
