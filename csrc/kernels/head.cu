#include "cuda_launch.h"
#include "head.h"

namespace shapley {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxGridY = 65535;

// A thread is a row. A block reads kTile positions of all its rows in whole lines, through shared memory.
__global__ void __launch_bounds__(kThreads) mean_positions_kernel(MeanPositionsParams p) {
  constexpr int kTile = 32, kPitch = kTile + 1;
  __shared__ float tile[kThreads * kPitch];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kThreads;
  const int n_rows = static_cast<int>(min(p.rows - first_row, static_cast<int64_t>(kThreads)));
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double sum = 0.0;
  for (int64_t first = 0; first < p.n_positions; first += kTile) {
    const int count = static_cast<int>(min(p.n_positions - first, static_cast<int64_t>(kTile)));
    for (int row = warp; row < n_rows; row += kThreads / 32) {
      if (lane < count) tile[row * kPitch + lane] = p.values[(first_row + row) * p.n_positions + first + lane];
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < n_rows) {
      for (int s = 0; s < count; ++s) sum += tile[threadIdx.x * kPitch + s];
    }
    __syncthreads();
  }
  if (static_cast<int>(threadIdx.x) < n_rows) {
    p.means[first_row + threadIdx.x] = static_cast<float>(sum / static_cast<double>(p.n_positions));
  }
}

// A thread takes one channel and output of a slot. Neighbouring threads take neighbouring outputs: weight is read and
// the table written in whole lines. Four partial sums over s, as on the CPU.
__global__ void __launch_bounds__(kThreads) contributions_kernel(ContributionsParams p) {
  const HeadParams& head = p.head;
  const int64_t cell = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t cells = head.n_players * head.n_outputs;
  if (cell >= cells) return;
  const int64_t c = cell / head.n_outputs, k = cell % head.n_outputs, n_positions = head.n_positions;
  const float* weight = head.weight + c * n_positions * head.n_outputs + k;
  for (int64_t slot = blockIdx.y; slot < p.n_slots; slot += gridDim.y) {
    const int64_t sample = p.sample_index ? p.sample_index[slot] : slot;
    if (sample < 0 || sample >= head.n_samples) continue;
    const float* features = head.features + (sample * head.n_players + c) * n_positions;
    float sum[4] = {};
    for (int64_t s = 0; s < n_positions; s += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (s + i < n_positions) sum[i] = fmaf(features[s + i], weight[(s + i) * head.n_outputs], sum[i]);
      }
    }
    p.table[slot * cells + cell] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
}

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

int launch_mean_positions(const MeanPositionsParams& p, void* stream) {
  if (p.rows == 0) return cudaSuccess;
  SHAPLEY_LAUNCH(mean_positions_kernel, blocks_for(p.rows), kThreads, 0, static_cast<cudaStream_t>(stream), p);
  return static_cast<int>(cudaGetLastError());
}

int launch_contributions(const ContributionsParams& p, void* stream) {
  if (p.n_slots == 0) return cudaSuccess;
  const dim3 grid(blocks_for(p.head.n_players * p.head.n_outputs),
                  static_cast<unsigned>(p.n_slots < kMaxGridY ? p.n_slots : kMaxGridY));
  SHAPLEY_LAUNCH(contributions_kernel, grid, kThreads, 0, static_cast<cudaStream_t>(stream), p);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace shapley
