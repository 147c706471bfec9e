#include "sample_permutations.h"

#include "philox.h"

namespace shapley::SHAPLEY_ISA {
namespace {

constexpr int kMostBucketBits = 20;

// A sort key in the high half, its player in the low one.
using Entry = uint64_t;

void draw(uint64_t seed, uint64_t walk, int64_t n_players, Entry* entries) {
  const int64_t n_blocks = (n_players + 3) / 4;  // entries has room for whole blocks
#pragma omp simd
  for (int64_t block = 0; block < n_blocks; ++block) {
    const PhiloxWords keys = walk_keys(seed, walk, static_cast<uint32_t>(block));
    const uint64_t player = static_cast<uint64_t>(4 * block);
    entries[4 * block] = static_cast<uint64_t>(keys.x) << 32 | player;
    entries[4 * block + 1] = static_cast<uint64_t>(keys.y) << 32 | (player + 1);
    entries[4 * block + 2] = static_cast<uint64_t>(keys.z) << 32 | (player + 2);
    entries[4 * block + 3] = static_cast<uint64_t>(keys.w) << 32 | (player + 3);
  }
}

// Deals entries into 2^bits buckets by the key's upper bits, keeping their order within one, then sorts by insertion.
// With about as many buckets as random keys, an entry is one or two places from where it belongs.
void sort_random(const Entry* entries, Entry* sorted, int64_t n, int bits, uint64_t* starts) {
  const int64_t n_buckets = int64_t{1} << bits;
  for (int64_t bucket = 0; bucket < n_buckets; ++bucket) starts[bucket] = 0;
  for (int64_t i = 0; i < n; ++i) ++starts[entries[i] >> (64 - bits)];
  uint64_t start = 0;
  for (int64_t bucket = 0; bucket < n_buckets; ++bucket) {
    const uint64_t size = starts[bucket];
    starts[bucket] = start;
    start += size;
  }
  for (int64_t i = 0; i < n; ++i) sorted[starts[entries[i] >> (64 - bits)]++] = entries[i];
  for (int64_t i = 1; i < n; ++i) {
    const Entry entry = sorted[i];
    int64_t j = i;
    for (; j > 0 && sorted[j - 1] > entry; --j) sorted[j] = sorted[j - 1];
    sorted[j] = entry;
  }
}

}  // namespace

void sample_permutations_cpu(const SamplePermutationsParams& p, int64_t begin, int64_t end) {
  const int64_t n = p.n_players;
  const int64_t padded = (n + 3) / 4 * 4;
  int bits = 1;
  while (bits < kMostBucketBits && int64_t{2} << bits <= n) ++bits;
  uint64_t* const scratch = new uint64_t[2 * padded + (int64_t{1} << bits)];
  Entry* const entries = scratch;
  Entry* const sorted = entries + padded;
  uint64_t* const starts = sorted + padded;
  bool any_drawn = false;
  uint64_t drawn = 0;
  for (int64_t row = begin; row < end; ++row) {
    const uint64_t walk = p.first + static_cast<uint64_t>(row);
    const uint64_t base = p.antithetic ? walk / 2 : walk;
    if (!any_drawn || drawn != base) {  // the second walk of an antithetic pair has it already
      draw(p.seed, base, n, entries);
      sort_random(entries, sorted, n, bits, starts);
      any_drawn = true;
      drawn = base;
    }
    const bool reversed = p.antithetic && walk % 2 == 1;
    int32_t* const out = p.out + row * n;
    for (int64_t j = 0; j < n; ++j) out[j] = static_cast<int32_t>(sorted[reversed ? n - 1 - j : j]);
  }
  delete[] scratch;
}

}  // namespace shapley::SHAPLEY_ISA
