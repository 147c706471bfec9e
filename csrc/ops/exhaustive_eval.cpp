#include "kernels/exhaustive_eval.h"

#include "ops/head.h"

namespace shapley {
namespace {

void check_cost(const Check& check, const Tensor& features) {
  if (features.dim() < 2 || features.size(1) <= kExhaustiveMaxPlayers) return;
  const std::string n = std::to_string(features.size(1));
  check.require(false, "features",
                "of at most " + std::to_string(kExhaustiveMaxPlayers) + " players (" + n + " have 2^" + n +
                    " coalitions, to be evaluated on " + std::to_string(features.size(0)) + " samples each)",
                text(features));
}

Tensor exhaustive_eval(const Tensor& features, const Tensor& weight, const OptionalTensor& bias, const Tensor& targets,
                       std::string metric) {
  const Check check("exhaustive_eval", "features", features);
  check_cost(check, features);
  Head head = make_head(check, features, weight, bias, WeightLayout::kOutputsFirst);
  set_targets(check, targets, metric, head);
  const HeadParams& p = head.params;
  check.require(p.n_samples > 0, "features", "of at least one sample", text(features));

  Tensor out = torch::stable::new_empty(head.features, {int64_t{1} << p.n_players});
  ExhaustiveEvalParams params{p, nullptr, out.mutable_data_ptr<float>()};
  const auto kernel = SHAPLEY_KERNEL(exhaustive_eval);
  if (out.is_cuda()) {
    launch(kernel, out, params);
    return out;
  }
  const int64_t tasks = exhaustive_tasks(p);
  const int64_t task_cost = out.numel() / tasks * p.n_samples * p.n_outputs / 4;
  parallel_with_scratch(out, tasks, task_cost, exhaustive_eval_scratch(p),
                        [&](int64_t begin, int64_t end, char* scratch) {
                          ExhaustiveEvalParams part = params;
                          part.scratch = scratch;
                          kernel.cpu(part, begin, end);
                        });
  return out;
}

}  // namespace

SHAPLEY_REGISTER(exhaustive_eval)

}  // namespace shapley
