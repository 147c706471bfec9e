#include "sample_permutations.h"

#include "philox.h"

namespace shapley::SHAPLEY_ISA {
namespace {

constexpr int64_t kInsertionPlayers = 48;
constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;

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

void insertion_sort(Entry* entries, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const Entry entry = entries[i];
    int64_t j = i;
    for (; j > 0 && entries[j - 1] > entry; --j) entries[j] = entries[j - 1];
    entries[j] = entry;
  }
}

// Sorts by the high half; equal keys keep their order. The result is in `to`: the number of passes is odd.
void radix_sort(Entry* from, Entry* to, int64_t n, uint32_t* starts) {
  for (int shift = 32; shift < 64; shift += kDigitBits) {
    for (int digit = 0; digit < kDigits; ++digit) starts[digit] = 0;
    for (int64_t i = 0; i < n; ++i) ++starts[from[i] >> shift & (kDigits - 1)];
    uint32_t start = 0;
    for (int digit = 0; digit < kDigits; ++digit) {
      const uint32_t size = starts[digit];
      starts[digit] = start;
      start += size;
    }
    for (int64_t i = 0; i < n; ++i) to[starts[from[i] >> shift & (kDigits - 1)]++] = from[i];
    Entry* const sorted = to;
    to = from;
    from = sorted;
  }
}

}  // namespace

void sample_permutations_cpu(const SamplePermutationsParams& p, int64_t begin, int64_t end) {
  const int64_t n = p.n_players;
  const int64_t padded = (n + 3) / 4 * 4;
  Entry* const entries = new Entry[2 * padded];
  uint32_t starts[kDigits];
  const Entry* sorted = nullptr;
  uint64_t drawn = 0;
  for (int64_t row = begin; row < end; ++row) {
    const uint64_t walk = p.first + static_cast<uint64_t>(row);
    const uint64_t base = p.antithetic ? walk / 2 : walk;
    if (!sorted || drawn != base) {  // the second walk of an antithetic pair has it already
      draw(p.seed, base, n, entries);
      if (n <= kInsertionPlayers) {
        insertion_sort(entries, n);
        sorted = entries;
      } else {
        radix_sort(entries, entries + padded, n, starts);
        sorted = entries + padded;
      }
      drawn = base;
    }
    const bool reversed = p.antithetic && walk % 2 == 1;
    int32_t* const out = p.out + row * n;
    for (int64_t j = 0; j < n; ++j) out[j] = static_cast<int32_t>(sorted[reversed ? n - 1 - j : j]);
  }
  delete[] entries;
}

}  // namespace shapley::SHAPLEY_ISA
