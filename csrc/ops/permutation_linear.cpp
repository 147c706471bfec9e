#include "kernels/permutation_linear.h"

#include "ops/head.h"

namespace shapley {
namespace {

Tensor permutation_linear(const Tensor& features, const Tensor& permutations, const Tensor& weight,
                          const OptionalTensor& bias, const Tensor& sample_index, const OptionalTensor& residual,
                          std::string activation, double negative_slope) {
  const Check check("permutation_linear", "features", features);
  const Head head = make_head(check, features, weight, bias, WeightLayout::kColumnsFirst);
  const HeadParams& p = head.params;
  check.tensor("residual", residual, Kind::kFloat, {{"N", p.n_samples}, {"K", p.n_outputs}});
  const Activation function = check.activation(activation);
  check.tensor("permutations", permutations, Kind::kInt32, {{"R"}, {"C", p.n_players}});
  const int64_t n_walks = permutations.size(0);
  check.tensor("sample_index", sample_index, Kind::kInt64, {{"R", n_walks}});
  const Tensor walks = torch::stable::contiguous(permutations);
  const Tensor samples = torch::stable::contiguous(sample_index);
  check.permutations("permutations", walks);
  check.index("sample_index", samples, p.n_samples);

  const OptionalTensor added = residual ? OptionalTensor(as_float32(*residual)) : std::nullopt;
  Tensor out = torch::stable::new_empty(head.features, {n_walks, p.n_players + 1, p.n_outputs});
  PermutationLinearParams params{};
  params.head = p;
  params.residual = data_or_null<float>(added);
  params.permutations = walks.const_data_ptr<int32_t>();
  params.sample_index = samples.const_data_ptr<int64_t>();
  params.n_walks = n_walks;
  params.out = out.mutable_data_ptr<float>();
  params.activation = function;
  params.negative_slope = static_cast<float>(negative_slope);
  run_walks(SHAPLEY_KERNEL(permutation_linear), out, params, samples, permutation_linear_scratch(p));
  return out;
}

}  // namespace

SHAPLEY_REGISTER(permutation_linear)

}  // namespace shapley
