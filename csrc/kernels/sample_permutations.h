// sample_permutations: the permutations of the walks first .. first + count - 1, each from its own number alone.
//
// Player c's sort key in a walk is word c % 4 of Philox-4x32-10 with key = seed and counter = (c / 4, 0, walk low,
// walk high); the permutation lists the players by ascending (key, c). Antithetic: walk 2i is drawn as walk i, and
// walk 2i + 1 is walk 2i reversed. Ties of keys, which favour the lower player, are a bias below C^2 / 2^33.
//
// In: numbers. Out: int32 [count, C], overwritten.
//
// CPU: a task is a walk. Keys are drawn four at a time; (key, player) pairs are dealt into about C buckets by the key's
// upper bits and finished by insertion, which takes time proportional to C since the keys are uniform.
// CUDA: a player's place is the number of players before it: grid (walk or antithetic pair, chunk of 256 players),
// one thread per player. Tiles of 1024 keys are drawn into shared memory (4 KiB; a thread draws four) and every thread
// counts through the tile, reading four keys at a time as a broadcast. C^2 comparisons per walk from shared memory
// against 4 C bytes written: bound by integer operations. A pair is drawn once and written twice.
// Integers only: CPU and CUDA give the same bits.
#pragma once

#include "isa.h"

namespace shapley {

struct SamplePermutationsParams {
  int32_t* out;  // [count, C]
  uint64_t seed;
  uint64_t first;
  int64_t count;
  int64_t n_players;
  bool antithetic;
};

SHAPLEY_CPU_KERNEL(sample_permutations_cpu, SamplePermutationsParams)
int launch_sample_permutations(const SamplePermutationsParams& params, void* stream);

}  // namespace shapley
