#include "head_case.h"

#include <algorithm>
#include <numeric>

namespace shapley::tests {
namespace {

CPU_KERNELS(kPackHead, PackHeadParams, pack_head_cpu);

// Room for what pack_head writes, or for CUDA's weight and bias.
int64_t padded_outputs(const HeadCase& head, const Machine& machine) {
  return machine.cuda() ? head.n_outputs : round_up(head.n_outputs, kMaxLanes);
}

}  // namespace

HeadCase::HeadCase(int64_t samples, int64_t players, int64_t positions, int64_t outputs, Metric which, bool exact_data,
                   uint64_t seed)
    : n_samples(samples),
      n_players(players),
      n_positions(positions),
      n_outputs(outputs),
      metric(which),
      exact(exact_data || which == Metric::kAccuracy) {
  Numbers numbers(seed);
  const auto draw = [&](int64_t n) { return exact ? numbers.exact(n) : numbers.normals(n); };
  features = draw(n_samples * n_players * n_positions);
  weight = draw(n_outputs * n_players * n_positions);
  if (seed % 3 > 0) bias = draw(n_outputs);
  if (metric == Metric::kSquaredError) {
    target_values = draw(n_samples * n_outputs);
  } else {
    classes = numbers.indices(n_samples, n_outputs);
  }
}

Outputs HeadCase::contribution(int64_t sample, int64_t player) const {
  Outputs sums{std::vector<double>(n_outputs, 0.0), std::vector<double>(n_outputs, 0.0)};
  const float* f = features.data() + (sample * n_players + player) * n_positions;
  for (int64_t k = 0; k < n_outputs; ++k) {
    const float* w = weight.data() + (k * n_players + player) * n_positions;
    for (int64_t s = 0; s < n_positions; ++s) {
      const double term = static_cast<double>(f[s]) * static_cast<double>(w[s]);
      sums.z[k] += term;
      sums.error[k] += std::fabs(term);
    }
  }
  return sums;
}

Outputs HeadCase::empty_coalition() const {
  Outputs sums{std::vector<double>(n_outputs, 0.0), std::vector<double>(n_outputs, 0.0)};
  for (int64_t k = 0; k < n_outputs && !bias.empty(); ++k) {
    sums.z[k] = bias[k];
    sums.error[k] = std::fabs(bias[k]);
  }
  return sums;
}

void HeadCase::add(Outputs& to, const Outputs& contribution) {
  for (size_t k = 0; k < to.z.size(); ++k) {
    to.z[k] += contribution.z[k];
    to.error[k] += contribution.error[k];
  }
}

Outputs HeadCase::rounded(const Outputs& sums) const {
  Outputs result = sums;
  for (double& error : result.error) error = exact ? 0.0 : 4.0 * kEpsilon * error;
  return result;
}

Expected HeadCase::value(const Outputs& sums, int64_t sample) const {
  const Outputs outputs = rounded(sums);
  return metric_reference(metric, outputs.z, outputs.greatest_error(), classes.empty() ? 0 : classes[sample],
                          target_values.data() + (target_values.empty() ? 0 : sample * n_outputs));
}

std::string HeadCase::name() const {
  return std::string(metric_name(metric)) + (exact ? " exact" : "") + " N=" + std::to_string(n_samples) +
         " C=" + std::to_string(n_players) + " S=" + std::to_string(n_positions) + " K=" + std::to_string(n_outputs) +
         (bias.empty() ? " no bias" : "");
}

HeadBuffers::HeadBuffers(const HeadCase& head, const Machine& machine, bool transposed)
    : features_(head.features, machine.cuda() ? 1 : 0),
      weight_(padded_outputs(head, machine) * head.n_players * head.n_positions),
      bias_(padded_outputs(head, machine)),
      target_values_(head.target_values, 1),
      classes_(head.classes) {
  const int64_t columns = head.n_players * head.n_positions;
  if (!machine.cuda()) {
    Guarded<float> weight(head.weight), bias(head.bias);
    const PackHeadParams pack{weight.data(),  head.bias.empty() ? nullptr : bias.data(),
                              weight_.data(), bias_.data(),
                              head.n_outputs, columns};
    machine.run_tasks(kPackHead, pack, columns);
  } else {
    for (int64_t k = 0; k < head.n_outputs; ++k) {
      for (int64_t i = 0; i < columns; ++i) {
        weight_.data()[transposed ? i * head.n_outputs + k : k * columns + i] = head.weight[k * columns + i];
      }
      if (!head.bias.empty()) bias_.data()[k] = head.bias[k];
    }
  }
  CHECK(weight_.intact() && bias_.intact(), "%s: pack_head wrote beside its output", head.name().c_str());
  params.features = features_.data();
  params.weight = weight_.data();
  params.bias = machine.cuda() && head.bias.empty() ? nullptr : bias_.data();
  params.targets.classes = head.classes.empty() ? nullptr : classes_.data();
  params.targets.values = head.target_values.empty() ? nullptr : target_values_.data();
  params.n_samples = head.n_samples;
  params.n_players = head.n_players;
  params.n_positions = head.n_positions;
  params.n_outputs = head.n_outputs;
  params.metric = head.metric;
}

std::vector<int64_t> order_by_sample(const std::vector<int64_t>& sample_index) {
  std::vector<int64_t> order(sample_index.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return sample_index[a] < sample_index[b]; });
  return order;
}

}  // namespace shapley::tests
