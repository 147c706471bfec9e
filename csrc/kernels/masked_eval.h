// masked_eval: the metric of a linear head under coalitions of channels, without storing rows or outputs.
//
//     value[m, n] = metric(bias + sum over c in masks[m] of contribution[n, c, :], target[n]) - baseline[n]
//     out[m] = value[m, sample_index[m]], or without sample_index the mean over n of value[m, n]
//
// Contributions as in head.h, metrics as in metric.h; without baseline nothing is subtracted. A removed player is
// absent, not multiplied by zero.
//
// In: features float32 [N, C, S], weight, bias, targets (head.h), masks bool [M, C], sample_index int64 [M] or null,
// baseline float32 [N] or null. Out: float32 [M], overwritten.
//
// CPU: players go in groups of kGroup. For many masks on one sample: a table of the 2^kGroup partial sums of a group
// and panel of outputs, in which a mask's bits pick one, so that a mask costs one addition a group; kPass tables at a
// time stay in the first-level cache while a tile of masks goes by. For few masks the same sums directly. A square of
// masks and outputs is then turned around, and the metric taken with a lane a mask.
//
// CUDA, mean over samples: masks are packed to bits. From compute capability 8.0 on a matrix product on tensor cores,
// for every K: masked_means_mma.cuh. Below, a block is 128 masks (a thread each) on a block of samples, with 4 to 16
// outputs in registers; contributions of 32 players are computed into shared memory (at most 2 KiB) and added by every
// thread whose bit is set. A second kernel adds the blocks of samples.
// CUDA, own samples: a warp is a mask; lanes share the weight's columns, 16 outputs at a time, and add up by
// butterflies.
//
// Bytes: M C + 4 N C S read, the weight from caches, and at most 16 M N of sums written and read (16 M N / 30 for K =
// 10). Operations for the mean: M N C K additions (a sixth of them on the CPU) and about 20 M N K for the metric. Bound
// by arithmetic.
//
// Accumulators: outputs float32. CPU: within a group in the order of the players, onto zero; the groups, onto the bias.
// CUDA: tensor cores as told in masked_means_mma.cuh; else in the order of the players, onto the bias; own samples: a
// lane's columns, then the butterfly.
// Means float64: within a block of samples (CPU kMeanBlock, CUDA mean_block_samples) in their order, then the blocks in
// theirs.
// The order depends on C, S, K and N alone: same bits on every run, for any M, in any split of the masks, on any number
// of threads.
//
// Limits: on CUDA a sample or class out of range makes its value NaN, and so the mean; on the CPU the caller has
// checked them.
#pragma once

#include "head.h"

namespace shapley {

struct MaskedEvalParams {
  HeadParams head;
  const bool* masks;            // [M, C], true where kept
  const int64_t* sample_index;  // [M] or null
  const int64_t* order;         // CPU, with sample_index: [M], the masks sorted by sample
  const float* baseline;        // [N] or null
  int64_t n_masks;
  void* scratch;          // CPU: masked_eval_scratch bytes. CUDA, without sample_index: see below
  int64_t scratch_masks;  // CUDA, without sample_index: how many masks the scratch is for
  double* block_sums;     // CPU: [blocks of samples, M] or null
  float* out;             // [M]
};

constexpr int64_t kMeanBlock = 32;

static inline int64_t mean_blocks(const HeadParams& head) {
  return (head.n_samples + kMeanBlock - 1) / kMeanBlock;
}

// How the CPU kernel cuts its work. Of these kGroup alone has a part in the bits of a result.
constexpr int64_t kGroup = 6;                 // channels a table
constexpr int64_t kEntries = 64;              // sums in a table
constexpr int64_t kPass = 8;                  // tables held at a time: 32 KiB of 16-float entries
constexpr int64_t kTile = 512;                // masks that go by them
constexpr int64_t kBatch = 2048;              // masks whose codes are held
constexpr int64_t kCodeStride = kBatch + 64;  // no power of two, or a mask's codes would share a cache set
constexpr int64_t kTableMasks = 12;           // from here on tables pay

static inline int64_t mask_groups(const HeadParams& head) {
  return (head.n_players + kGroup - 1) / kGroup;
}

// Bytes of scratch that one call of masked_eval_cpu uses, whatever M.
static inline int64_t masked_eval_scratch(const HeadParams& head) {
  const int64_t contributions = head.n_positions > 1 ? round_up(head.n_outputs, kMaxLanes) * head.n_players : 0;
  const int64_t floats = kTile + 3 * kTile + kTile * kMaxLanes + kPass * kEntries * kMaxLanes + contributions;
  return 2 * kBatch * 8 + floats * 4 + mask_groups(head) * kCodeStride;
}

// How CUDA cuts the mean over samples: tiles of columns, a column one output of one sample; and blocks of samples of up
// to 8 tiles, so that few masks and samples still are many blocks.
constexpr int64_t kMeanColumns = 64;
constexpr int64_t kMeanTiles = 8;

// Samples side by side in a tile.
static inline int64_t mean_tile_samples(const HeadParams& head) {
  const int64_t fit = kMeanColumns / head.n_outputs;
  return fit < 1 ? 1 : fit < kMeanBlock ? fit : kMeanBlock;
}
// Outputs of a sample in a tile: all, or equal parts.
static inline int64_t mean_tile_outputs(const HeadParams& head) {
  const int64_t tiles = (head.n_outputs + kMeanColumns - 1) / kMeanColumns;
  return (head.n_outputs + tiles - 1) / tiles;
}
static inline int64_t mean_block_samples(const HeadParams& head) {
  const int64_t samples = mean_tile_samples(head);
  const int64_t tiles_each = (head.n_outputs + kMeanColumns - 1) / kMeanColumns;
  const int64_t most = kMeanBlock / samples, tiles = kMeanTiles / tiles_each;
  return samples * (tiles < 1 ? 1 : tiles < most ? tiles : most);
}

// Bytes of scratch on CUDA for the mean over samples: sums of blocks of samples and masks as bits. Masks beyond
// `scratch_masks` wait for the next launch, so that 64 MiB or 128 masks' worth are enough for any M.
static inline int64_t masked_eval_cuda_bytes_per_mask(const HeadParams& head) {
  const int64_t samples = mean_block_samples(head);
  return (head.n_samples + samples - 1) / samples * 8 + (head.n_players + 31) / 32 * 4;
}
static inline int64_t masked_eval_cuda_masks(const HeadParams& head, int64_t n_masks) {
  const int64_t fit = (int64_t{64} << 20) / masked_eval_cuda_bytes_per_mask(head) / 128 * 128;
  return n_masks < 128 ? n_masks : fit < 128 ? 128 : fit < n_masks ? fit : n_masks;
}

// A task is one mask: by its position in `order`, with sample_index. But where block_sums is given, a task is one block
// of samples, and its sums over the block go to block_sums, not to out: the way for a few masks on many samples.
SHAPLEY_CPU_KERNEL(masked_eval_cpu, MaskedEvalParams)
int launch_masked_eval(const MaskedEvalParams& params, void* stream);

}  // namespace shapley
