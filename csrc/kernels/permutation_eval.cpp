#include "permutation_eval.h"

#include "contributions.h"
#include "row_metric.h"
#include "walk.h"

namespace shapley {
namespace SHAPLEY_ISA {
namespace {

template <Metric metric, bool has_table>
void evaluate_walk(const HeadParams& head, const Walk& walk, const float* panels, RowTarget target, float* state,
                   float* out) {
  const int64_t n_players = head.n_players, n_outputs = head.n_outputs, n_rows = n_players + 1;
  const int64_t n_panels = (n_outputs + kLanes - 1) / kLanes;
  for (int64_t panel = 0; panel < n_panels; ++panel) {
    const int64_t first_output = panel * kLanes;
    const int64_t count = n_outputs - first_output < kLanes ? n_outputs - first_output : kLanes;
    const float* columns = panels + panel * n_players * kLanes;
    VecF outputs = load(head.bias + first_output);
    for (int64_t row = 0; row < n_rows; row += kLanes) {
      VecF square[kLanes];
      accumulate_rows<has_table>(walk, columns, row, outputs, square);
      transpose(square);
      RowMetric rows = panel == 0 ? begin_metric() : load_metric(state + 3 * row);
      add_columns<metric>(rows, square, count, first_output, target);
      if (panel + 1 < n_panels) {
        store_metric(state + 3 * row, rows);
      } else {
        store_part(out + row, finish_metric<metric>(rows, n_outputs, target), n_rows - row);
      }
    }
  }
}

template <Metric metric>
void evaluate_walks(const PermutationEvalParams& params, int64_t begin, int64_t end) {
  const HeadParams& head = params.head;
  const int64_t n_players = head.n_players;
  float* table = params.scratch + 3 * round_up(n_players + 1, kMaxLanes);
  int64_t table_sample = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t r = params.order ? params.order[task] : task;
    const int64_t sample = params.sample_index[r];
    const Walk walk = {params.permutations + r * n_players, head.features + sample * n_players, n_players};
    const RowTarget target = row_target(head, sample);
    float* out = params.out + r * (n_players + 1);
    if (head.n_positions == 1) {
      evaluate_walk<metric, false>(head, walk, head.weight, target, params.scratch, out);
      continue;
    }
    if (sample != table_sample) sample_contributions(head, sample, nullptr, table);
    table_sample = sample;
    evaluate_walk<metric, true>(head, walk, table, target, params.scratch, out);
  }
}

}  // namespace

void permutation_eval_cpu(const PermutationEvalParams& params, int64_t begin, int64_t end) {
  switch (params.head.metric) {
    case Metric::kCrossEntropy: return evaluate_walks<Metric::kCrossEntropy>(params, begin, end);
    case Metric::kAccuracy: return evaluate_walks<Metric::kAccuracy>(params, begin, end);
    default: return evaluate_walks<Metric::kSquaredError>(params, begin, end);
  }
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
