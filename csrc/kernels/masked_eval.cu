#include "masked_eval.h"
#include "masked_means_mma.cuh"
#include "row_metric.cuh"

namespace shapley {
namespace {

constexpr int kThreads = 128;
constexpr int kWord = 32;  // players in a word of packed masks, and contributions in shared memory at a time
constexpr int kRowColumns = 16;
constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int64_t kMaxGridY = 65535;

// A warp packs one mask.
__global__ void __launch_bounds__(kThreads) pack_masks_kernel(MaskedEvalParams p, MeansScratch scratch) {
  const int64_t m = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x & 31;
  if (m >= scratch.n_masks) return;
  const int64_t n_players = p.head.n_players;
  const bool* mask = p.masks + (scratch.first_mask + m) * n_players;
  for (int64_t c = 0; c < n_players; c += kWord) {
    const unsigned word = __ballot_sync(kFullWarp, c + lane < n_players && mask[c + lane]);
    if (lane == 0) scratch.words[c / kWord * scratch.n_masks + m] = word;
  }
}

// contributions[i, k] = what player first_player + i adds to output first_output + k of the sample; 0 past the ends.
template <int kColumns>
__device__ __forceinline__ void load_contributions(const HeadParams& head, int64_t sample, int64_t first_player,
                                                   int64_t first_output, float* contributions) {
  const int64_t n_positions = head.n_positions, columns = head.n_players * n_positions;
  for (int cell = threadIdx.x; cell < kWord * kColumns; cell += kThreads) {
    const int i = cell % kWord, k = cell / kWord;
    float sum = 0.0f;
    if (first_player + i < head.n_players && first_output + k < head.n_outputs) {
      const int64_t column = (first_player + i) * n_positions;
      const float* features = head.features + sample * columns + column;
      const float* weight = head.weight + (first_output + k) * columns + column;
      for (int64_t s = 0; s < n_positions; ++s) sum = fmaf(features[s], __ldg(weight + s), sum);
    }
    contributions[i * kColumns + k] = sum;
  }
}

// A thread is one mask, a block 128 masks and one block of samples; kColumns outputs at a time are in registers.
template <int kColumns>
__global__ void __launch_bounds__(kThreads, 4) masked_means_kernel(MaskedEvalParams p, MeansScratch scratch) {
  __shared__ __align__(16) float contributions[kWord * kColumns];
  const HeadParams& head = p.head;
  const int64_t n_outputs = head.n_outputs, block_samples = scratch.block_samples;
  const int64_t m = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool active = m < scratch.n_masks;
  for (int64_t block = blockIdx.y; block < scratch.n_blocks; block += gridDim.y) {
    const int64_t end = min((block + 1) * block_samples, head.n_samples);
    double total = 0.0;
    for (int64_t sample = block * block_samples; sample < end; ++sample) {
      const RowTarget target = row_target(head, sample);
      RowMetric row;
      for (int64_t first_output = 0; first_output < n_outputs; first_output += kColumns) {
        float outputs[kColumns];
#pragma unroll
        for (int k = 0; k < kColumns; ++k) {
          outputs[k] = head.bias && first_output + k < n_outputs ? head.bias[first_output + k] : 0.0f;
        }
        for (int64_t player = 0; player < head.n_players; player += kWord) {
          __syncthreads();
          load_contributions<kColumns>(head, sample, player, first_output, contributions);
          __syncthreads();
          const unsigned word = active ? scratch.words[player / kWord * scratch.n_masks + m] : 0u;
#pragma unroll 8
          for (int i = 0; i < kWord; ++i) {
            const float4* added = reinterpret_cast<const float4*>(contributions + i * kColumns);
            if ((word >> i & 1u) == 0) continue;
#pragma unroll
            for (int k = 0; k < kColumns / 4; ++k) {
              const float4 four = added[k];
              outputs[4 * k] += four.x;
              outputs[4 * k + 1] += four.y;
              outputs[4 * k + 2] += four.z;
              outputs[4 * k + 3] += four.w;
            }
          }
        }
        const int count = static_cast<int>(min(n_outputs - first_output, static_cast<int64_t>(kColumns)));
        if (target.valid) {
          add_columns<kColumns>(head.metric, row, [&](int k) { return outputs[k]; }, count, first_output, target);
        }
      }
      const float value = target.valid ? finish_metric(head.metric, row, n_outputs, target) : NAN;
      total += static_cast<double>(value) - (p.baseline ? static_cast<double>(p.baseline[sample]) : 0.0);
    }
    if (active) scratch.block_sums[block * scratch.n_masks + m] = total;
  }
}

__global__ void __launch_bounds__(kThreads) add_blocks_kernel(MaskedEvalParams p, MeansScratch scratch) {
  const int64_t m = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (m >= scratch.n_masks) return;
  double total = 0.0;
  for (int64_t block = 0; block < scratch.n_blocks; ++block) total += scratch.block_sums[block * scratch.n_masks + m];
  p.out[scratch.first_mask + m] = static_cast<float>(total / static_cast<double>(p.head.n_samples));
}

// A warp is one mask on its own sample: lanes share the columns of the weight, kRowColumns outputs at a time, and add
// up by butterfly shuffles, after which every lane has the outputs.
__global__ void __launch_bounds__(kThreads) masked_rows_kernel(MaskedEvalParams p) {
  const HeadParams& head = p.head;
  const int64_t m = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x & 31;
  if (m >= p.n_masks) return;
  const int64_t sample = p.sample_index[m], n_outputs = head.n_outputs, n_positions = head.n_positions;
  const int64_t n_columns = head.n_players * n_positions;
  const RowTarget target = row_target(head, sample);
  float value = NAN;
  if (target.valid) {
    const bool* mask = p.masks + m * head.n_players;
    const float* features = head.features + sample * n_columns;
    RowMetric row;
    for (int64_t first_output = 0; first_output < n_outputs; first_output += kRowColumns) {
      const int count = static_cast<int>(min(n_outputs - first_output, static_cast<int64_t>(kRowColumns)));
      const float* weight = head.weight + first_output * n_columns;
      float outputs[kRowColumns] = {};
      int64_t player = lane / n_positions, position = lane % n_positions;  // of the column: no division in the loop
      for (int64_t column = lane; column < n_columns; column += 32) {
        const bool kept = mask[player];
        player += 32 / n_positions;
        position += 32 % n_positions;
        if (position >= n_positions) {
          position -= n_positions;
          ++player;
        }
        if (!kept) continue;
        const float feature = features[column];
#pragma unroll
        for (int k = 0; k < kRowColumns; ++k) {
          if (k < count) outputs[k] = fmaf(feature, __ldg(weight + k * n_columns + column), outputs[k]);
        }
      }
#pragma unroll
      for (int k = 0; k < kRowColumns; ++k) {
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) outputs[k] += __shfl_xor_sync(kFullWarp, outputs[k], offset);
        if (head.bias && k < count) outputs[k] += head.bias[first_output + k];
      }
      add_columns<kRowColumns>(head.metric, row, [&](int k) { return outputs[k]; }, count, first_output, target);
    }
    value = finish_metric(head.metric, row, n_outputs, target);
    if (p.baseline) value -= p.baseline[sample];
  }
  if (lane == 0) p.out[m] = value;
}

unsigned blocks_for(int64_t items, int per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

int launch_means(const MaskedEvalParams& p, const MeansScratch& scratch, cudaStream_t stream) {
  static_assert(kMmaMasks == kThreads, "both kernels take 128 masks a block");
  const dim3 grid(blocks_for(scratch.n_masks, kThreads),
                  static_cast<unsigned>(scratch.n_blocks < kMaxGridY ? scratch.n_blocks : kMaxGridY));
  bool mma = false;
  const cudaError_t error = has_mma(masked_means_mma_kernel<true>, &mma);
  if (error != cudaSuccess) return static_cast<int>(error);
  SHAPLEY_LAUNCH(pack_masks_kernel, blocks_for(scratch.n_masks, kThreads / 32), kThreads, 0, stream, p, scratch);
  if (mma) {
    launch_means_mma(p, scratch, grid, stream);
  } else if (p.head.n_outputs <= 4) {
    SHAPLEY_LAUNCH(masked_means_kernel<4>, grid, kThreads, 0, stream, p, scratch);
  } else if (p.head.n_outputs <= 8) {
    SHAPLEY_LAUNCH(masked_means_kernel<8>, grid, kThreads, 0, stream, p, scratch);
  } else if (p.head.n_outputs <= 12) {
    SHAPLEY_LAUNCH(masked_means_kernel<12>, grid, kThreads, 0, stream, p, scratch);
  } else {
    SHAPLEY_LAUNCH(masked_means_kernel<16>, grid, kThreads, 0, stream, p, scratch);
  }
  SHAPLEY_LAUNCH(add_blocks_kernel, blocks_for(scratch.n_masks, kThreads), kThreads, 0, stream, p, scratch);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

int launch_masked_eval(const MaskedEvalParams& p, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (p.n_masks == 0) return cudaSuccess;
  if (p.sample_index) {
    SHAPLEY_LAUNCH(masked_rows_kernel, blocks_for(p.n_masks, kThreads / 32), kThreads, 0, on, p);
    return static_cast<int>(cudaGetLastError());
  }
  for (int64_t first = 0; first < p.n_masks; first += p.scratch_masks) {
    MeansScratch scratch;
    scratch.first_mask = first;
    scratch.n_masks = p.n_masks - first < p.scratch_masks ? p.n_masks - first : p.scratch_masks;
    scratch.block_samples = static_cast<int>(mean_block_samples(p.head));
    scratch.tile_samples = static_cast<int>(mean_tile_samples(p.head));
    scratch.tile_outputs = static_cast<int>(mean_tile_outputs(p.head));
    scratch.n_blocks = (p.head.n_samples + scratch.block_samples - 1) / scratch.block_samples;
    scratch.block_sums = static_cast<double*>(p.scratch);
    scratch.words = reinterpret_cast<uint32_t*>(scratch.block_sums + scratch.n_blocks * scratch.n_masks);
    const int error = launch_means(p, scratch, on);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace shapley
