#include "kernels/sample_permutations.h"

#include <algorithm>

#include "guarded.h"
#include "kernels/philox.h"
#include "machines.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kKernels, SamplePermutationsParams, sample_permutations_cpu);

struct Case {
  uint64_t seed, first;
  int64_t count, n_players;
  bool antithetic;

  // From the definition: sort the players by (key, player).
  std::vector<int32_t> expected() const {
    std::vector<int32_t> out;
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t walk = first + static_cast<uint64_t>(i), base = antithetic ? walk / 2 : walk;
      std::vector<uint64_t> entries;
      for (int64_t player = 0; player < n_players; ++player) {
        const PhiloxWords words = philox(
            {static_cast<uint32_t>(player / 4), 0, static_cast<uint32_t>(base), static_cast<uint32_t>(base >> 32)},
            seed);
        const uint32_t keys[] = {words.x, words.y, words.z, words.w};
        entries.push_back(static_cast<uint64_t>(keys[player % 4]) << 32 | static_cast<uint64_t>(player));
      }
      std::sort(entries.begin(), entries.end());
      if (antithetic && walk % 2 == 1) std::reverse(entries.begin(), entries.end());
      for (uint64_t entry : entries) out.push_back(static_cast<int32_t>(entry));
    }
    return out;
  }

  std::vector<int32_t> run(const Machine& machine) const {
    Guarded<int32_t> out(count * n_players);
    const SamplePermutationsParams p{out.data(), seed, first, count, n_players, antithetic};
    if (machine.cuda()) {
      CHECK(launch_sample_permutations(p, nullptr) == 0, "%s", name().c_str());
    } else {
      machine.run_tasks(kKernels, p, count);
    }
    CHECK(out.intact(), "%s: wrote beside its output", name().c_str());
    return out.values();
  }

  std::string name() const {
    return "seed=" + std::to_string(seed) + " first=" + std::to_string(first) + " count=" + std::to_string(count) +
           " C=" + std::to_string(n_players) + (antithetic ? " antithetic" : "");
  }
};

void check_case(const Case& c) {
  check_machines_exactly<int32_t>(c.name(), c.expected(), [&](const Machine& m) { return c.run(m); });
}

// The known answers that come with Random123, the authors' code (file kat_vectors).
TEST(philox_known_answers_are_met) {
  const auto equal = [](PhiloxWords got, PhiloxWords want) {
    return got.x == want.x && got.y == want.y && got.z == want.z && got.w == want.w;
  };
  CHECK(equal(philox({0, 0, 0, 0}, 0), {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}), "zeros");
  const uint32_t ones = 0xffffffffu;
  CHECK(equal(philox({ones, ones, ones, ones}, ~0ull), {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}), "ones");
  CHECK(equal(philox({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, 0x299f31d0a4093822ull),
              {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}),
        "digits of pi");
}

TEST(sample_permutations_any_number_of_players_match_sorted_keys) {
  for (int64_t n_players : sizes({1, 2, 3, 31, 33, 48, 49, 129, 1024, 1025, 2500})) {
    for (bool antithetic : {false, true}) {
      check_case({7, 0, kSmall ? 2 : 5, n_players, antithetic});
      check_case({~0ull - 5, 3, kSmall ? 2 : 4, n_players, antithetic});
    }
  }
}

TEST(sample_permutations_second_tile_of_keys_matches_sorted_keys) {
  check_case({2, 0, 1, 1030, true});
}

// Found by search: two of these walks' players drew the same key.
TEST(sample_permutations_equal_keys_keep_the_players_order) {
  for (uint64_t walk : {106276ull, 1134462ull}) check_case({0, walk, 1, 33, false});  // sorted by insertion
  for (uint64_t walk : {106276ull, 1082169ull}) check_case({0, walk, 1, 64, false});  // by radix
}

TEST(sample_permutations_far_walks_match_sorted_keys) {
  for (bool antithetic : {false, true}) {
    check_case({1, (1ull << 32) - 2, 5, 33, antithetic});  // the walk's low word runs over
    check_case({1, (1ull << 33) - 3, 7, 6, antithetic});   // so does the pair's
    check_case({1ull << 40, (1ull << 62) + 1, 3, 50, antithetic});
  }
}

TEST(sample_permutations_chunks_are_parts_of_the_whole) {
  for (bool antithetic : {false, true}) {
    const Case whole{3, 4, 9, 33, antithetic}, part{3, 7, 4, 33, antithetic};
    for (const Machine& machine : all_machines()) {
      const std::vector<int32_t> all = whole.run(machine), some = part.run(machine);
      CHECK(std::equal(some.begin(), some.end(), all.begin() + 3 * 33), "%s", machine.name().c_str());
    }
  }
}

}  // namespace
}  // namespace shapley::tests
