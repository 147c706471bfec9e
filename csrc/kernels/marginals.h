// marginals: what each player added along its walks: sums, and sums of squares for standard errors.
//
//     d[r, j] = values[r, j + 1] - values[r, j], credited to player permutations[r, j]
//     sum[c] = sum over walks of c's d;   squares[c] = sum over blocks of walks of (mean of c's d in the block)^2
//
// A block is `block` consecutive walks, the unit that is independent: 1, or 2 for antithetic pairs.
//
// In: values float32 or float64 [R, C + 1], permutations int32 [R, C]. Out: sum, squares float64 [C], overwritten.
// Scratch: float64 [tiles, 3, C]: each tile's sums, squares and the running total of its current block.
//
// Two steps: a tile of walks (whole blocks, kWalksPerTile walks or one block if that is longer) is added up walk by
// walk into its partials; then each player's partials are added in the order of the tiles. Tiles depend on R and
// `block` alone, and differences, squares and sums are plain float64 operations in that order: CPU and CUDA give
// the same bits, on any number of threads.
//
// CPU: a task is a tile, then a player.
// CUDA: a block per tile. Its threads take the steps of one walk (a player once each, so that no two threads meet),
// with a barrier between walks; the tile's sums are in shared memory (24 C bytes) up to 1920 players, beyond that in
// global memory, where they stay in the caches. Then a thread per player adds the tiles. Reads are coalesced.
// Bytes: 8 C per walk (float32); 6 operations per step. Bound by memory, for few walks by the latency of the barriers.
// Limits: on CUDA a player out of range makes all results NaN, and one that is twice in a row is not noticed; on the
// CPU the caller has checked them.
#pragma once

#include "isa.h"

namespace shapley {

constexpr int64_t kWalksPerTile = 64;

struct MarginalsParams {
  const void* values;           // [R, C + 1], float64 if `wide`, else float32
  const int32_t* permutations;  // [R, C]
  double* partials;             // [tiles, 3, C]
  double* sum;                  // [C]
  double* squares;              // [C]
  int64_t n_walks;
  int64_t n_players;
  int64_t block;
  int64_t walks_per_tile;
  int64_t n_tiles;
  bool wide;
};

SHAPLEY_CPU_KERNEL(marginals_cpu, MarginalsParams)                  // tasks: tiles
SHAPLEY_CPU_KERNEL(marginals_sum_cpu, MarginalsParams)              // tasks: players, after all tiles
int launch_marginals(const MarginalsParams& params, void* stream);  // both

}  // namespace shapley
