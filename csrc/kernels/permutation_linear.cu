#include "permutation_linear.h"

#include "activation.cuh"
#include "walk_table.cuh"

namespace shapley {
namespace {

constexpr int kThreads = 128;
constexpr int kStretch = 32;  // as in permutation_eval.cu, so that the bits are the same
constexpr int kBatch = 8;     // steps whose weights are loaded together
constexpr int64_t kMaxGridY = 65535;

// A thread writes one output of one walk, step by step; `width` threads side by side are the outputs of a walk.
template <Activation activation>
__global__ void __launch_bounds__(kThreads)
    permutation_linear_kernel(PermutationLinearParams p, WalkTable table, int width) {
  const HeadParams& head = p.head;
  const int64_t n_players = head.n_players, n_outputs = head.n_outputs;
  const int walks_per_block = kThreads / width;
  const int64_t walk = table.first_walk + static_cast<int64_t>(blockIdx.x) * walks_per_block + threadIdx.x / width;
  if (walk >= table.end_walk) return;
  const int64_t sample = p.sample_index[walk];
  const bool valid = sample >= 0 && sample < head.n_samples;
  const int32_t* players = p.permutations + walk * n_players;
  for (int64_t k = static_cast<int64_t>(blockIdx.y) * width + threadIdx.x % width; k < n_outputs;
       k += static_cast<int64_t>(gridDim.y) * width) {
    float* out = p.out + walk * (n_players + 1) * n_outputs + k;
    bool bad = !valid;
    if (valid) {
      const float* columns = walk_columns(head, table, walk, sample) + k;
      const float* features = table.contributions ? nullptr : head.features + sample * n_players;
      float outputs = head.bias ? head.bias[k] : 0.0f;
      if (p.residual) outputs += p.residual[sample * n_outputs + k];
      for (int64_t step = 0; step <= n_players; step += kStretch) {
        float sum = 0.0f;
        for (int64_t first = step; first < step + kStretch && first <= n_players; first += kBatch) {
          float added[kBatch], feature[kBatch];
#pragma unroll
          for (int b = 0; b < kBatch; ++b) {
            int64_t player = first + b < n_players ? players[first + b] : 0;
            if (player < 0 || player >= n_players) {
              bad = true;
              player = 0;
            }
            added[b] = __ldg(columns + player * n_outputs);
            feature[b] = features ? features[player] : 1.0f;
          }
#pragma unroll
          for (int b = 0; b < kBatch; ++b) {
            if (first + b <= n_players) {
              out[(first + b) * n_outputs] = activate(outputs + sum, activation, p.negative_slope);
            }
            sum = features ? fmaf(feature[b], added[b], sum) : sum + added[b];
          }
        }
        outputs += sum;
      }
    }
    for (int64_t j = 0; bad && j <= n_players; ++j) out[j * n_outputs] = NAN;
  }
}

using Kernel = void (*)(PermutationLinearParams, WalkTable, int);

Kernel kernel_of(Activation activation) {
  switch (activation) {
    case Activation::kRelu: return permutation_linear_kernel<Activation::kRelu>;
    case Activation::kRelu6: return permutation_linear_kernel<Activation::kRelu6>;
    case Activation::kLeakyRelu: return permutation_linear_kernel<Activation::kLeakyRelu>;
    case Activation::kSilu: return permutation_linear_kernel<Activation::kSilu>;
    case Activation::kHardswish: return permutation_linear_kernel<Activation::kHardswish>;
    case Activation::kGelu: return permutation_linear_kernel<Activation::kGelu>;
    case Activation::kSigmoid: return permutation_linear_kernel<Activation::kSigmoid>;
    case Activation::kTanh: return permutation_linear_kernel<Activation::kTanh>;
    default: return permutation_linear_kernel<Activation::kNone>;
  }
}

}  // namespace

int launch_permutation_linear(const PermutationLinearParams& p, void* stream) {
  int width = 8;
  while (width < kThreads && width < p.head.n_outputs) width *= 2;
  const Kernel permutation_linear = kernel_of(p.activation);
  const int64_t walks_per_block = kThreads / width;
  const int64_t panels = (p.head.n_outputs + width - 1) / width;
  return for_walk_tables(
      p.head, p.sample_index, p.n_walks, p.scratch, p.scratch_size, stream, [&](const WalkTable& table) {
        const int64_t blocks = (table.end_walk - table.first_walk + walks_per_block - 1) / walks_per_block;
        const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(panels < kMaxGridY ? panels : kMaxGridY));
        SHAPLEY_LAUNCH(permutation_linear, grid, kThreads, 0, static_cast<cudaStream_t>(stream), p, table, width);
        return static_cast<int>(cudaGetLastError());
      });
}

}  // namespace shapley
