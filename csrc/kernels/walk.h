// walk.h: the head's outputs at the steps of a walk, a stretch of kLanes steps at a time.
//
// Summation order, in float32: the players of a stretch in the order of the walk, one fused multiply-add each (S > 1:
// one addition of the rounded contribution); and the stretches' sums, one after another, onto the bias. So the error
// grows like the square root of C / kLanes, and stretches do not wait for each other.
#pragma once

#include "head.h"
#include "simd.h"

namespace shapley {
namespace SHAPLEY_ISA {

struct Walk {
  const int32_t* players;  // [C]
  const float* features;   // [C] of the sample, read where S = 1
  int64_t n_players;
};

// Adds a player to the outputs of one panel. `columns` is the panel's weight or, where S > 1, contributions.
template <bool has_table>
static inline VecF add_player(VecF sum, const Walk& walk, const float* columns, int64_t player) {
  const VecF column = load(columns + player * kLanes);
  return has_table ? sum + column : fma(splat(walk.features[player]), column, sum);
}

// The rows of steps first .. first + kLanes - 1. `outputs` comes as the first of them and goes as the one after the
// last.
template <bool has_table>
static inline void accumulate_rows(const Walk& walk, const float* columns, int64_t first, VecF& outputs, VecF* rows) {
  VecF sum = splat(0.0f);
  const bool full = first + kLanes <= walk.n_players;
  for (int64_t i = 0; full && i < kLanes; ++i) {
    rows[i] = outputs + sum;
    sum = add_player<has_table>(sum, walk, columns, walk.players[first + i]);
  }
  for (int64_t i = 0; !full && i < kLanes; ++i) {
    rows[i] = outputs + sum;
    if (first + i < walk.n_players) sum = add_player<has_table>(sum, walk, columns, walk.players[first + i]);
  }
  outputs += sum;
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
