#include "kernels/permutation_eval.h"

#include "ops/head.h"

namespace shapley {
namespace {

Tensor permutation_eval(const Tensor& features, const Tensor& permutations, const Tensor& weight,
                        const OptionalTensor& bias, const Tensor& targets, const Tensor& sample_index,
                        std::string metric) {
  const Check check("permutation_eval", "features", features);
  Head head = make_head(check, features, weight, bias, WeightLayout::kColumnsFirst);
  set_targets(check, targets, metric, head);
  const HeadParams& p = head.params;
  check.require(features.is_cpu() || p.n_outputs <= kPermutationEvalMaxOutputs, "weight",
                "of at most " + std::to_string(kPermutationEvalMaxOutputs) + " rows on CUDA", text(weight));
  check.tensor("permutations", permutations, Kind::kInt32, {{"R"}, {"C", p.n_players}});
  const int64_t n_walks = permutations.size(0);
  check.tensor("sample_index", sample_index, Kind::kInt64, {{"R", n_walks}});
  const Tensor walks = torch::stable::contiguous(permutations);
  const Tensor samples = torch::stable::contiguous(sample_index);
  check.permutations("permutations", walks);
  check.index("sample_index", samples, p.n_samples);

  Tensor out = torch::stable::new_empty(head.features, {n_walks, p.n_players + 1});
  const PermutationEvalParams params{
      p,       walks.const_data_ptr<int32_t>(), samples.const_data_ptr<int64_t>(), nullptr, nullptr, 0,
      n_walks, out.mutable_data_ptr<float>()};
  run_walks(SHAPLEY_KERNEL(permutation_eval), out, params, samples, permutation_eval_scratch(p));
  return out;
}

}  // namespace

SHAPLEY_REGISTER(permutation_eval)

}  // namespace shapley
