#include "exhaustive_eval.h"
#include "row_metric.cuh"

namespace shapley {
namespace {

constexpr int kLow = 8;  // players that number the threads of a block
constexpr int kThreads = 1 << kLow;
constexpr int kNibble = 16;  // subsets of four low players
constexpr int kMaxPlayers = static_cast<int>(kExhaustiveMaxPlayers);

// A block is the coalitions that agree in the players from kLow on, a thread one of them. Per sample, a thread's
// outputs are those of the block, plus two entries of tables: of the subsets of players 0 .. 3 and of players 4 .. 7.
template <int kColumns>
__global__ void __launch_bounds__(kThreads, 3) exhaustive_eval_kernel(ExhaustiveEvalParams p) {
  constexpr int kPitch = kColumns + 4;  // float4 reads of neighbouring entries fall into different banks
  __shared__ float contributions[kMaxPlayers * kColumns];
  __shared__ __align__(16) float tables[2][kNibble * kPitch];
  __shared__ __align__(16) float common[kColumns];
  const HeadParams& head = p.head;
  const int n_players = static_cast<int>(head.n_players);
  const int64_t n_outputs = head.n_outputs, n_positions = head.n_positions, columns = n_players * n_positions;
  const int thread = threadIdx.x;
  const int64_t coalition = static_cast<int64_t>(blockIdx.x) * kThreads + thread;
  double total = 0.0;
  for (int64_t sample = 0; sample < head.n_samples; ++sample) {
    const RowTarget target = row_target(head, sample);
    RowMetric row;
    for (int64_t first_output = 0; first_output < n_outputs; first_output += kColumns) {
      __syncthreads();  // everyone is done with the panel before
      for (int cell = thread; cell < n_players * kColumns; cell += kThreads) {
        const int c = cell / kColumns, k = cell % kColumns;
        float sum = 0.0f;
        if (first_output + k < n_outputs) {
          const float* features = head.features + (sample * n_players + c) * n_positions;
          const float* weight = head.weight + (first_output + k) * columns + c * n_positions;
          for (int64_t s = 0; s < n_positions; ++s) sum = fmaf(features[s], __ldg(weight + s), sum);
        }
        contributions[cell] = sum;
      }
      __syncthreads();
      for (int cell = thread; cell < 2 * kNibble * kColumns; cell += kThreads) {
        const int k = cell % kColumns, entry = cell / kColumns % kNibble, half = cell / kColumns / kNibble;
        float sum = 0.0f;
        for (int i = 0; i < 4; ++i) {
          const int c = 4 * half + i;
          if ((entry >> i & 1) && c < n_players) sum += contributions[c * kColumns + k];
        }
        tables[half][entry * kPitch + k] = sum;
      }
      if (thread < kColumns) {
        float sum = head.bias && first_output + thread < n_outputs ? head.bias[first_output + thread] : 0.0f;
        for (int c = kLow; c < n_players; ++c) {
          if (coalition >> c & 1) sum += contributions[c * kColumns + thread];
        }
        common[thread] = sum;
      }
      __syncthreads();
      float outputs[kColumns];
#pragma unroll
      for (int k = 0; k < kColumns; k += 4) {
        const float4 a = *reinterpret_cast<const float4*>(common + k);
        const float4 b = *reinterpret_cast<const float4*>(tables[0] + thread % kNibble * kPitch + k);
        const float4 c = *reinterpret_cast<const float4*>(tables[1] + thread / kNibble * kPitch + k);
        outputs[k] = a.x + (b.x + c.x);
        outputs[k + 1] = a.y + (b.y + c.y);
        outputs[k + 2] = a.z + (b.z + c.z);
        outputs[k + 3] = a.w + (b.w + c.w);
      }
      const int count = static_cast<int>(min(n_outputs - first_output, static_cast<int64_t>(kColumns)));
      if (target.valid) {
        add_columns<kColumns>(head.metric, row, [&](int k) { return outputs[k]; }, count, first_output, target);
      }
    }
    total += static_cast<double>(target.valid ? finish_metric(head.metric, row, n_outputs, target) : NAN);
  }
  if (coalition < int64_t{1} << n_players) {
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
