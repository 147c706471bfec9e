// masked_means_mma.cuh: masked_eval's mean over samples on tensor cores: sums of metrics over blocks of samples.
//
//     outputs[m, (n, k)] = bias[k] + masks [M, C] x contributions [C, (n, k)],   then the metric of (m, n)
//
// In and out as in masked_eval.h: masks as words of 32 players, block_sums [blocks of samples, M] overwritten.
//
// A mask is exact in bfloat16. A contribution is the sum of three bfloat16 numbers, exact too, but for bits below
// 2^-133: its float32 significand of 24 bits cut in three. So one matrix product becomes three.
//
// A block is 128 masks on one block of samples, which it goes through in tiles of up to 64 columns: as many samples
// side by side as have room with all their outputs, or for K > 64 equal parts of one sample's outputs. Per tile:
//   1. For 32 players at a time a thread computes 8 contributions, cuts them and stores them where a lane of the
//      product reads them with one 16-byte load; two buffers, so that one is filled while the other is multiplied.
//   2. 8 warps, 2 by 4, multiply 64 masks by 16 columns each. The product's k-th place in a step belongs to a player
//      such that a mask's registers are two instructions on its word: no mask goes through shared memory but as bits.
//   3. Sums of 32 players start from zero in the tensor core and are added, rounded, to the outputs in registers.
//   4. The outputs change places through shared memory; two lanes share a row's columns and take its metric.
// Shared memory: 35 KiB, outputs over buffers. 256 threads, two blocks a multiprocessor.
//
// A contribution that is no number, infinite or 2^96 and beyond counts as zero in the product, and is added afterwards
// to the outputs of the masks that keep its player: 0 * NaN does not reach the others, whose bits it does not touch.
// The rest cannot overflow: a sum of 2^31 of them is less than 2^127.
//
// Bytes: contributions are computed once for 128 masks, from L1 and L2. Operations: 6 M C N K on tensor cores, 2 S
// C N K for each 128 masks and about 20 M N K for the metric. By this count bound by tensor cores for many players, by
// exponentials for few (C < 100), by contributions for many positions.
//
// Accuracy: cutting a contribution loses nothing, but tensor cores cut sums where float32 would round (mma.cuh). So no
// sum is longer in them than 32 players, 6 steps. An output is within 4 * 2^-23 of the sum of its terms' magnitudes in
// the emulator, whose tensor cores keep as little as any known; about 1e-6 of the greatest of its partial sums.
// Summation order: steps of 16 players, low, middle and high parts; groups of 32 players, onto the bias. It depends on
// C and S alone, and a column's place in a tile does not matter: same bits on every run and for any M. Samples' values:
// float64, in order.
//
// Limits: C, S and K below 2^31.
#pragma once

#include "masked_eval.h"
#include "mma.cuh"
#include "row_metric.cuh"

namespace shapley {
namespace {

struct MeansScratch {
  double* block_sums;  // [blocks of samples, masks]
  uint32_t* words;     // [ceil(C / 32), masks]: bit i of word w is player 32 w + i
  int64_t first_mask, n_masks, n_blocks;
  int block_samples, tile_samples, tile_outputs;  // mean_block_samples, mean_tile_samples, mean_tile_outputs
};

constexpr int kMmaThreads = 256;
constexpr int kMmaMasks = 128;
constexpr int kMmaColumns = static_cast<int>(kMeanColumns);
constexpr int kMmaPlayers = 32;
constexpr int kParts = 3;                 // bfloat16 numbers that a contribution is the sum of: high, middle, low
constexpr int kPanels = kMmaColumns / 8;  // columns of one product
constexpr int kWarpPanels = 2;            // of a warp: those of its number and that + 4
constexpr int kWarpSlabs = 4;             // of 16 masks, of a warp
constexpr int kLogitPitch = 69;           // odd, and 5 g + 2 t mod 32 hits no bank more than twice
constexpr float kGreatestOrdinary = 0x1p96f;

struct MmaOperands {
  uint4 parts[kParts][kPanels][32];  // of a lane: its players' pairs in the order of the steps
  uint32_t words[kMmaMasks];
};
union MmaShared {
  MmaOperands operands[2];
  float logits[kMmaMasks * kLogitPitch];
};

// Columns of a tile: sample first_sample + j / n_outputs, output first_output + j % n_outputs.
struct ColumnTile {
  int64_t first_sample;
  int first_output, n_outputs, n_columns;
};

// Features and weight of a column's sample and output; null past the tile's end.
struct Column {
  const float* features;
  const float* weight;
};

__device__ __forceinline__ Column find_column(const HeadParams& head, const ColumnTile& tile, int j) {
  if (j >= tile.n_columns) return {nullptr, nullptr};
  const int64_t length = head.n_players * head.n_positions;
  return {head.features + (tile.first_sample + j / tile.n_outputs) * length,
          head.weight + static_cast<int64_t>(tile.first_output + j % tile.n_outputs) * length};
}

__device__ __forceinline__ float contribution(const HeadParams& head, const Column& column, int player) {
  float sum = 0.0f;
  if (column.features == nullptr || player >= head.n_players) return sum;
  const int n_positions = static_cast<int>(head.n_positions);
  const float* features = column.features + static_cast<int64_t>(player) * n_positions;
  const float* weight = column.weight + static_cast<int64_t>(player) * n_positions;
  for (int s = 0; s < n_positions; ++s) sum = fmaf(__ldg(features + s), __ldg(weight + s), sum);
  return sum;
}

__device__ __forceinline__ bool is_ordinary(float x) {
  return fabsf(x) < kGreatestOrdinary;
}

// added[i] and added[4 + i]: what players first + i and first + 16 + i add to the column. kVectors: S = 1, and four
// players' features and weights are one aligned load.
template <bool kVectors>
__device__ __forceinline__ void find_contributions(const HeadParams& head, const Column& column, int first,
                                                   float (&added)[8]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int player = first + 16 * half;
    float* four = added + 4 * half;
    if (kVectors) {
      const bool exists = column.features != nullptr && player < head.n_players;
      const float4 none = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      const float4 f = exists ? __ldg(reinterpret_cast<const float4*>(column.features + player)) : none;
      const float4 w = exists ? __ldg(reinterpret_cast<const float4*>(column.weight + player)) : none;
      four[0] = fmaf(f.x, w.x, 0.0f);
      four[1] = fmaf(f.y, w.y, 0.0f);
      four[2] = fmaf(f.z, w.z, 0.0f);
      four[3] = fmaf(f.w, w.w, 0.0f);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) four[i] = contribution(head, column, player + i);
    }
  }
}

// Cuts the contributions and stores them. Whether one of them was not ordinary, and so counts as zero.
__device__ __forceinline__ bool store_contributions(MmaOperands& to, int thread, float (&added)[8]) {
  bool special = false;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const bool ordinary = is_ordinary(added[i]);
    special |= !ordinary;
    added[i] = ordinary ? added[i] : 0.0f;
  }
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t lower = __float_as_uint(added[i]), upper = __float_as_uint(added[4 + i]);
      pairs[i] = lower >> 16 | (upper & 0xffff0000u);
      added[i] -= __uint_as_float(lower & 0xffff0000u);
      added[4 + i] -= __uint_as_float(upper & 0xffff0000u);
    }
    to.parts[part][thread / 32][thread % 32] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
  return special;
}

// Two bits of a word, `shift` and 16 + shift, as a pair of bfloat16 numbers. The word has been shifted to the lane.
__device__ __forceinline__ uint32_t mask_pair(uint32_t word, int shift) {
  return (word & (0x00010001u << shift)) * (0x3f80u >> shift);
}

// outputs[panel][slab][:] += the masks' sums over 32 players.
__device__ __forceinline__ void add_players(const MmaOperands& from, int first_mask, int first_panel, int n_panels,
                                            float (&outputs)[kWarpPanels][kWarpSlabs][4]) {
  __syncwarp();  // the product is of whole warps; lanes may have parted while contributions were computed
  const int lane = threadIdx.x & 31;
  uint32_t words[kWarpSlabs][2];
#pragma unroll
  for (int slab = 0; slab < kWarpSlabs; ++slab) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      words[slab][half] = from.words[first_mask + 16 * slab + 8 * half + lane / 4] >> 4 * (lane % 4);
    }
  }
#pragma unroll
  for (int q = 0; q < kWarpPanels; ++q) {
    const int panel = first_panel + 4 * q;
    if (panel >= n_panels) break;
    float sums[kWarpSlabs][4] = {};
    uint4 parts[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) parts[part] = from.parts[part][panel][lane];
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int part = kParts - 1; part >= 0; --part) {
        const uint32_t b0 = step ? parts[part].z : parts[part].x, b1 = step ? parts[part].w : parts[part].y;
#pragma unroll
        for (int slab = 0; slab < kWarpSlabs; ++slab) {
          const uint32_t a[4] = {mask_pair(words[slab][0], 2 * step), mask_pair(words[slab][1], 2 * step),
                                 mask_pair(words[slab][0], 2 * step + 1), mask_pair(words[slab][1], 2 * step + 1)};
          mma_bf16(sums[slab], a, b0, b1);
        }
      }
    }
#pragma unroll
    for (int slab = 0; slab < kWarpSlabs; ++slab) {
#pragma unroll
      for (int i = 0; i < 4; ++i) outputs[q][slab][i] += sums[slab][i];
    }
  }
}

// Adds the contributions that store_contributions took for zero. Rare, and so computed again. A thread is a column of a
// quarter of the masks.
__device__ __forceinline__ void add_specials(const HeadParams& head, const MeansScratch& scratch,
                                             const ColumnTile& tile, int block_mask, float* logits) {
  constexpr int kMasks = kMmaMasks * kMmaColumns / kMmaThreads;
  const int j = threadIdx.x % kMmaColumns, first_mask = static_cast<int>(threadIdx.x) / kMmaColumns * kMasks;
  const int64_t left = scratch.n_masks - block_mask - first_mask;
  const int n_masks = left < kMasks ? static_cast<int>(left) : kMasks;
  const Column column = find_column(head, tile, j);
  for (int player = 0; player < head.n_players; ++player) {
    const float added = contribution(head, column, player);
    if (is_ordinary(added)) continue;
    const uint32_t* words = scratch.words + player / 32 * scratch.n_masks + block_mask + first_mask;
    for (int m = 0; m < n_masks; ++m) {
      if (words[m] >> player % 32 & 1u) logits[(first_mask + m) * kLogitPitch + j] += added;
    }
  }
}

// The outputs of a tile's columns under the block's masks, to shared.logits. `bias` is room for the columns'.
template <bool kVectors>
__device__ __forceinline__ void tile_logits(const HeadParams& head, const MeansScratch& scratch, const ColumnTile& tile,
                                            int block_mask, MmaShared& shared, float* bias) {
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int first_mask = warp / 4 * 64, first_panel = warp % 4;
  const int n_panels = block_mask + first_mask < scratch.n_masks ? (tile.n_columns + 7) / 8 : 0;
  const Column own = find_column(head, tile, thread / 4);
  const int n_players = static_cast<int>(head.n_players), own_player = 4 * (thread % 4);
  // 32 bits number all words: scratch_masks sees to it.
  const uint32_t n_masks = static_cast<uint32_t>(scratch.n_masks), m = static_cast<uint32_t>(block_mask) + thread;
  const auto store_words = [&](MmaOperands& to, int player) {
    if (thread >= kMmaMasks) return;
    to.words[thread] = m < n_masks ? scratch.words[static_cast<uint32_t>(player / kMmaPlayers) * n_masks + m] : 0u;
  };

  float added[8];
  find_contributions<kVectors>(head, own, own_player, added);
  store_words(shared.operands[0], 0);
  bool special = store_contributions(shared.operands[0], thread, added);
  if (thread < kMmaColumns) {
    bias[thread] = head.bias ? head.bias[tile.first_output + thread % tile.n_outputs] : 0.0f;
  }
  __syncthreads();
  float outputs[kWarpPanels][kWarpSlabs][4];
#pragma unroll
  for (int q = 0; q < kWarpPanels; ++q) {
#pragma unroll
    for (int slab = 0; slab < kWarpSlabs; ++slab) {
#pragma unroll
      for (int i = 0; i < 4; ++i) outputs[q][slab][i] = bias[8 * (first_panel + 4 * q) + 2 * (lane % 4) + i % 2];
    }
  }
  int buffer = 0;
  for (int player = 0; player < n_players; player += kMmaPlayers) {
    const int next = player + kMmaPlayers;
    const MmaOperands& from = shared.operands[buffer];
    MmaOperands& to = shared.operands[buffer ^= 1];
    if (next < n_players) {
      find_contributions<kVectors>(head, own, next + own_player, added);
      store_words(to, next);
      special |= store_contributions(to, thread, added);
    }
    add_players(from, first_mask, first_panel, n_panels, outputs);
    __syncthreads();
  }

#pragma unroll
  for (int q = 0; q < kWarpPanels; ++q) {
#pragma unroll
    for (int slab = 0; slab < kWarpSlabs; ++slab) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = first_mask + 16 * slab + 8 * (i / 2) + lane / 4;
        const int column = 8 * (first_panel + 4 * q) + 2 * (lane % 4) + i % 2;
        shared.logits[row * kLogitPitch + column] = outputs[q][slab][i];
      }
    }
  }
  if (__syncthreads_or(special)) {
    add_specials(head, scratch, tile, block_mask, shared.logits);
    __syncthreads();
  }
}

// Adds a part of a row's outputs, n of them from `first` on, to its metric.
__device__ __forceinline__ void add_logits(const HeadParams& head, RowMetric& row, const float* logits, int n,
                                           int first, const RowTarget& target) {
  constexpr int kAtOnce = 8;
  for (int k = 0; k < n; k += kAtOnce) {
    const float* from = logits + k;
    add_columns<kAtOnce>(head.metric, row, [from](int i) { return from[i]; }, min(n - k, kAtOnce), first + k, target);
  }
}

template <bool kVectors>
__global__ void __launch_bounds__(kMmaThreads, 2) masked_means_mma_kernel(MaskedEvalParams p, MeansScratch scratch) {
  __shared__ MmaShared shared;
  __shared__ float bias[kMmaColumns];
  const HeadParams& head = p.head;
  const int block_mask = static_cast<int>(blockIdx.x) * kMmaMasks;
  const int all_outputs = static_cast<int>(head.n_outputs);
  // For the metric: two lanes of a warp, 16 apart, have one mask.
  const int lane = threadIdx.x & 31, part = lane / 16, mask = threadIdx.x / 32 * 16 + lane % 16;
  const float* logits = shared.logits + mask * kLogitPitch;
  for (int64_t block = blockIdx.y; block < scratch.n_blocks; block += gridDim.y) {
    const int64_t first_sample = block * scratch.block_samples, left = head.n_samples - first_sample;
    const int end = left < scratch.block_samples ? static_cast<int>(left) : scratch.block_samples;
    double total = 0.0;
    for (int first = 0; first < end; first += scratch.tile_samples) {
      const int n_samples = min(scratch.tile_samples, end - first);
      RowMetric row;  // K > 64: goes on over a sample's tiles
      for (int first_output = 0; first_output < all_outputs; first_output += scratch.tile_outputs) {
        const int n_outputs = min(scratch.tile_outputs, all_outputs - first_output);
        const ColumnTile tile = {first_sample + first, first_output, n_outputs, n_samples * n_outputs};
        tile_logits<kVectors>(head, scratch, tile, block_mask, shared, bias);
        const int half = (n_outputs + 1) / 2, own = part ? half : 0, count = part ? n_outputs - half : half;
        for (int i = 0; i < n_samples; ++i) {
          const RowTarget target = row_target(head, tile.first_sample + i);
          if (target.valid) {
            add_logits(head, row, logits + i * n_outputs + own, count, first_output + own, target);
          }
          if (first_output + n_outputs < all_outputs) continue;
          RowMetric other;
          other.best = __shfl_xor_sync(0xffffffffu, row.best, 16);
          other.sum = __shfl_xor_sync(0xffffffffu, row.sum, 16);
          other.picked = __shfl_xor_sync(0xffffffffu, row.picked, 16);
          other.index = __shfl_xor_sync(0xffffffffu, row.index, 16);
          merge(head.metric, row, other);
          const float value = target.valid ? finish_metric(head.metric, row, head.n_outputs, target) : NAN;
          total +=
              static_cast<double>(value) - (p.baseline ? static_cast<double>(p.baseline[tile.first_sample + i]) : 0.0);
          row = RowMetric();
        }
        __syncthreads();  // before the next tile's contributions
      }
    }
    const int64_t m = block_mask + mask;
    if (part == 0 && m < scratch.n_masks) scratch.block_sums[block * scratch.n_masks + m] = total;
  }
}

void launch_means_mma(const MaskedEvalParams& p, const MeansScratch& scratch, dim3 grid, cudaStream_t stream) {
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(p.head.features) | reinterpret_cast<uintptr_t>(p.head.weight);
  if (p.head.n_positions == 1 && p.head.n_players % 4 == 0 && addresses % 16 == 0) {
    SHAPLEY_LAUNCH(masked_means_mma_kernel<true>, grid, kMmaThreads, 0, stream, p, scratch);
  } else {
    SHAPLEY_LAUNCH(masked_means_mma_kernel<false>, grid, kMmaThreads, 0, stream, p, scratch);
  }
}

}  // namespace
}  // namespace shapley
