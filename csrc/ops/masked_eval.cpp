#include "kernels/masked_eval.h"

#include "ops/head.h"

namespace shapley {
namespace {

// Below this many masks a thread, samples are dealt to threads instead: tables pay for many masks only. The sums that
// this takes are kept to 32 MiB.
constexpr int64_t kMasksPerThread = 64;
constexpr int64_t kMaxBlockSums = int64_t{4} << 20;

void run_cuda(const Kernel<MaskedEvalParams>& kernel, const Tensor& like, MaskedEvalParams params) {
  params.scratch_masks = params.sample_index ? 0 : masked_eval_cuda_masks(params.head, params.n_masks);
  Tensor scratch = new_scratch(like, params.scratch_masks * masked_eval_cuda_bytes_per_mask(params.head));
  params.scratch = scratch.mutable_data_ptr();
  launch(kernel, like, params);
}

void run_cpu(const Kernel<MaskedEvalParams>& kernel, const Tensor& like, const MaskedEvalParams& params, int64_t tasks,
             int64_t task_cost) {
  parallel_with_scratch(like, tasks, task_cost, masked_eval_scratch(params.head),
                        [&](int64_t begin, int64_t end, char* scratch) {
                          MaskedEvalParams part = params;
                          part.scratch = scratch;
                          kernel.cpu(part, begin, end);
                        });
}

void run_blocks_of_samples(const Kernel<MaskedEvalParams>& kernel, const Tensor& like, MaskedEvalParams params,
                           int64_t block_cost) {
  const int64_t n_blocks = mean_blocks(params.head), n_masks = params.n_masks;
  Tensor sums = torch::stable::new_empty(like, {n_blocks, n_masks}, ScalarType::Double);
  params.block_sums = sums.mutable_data_ptr<double>();
  run_cpu(kernel, like, params, n_blocks, block_cost);
  for (int64_t m = 0; m < n_masks; ++m) {
    double total = 0.0;
    for (int64_t block = 0; block < n_blocks; ++block) total += params.block_sums[block * n_masks + m];
    params.out[m] = static_cast<float>(total / static_cast<double>(params.head.n_samples));
  }
}

Tensor masked_eval(const Tensor& features, const Tensor& masks, const Tensor& weight, const OptionalTensor& bias,
                   const Tensor& targets, const OptionalTensor& sample_index, const OptionalTensor& baseline,
                   std::string metric) {
  const Check check("masked_eval", "features", features);
  Head head = make_head(check, features, weight, bias, WeightLayout::kOutputsFirst);
  set_targets(check, targets, metric, head);
  const HeadParams& p = head.params;
  check.tensor("masks", masks, Kind::kBool, {{"M"}, {"C", p.n_players}});
  const int64_t n_masks = masks.size(0);
  check.tensor("sample_index", sample_index, Kind::kInt64, {{"M", n_masks}});
  check.tensor("baseline", baseline, Kind::kFloat32, {{"N", p.n_samples}});
  check.require(sample_index || p.n_samples > 0, "features", "of at least one sample without sample_index",
                text(features));
  const Tensor coalitions = torch::stable::contiguous(masks);
  const OptionalTensor samples = contiguous(sample_index);
  const OptionalTensor reference = contiguous(baseline);
  if (samples) check.index("sample_index", *samples, p.n_samples);

  Tensor out = torch::stable::new_empty(head.features, {n_masks});
  if (n_masks == 0) return out;
  MaskedEvalParams params{};
  params.head = p;
  params.masks = coalitions.const_data_ptr<bool>();
  params.sample_index = data_or_null<int64_t>(samples);
  params.baseline = data_or_null<float>(reference);
  params.n_masks = n_masks;
  params.out = out.mutable_data_ptr<float>();
  const auto kernel = SHAPLEY_KERNEL(masked_eval);
  if (out.is_cuda()) {
    run_cuda(kernel, out, params);
    return out;
  }
  const int64_t row_cost = p.n_players * p.n_outputs / 4 + 8 * p.n_outputs;
  if (samples) {
    const std::vector<int64_t> order = order_by_sample(*samples, p.n_samples);
    params.order = order.data();
    run_cpu(kernel, out, params, n_masks, row_cost);
  } else if (n_masks < kMasksPerThread * torch::stable::get_num_threads() &&
             n_masks * mean_blocks(p) <= kMaxBlockSums) {
    run_blocks_of_samples(kernel, out, params, row_cost * n_masks * kMeanBlock);
  } else {
    run_cpu(kernel, out, params, n_masks, row_cost * p.n_samples);
  }
  return out;
}

}  // namespace

SHAPLEY_REGISTER(masked_eval)

}  // namespace shapley
