#include "exhaustive_eval.h"
#include "row_metric.cuh"

namespace shapley {
namespace {

constexpr int kLow = 8;  // players that number the threads of a block
constexpr int kThreads = 1 << kLow;
constexpr int kNibble = 16;  // subsets of four low players
constexpr int kMaxPlayers = static_cast<int>(kExhaustiveMaxPlayers);

constexpr float kLeastSum = 1e-8f;  // as on the CPU

template <int kColumns>
struct Tables {
  // Neighbouring entries lie an odd number of float4 apart, so that reads of them fall into different banks.
  static constexpr int kPitch = kColumns % 8 == 0 ? kColumns + 4 : kColumns;
  float contributions[kMaxPlayers * kColumns];
  alignas(16) float sums[2][kNibble * kPitch];  // of the subsets of players 0 .. 3 and of players 4 .. 7
  alignas(16) float exps[2][kNibble * kPitch];  // exp(sum - the entry's greatest), `common` included in the second
  alignas(16) float common[kColumns];           // bias and the block's high players
  float greatest[2][kNibble];
};

template <int kColumns>
__device__ __forceinline__ void fill_contributions(const HeadParams& head, int64_t sample, int64_t first_output,
                                                   Tables<kColumns>& tables) {
  const int n_players = static_cast<int>(head.n_players);
  const int64_t n_positions = head.n_positions, columns = n_players * n_positions;
  for (int cell = threadIdx.x; cell < n_players * kColumns; cell += kThreads) {
    const int c = cell / kColumns, k = cell % kColumns;
    float sum = 0.0f;
    if (first_output + k < head.n_outputs) {
      const float* features = head.features + (sample * n_players + c) * n_positions;
      const float* weight = head.weight + (first_output + k) * columns + c * n_positions;
      for (int64_t s = 0; s < n_positions; ++s) sum = fmaf(features[s], __ldg(weight + s), sum);
    }
    tables.contributions[cell] = sum;
  }
}

template <int kColumns>
__device__ __forceinline__ void fill_sums(const HeadParams& head, int64_t coalition, int64_t first_output,
                                          Tables<kColumns>& tables) {
  const int n_players = static_cast<int>(head.n_players);
  for (int cell = threadIdx.x; cell < 2 * kNibble * kColumns; cell += kThreads) {
    const int k = cell % kColumns, entry = cell / kColumns % kNibble, half = cell / kColumns / kNibble;
    float sum = 0.0f;
    for (int i = 0; i < 4; ++i) {
      const int c = 4 * half + i;
      if ((entry >> i & 1) && c < n_players) sum += tables.contributions[c * kColumns + k];
    }
    tables.sums[half][entry * Tables<kColumns>::kPitch + k] = sum;
  }
  const int k = threadIdx.x;
  if (k >= kColumns) return;
  float sum = head.bias && first_output + k < head.n_outputs ? head.bias[first_output + k] : 0.0f;
  for (int c = kLow; c < n_players; ++c) {
    if (coalition >> c & 1) sum += tables.contributions[c * kColumns + k];
  }
  tables.common[k] = sum;
}

template <int kColumns>
__device__ __forceinline__ void fill_exps(int count, Tables<kColumns>& tables) {
  for (int cell = threadIdx.x; cell < 2 * kNibble * kColumns; cell += kThreads) {
    const int k = cell % kColumns, entry = cell / kColumns % kNibble, half = cell / kColumns / kNibble;
    const float* sums = tables.sums[half] + entry * Tables<kColumns>::kPitch;
    float greatest = -INFINITY;
    for (int i = 0; i < count; ++i) greatest = fmaxf(greatest, half ? sums[i] + tables.common[i] : sums[i]);
    const float sum = half ? sums[k] + tables.common[k] : sums[k];
    tables.exps[half][entry * Tables<kColumns>::kPitch + k] = k < count ? expf(sum - greatest) : 0.0f;
    if (k == 0) tables.greatest[half][entry] = greatest;
  }
}

// A block is the coalitions that agree in the players from kLow on, a thread one of them. Per sample, a thread's
// outputs are those of the block, plus two entries of tables; the sum of their exponentials is one of products.
template <int kColumns>
__global__ void __launch_bounds__(kThreads, 3) exhaustive_eval_kernel(ExhaustiveEvalParams p) {
  constexpr int kPitch = Tables<kColumns>::kPitch;
  __shared__ Tables<kColumns> tables;
  const HeadParams& head = p.head;
  const int64_t n_outputs = head.n_outputs;
  const int entries[2] = {static_cast<int>(threadIdx.x) % kNibble, static_cast<int>(threadIdx.x) / kNibble};
  const int64_t coalition = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool exponentials = head.metric == Metric::kCrossEntropy;
  double total = 0.0;
  for (int64_t sample = 0; sample < head.n_samples; ++sample) {
    const RowTarget target = row_target(head, sample);
    RowMetric row;
    for (int64_t first_output = 0; first_output < n_outputs; first_output += kColumns) {
      const int count = static_cast<int>(min(n_outputs - first_output, static_cast<int64_t>(kColumns)));
      fill_contributions(head, sample, first_output, tables);
      __syncthreads();
      fill_sums(head, coalition, first_output, tables);
      __syncthreads();
      if (exponentials) {
        fill_exps(count, tables);
        __syncthreads();
      }
      if (!target.valid) continue;
      const float *low = tables.sums[0] + entries[0] * kPitch, *high = tables.sums[1] + entries[1] * kPitch;
      if (exponentials) {
        const float *low_exp = tables.exps[0] + entries[0] * kPitch, *high_exp = tables.exps[1] + entries[1] * kPitch;
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < kColumns; k += 4) {
          const float4 a = *reinterpret_cast<const float4*>(low_exp + k);
          const float4 b = *reinterpret_cast<const float4*>(high_exp + k);
          sum = fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
        }
        if (sum >= kLeastSum) {
          RowMetric panel;
          panel.best = tables.greatest[0][entries[0]] + tables.greatest[1][entries[1]];
          panel.sum = sum;
          const int64_t k = target.index - first_output;
          if (k >= 0 && k < count) panel.picked = tables.common[k] + (low[k] + high[k]);
          if (first_output > 0) merge(head.metric, panel, row);
          row = panel;
          continue;
        }
      }
      float outputs[kColumns];
#pragma unroll
      for (int k = 0; k < kColumns; k += 4) {
        const float4 a = *reinterpret_cast<const float4*>(tables.common + k);
        const float4 b = *reinterpret_cast<const float4*>(low + k);
        const float4 c = *reinterpret_cast<const float4*>(high + k);
        outputs[k] = a.x + (b.x + c.x);
        outputs[k + 1] = a.y + (b.y + c.y);
        outputs[k + 2] = a.z + (b.z + c.z);
        outputs[k + 3] = a.w + (b.w + c.w);
      }
      add_columns<kColumns>(head.metric, row, [&](int k) { return outputs[k]; }, count, first_output, target);
    }
    total += static_cast<double>(target.valid ? finish_metric(head.metric, row, n_outputs, target) : NAN);
  }
  if (coalition < int64_t{1} << head.n_players) {
    p.out[coalition] = static_cast<float>(total / static_cast<double>(head.n_samples));
  }
}

}  // namespace

int launch_exhaustive_eval(const ExhaustiveEvalParams& p, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const unsigned blocks = p.head.n_players <= kLow ? 1u : 1u << (p.head.n_players - kLow);
  if (p.head.n_outputs <= 4) {
    SHAPLEY_LAUNCH(exhaustive_eval_kernel<4>, blocks, kThreads, 0, on, p);
  } else if (p.head.n_outputs <= 8) {
    SHAPLEY_LAUNCH(exhaustive_eval_kernel<8>, blocks, kThreads, 0, on, p);
  } else if (p.head.n_outputs <= 12) {
    SHAPLEY_LAUNCH(exhaustive_eval_kernel<12>, blocks, kThreads, 0, on, p);
  } else {
    SHAPLEY_LAUNCH(exhaustive_eval_kernel<16>, blocks, kThreads, 0, on, p);
  }
  return static_cast<int>(cudaGetLastError());
}

}  // namespace shapley
