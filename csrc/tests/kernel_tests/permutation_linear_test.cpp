#include "kernels/permutation_linear.h"

#include "walks.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kKernels, PermutationLinearParams, permutation_linear_cpu);

std::vector<float> run(const HeadCase& head, const Walks& walks, const Machine& machine) {
  HeadBuffers buffers(head, machine, true);
  Guarded<int32_t> permutations(walks.permutations);
  Guarded<int64_t> samples(walks.sample_index), order(order_by_sample(walks.sample_index));
  Guarded<float> out(walks.size() * (head.n_players + 1) * head.n_outputs, machine.cuda() ? 1 : 0);
  PermutationLinearParams p{};
  p.head = buffers.params;
  p.permutations = permutations.data();
  p.sample_index = samples.data();
  p.order = machine.cut ? order.data() : nullptr;
  p.scratch_size = machine.cuda() ? table_slots(head, machine) * head.n_players * head.n_outputs
                                  : permutation_linear_scratch(p.head);
  Guarded<float> scratch(p.scratch_size);
  p.scratch = scratch.data();
  p.n_walks = walks.size();
  p.out = out.data();
  if (machine.cuda()) {
    CHECK(launch_permutation_linear(p, nullptr) == 0, "%s", head.name().c_str());
  } else {
    machine.run_tasks(kKernels, p, p.n_walks);
  }
  CHECK(out.intact() && scratch.intact(), "%s: wrote beside its output", head.name().c_str());
  return out.values();
}

std::vector<Expected> expected_outputs(const HeadCase& head, const Walks& walks) {
  std::vector<Expected> expected;
  follow_walks(head, walks, [&](int64_t, const Outputs& sums) {
    const Outputs outputs = head.rounded(sums);
    for (int64_t k = 0; k < head.n_outputs; ++k) expected.push_back({outputs.z[k], outputs.error[k]});
  });
  return expected;
}

void check_case(const HeadCase& head, const Walks& walks) {
  const std::vector<Expected> expected = expected_outputs(head, walks);
  check_machines<float>(head.name(), expected, [&](const Machine& m) { return run(head, walks, m); });
}

TEST(permutation_linear_any_shape_matches_reference) {
  uint64_t seed = 1;
  for (int64_t n_outputs : sizes({1, 2, 31, 33, 129, 1003})) {
    for (int64_t n_players : sizes({1, 2, 31, 33, 129})) {
      for (int64_t n_positions : {1, 4}) {
        ++seed;
        const HeadCase head(3, n_players, n_positions, n_outputs, Metric::kCrossEntropy, seed % 2 == 0, seed);
        check_case(head, Walks(head, n_outputs > 129 || kSmall ? 2 : 5, seed));
      }
    }
  }
}

TEST(permutation_linear_many_walks_and_players_match_reference) {
  const HeadCase many(7, 33, 1, 10, Metric::kCrossEntropy, false, 2), one(1, 6, 7, 3, Metric::kCrossEntropy, false, 4);
  check_case(many, Walks(many, kSmall ? 3 : 33, 3));
  check_case(one, Walks(one, 1, 5));
  if (kSmall) return;
  const HeadCase wide(2, 1031, 1, 10, Metric::kCrossEntropy, true, 6);
  check_case(wide, Walks(wide, 2, 7));
}

TEST(permutation_linear_nan_features_reach_only_steps_that_have_them) {
  for (int64_t n_positions : {1, 4}) {
    HeadCase head(2, 33, n_positions, 10, Metric::kCrossEntropy, true, 8);
    head.features[5 * n_positions] = NAN;
    head.features[(33 + 7) * n_positions] = NAN;
    check_case(head, Walks(head, 6, 9));
  }
}

TEST(permutation_linear_cuda_walks_out_of_range_become_nan) {
  for (int64_t n_positions : {1, 4}) {
    HeadCase head(3, 9, n_positions, 5, Metric::kCrossEntropy, true, 10);
    Walks walks(head, 6, 11);
    walks.sample_index[1] = -1;
    walks.sample_index[3] = 3;
    walks.permutations[4 * 9 + 8] = 9;
    walks.permutations[5 * 9] = -1;
    const std::vector<Expected> expected = expected_outputs(head, walks);
    for_each_schedule([&] {
      const std::vector<float> got = run(head, walks, Machine{});
      for (size_t i = 0; i < got.size(); ++i) {
        CHECK(within(got[i], expected[i]), "%s [%zu]: %g, not %g", head.name().c_str(), i, static_cast<double>(got[i]),
              expected[i].value);
      }
    });
  }
}

}  // namespace
}  // namespace shapley::tests
