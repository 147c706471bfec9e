// collectives.h: barriers, warp shuffles, votes and reductions, and atomics on integers.
//
// The last two parameters of a collective are where it was called from, for reports and to tell calls apart.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "types.h"

namespace emulator {

enum class Barrier { kPlain, kCount, kAnd, kOr };
enum class Collective { kSyncWarp, kShuffle, kBallot, kAdd, kMinSigned, kMaxSigned, kMin, kMax, kAnd, kOr, kXor };

struct Site {
  const char* file;
  int line;
};

int block_barrier(Barrier barrier, bool predicate, Site site);

// Waits for the live lanes of `mask`, then gives each its result. `source` is the lane that a shuffle reads.
uint64_t warp_collective(Collective collective, unsigned mask, uint64_t value, unsigned source, Site site);

unsigned lane_id();

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

inline unsigned segment_begin(int width) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    fail("shuffle width %d is no power of two up to 32", width);
  return lane_id() & ~static_cast<unsigned>(width - 1);
}

template <class T>
T shuffle(unsigned mask, T value, unsigned source, Site site) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_collective(Collective::kShuffle, mask, bits, source, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulator

#define SHAPLEY_CALL_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SHAPLEY_CALL_SITE) {
  emulator::block_barrier(emulator::Barrier::kPlain, false, {file, line});
}
inline int __syncthreads_count(int predicate, SHAPLEY_CALL_SITE) {
  return emulator::block_barrier(emulator::Barrier::kCount, predicate != 0, {file, line});
}
inline int __syncthreads_and(int predicate, SHAPLEY_CALL_SITE) {
  return emulator::block_barrier(emulator::Barrier::kAnd, predicate != 0, {file, line});
}
inline int __syncthreads_or(int predicate, SHAPLEY_CALL_SITE) {
  return emulator::block_barrier(emulator::Barrier::kOr, predicate != 0, {file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffu, SHAPLEY_CALL_SITE) {
  emulator::warp_collective(emulator::Collective::kSyncWarp, mask, 0, 0, {file, line});
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SHAPLEY_CALL_SITE) {
  const unsigned begin = emulator::segment_begin(width);
  return emulator::shuffle(mask, value, begin + (static_cast<unsigned>(source) & (width - 1)), {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SHAPLEY_CALL_SITE) {
  const unsigned lane = emulator::lane_id(), begin = emulator::segment_begin(width);
  return emulator::shuffle(mask, value, lane - begin >= delta ? lane - delta : lane, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SHAPLEY_CALL_SITE) {
  const unsigned lane = emulator::lane_id(), end = emulator::segment_begin(width) + width;
  return emulator::shuffle(mask, value, delta < end - lane ? lane + delta : lane, {file, line});
}
// A lane may read from an earlier segment than its own, but not from a later one.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SHAPLEY_CALL_SITE) {
  const unsigned lane = emulator::lane_id(), end = emulator::segment_begin(width) + width;
  const unsigned source = (lane ^ static_cast<unsigned>(lane_mask)) & 31u;
  return emulator::shuffle(mask, value, source < end ? source : lane, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SHAPLEY_CALL_SITE) {
  return static_cast<unsigned>(
      emulator::warp_collective(emulator::Collective::kBallot, mask, predicate != 0, 0, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, SHAPLEY_CALL_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SHAPLEY_CALL_SITE) {
  return __ballot_sync(mask, !predicate, file, line) == 0;
}

#define SHAPLEY_WARP_REDUCE(name, T, collective)                                                     \
  inline T name(unsigned mask, T value, SHAPLEY_CALL_SITE) {                                         \
    return static_cast<T>(emulator::warp_collective(emulator::Collective::collective, mask,          \
                                                    static_cast<unsigned>(value), 0, {file, line})); \
  }
SHAPLEY_WARP_REDUCE(__reduce_add_sync, unsigned, kAdd)
SHAPLEY_WARP_REDUCE(__reduce_add_sync, int, kAdd)
SHAPLEY_WARP_REDUCE(__reduce_min_sync, unsigned, kMin)
SHAPLEY_WARP_REDUCE(__reduce_min_sync, int, kMinSigned)
SHAPLEY_WARP_REDUCE(__reduce_max_sync, unsigned, kMax)
SHAPLEY_WARP_REDUCE(__reduce_max_sync, int, kMaxSigned)
SHAPLEY_WARP_REDUCE(__reduce_and_sync, unsigned, kAnd)
SHAPLEY_WARP_REDUCE(__reduce_or_sync, unsigned, kOr)
SHAPLEY_WARP_REDUCE(__reduce_xor_sync, unsigned, kXor)
#undef SHAPLEY_WARP_REDUCE

// TSan must see atomics as such; nothing else runs at the same time.
#define SHAPLEY_ATOMIC(name, expression)                                                                    \
  template <class T>                                                                                        \
  T name(T* address, std::common_type_t<T> value) {                                                         \
    static_assert(std::is_integral_v<T> && sizeof(T) >= 4, "atomics on integers only");                     \
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);                                                     \
    while (!__atomic_compare_exchange_n(address, &old, static_cast<T>(expression), false, __ATOMIC_RELAXED, \
                                        __ATOMIC_RELAXED)) {                                                \
    }                                                                                                       \
    return old;                                                                                             \
  }
SHAPLEY_ATOMIC(atomicAdd, old + value)
SHAPLEY_ATOMIC(atomicSub, old - value)
SHAPLEY_ATOMIC(atomicExch, value)
SHAPLEY_ATOMIC(atomicMin, old < value ? old : value)
SHAPLEY_ATOMIC(atomicMax, old > value ? old : value)
SHAPLEY_ATOMIC(atomicAnd, old& value)
SHAPLEY_ATOMIC(atomicOr, old | value)
SHAPLEY_ATOMIC(atomicXor, old ^ value)
#undef SHAPLEY_ATOMIC

template <class T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
  static_assert(std::is_integral_v<T> && sizeof(T) >= 4, "atomics on integers only");
  __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

inline void __threadfence() {}
inline void __threadfence_block() {}
