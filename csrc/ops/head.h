// head.h: the arguments that the ops on a linear head share, checked and brought into the form that kernels read; and
// how such ops run.
#pragma once

#include <vector>

#include "kernels/head.h"
#include "ops/checks.h"
#include "ops/launch.h"

namespace shapley {

// What CUDA kernels take the weight as; the CPU's are packed into panels.
enum class WeightLayout { kOutputsFirst, kColumnsFirst };  // [K, C * S], [C * S, K]

// Owns what its params point to.
struct Head {
  HeadParams params;
  Tensor features, weight, bias, targets;
};

// Checks features, weight and bias. The params' targets and metric are left out.
Head make_head(const Check& check, const Tensor& features, const Tensor& weight, const OptionalTensor& bias,
               WeightLayout layout);

// Checks targets [N] or [N, K] for the metric and puts both into the head.
void set_targets(const Check& check, const Tensor& targets, const std::string& metric, Head& head);

// 0 .. R-1 ordered by sample, as the CPU kernels like their rows: what they compute for a sample then serves all its
// rows.
std::vector<int64_t> order_by_sample(const Tensor& sample_index, int64_t n_samples);

// Memory of the size that a kernel asks for; at least one element.
Tensor new_scratch(const Tensor& like, int64_t bytes);

// Runs CPU tasks in one part a thread, each with scratch of its own: body(begin, end, scratch). The scratch is
// allocated before the threads start, and its alignment is a vector's.
template <class Body>
void parallel_with_scratch(const Tensor& like, int64_t tasks, int64_t task_cost, int64_t scratch_bytes,
                           const Body& body) {
  constexpr int64_t kPartCost = 32768;
  const int64_t worth = tasks * std::min(task_cost, kPartCost) / kPartCost;
  const int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t parts = std::max<int64_t>(1, std::min({tasks, worth, threads}));
  const int64_t stride = round_up(scratch_bytes, 64);
  Tensor scratch = new_scratch(like, parts * stride);
  char* memory = static_cast<char*>(scratch.mutable_data_ptr());
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      body(tasks * part / parts, tasks * (part + 1) / parts, memory + part * stride);
    }
  });
}

// Runs walks: on the CPU ordered by sample where that saves work. `scratch_floats` is a part's on the CPU.
template <class Params>
void run_walks(const Kernel<Params>& kernel, const Tensor& like, Params params, const Tensor& sample_index,
               int64_t scratch_floats) {
  const HeadParams& head = params.head;
  if (params.n_walks == 0) return;
  if (like.is_cuda()) {
    params.scratch_size = walk_scratch(head, params.n_walks);
    Tensor scratch = new_scratch(like, params.scratch_size * 4);
    params.scratch = reinterpret_cast<float*>(scratch.mutable_data_ptr());
    return launch(kernel, like, params);
  }
  std::vector<int64_t> order;
  if (head.n_positions > 1) order = order_by_sample(sample_index, head.n_samples);
  params.order = order.empty() ? nullptr : order.data();
  const int64_t cost = head.n_players * (head.n_outputs + 2) * 2;
  parallel_with_scratch(like, params.n_walks, cost, 4 * scratch_floats, [&](int64_t begin, int64_t end, char* scratch) {
    Params part = params;
    part.scratch = reinterpret_cast<float*>(scratch);
    kernel.cpu(part, begin, end);
  });
}

}  // namespace shapley
