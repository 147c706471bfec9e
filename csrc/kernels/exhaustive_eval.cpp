#include "exhaustive_eval.h"

#include "contributions.h"
#include "row_metric.h"

namespace shapley {
namespace SHAPLEY_ISA {
namespace {

constexpr float kLeastSum = 1e-8f;  // below, exp(low) and exp(high) agree on no class: their product lost too much
constexpr int kBlocks = 4;          // blocks that share a load of the low table

// What a task keeps of one sample, and its sums. A row of a table is an output, a column a coalition of low players.
struct Task {
  ExhaustiveSplit split;
  int64_t n_outputs, pitch;  // outputs, and rounded up to vectors
  double* sums;              // [blocks, entries]
  float* low;                // [K, entries]: what the low players add
  float* low_exp;            // [K, entries]: exp(low - its greatest)
  float* low_greatest;       // [entries]
  float* low_offset;         // [entries]: greatest less the target's
  float* high;               // [blocks, pitch]: bias and what the other players add
  float* high_exp;           // [blocks, pitch]: exp(high - its greatest)
  float* high_offset;        // [blocks]: greatest less the target's
  float* contributions;      // [panels, C, kLanes]
};

Task carve(const ExhaustiveEvalParams& params) {
  const HeadParams& head = params.head;
  Task task;
  task.split = exhaustive_split(head);
  task.n_outputs = head.n_outputs;
  task.pitch = round_up(head.n_outputs, kLanes);
  const int64_t entries = task.split.entries, blocks = int64_t{1} << task.split.middle;
  task.sums = static_cast<double*>(params.scratch);
  task.low = reinterpret_cast<float*>(task.sums + blocks * entries);
  task.low_exp = task.low + head.n_outputs * entries;
  task.low_greatest = task.low_exp + head.n_outputs * entries;
  task.low_offset = task.low_greatest + entries;
  task.high = task.low_offset + entries;
  task.high_exp = task.high + blocks * task.pitch;
  task.high_offset = task.high_exp + blocks * task.pitch;
  task.contributions = task.high_offset + round_up(blocks, kLanes);
  return task;
}

void fill_contributions(const HeadParams& head, int64_t sample, const Task& task) {
  if (head.n_positions > 1) return sample_contributions(head, sample, nullptr, task.contributions);
  const float* features = head.features + sample * head.n_players;
  for (int64_t row = 0; row < task.pitch / kLanes * head.n_players; ++row) {
    const VecF column = load(head.weight + row * kLanes);
    store(task.contributions + row * kLanes, splat(features[row % head.n_players]) * column);
  }
}

// Sums of all subsets of the low players, each the sum without its highest player plus that player.
void fill_low(const HeadParams& head, const Task& task) {
  const int64_t entries = task.split.entries;
  for (int64_t k = 0; k < head.n_outputs; ++k) {
    float* sums = task.low + k * entries;
    const float* added = task.contributions + k / kLanes * head.n_players * kLanes + k % kLanes;
    for (int64_t entry = 0; entry < kMaxLanes; ++entry) sums[entry] = 0.0f;
    for (int64_t player = 0; player < task.split.low; ++player) {
      const float one = added[player * kLanes];
      const int64_t half = int64_t{1} << player;
      for (int64_t entry = 0; entry < half; ++entry) sums[half + entry] = sums[entry] + one;
    }
  }
}

// The same for the middle players, onto the bias and the high players that the task's number has.
void fill_high(const HeadParams& head, int64_t number, const Task& task) {
  const int64_t first_middle = task.split.low, first_high = first_middle + task.split.middle;
  for (int64_t k = 0; k < task.pitch; k += kLanes) {
    const float* added = task.contributions + k * head.n_players;
    VecF sum = load(head.bias + k);
    for (int64_t i = 0; i < task.split.high; ++i) {
      if (number >> i & 1) sum += load(added + (first_high + i) * kLanes);
    }
    store(task.high + k, sum);
    for (int64_t i = 0; i < task.split.middle; ++i) {
      const VecF one = load(added + (first_middle + i) * kLanes);
      const int64_t half = int64_t{1} << i;
      for (int64_t block = 0; block < half; ++block) {
        store(task.high + (half + block) * task.pitch + k, load(task.high + block * task.pitch + k) + one);
      }
    }
  }
}

// exp(low) and exp(high), scaled by their greatest, for cross_entropy:
//     log(sum_k exp(low_k + high_k)) - low_t - high_t
//   = log(sum_k exp(low_k - max low) * exp(high_k - max high)) + (max low - low_t) + (max high - high_t)
// so that a coalition costs a multiply-add an output and one logarithm, and no exponential.
void fill_exponentials(const Task& task, int64_t target) {
  const int64_t entries = task.split.entries, blocks = int64_t{1} << task.split.middle;
  for (int64_t entry = 0; entry < entries; entry += kLanes) {
    VecF greatest = splat(-kInfinity);
    for (int64_t k = 0; k < task.n_outputs; ++k) greatest = greater(load(task.low + k * entries + entry), greatest);
    for (int64_t k = 0; k < task.n_outputs; ++k) {
      const int64_t at = k * entries + entry;
      store(task.low_exp + at, exp_nonpositive(load(task.low + at) - greatest));
    }
    store(task.low_greatest + entry, greatest);
    store(task.low_offset + entry, greatest - load(task.low + target * entries + entry));
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const float* high = task.high + block * task.pitch;
    float greatest = -kInfinity;
    for (int64_t k = 0; k < task.n_outputs; ++k) greatest = high[k] > greatest ? high[k] : greatest;
    for (int64_t k = 0; k < task.pitch; k += kLanes) {
      store(task.high_exp + block * task.pitch + k, exp_nonpositive(load(high + k) - splat(greatest)));
    }
    task.high_offset[block] = greatest - high[target];
  }
}

// The metric of kLanes coalitions from their outputs.
template <Metric metric>
VecF direct_metric(const Task& task, int64_t block, int64_t entry, RowTarget target) {
  const float* high = task.high + block * task.pitch;
  RowMetric rows = begin_metric();
  for (int64_t first = 0; first < task.n_outputs; first += kLanes) {
    const int64_t count = task.n_outputs - first < kLanes ? task.n_outputs - first : kLanes;
    VecF columns[kLanes];
    for (int64_t i = 0; i < count; ++i) {
      columns[i] = splat(high[first + i]) + load(task.low + (first + i) * task.split.entries + entry);
    }
    add_columns<metric>(rows, columns, count, first, target);
  }
  return finish_metric<metric>(rows, task.n_outputs, target);
}

template <Metric metric>
void add_sample(const Task& task, RowTarget target) {
  const int64_t entries = task.split.entries, blocks = int64_t{1} << task.split.middle;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t entry = 0; entry < entries; entry += kLanes) {
      add_to(task.sums + block * entries + entry, direct_metric<metric>(task, block, entry, target));
    }
  }
}

// n_blocks blocks side by side, so that each load of the low table serves all of them.
template <int n_blocks>
void add_cross_entropy(const Task& task, int64_t block, RowTarget target) {
  const int64_t entries = task.split.entries;
  const float* high_exp = task.high_exp + block * task.pitch;
  for (int64_t entry = 0; entry < entries; entry += kLanes) {
    VecF sum[n_blocks] = {};
    for (int64_t k = 0; k < task.n_outputs; ++k) {
      const VecF low_exp = load(task.low_exp + k * entries + entry);
      for (int b = 0; b < n_blocks; ++b) sum[b] = fma(splat(high_exp[b * task.pitch + k]), low_exp, sum[b]);
    }
    for (int b = 0; b < n_blocks; ++b) {
      const VecF offset = load(task.low_offset + entry) + splat(task.high_offset[block + b]);
      VecF value = log_positive(sum[b]) + offset;
      const VecI small = sum[b] < splat(kLeastSum);
      if (any(small)) {
        value = small ? direct_metric<Metric::kCrossEntropy>(task, block + b, entry, target) : value;
      }
      add_to(task.sums + (block + b) * entries + entry, value);
    }
  }
}

template <>
void add_sample<Metric::kCrossEntropy>(const Task& task, RowTarget target) {
  const int64_t blocks = int64_t{1} << task.split.middle;
  fill_exponentials(task, target.index);
  if (blocks < kBlocks) {
    for (int64_t block = 0; block < blocks; ++block) add_cross_entropy<1>(task, block, target);
  } else {
    for (int64_t block = 0; block < blocks; block += kBlocks) add_cross_entropy<kBlocks>(task, block, target);
  }
}

template <Metric metric>
void evaluate(const ExhaustiveEvalParams& params, int64_t begin, int64_t end) {
  const HeadParams& head = params.head;
  const Task task = carve(params);
  const int64_t blocks = int64_t{1} << task.split.middle, coalitions = int64_t{1} << task.split.low;
  const int64_t entries = task.split.entries;
  for (int64_t number = begin; number < end; ++number) {
    for (int64_t i = 0; i < blocks * entries; ++i) task.sums[i] = 0.0;
    for (int64_t sample = 0; sample < head.n_samples; ++sample) {
      fill_contributions(head, sample, task);
      fill_low(head, task);
      fill_high(head, number, task);
      add_sample<metric>(task, row_target(head, sample));
    }
    for (int64_t block = 0; block < blocks; ++block) {
      float* out = params.out + (number * blocks + block) * coalitions;
      for (int64_t i = 0; i < coalitions; ++i) {
        out[i] = static_cast<float>(task.sums[block * entries + i] / static_cast<double>(head.n_samples));
      }
    }
  }
}

}  // namespace

void exhaustive_eval_cpu(const ExhaustiveEvalParams& params, int64_t begin, int64_t end) {
  switch (params.head.metric) {
    case Metric::kCrossEntropy: return evaluate<Metric::kCrossEntropy>(params, begin, end);
    case Metric::kAccuracy: return evaluate<Metric::kAccuracy>(params, begin, end);
    default: return evaluate<Metric::kSquaredError>(params, begin, end);
  }
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
