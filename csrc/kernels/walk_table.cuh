// walk_table.cuh: where a walk's kernel finds what a player adds to the outputs, on the device.
#pragma once

#include "cuda_launch.h"
#include "head.h"

namespace shapley {
namespace {

// S = 1: feature times weight. S > 1: a table of contributions, which launch_contributions has filled.
struct WalkTable {
  const float* contributions;  // [slots, C, K], or null where S = 1
  bool by_sample;              // a slot is a sample; else a walk, counted from first_walk
  int64_t first_walk, end_walk;
};

// weight [C, K] to be multiplied by features, or the walk's contributions [C, K].
__device__ __forceinline__ const float* walk_columns(const HeadParams& head, const WalkTable& table, int64_t walk,
                                                     int64_t sample) {
  if (table.contributions == nullptr) return head.weight;
  const int64_t slot = table.by_sample ? sample : walk - table.first_walk;
  return table.contributions + slot * head.n_players * head.n_outputs;
}

// Calls launch(table) for all walks at once, or, where the scratch does not hold the contributions of all of them, for
// one part of the walks after another. Either way a walk's numbers are the same.
template <class Launch>
int for_walk_tables(const HeadParams& head, const int64_t* sample_index, int64_t n_walks, float* scratch,
                    int64_t scratch_size, void* stream, const Launch& launch) {
  if (n_walks == 0) return cudaSuccess;
  if (head.n_positions == 1) return launch(WalkTable{nullptr, false, 0, n_walks});
  const int64_t slots = scratch_size / (head.n_players * head.n_outputs);
  if (head.n_samples <= n_walks && head.n_samples <= slots) {
    const int error = launch_contributions(ContributionsParams{head, nullptr, scratch, head.n_samples}, stream);
    return error ? error : launch(WalkTable{scratch, true, 0, n_walks});
  }
  for (int64_t first = 0; first < n_walks; first += slots) {
    const int64_t end = first + slots < n_walks ? first + slots : n_walks;
    int error = launch_contributions(ContributionsParams{head, sample_index + first, scratch, end - first}, stream);
    if (error == cudaSuccess) error = launch(WalkTable{scratch, false, first, end});
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace shapley
