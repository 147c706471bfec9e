#include "kernels/exhaustive_eval.h"

#include "head_case.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kKernels, ExhaustiveEvalParams, exhaustive_eval_cpu);

std::vector<float> run(const HeadCase& head, const Machine& machine) {
  HeadBuffers buffers(head, machine, false);
  Guarded<float> out(int64_t{1} << head.n_players, machine.cuda() ? 1 : 0);
  ExhaustiveEvalParams p{};
  p.head = buffers.params;
  Guarded<unsigned char> scratch(exhaustive_eval_scratch(p.head));
  p.scratch = scratch.data();
  p.out = out.data();
  if (machine.cuda()) {
    CHECK(launch_exhaustive_eval(p, nullptr) == 0, "%s", head.name().c_str());
  } else {
    machine.run_tasks(kKernels, p, exhaustive_tasks(p.head));
  }
  CHECK(out.intact() && scratch.intact(), "%s: wrote beside its output", head.name().c_str());
  return out.values();
}

std::vector<Expected> expected_values(const HeadCase& head) {
  std::vector<Expected> all(size_t{1} << head.n_players, Expected{0.0, 0.0});
  const double share = 1.0 / static_cast<double>(head.n_samples);
  for (int64_t sample = 0; sample < head.n_samples; ++sample) {
    std::vector<Outputs> contributions;
    for (int64_t c = 0; c < head.n_players; ++c) contributions.push_back(head.contribution(sample, c));
    for (size_t coalition = 0; coalition < all.size(); ++coalition) {
      Outputs outputs = head.empty_coalition();
      for (int64_t c = 0; c < head.n_players; ++c) {
        if (coalition >> c & 1) HeadCase::add(outputs, contributions[c]);
      }
      const bool valid = head.classes.empty() || (head.classes[sample] >= 0 && head.classes[sample] < head.n_outputs);
      const Expected one = valid ? head.value(outputs, sample) : Expected{NAN, 0.0};
      all[coalition].value += share * one.value;
      all[coalition].tolerance += share * one.tolerance + kEpsilon * share * std::fabs(one.value);
    }
  }
  return all;
}

void check_case(const HeadCase& head) {
  check_machines<float>(head.name(), expected_values(head), [&](const Machine& m) { return run(head, m); });
}

TEST(exhaustive_eval_all_metrics_match_reference) {
  uint64_t seed = 1;
  for (Metric metric : kMetrics) {
    for (int64_t n_outputs : sizes({1, 2, 7, 10, 31, 33, 129})) {
      for (int64_t n_players : {1, 3, 4, 9}) {
        for (int64_t n_positions : {1, 4}) {
          ++seed;
          check_case(HeadCase(3, n_players, n_positions, n_outputs, metric, seed % 2 == 0, seed));
        }
      }
    }
  }
}

TEST(exhaustive_eval_more_players_match_reference) {
  for (Metric metric : kMetrics) {
    for (int64_t n_players : {2, 5, 7, 8, 10}) check_case(HeadCase(2, n_players, 1, 5, metric, n_players % 2 == 0, 3));
    if (kSmall) continue;
    for (int64_t n_players : {11, 12, 14}) check_case(HeadCase(2, n_players, 1, 10, metric, n_players % 2 == 0, 4));
    check_case(HeadCase(2, 13, 1, 40, metric, false, 5));
  }
}

// Halves of the players that favour other classes by far: products of their exponentials vanish.
TEST(exhaustive_eval_great_outputs_match_reference) {
  for (int64_t n_players : {2, 10}) {
    for (int64_t n_outputs : {5, 40}) {
      HeadCase head(2, n_players, 1, n_outputs, Metric::kCrossEntropy, true, 6);
      for (float& weight : head.weight) weight *= 256.0f;
      check_case(head);
    }
  }
}

TEST(exhaustive_eval_nan_features_reach_only_coalitions_that_have_them) {
  for (Metric metric : kMetrics) {
    for (int64_t n_positions : {1, 4}) {
      HeadCase head(2, 10, n_positions, 5, metric, true, 8);
      head.features[2 * n_positions] = NAN;
      head.features[(10 + 9) * n_positions] = NAN;
      check_case(head);
    }
  }
}

TEST(exhaustive_eval_cuda_class_out_of_range_makes_all_nan) {
  for (int64_t bad : {int64_t{-1}, int64_t{5}, INT64_MAX}) {
    HeadCase head(3, 9, 1, 5, Metric::kAccuracy, true, 10);
    head.classes[1] = bad;
    for_each_schedule([&] {
      for (float value : run(head, Machine{}))
        CHECK(std::isnan(value), "class %lld: %g", static_cast<long long>(bad), value);
    });
  }
}

}  // namespace
}  // namespace shapley::tests
