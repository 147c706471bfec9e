#include "kernels/masked_eval.h"

#include <algorithm>

#include "../emulator/runtime.h"
#include "head_case.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kKernels, MaskedEvalParams, masked_eval_cpu);

struct Masks {
  int64_t n_masks;
  std::vector<unsigned char> kept;    // [M, C]
  std::vector<int64_t> sample_index;  // [M] or empty
  std::vector<float> baseline;        // [N] or empty

  // The first two masks keep nobody and everybody.
  Masks(const HeadCase& head, int64_t n, bool indexed, uint64_t seed) : n_masks(n) {
    Numbers numbers(seed);
    kept.resize(n_masks * head.n_players);
    for (unsigned char& keep : kept) keep = numbers.below(2) == 1;
    std::fill_n(kept.begin(), head.n_players, 0);
    if (n_masks > 1) std::fill_n(kept.begin() + head.n_players, head.n_players, 1);
    if (indexed) sample_index = numbers.indices(n_masks, head.n_samples);
    if (seed % 2 == 1) baseline = numbers.normals(head.n_samples);
  }
};

Expected on_sample(const HeadCase& head, const Masks& masks, int64_t mask, int64_t sample) {
  const bool valid = sample >= 0 && sample < head.n_samples &&
                     (head.classes.empty() || (head.classes[sample] >= 0 && head.classes[sample] < head.n_outputs));
  if (!valid) return {NAN, 0.0};
  Outputs outputs = head.empty_coalition();
  for (int64_t c = 0; c < head.n_players; ++c) {
    if (masks.kept[mask * head.n_players + c]) HeadCase::add(outputs, head.contribution(sample, c));
  }
  Expected e = head.value(outputs, sample);
  if (!masks.baseline.empty()) e.value -= masks.baseline[sample];
  return e;
}

std::vector<Expected> expected_values(const HeadCase& head, const Masks& masks) {
  std::vector<Expected> all;
  for (int64_t m = 0; m < masks.n_masks; ++m) {
    Expected e{0.0, 0.0};
    if (!masks.sample_index.empty()) {
      e = on_sample(head, masks, m, masks.sample_index[m]);
    } else {
      for (int64_t n = 0; n < head.n_samples; ++n) {
        const Expected one = on_sample(head, masks, m, n);
        e.value += one.value / static_cast<double>(head.n_samples);
        e.tolerance += one.tolerance / static_cast<double>(head.n_samples);
      }
    }
    e.tolerance += kEpsilon * std::fabs(e.value);
    all.push_back(e);
  }
  return all;
}

// `by_samples`: without sample_index the CPU's tasks are blocks of samples rather than masks. `ptx`: what the CUDA
// kernels were compiled for: from 80 on means are taken on tensor cores.
std::vector<float> run(const HeadCase& head, const Masks& masks, const Machine& machine, bool by_samples,
                       int ptx = 90) {
  emulator::set_ptx_version(ptx);
  HeadBuffers buffers(head, machine, false);
  Guarded<unsigned char> kept(masks.kept);
  Guarded<int64_t> samples(masks.sample_index), order(order_by_sample(masks.sample_index));
  Guarded<float> baseline(masks.baseline, 1), out(masks.n_masks, 1);
  // On CUDA one schedule's masks go in parts.
  const int64_t at_once = machine.schedule.order == emulator::Order::kReverse ? 4 : masks.n_masks;
  Guarded<unsigned char> scratch(machine.cuda() ? masked_eval_cuda_bytes_per_mask(buffers.params) * at_once
                                                : masked_eval_scratch(buffers.params));
  Guarded<double> block_sums(mean_blocks(buffers.params) * masks.n_masks);
  const bool indexed = !masks.sample_index.empty();
  MaskedEvalParams p{};
  p.head = buffers.params;
  p.masks = reinterpret_cast<const bool*>(kept.data());
  p.sample_index = indexed ? samples.data() : nullptr;
  p.order = indexed ? order.data() : nullptr;
  p.baseline = masks.baseline.empty() ? nullptr : baseline.data();
  p.n_masks = masks.n_masks;
  p.scratch = scratch.data();
  p.scratch_masks = at_once;
  p.block_sums = by_samples && !indexed ? block_sums.data() : nullptr;
  p.out = out.data();
  if (machine.cuda()) {
    CHECK(launch_masked_eval(p, nullptr) == 0, "%s", head.name().c_str());
  } else if (p.block_sums == nullptr) {
    machine.run_tasks(kKernels, p, masks.n_masks);
  } else {
    const int64_t n_blocks = mean_blocks(p.head);
    machine.run_tasks(kKernels, p, n_blocks);
    for (int64_t m = 0; m < masks.n_masks; ++m) {
      double sum = 0.0;
      for (int64_t block = 0; block < n_blocks; ++block) sum += p.block_sums[block * masks.n_masks + m];
      p.out[m] = static_cast<float>(sum / static_cast<double>(head.n_samples));
    }
  }
  CHECK(out.intact() && scratch.intact() && block_sums.intact(), "%s: wrote beside its output", head.name().c_str());
  return out.values();
}

// The CUDA kernels of older devices: right, and the same bits in every order.
void check_without_tensor_cores(const HeadCase& head, const Masks& masks, const std::vector<Expected>& expected,
                                const std::string& name) {
  std::vector<float> first;
  for (const Machine& machine : all_machines()) {
    if (!machine.cuda()) continue;
    emulator::set_schedule(machine.schedule.order, machine.schedule.seed);
    const std::vector<float> got = run(head, masks, machine, false, 75);
    for (size_t m = 0; m < got.size(); ++m) {
      CHECK(within(got[m], expected[m]), "%s without tensor cores, mask %zu: %.9g, not %.9g within %.2g", name.c_str(),
            m, static_cast<double>(got[m]), expected[m].value, expected[m].tolerance);
    }
    if (first.empty()) first = got;
    CHECK(std::memcmp(first.data(), got.data(), got.size() * sizeof(float)) == 0, "%s without tensor cores on %s",
          name.c_str(), machine.name().c_str());
  }
  emulator::set_schedule(emulator::Order::kForward);
}

void check_case(const HeadCase& head, const Masks& masks) {
  const std::vector<Expected> expected = expected_values(head, masks);
  const std::string name =
      head.name() + " M=" + std::to_string(masks.n_masks) + (masks.sample_index.empty() ? "" : " with sample_index");
  check_machines<float>(name, expected, [&](const Machine& m) { return run(head, masks, m, false); });
  if (!masks.sample_index.empty()) return;
  for (const Machine& machine : all_machines()) {
    if (machine.cuda()) continue;
    const std::vector<float> one = run(head, masks, machine, false), other = run(head, masks, machine, true);
    CHECK(std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0, "%s on %s: blocks of samples differ",
          name.c_str(), machine.name().c_str());
  }
  check_without_tensor_cores(head, masks, expected, name);
}

TEST(masked_eval_all_metrics_match_reference) {
  uint64_t seed = 1;
  for (Metric metric : kMetrics) {
    for (int64_t n_outputs : sizes({1, 2, 10, 33, 129})) {
      for (int64_t n_players : sizes({1, 2, 31, 33, 129})) {
        for (int64_t n_positions : {1, 4}) {
          for (bool indexed : {false, true}) {
            ++seed;
            const HeadCase head(3, n_players, n_positions, n_outputs, metric, seed % 2 == 0, seed);
            check_case(head, Masks(head, seed % 4 == 0 && !kSmall ? 33 : 5, indexed, seed / 2));
          }
        }
      }
    }
  }
}

TEST(masked_eval_large_sizes_match_reference) {
  if (kSmall) {
    const HeadCase head(66, 9, 1, 3, Metric::kCrossEntropy, false, 2);
    return check_case(head, Masks(head, 3, false, 3));
  }
  for (Metric metric : kMetrics) {
    for (bool indexed : {false, true}) {
      const HeadCase many_samples(150, 33, 1, 10, metric, false, 2), many_players(2, 1031, 1, 10, metric, true, 3),
          many_outputs(2, 33, 1, 1003, metric, false, 4), many_masks(2, 20, 1, 3, metric, false, 5);
      check_case(many_samples, Masks(many_samples, 7, indexed, 4));
      check_case(many_players, Masks(many_players, 13, indexed, 5));
      check_case(many_outputs, Masks(many_outputs, 6, indexed, 6));
      check_case(many_masks, Masks(many_masks, 2100, indexed, 7));
    }
  }
}

TEST(masked_eval_nan_features_reach_only_masks_that_keep_them) {
  for (Metric metric : kMetrics) {
    for (int64_t n_positions : {1, 4}) {
      HeadCase head(2, 33, n_positions, 10, metric, true, 8);
      head.features[5 * n_positions] = NAN;
      head.features[(33 + 32) * n_positions] = NAN;
      check_case(head, Masks(head, 40, true, 9));
      check_case(head, Masks(head, 40, false, 10));
    }
  }
}

// Tiles of columns hold several samples, one, or a part of one's outputs; masks fill a block or not.
TEST(masked_eval_means_of_every_tiling_match_reference) {
  struct Size {
    int64_t n_masks, n_samples, n_players, n_positions, n_outputs;
  };
  const std::vector<Size> all = {{1, 1, 1, 1, 1},     {2, 70, 2, 1, 1},    {5, 33, 31, 1, 2},     {300, 7, 33, 1, 10},
                                 {129, 70, 12, 1, 3}, {64, 13, 36, 1, 31}, {65, 3, 129, 1, 33},   {17, 9, 64, 1, 64},
                                 {9, 10, 20, 1, 65},  {3, 9, 33, 2, 129},  {130, 2, 128, 1, 200}, {40, 3, 5, 49, 7}};
  const std::vector<Size> small = {{3, 7, 9, 1, 10}, {2, 2, 33, 1, 65}};
  uint64_t seed = 20;
  for (const Size& size : kSmall ? small : all) {
    ++seed;
    const HeadCase head(size.n_samples, size.n_players, size.n_positions, size.n_outputs, kMetrics[seed % 3], false,
                        seed);
    check_case(head, Masks(head, size.n_masks, false, seed));
  }
}

// A mask's mean has the same bits alone and among others, whatever the removed players hold.
TEST(masked_eval_means_do_not_depend_on_other_masks_or_removed_players) {
  const float kOdd[] = {NAN, INFINITY, -INFINITY, 3e38f, -1e30f};
  for (Metric metric : kMetrics) {
    for (int64_t n_outputs : sizes({3, 20, 70})) {
      const int64_t n_players = kSmall ? 9 : 45, n_masks = kSmall ? 4 : 200, player = n_players - 2;
      HeadCase head(9, n_players, 1, n_outputs, metric, false, 31);
      Masks masks(head, n_masks, false, 32);
      std::vector<size_t> without;
      for (int64_t m = 0; m < n_masks; ++m) {
        if (!masks.kept[m * n_players + player]) without.push_back(m);
      }
      const std::vector<float> clean = run(head, masks, Machine{}, false);
      for (int64_t m : {int64_t{0}, n_masks / 2, n_masks - 1}) {
        Masks one = masks;
        one.n_masks = 1;
        one.kept.assign(masks.kept.begin() + m * n_players, masks.kept.begin() + (m + 1) * n_players);
        CHECK(std::memcmp(run(head, one, Machine{}, false).data(), &clean[m], sizeof(float)) == 0, "%s mask %lld alone",
              head.name().c_str(), static_cast<long long>(m));
      }
      for (float odd : kOdd) {
        head.features[4 * n_players + player] = odd;
        const std::vector<float> got = run(head, masks, Machine{}, false);
        for (size_t m : without) {
          CHECK(std::memcmp(&got[m], &clean[m], sizeof(float)) == 0, "%s mask %zu with %g removed: %.9g, not %.9g",
                head.name().c_str(), m, static_cast<double>(odd), static_cast<double>(got[m]),
                static_cast<double>(clean[m]));
        }
        CHECK(std::isnan(got[1]) || std::isfinite(odd) || metric != Metric::kCrossEntropy, "%s with %g kept: %g",
              head.name().c_str(), static_cast<double>(odd), static_cast<double>(got[1]));
        CHECK(std::isnan(got[1]) || !std::isnan(odd), "%s with NaN kept: %g", head.name().c_str(),
              static_cast<double>(got[1]));
      }
    }
  }
}

// Contributions so large that tensor cores do not get them still count, and exactly.
TEST(masked_eval_means_of_huge_contributions_match_reference) {
  HeadCase head(3, 40, 1, 5, Metric::kSquaredError, true, 40);
  for (float& f : head.features) f = 0.0f;
  for (float& w : head.weight) w = 1.0f;
  std::fill(head.target_values.begin(), head.target_values.end(), 0.0f);
  head.bias.clear();
  head.features[7] = 0x1p62f;
  head.features[40 + 39] = 0x1.8p62f;
  check_case(head, Masks(head, 6, false, 40));
  for (float& w : head.weight) w = 0x1p34f;
  head.features[7] = 0x1p62f, head.features[33] = -0x1p62f;
  head.features[40 + 39] = 0x1p-34f;
  Masks both(head, 6, false, 40);
  for (int64_t m = 0; m < 6; ++m) both.kept[m * 40 + 7] = both.kept[m * 40 + 33] = 1;
  check_case(head, both);
}

TEST(masked_eval_cuda_rows_out_of_range_become_nan) {
  for (Metric metric : kMetrics) {
    for (int64_t n_positions : {1, 4}) {
      HeadCase head(3, 9, n_positions, 5, metric, true, 10);
      Masks masks(head, 9, true, 11);
      for (int64_t m = 0; m < 9; ++m) masks.sample_index[m] = m % 2;
      masks.sample_index[1] = -1;
      masks.sample_index[5] = 3;
      masks.sample_index[7] = INT64_MAX;
      if (!head.classes.empty()) {
        head.classes[2] = -1;
        masks.sample_index[6] = 2;
      }
      const std::vector<Expected> expected = expected_values(head, masks);
      for_each_schedule([&] {
        const std::vector<float> got = run(head, masks, Machine{}, false);
        for (size_t m = 0; m < got.size(); ++m) {
          CHECK(within(got[m], expected[m]), "%s mask %zu: %g, not %g", head.name().c_str(), m,
                static_cast<double>(got[m]), expected[m].value);
        }
      });
    }
  }
}

}  // namespace
}  // namespace shapley::tests
