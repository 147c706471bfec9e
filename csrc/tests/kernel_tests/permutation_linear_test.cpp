#include "kernels/permutation_linear.h"

#include "activation_reference.h"
#include "walks.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kKernels, PermutationLinearParams, permutation_linear_cpu);

// What follows the sums.
struct Epilogue {
  Activation activation = Activation::kNone;
  std::vector<float> residual;  // [N, K] or empty
};

std::vector<float> run(const HeadCase& head, const Walks& walks, const Epilogue& epilogue, const Machine& machine) {
  HeadBuffers buffers(head, machine, true);
  Guarded<float> residual(epilogue.residual);
  Guarded<int32_t> permutations(walks.permutations);
  Guarded<int64_t> samples(walks.sample_index), order(order_by_sample(walks.sample_index));
  Guarded<float> out(walks.size() * (head.n_players + 1) * head.n_outputs, machine.cuda() ? 1 : 0);
  PermutationLinearParams p{};
  p.head = buffers.params;
  p.residual = epilogue.residual.empty() ? nullptr : residual.data();
  p.permutations = permutations.data();
  p.sample_index = samples.data();
  p.order = machine.cut ? order.data() : nullptr;
  p.scratch_size = machine.cuda() ? table_slots(head, machine) * head.n_players * head.n_outputs
                                  : permutation_linear_scratch(p.head);
  Guarded<float> scratch(p.scratch_size);
  p.scratch = scratch.data();
  p.n_walks = walks.size();
  p.out = out.data();
  p.activation = epilogue.activation;
  p.negative_slope = static_cast<float>(kSlope);
  if (machine.cuda()) {
    CHECK(launch_permutation_linear(p, nullptr) == 0, "%s", head.name().c_str());
  } else {
    machine.run_tasks(kKernels, p, p.n_walks);
  }
  CHECK(out.intact() && scratch.intact(), "%s: wrote beside its output", head.name().c_str());
  return out.values();
}

std::vector<Expected> expected_outputs(const HeadCase& head, const Walks& walks, const Epilogue& epilogue) {
  constexpr double kSteepest = 1.5;  // slope of any activation
  std::vector<Expected> expected;
  follow_walks(head, walks, [&](int64_t sample, Outputs sums) {
    for (int64_t k = 0; k < head.n_outputs && !epilogue.residual.empty(); ++k) {
      const double added = static_cast<double>(epilogue.residual[sample * head.n_outputs + k]);
      sums.z[k] += added;
      sums.error[k] += std::fabs(added);
    }
    const Outputs outputs = head.rounded(sums);
    for (int64_t k = 0; k < head.n_outputs; ++k) {
      const double value = activate(outputs.z[k], epilogue.activation);
      const double own_error = is_exact(epilogue.activation) ? 0.0 : 1e-6 * (std::fabs(value) + 0.1);
      expected.push_back({value, kSteepest * outputs.error[k] + own_error});
    }
  });
  return expected;
}

void check_case(const HeadCase& head, const Walks& walks, const Epilogue& epilogue = {}) {
  const std::vector<Expected> expected = expected_outputs(head, walks, epilogue);
  const std::string name = head.name() + " " + activation_name(epilogue.activation);
  check_machines<float>(name, expected, [&](const Machine& m) { return run(head, walks, epilogue, m); });
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

TEST(permutation_linear_any_activation_matches_reference) {
  for (int activation = 0; activation < kActivations; ++activation) {
    for (int64_t n_outputs : sizes({3, 33, 129})) {
      for (int64_t n_positions : {1, 4}) {
        const uint64_t seed = 20 + static_cast<uint64_t>(activation);
        const HeadCase head(3, 9, n_positions, n_outputs, Metric::kCrossEntropy, n_outputs == 33, seed);
        Epilogue epilogue{static_cast<Activation>(activation), {}};
        if (n_positions == 1) epilogue.residual = Numbers(seed).exact(head.n_samples * n_outputs);
        check_case(head, Walks(head, kSmall ? 2 : 4, seed), epilogue);
      }
    }
  }
}

TEST(permutation_linear_nan_features_reach_only_steps_that_have_them) {
  for (int64_t n_positions : {1, 4}) {
    HeadCase head(2, 33, n_positions, 10, Metric::kCrossEntropy, true, 8);
    head.features[5 * n_positions] = NAN;
    head.features[(33 + 7) * n_positions] = NAN;
    check_case(head, Walks(head, 6, 9));
    check_case(head, Walks(head, 6, 9), {Activation::kRelu6, {}});
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
    const Epilogue epilogue{Activation::kRelu, Numbers(12).exact(3 * 5)};
    const std::vector<Expected> expected = expected_outputs(head, walks, epilogue);
    for_each_schedule([&] {
      const std::vector<float> got = run(head, walks, epilogue, Machine{});
      for (size_t i = 0; i < got.size(); ++i) {
        CHECK(within(got[i], expected[i]), "%s [%zu]: %g, not %g", head.name().c_str(), i, static_cast<double>(got[i]),
              expected[i].value);
      }
    });
  }
}

}  // namespace
}  // namespace shapley::tests
