#include "ops/head.h"

namespace shapley {
namespace {

// The sizes of the arguments, or an error.
HeadParams check_sizes(const Check& check, const Tensor& features, const Tensor& weight) {
  const int64_t dims = features.dim();
  check.device("features", features);
  if (dims == 3) {
    check.tensor("features", features, Kind::kFloat, {{"N"}, {"C"}, {"S"}});
  } else if (dims == 2) {
    check.tensor("features", features, Kind::kFloat, {{"N"}, {"C"}});
  } else {
    check.require(false, "features", "float32, bfloat16 or float16 [N, C] or [N, C, S]", text(features));
  }
  HeadParams head{};
  head.n_samples = features.size(0);
  head.n_players = features.size(1);
  head.n_positions = dims == 3 ? features.size(2) : 1;
  check.require(head.n_players > 0, "features", "of at least one player", text(features));
  check.require(head.n_positions > 0, "features", "of at least one position", text(features));
  const int64_t columns = head.n_players * head.n_positions;
  check.tensor("weight", weight, Kind::kFloat, {{"K"}, {"columns"}});
  const bool mean = weight.size(1) == head.n_players;
  if (!mean && weight.size(1) != columns) {
    const std::string c = "[K, C = " + std::to_string(head.n_players) + "]";
    check.require(false, "weight", dims == 2 ? c : c + " or [K, C * S = " + std::to_string(columns) + "]",
                  text(weight));
  }
  head.n_outputs = weight.size(0);
  check.require(head.n_outputs > 0, "weight", "of at least one row", text(weight));
  return head;
}

// Features of a head that averages over positions: [N, C, S] to [N, C].
Tensor mean_positions(const Tensor& features) {
  const int64_t rows = features.size(0) * features.size(1), n_positions = features.size(2);
  Tensor means = torch::stable::new_empty(features, {features.size(0), features.size(1)});
  const MeanPositionsParams params{features.const_data_ptr<float>(), means.mutable_data_ptr<float>(), rows,
                                   n_positions};
  run(SHAPLEY_KERNEL(mean_positions), features, params, rows, n_positions);
  return means;
}

void pack(Head& head, const OptionalTensor& bias) {
  HeadParams& p = head.params;
  const int64_t columns = p.n_players * p.n_positions, outputs = round_up(p.n_outputs, kMaxLanes);
  Tensor panels = torch::stable::new_empty(head.weight, {outputs * columns});
  head.bias = torch::stable::new_empty(head.weight, {outputs});
  const PackHeadParams params{head.weight.const_data_ptr<float>(),
                              data_or_null<float>(bias),
                              panels.mutable_data_ptr<float>(),
                              head.bias.mutable_data_ptr<float>(),
                              p.n_outputs,
                              columns};
  parallel(columns, outputs, [&](int64_t begin, int64_t end) { pack_head_cpu(params, begin, end); });
  head.weight = panels;
  p.bias = head.bias.const_data_ptr<float>();
}

}  // namespace

Head make_head(const Check& check, const Tensor& features, const Tensor& weight, const OptionalTensor& bias,
               WeightLayout layout) {
  Head head{check_sizes(check, features, weight), as_float32(features), as_float32(weight), {}, {}};
  HeadParams& p = head.params;
  check.tensor("bias", bias, Kind::kFloat, {{"K", p.n_outputs}});
  if (p.n_positions > 1 && weight.size(1) == p.n_players) {
    head.features = mean_positions(head.features);
    p.n_positions = 1;
  }
  const OptionalTensor bias32 = bias ? OptionalTensor(as_float32(*bias)) : std::nullopt;
  if (head.features.is_cpu()) {
    pack(head, bias32);
  } else {
    if (bias32) head.bias = *bias32;
    p.bias = data_or_null<float>(bias32);
    if (layout == WeightLayout::kColumnsFirst) {
      head.weight = torch::stable::contiguous(torch::stable::transpose(head.weight, 0, 1));
    }
  }
  p.features = head.features.const_data_ptr<float>();
  p.weight = head.weight.const_data_ptr<float>();
  return head;
}

void set_targets(const Check& check, const Tensor& targets, const std::string& metric, Head& head) {
  HeadParams& p = head.params;
  p.metric = check.metric(metric);
  head.targets = check.targets(targets, p.metric, p.n_samples, p.n_outputs);
  p.targets = view_targets(head.targets);
}

std::vector<int64_t> order_by_sample(const Tensor& sample_index, int64_t n_samples) {
  const int64_t* samples = sample_index.const_data_ptr<int64_t>();
  const int64_t n = sample_index.numel();
  std::vector<int64_t> next(n_samples + 1, 0), order(n);
  for (int64_t i = 0; i < n; ++i) ++next[samples[i] + 1];
  for (int64_t sample = 0; sample < n_samples; ++sample) next[sample + 1] += next[sample];
  for (int64_t i = 0; i < n; ++i) order[next[samples[i]]++] = i;
  return order;
}

Tensor new_scratch(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {std::max<int64_t>(1, bytes)}, ScalarType::Byte);
}

}  // namespace shapley
