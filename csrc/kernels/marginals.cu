#include "cuda_launch.h"
#include "marginals.h"

namespace shapley {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSharedPlayers = 1920;  // 45 KiB: a block gets 48 KiB without asking, static ones included

template <class Value>
__global__ void __launch_bounds__(kThreads) marginals_tile_kernel(MarginalsParams p) {
  SHAPLEY_DYN_SHARED(double, shared);
  __shared__ int invalid;
  const int64_t n = p.n_players;
  double* const partials = p.partials + static_cast<int64_t>(blockIdx.x) * 3 * n;
  double* const sum = n <= kSharedPlayers ? shared : partials;
  double* const squares = sum + n;
  double* const total = squares + n;
  for (int64_t c = threadIdx.x; c < 2 * n; c += kThreads) sum[c] = 0.0;
  if (threadIdx.x == 0) invalid = 0;
  __syncthreads();

  const double block = static_cast<double>(p.block);
  const int64_t first = blockIdx.x * p.walks_per_tile;
  const int64_t last = first + p.walks_per_tile < p.n_walks ? first + p.walks_per_tile : p.n_walks;
  bool in_range = true;
  for (int64_t walk = first; walk < last; ++walk) {
    const Value* const v = static_cast<const Value*>(p.values) + walk * (n + 1);
    const int32_t* const players = p.permutations + walk * n;
    const int64_t place = walk % p.block;
    const bool starts = place == 0;
    const bool ends = place == p.block - 1;
    for (int64_t j = threadIdx.x; j < n; j += kThreads) {
      const int32_t player = players[j];
      if (player < 0 || player >= n) {
        in_range = false;
        continue;
      }
      const double step = static_cast<double>(v[j + 1]) - static_cast<double>(v[j]);
      const double so_far = starts ? step : total[player] + step;
      if (ends) {
        const double mean = so_far / block;
        sum[player] += so_far;
        squares[player] += mean * mean;
      } else {
        total[player] = so_far;
      }
    }
    __syncthreads();  // the next walk gives the players to other threads
  }

  if (!in_range) atomicMax(&invalid, 1);
  __syncthreads();
  for (int64_t c = threadIdx.x; c < 2 * n; c += kThreads) partials[c] = invalid ? NAN : sum[c];
}

__global__ void __launch_bounds__(kThreads) marginals_sum_kernel(MarginalsParams p) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;  // sums, then squares
  const int64_t n = p.n_players;
  if (c >= 2 * n) return;
  double sum = 0.0;
  for (int64_t tile = 0; tile < p.n_tiles; ++tile) sum += p.partials[tile * 3 * n + c];
  (c < n ? p.sum + c : p.squares + (c - n))[0] = sum;
}

}  // namespace

int launch_marginals(const MarginalsParams& p, void* stream) {
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  if (p.n_tiles > 0) {
    const size_t shared = p.n_players <= kSharedPlayers ? 3 * p.n_players * sizeof(double) : 0;
    const unsigned tiles = static_cast<unsigned>(p.n_tiles);
    if (p.wide) {
      SHAPLEY_LAUNCH(marginals_tile_kernel<double>, tiles, kThreads, shared, on, p);
    } else {
      SHAPLEY_LAUNCH(marginals_tile_kernel<float>, tiles, kThreads, shared, on, p);
    }
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return static_cast<int>(error);
  }
  const unsigned blocks = static_cast<unsigned>((2 * p.n_players + kThreads - 1) / kThreads);
  SHAPLEY_LAUNCH(marginals_sum_kernel, blocks, kThreads, 0, on, p);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace shapley
