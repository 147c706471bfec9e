#include "permutation_linear.h"

#include "activation_simd.h"
#include "contributions.h"
#include "walk.h"

namespace shapley {
namespace SHAPLEY_ISA {
namespace {

template <bool has_table, class Function>
void write_walk(const HeadParams& head, const Walk& walk, const float* panels, const float* residual, float* state,
                float* out, const Function& function) {
  const int64_t n_players = head.n_players, n_outputs = head.n_outputs, n_rows = n_players + 1;
  const int64_t n_panels = (n_outputs + kLanes - 1) / kLanes, size = n_rows * n_outputs;
  for (int64_t k = 0; k < n_panels * kLanes; ++k) state[k] = head.bias[k];
  for (int64_t k = 0; residual && k < n_outputs; ++k) state[k] += residual[k];
  for (int64_t row = 0; row < n_rows; row += kLanes) {
    const int64_t end = n_rows - row < kLanes ? n_rows : row + kLanes;
    // Whole vectors are stored. What the last panel's padding spoils is the start of the next row, so it goes first.
    for (int64_t panel = n_panels - 1; panel >= 0; --panel) {
      VecF outputs = load(state + panel * kLanes), rows[kLanes];
      accumulate_rows<has_table>(walk, panels + panel * n_players * kLanes, row, outputs, rows);
      store(state + panel * kLanes, outputs);
      for (int64_t j = row; j < end; ++j) {
        const int64_t at = j * n_outputs + panel * kLanes;
        store_part(out + at, function(rows[j - row]), size - at);
      }
    }
  }
}

}  // namespace

void permutation_linear_cpu(const PermutationLinearParams& params, int64_t begin, int64_t end) {
  const HeadParams& head = params.head;
  const int64_t n_players = head.n_players;
  float* table = params.scratch + round_up(head.n_outputs, kMaxLanes);
  int64_t table_sample = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t r = params.order ? params.order[task] : task;
    const int64_t sample = params.sample_index[r];
    const Walk walk = {params.permutations + r * n_players, head.features + sample * n_players, n_players};
    const float* residual = params.residual ? params.residual + sample * head.n_outputs : nullptr;
    float* out = params.out + r * (n_players + 1) * head.n_outputs;
    const bool has_table = head.n_positions > 1;
    if (has_table && sample != table_sample) sample_contributions(head, sample, nullptr, table);
    table_sample = sample;
    with_activation(params.activation, params.negative_slope, [&](const auto& function) {
      if (has_table) return write_walk<true>(head, walk, table, residual, params.scratch, out, function);
      write_walk<false>(head, walk, head.weight, residual, params.scratch, out, function);
    });
  }
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
