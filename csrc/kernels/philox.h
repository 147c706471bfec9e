// philox.h: Philox-4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011. The same counter and key give the same four words on every device.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SHAPLEY_PHILOX __host__ __device__ __forceinline__
#else
#define SHAPLEY_PHILOX static inline
#endif

namespace shapley {

struct PhiloxWords {
  uint32_t x, y, z, w;
};

SHAPLEY_PHILOX PhiloxWords philox(PhiloxWords counter, uint64_t key) {
  uint32_t key_low = static_cast<uint32_t>(key);
  uint32_t key_high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * counter.x;
    const uint64_t b = static_cast<uint64_t>(0xCD9E8D57u) * counter.z;
    counter = {static_cast<uint32_t>(b >> 32) ^ counter.y ^ key_low, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter.w ^ key_high, static_cast<uint32_t>(a)};
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return counter;
}

// Four sort keys of a walk: those of the players 4 * block .. 4 * block + 3.
SHAPLEY_PHILOX PhiloxWords walk_keys(uint64_t seed, uint64_t walk, uint32_t block) {
  return philox({block, 0u, static_cast<uint32_t>(walk), static_cast<uint32_t>(walk >> 32)}, seed);
}

}  // namespace shapley
