// contributions.h: what each channel of one sample adds to the head's outputs, for heads with several positions.
#pragma once

#include "head.h"
#include "simd.h"

namespace shapley {
namespace SHAPLEY_ISA {

// table [ceil(K / kLanes), C, kLanes] of one sample. Channels for which `needed` is false are left as they are; null
// means all. Four partial sums over s, s % 4 each: a chain of additions would wait for its own results.
static inline void sample_contributions(const HeadParams& head, int64_t sample, const bool* needed, float* table) {
  const int64_t n_players = head.n_players, n_positions = head.n_positions;
  const int64_t n_panels = (head.n_outputs + kLanes - 1) / kLanes;
  const float* features = head.features + sample * n_players * n_positions;
  for (int64_t panel = 0; panel < n_panels; ++panel) {
    const float* weight = head.weight + panel * n_players * n_positions * kLanes;
    for (int64_t c = 0; c < n_players; ++c) {
      if (needed && !needed[c]) continue;
      const float* f = features + c * n_positions;
      const float* w = weight + c * n_positions * kLanes;
      VecF sum[4] = {};
      int64_t s = 0;
      for (; s + 4 <= n_positions; s += 4) {
        for (int i = 0; i < 4; ++i) sum[i] = fma(splat(f[s + i]), load(w + (s + i) * kLanes), sum[i]);
      }
      for (int i = 0; s + i < n_positions; ++i) sum[i] = fma(splat(f[s + i]), load(w + (s + i) * kLanes), sum[i]);
      store(table + (panel * n_players + c) * kLanes, (sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
  }
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
