#include "kernels/loss_difference.h"

#include "ops/checks.h"
#include "ops/launch.h"

namespace shapley {
namespace {

Tensor loss_difference(const Tensor& outputs, const Tensor& targets, const OptionalTensor& sample_index,
                       const OptionalTensor& baseline, std::string metric_name) {
  const Check check("loss_difference", "outputs", outputs);
  const Metric metric = check.metric(metric_name);
  check.tensor("outputs", outputs, Kind::kFloat, {{"R"}, {"K"}});
  const int64_t n_rows = outputs.size(0);
  const int64_t n_outputs = outputs.size(1);
  check.require(n_outputs > 0, "outputs", "of at least one column", text(outputs));
  check.tensor("sample_index", sample_index, Kind::kInt64, {{"R", n_rows}});
  const Tensor target = check.targets(targets, metric, sample_index ? -1 : n_rows, n_outputs);
  const int64_t n_samples = target.size(0);
  check.tensor("baseline", baseline, Kind::kFloat32, {{"N", n_samples}});
  const Tensor rows = as_float32(outputs);
  const OptionalTensor samples = contiguous(sample_index);
  const OptionalTensor reference = contiguous(baseline);
  if (samples) check.index("sample_index", *samples, n_samples);

  Tensor out = torch::stable::new_empty(rows, {n_rows}, ScalarType::Float);
  const LossDifferenceParams params{rows.const_data_ptr<float>(),
                                    view_targets(target),
                                    data_or_null<int64_t>(samples),
                                    data_or_null<float>(reference),
                                    out.mutable_data_ptr<float>(),
                                    n_rows,
                                    n_samples,
                                    n_outputs,
                                    metric};
  run(SHAPLEY_KERNEL(loss_difference), out, params, n_rows, 8 * n_outputs);
  return out;
}

}  // namespace

SHAPLEY_REGISTER(loss_difference)

}  // namespace shapley
