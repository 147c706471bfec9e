#include "loss_difference.h"

#include "simd.h"

namespace shapley::SHAPLEY_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

struct Row {
  const float* outputs;  // [K]
  int64_t sample;
};

// The outputs from k on, filled up with -inf.
VecF load_outputs(const float* outputs, int64_t k, int64_t n) {
  if (k + kLanes <= n) return load(outputs + k);
  VecF x = splat(-kInfinity);
  for (int64_t lane = 0; k + lane < n; ++lane) x[lane] = outputs[k + lane];
  return x;
}

// Lane i of the result is the sum, or the greatest, of the lanes of rows[i]: pairwise, in the same order for each.
VecF sum_across(VecF* rows) {
  transpose(rows);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) rows[lane] += rows[lane + width];
  }
  return rows[0];
}
VecF greatest_across(VecF* rows) {
  transpose(rows);
  for (int lane = 1; lane < kLanes; ++lane) rows[0] = greater(rows[lane], rows[0]);
  return rows[0];
}

VecF cross_entropy(const LossDifferenceParams& p, const Row* rows, int count) {
  const int64_t n = p.n_outputs;
  VecF parts[kLanes] = {};
  VecF chosen = {};
  for (int i = 0; i < count; ++i) {
    parts[i] = splat(-kInfinity);
    for (int64_t k = 0; k < n; k += kLanes) parts[i] = greater(load_outputs(rows[i].outputs, k, n), parts[i]);
    chosen[i] = rows[i].outputs[p.targets.classes[rows[i].sample]];
  }
  const VecF greatest = greatest_across(parts);
  for (int i = 0; i < count; ++i) {
    const VecF top = splat(greatest[i]);
    parts[i] = splat(0.0f);
    for (int64_t k = 0; k < n; k += kLanes) parts[i] += exp_nonpositive(load_outputs(rows[i].outputs, k, n) - top);
  }
  return log_positive(sum_across(parts)) + (greatest - chosen);
}

VecF accuracy(const LossDifferenceParams& p, const Row* rows, int count) {
  VecF right = {};
  for (int i = 0; i < count; ++i) {
    const float* const z = rows[i].outputs;
    const int64_t target = p.targets.classes[rows[i].sample];
    const float chosen = z[target];
    bool beaten = false;
    bool nan = false;
    for (int64_t k = 0; k < target; ++k) beaten |= z[k] >= chosen, nan |= z[k] != z[k];
    for (int64_t k = target; k < p.n_outputs; ++k) beaten |= z[k] > chosen, nan |= z[k] != z[k];
    right[i] = nan ? __builtin_nanf("") : beaten ? 0.0f : 1.0f;
  }
  return right;
}

VecF squared_error(const LossDifferenceParams& p, const Row* rows, int count) {
  const int64_t n = p.n_outputs;
  VecF parts[kLanes] = {};
  for (int i = 0; i < count; ++i) {
    const float* const target = p.targets.values + rows[i].sample * n;
    for (int64_t k = 0; k < n; k += kLanes) {
      const VecF d = load_part(rows[i].outputs + k, n - k) - load_part(target + k, n - k);
      parts[i] = fma(d, d, parts[i]);
    }
  }
  return sum_across(parts) / splat(static_cast<float>(n));
}

}  // namespace

void loss_difference_cpu(const LossDifferenceParams& p, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += kLanes) {
    const int count = static_cast<int>(end - first < kLanes ? end - first : kLanes);
    Row rows[kLanes];
    VecF reference = {};
    for (int i = 0; i < count; ++i) {
      const int64_t row = first + i;
      rows[i] = {p.outputs + row * p.n_outputs, p.sample_index ? p.sample_index[row] : row};
      if (p.baseline) reference[i] = p.baseline[rows[i].sample];
    }
    const VecF value = p.metric == Metric::kCrossEntropy ? cross_entropy(p, rows, count)
                       : p.metric == Metric::kAccuracy   ? accuracy(p, rows, count)
                                                         : squared_error(p, rows, count);
    store_part(p.out + first, p.baseline ? value - reference : value, count);
  }
}

}  // namespace shapley::SHAPLEY_ISA
