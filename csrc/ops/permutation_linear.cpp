#include "kernels/permutation_linear.h"

#include "ops/head.h"

namespace shapley {
namespace {

Tensor permutation_linear(const Tensor& features, const Tensor& permutations, const Tensor& weight,
                          const OptionalTensor& bias, const Tensor& sample_index) {
  const Check check("permutation_linear", features);
  const Head head = make_head(check, features, weight, bias, WeightLayout::kColumnsFirst);
  const HeadParams& p = head.params;
  check.tensor("permutations", permutations, Kind::kInt32, {{"R"}, {"C", p.n_players}});
  const int64_t n_walks = permutations.size(0);
  check.tensor("sample_index", sample_index, Kind::kInt64, {{"R", n_walks}});
  const Tensor walks = torch::stable::contiguous(permutations);
  const Tensor samples = torch::stable::contiguous(sample_index);
  check.permutations("permutations", walks);
  check.index("sample_index", samples, p.n_samples);

  Tensor out = torch::stable::new_empty(head.features, {n_walks, p.n_players + 1, p.n_outputs});
  const PermutationLinearParams params{
      p,       walks.const_data_ptr<int32_t>(), samples.const_data_ptr<int64_t>(), nullptr, nullptr, 0,
      n_walks, out.mutable_data_ptr<float>()};
  run_walks(SHAPLEY_KERNEL(permutation_linear), out, params, samples, permutation_linear_scratch(p));
  return out;
}

}  // namespace

SHAPLEY_REGISTER(permutation_linear)

}  // namespace shapley
