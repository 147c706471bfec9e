#include "cuda_launch.h"
#include "philox.h"
#include "sample_permutations.h"

namespace shapley {
namespace {

constexpr int kThreads = 256;
constexpr uint32_t kTile = 4 * kThreads;  // keys in shared memory at a time; every thread draws one block of four

__global__ void __launch_bounds__(kThreads) sample_permutations_kernel(SamplePermutationsParams p) {
  __shared__ uint4 keys[kThreads];
  const uint64_t base = (p.antithetic ? p.first / 2 : p.first) + blockIdx.x;
  const uint32_t n = static_cast<uint32_t>(p.n_players);
  const uint32_t player = blockIdx.y * kThreads + threadIdx.x;
  const PhiloxWords own = walk_keys(p.seed, base, player / 4);
  const uint32_t own_key = player % 4 == 0 ? own.x : player % 4 == 1 ? own.y : player % 4 == 2 ? own.z : own.w;

  uint32_t rank = 0;
  for (uint32_t tile = 0; tile < n; tile += kTile) {
    __syncthreads();  // all have counted through the tile before
    const uint32_t drawn = tile + 4 * threadIdx.x;
    const PhiloxWords four = walk_keys(p.seed, base, drawn / 4);
    // Keys of no player are the greatest, and come before nobody.
    keys[threadIdx.x] = make_uint4(drawn < n ? four.x : ~0u, drawn + 1 < n ? four.y : ~0u, drawn + 2 < n ? four.z : ~0u,
                                   drawn + 3 < n ? four.w : ~0u);
    __syncthreads();
    const uint32_t size = n - tile < kTile ? n - tile : kTile;
    // An equal key counts where its player comes first: those below `equal` in this tile.
    const uint32_t equal = player > tile ? player - tile : 0;
    for (uint32_t i = 0; i < size; i += 4) {
      const uint4 key = keys[i / 4];
      rank += key.x < own_key || (key.x == own_key && i < equal);
      rank += key.y < own_key || (key.y == own_key && i + 1 < equal);
      rank += key.z < own_key || (key.z == own_key && i + 2 < equal);
      rank += key.w < own_key || (key.w == own_key && i + 3 < equal);
    }
  }
  if (player >= n) return;

  for (int half = 0; half < (p.antithetic ? 2 : 1); ++half) {
    const uint64_t walk = p.antithetic ? 2 * base + half : base;
    if (walk < p.first || walk - p.first >= static_cast<uint64_t>(p.count)) continue;
    int32_t* const out = p.out + static_cast<int64_t>(walk - p.first) * n;
    out[half ? n - 1 - rank : rank] = static_cast<int32_t>(player);
  }
}

}  // namespace

int launch_sample_permutations(const SamplePermutationsParams& p, void* stream) {
  const uint64_t last = p.first + static_cast<uint64_t>(p.count) - 1;
  const uint64_t draws = p.antithetic ? last / 2 - p.first / 2 + 1 : static_cast<uint64_t>(p.count);
  if (draws > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  const dim3 grid(static_cast<unsigned>(draws), static_cast<unsigned>((p.n_players + kThreads - 1) / kThreads));
  SHAPLEY_LAUNCH(sample_permutations_kernel, grid, kThreads, 0, static_cast<cudaStream_t>(stream), p);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace shapley
