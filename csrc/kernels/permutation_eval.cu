#include "permutation_eval.h"
#include "row_metric.cuh"
#include "walk_table.cuh"

namespace shapley {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kStretch = 32;  // steps that are accumulated before their metric is taken, a lane a step
constexpr int kPitch = kStretch + 1;
constexpr int kBatch = 8;  // steps whose weights are loaded together
constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int64_t kSharedUnasked = 16384;  // beside the static part, of the 48 KiB that a block gets without asking

// What a warp shares: outputs after each step of a stretch, a lane's in a column; and the steps' players and features.
struct WarpTile {
  float outputs[kStretch * kPitch];
  int players[4 * kPitch];
  float features[4 * kPitch];
};

// kLanes lanes of a warp are a walk's outputs in a panel; a warp has 32 / kLanes walks at once. With kLanes = 32 the
// panels of a walk go in turn to warps_per_walk warps.
template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    permutation_eval_kernel(PermutationEvalParams p, WalkTable table, int warps_per_walk, int64_t outputs_pitch) {
  constexpr int kWalks = 32 / kLanes;
  __shared__ WarpTile tiles[kWarps];
  __shared__ float parts[kWarps][4][kStretch];
  SHAPLEY_DYN_SHARED(float, starts);  // [walks of the block, outputs_pitch]: the outputs at the start of a stretch

  const HeadParams& head = p.head;
  const int64_t n_players = head.n_players, n_outputs = head.n_outputs;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int part = warp % warps_per_walk;
  const int first_slot = warp / warps_per_walk * kWalks;
  const int64_t first_walk =
      table.first_walk + static_cast<int64_t>(blockIdx.x) * (kWarps / warps_per_walk) * kWalks + first_slot;
  WarpTile& tile = tiles[warp];

  int64_t samples[kWalks];
  RowTarget targets[kWalks];
  bool bad[kWalks];  // a player out of range was seen by this lane
#pragma unroll
  for (int q = 0; q < kWalks; ++q) {
    samples[q] = first_walk + q < table.end_walk ? p.sample_index[first_walk + q] : -1;
    targets[q] = row_target(head, samples[q]);
    bad[q] = false;
  }
  // As an accumulating lane: one output of one walk.
  const int own = lane / kLanes, column = lane % kLanes;
  int64_t own_sample = samples[0];
#pragma unroll
  for (int q = 1; q < kWalks; ++q) own_sample = own == q ? samples[q] : own_sample;
  const bool own_valid = own_sample >= 0 && own_sample < head.n_samples;
  const float* columns = own_valid ? walk_columns(head, table, first_walk + own, own_sample) : head.weight;
  float* start = starts + (first_slot + own) * outputs_pitch + column;
  const int64_t panel_step = static_cast<int64_t>(kLanes) * warps_per_walk;
  const int64_t first_output = static_cast<int64_t>(kLanes) * part;
  for (int64_t k = first_output; k < n_outputs; k += panel_step) {
    start[k] = head.bias && k + column < n_outputs ? head.bias[k + column] : 0.0f;
  }

  for (int64_t step = 0; step <= n_players; step += kStretch) {
#pragma unroll
    for (int q = 0; q < kWalks; ++q) {
      int player = 0;
      float feature = 0.0f;
      if (targets[q].valid && step + lane < n_players) {
        player = p.permutations[(first_walk + q) * n_players + step + lane];
        if (player < 0 || player >= n_players) {
          bad[q] = true;
          player = 0;
        }
        if (table.contributions == nullptr) feature = head.features[samples[q] * n_players + player];
      }
      tile.players[q * kPitch + lane] = player;
      tile.features[q * kPitch + lane] = feature;
    }
    __syncwarp();

    RowMetric rows[kWalks];
    for (int64_t k = first_output; k < n_outputs; k += panel_step) {
      const bool active = own_valid && k + column < n_outputs;
      const float outputs = start[k];
      float sum = 0.0f;
      for (int i = 0; i < kStretch; i += kBatch) {
        float added[kBatch];
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          const int64_t player = tile.players[own * kPitch + i + b];
          added[b] = active ? __ldg(columns + player * n_outputs + k + column) : 0.0f;
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          tile.outputs[(i + b) * kPitch + lane] = outputs + sum;
          sum = table.contributions ? sum + added[b] : fmaf(tile.features[own * kPitch + i + b], added[b], sum);
        }
      }
      start[k] = outputs + sum;
      __syncwarp();
      const int count = n_outputs - k < kLanes ? static_cast<int>(n_outputs - k) : kLanes;
#pragma unroll
      for (int q = 0; q < kWalks; ++q) {
        if (!targets[q].valid) continue;
        const float* row = tile.outputs + lane * kPitch + q * kLanes;
        add_columns<kLanes>(head.metric, rows[q], [row](int i) { return row[i]; }, count, k, targets[q]);
      }
      __syncwarp();
    }

    if (warps_per_walk > 1) {
      parts[warp][0][lane] = rows[0].best;
      parts[warp][1][lane] = rows[0].sum;
      parts[warp][2][lane] = rows[0].picked;
      parts[warp][3][lane] = __int_as_float(static_cast<int>(rows[0].index));
      __syncthreads();
      for (int other = 1; part == 0 && other < warps_per_walk; ++other) {
        const float (*from)[kStretch] = parts[warp + other];
        merge(head.metric, rows[0],
              RowMetric{from[0][lane], from[1][lane], from[2][lane], __float_as_int(from[3][lane])});
      }
      __syncthreads();
    }
    if (part != 0 || step + lane > n_players) continue;
#pragma unroll
    for (int q = 0; q < kWalks; ++q) {
      if (!targets[q].valid) continue;
      p.out[(first_walk + q) * (n_players + 1) + step + lane] =
          finish_metric(head.metric, rows[q], n_outputs, targets[q]);
    }
  }

#pragma unroll
  for (int q = 0; q < kWalks; ++q) {
    const bool spoilt = __any_sync(kFullWarp, bad[q] || !targets[q].valid);
    if (!spoilt || part != 0 || first_walk + q >= table.end_walk) continue;
    for (int64_t j = lane; j <= n_players; j += 32) p.out[(first_walk + q) * (n_players + 1) + j] = NAN;
  }
}

// Lets the kernel have as much shared memory as the device has. Always the same amount, not just what this launch
// needs: another thread may be launching the kernel for more.
template <class Kernel>
int allow_shared(Kernel kernel, int64_t needed) {
  int device = 0, most = 0;
  cudaFuncAttributes attributes;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) return static_cast<int>(error);
  most -= static_cast<int>(attributes.sharedSizeBytes);
  if (needed > most) return static_cast<int>(cudaErrorInvalidValue);
  return static_cast<int>(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
}

template <int kLanes>
int launch_part(const PermutationEvalParams& p, const WalkTable& table, cudaStream_t stream) {
  const int64_t panels = (p.head.n_outputs + kLanes - 1) / kLanes;
  const int warps_per_walk = panels <= 1 ? 1 : panels == 2 ? 2 : kWarps;
  const int walks_per_block = kWarps / warps_per_walk * (32 / kLanes);
  const int64_t outputs_pitch = panels * kLanes;
  const int64_t shared_bytes = walks_per_block * outputs_pitch * static_cast<int64_t>(sizeof(float));
  if (shared_bytes > kSharedUnasked) {
    const int error = allow_shared(permutation_eval_kernel<kLanes>, shared_bytes);
    if (error != cudaSuccess) return error;
  }
  const int64_t blocks = (table.end_walk - table.first_walk + walks_per_block - 1) / walks_per_block;
  SHAPLEY_LAUNCH(permutation_eval_kernel<kLanes>, static_cast<unsigned>(blocks), kThreads,
                 static_cast<size_t>(shared_bytes), stream, p, table, warps_per_walk, outputs_pitch);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

int launch_permutation_eval(const PermutationEvalParams& p, void* stream) {
  return for_walk_tables(p.head, p.sample_index, p.n_walks, p.scratch, p.scratch_size, stream,
                         [&](const WalkTable& table) {
                           const auto on = static_cast<cudaStream_t>(stream);
                           if (p.head.n_outputs <= 8) return launch_part<8>(p, table, on);
                           if (p.head.n_outputs <= 16) return launch_part<16>(p, table, on);
                           return launch_part<32>(p, table, on);
                         });
}

}  // namespace shapley
