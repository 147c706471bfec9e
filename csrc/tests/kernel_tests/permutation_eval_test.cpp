#include "kernels/permutation_eval.h"

#include "walks.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kKernels, PermutationEvalParams, permutation_eval_cpu);

std::vector<float> run(const HeadCase& head, const Walks& walks, const Machine& machine) {
  HeadBuffers buffers(head, machine, true);
  Guarded<int32_t> permutations(walks.permutations);
  Guarded<int64_t> samples(walks.sample_index), order(order_by_sample(walks.sample_index));
  Guarded<float> out(walks.size() * (head.n_players + 1), machine.cuda() ? 1 : 0);
  PermutationEvalParams p{};
  p.head = buffers.params;
  p.permutations = permutations.data();
  p.sample_index = samples.data();
  p.order = machine.cut ? order.data() : nullptr;
  p.scratch_size =
      machine.cuda() ? table_slots(head, machine) * head.n_players * head.n_outputs : permutation_eval_scratch(p.head);
  Guarded<float> scratch(p.scratch_size);
  p.scratch = scratch.data();
  p.n_walks = walks.size();
  p.out = out.data();
  if (machine.cuda()) {
    CHECK(launch_permutation_eval(p, nullptr) == 0, "%s", head.name().c_str());
  } else {
    machine.run_tasks(kKernels, p, p.n_walks);
  }
  CHECK(out.intact() && scratch.intact(), "%s: wrote beside its output", head.name().c_str());
  return out.values();
}

void check_case(const HeadCase& head, const Walks& walks) {
  std::vector<Expected> expected;
  follow_walks(head, walks,
               [&](int64_t sample, const Outputs& outputs) { expected.push_back(head.value(outputs, sample)); });
  check_machines<float>(head.name(), expected, [&](const Machine& m) { return run(head, walks, m); });
}

TEST(permutation_eval_all_metrics_match_reference) {
  uint64_t seed = 1;
  for (Metric metric : kMetrics) {
    for (int64_t n_outputs : sizes({1, 2, 10, 31, 33, 129, 1003})) {
      for (int64_t n_players : sizes({1, 2, 31, 33, 129})) {
        for (int64_t n_positions : {1, 4}) {
          ++seed;
          const HeadCase head(3, n_players, n_positions, n_outputs, metric, seed % 2 == 0, seed);
          check_case(head, Walks(head, n_outputs > 129 || kSmall ? 2 : 5, seed));
        }
      }
    }
  }
}

TEST(permutation_eval_many_walks_and_players_match_reference) {
  for (Metric metric : kMetrics) {
    const HeadCase many(7, 33, 1, 10, metric, false, 2), one(1, 6, 7, 3, metric, false, 4);
    check_case(many, Walks(many, kSmall ? 3 : 33, 3));
    check_case(one, Walks(one, 1, 5));
    const HeadCase several_warps(2, 35, 1, 129, metric, false, 6);
    check_case(several_warps, Walks(several_warps, 2, 7));
    if (kSmall) continue;
    // Outputs that need more shared memory than a block has without asking.
    const HeadCase many_outputs(2, 3, 1, 13001, metric, false, 8);
    check_case(many_outputs, Walks(many_outputs, 2, 9));
    const HeadCase wide(2, 1031, 1, 10, metric, metric == Metric::kCrossEntropy, 6);
    check_case(wide, Walks(wide, 2, 7));
  }
}

TEST(permutation_eval_nan_features_reach_only_steps_that_have_them) {
  for (Metric metric : kMetrics) {
    for (int64_t n_positions : {1, 4}) {
      HeadCase head(2, 33, n_positions, 10, metric, true, 8);
      head.features[5 * n_positions] = NAN;
      head.features[(33 + 7) * n_positions] = INFINITY;
      if (metric != Metric::kAccuracy) head.features[(33 + 7) * n_positions] = NAN;
      check_case(head, Walks(head, 6, 9));
    }
  }
}

TEST(permutation_eval_cuda_walks_out_of_range_become_nan) {
  for (Metric metric : kMetrics) {
    for (int64_t n_positions : {1, 4}) {
      HeadCase head(3, 9, n_positions, 5, metric, true, 10);
      Walks walks(head, 8, 11);
      for (int64_t r = 0; r < 8; ++r) walks.sample_index[r] = r % 2;
      walks.sample_index[1] = -1;
      walks.sample_index[3] = 3;
      walks.permutations[4 * 9 + 8] = 9;
      walks.permutations[5 * 9] = -1;
      if (!head.classes.empty()) {
        head.classes[2] = 5;
        walks.sample_index[6] = 2;
      }
      std::vector<Expected> expected;
      follow_walks(head, walks,
                   [&](int64_t sample, const Outputs& outputs) { expected.push_back(head.value(outputs, sample)); });
      for_each_schedule([&] {
        const std::vector<float> got = run(head, walks, Machine{});
        for (size_t i = 0; i < got.size(); ++i) {
          CHECK(within(got[i], expected[i]), "%s walk %zu step %zu: %g, not %g", head.name().c_str(), i / 10, i % 10,
                static_cast<double>(got[i]), expected[i].value);
        }
      });
    }
  }
}

}  // namespace
}  // namespace shapley::tests
