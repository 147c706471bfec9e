// walks.h: walks over a head's players, for the ops that follow them.
#pragma once

#include "head_case.h"

namespace shapley::tests {

struct Walks {
  std::vector<int32_t> permutations;  // [R, C]
  std::vector<int64_t> sample_index;  // [R]

  Walks(const HeadCase& head, int64_t n_walks, uint64_t seed) {
    Numbers numbers(seed);
    permutations = numbers.permutations(n_walks, head.n_players);
    sample_index = numbers.indices(n_walks, head.n_samples);
  }
  int64_t size() const { return static_cast<int64_t>(sample_index.size()); }
};

// How many samples' or walks' contributions the CUDA scratch holds: enough for all samples, or so few that walks go in
// parts. The schedules take turns, so that the bits are compared.
inline int64_t table_slots(const HeadCase& head, const Machine& machine) {
  if (machine.schedule.order == emulator::Order::kForward) return head.n_samples;
  return machine.schedule.order == emulator::Order::kReverse ? 1 : 2;
}

// Whether sample and players of a walk are in range; the op gives NaN for the walk otherwise.
inline bool walk_is_valid(const HeadCase& head, const Walks& walks, int64_t walk) {
  const int64_t sample = walks.sample_index[walk];
  if (sample < 0 || sample >= head.n_samples) return false;
  if (!head.classes.empty() && (head.classes[sample] < 0 || head.classes[sample] >= head.n_outputs)) return false;
  for (int64_t j = 0; j < head.n_players; ++j) {
    const int32_t player = walks.permutations[walk * head.n_players + j];
    if (player < 0 || player >= head.n_players) return false;
  }
  return true;
}

// Calls take(sample, outputs) for every step of every walk, in order.
template <class Take>
void follow_walks(const HeadCase& head, const Walks& walks, const Take& take) {
  for (int64_t r = 0; r < walks.size(); ++r) {
    const int64_t sample = walks.sample_index[r];
    const bool valid = walk_is_valid(head, walks, r);
    Outputs outputs = head.empty_coalition();
    if (!valid) outputs.z.assign(outputs.z.size(), NAN);
    take(valid ? sample : 0, outputs);
    for (int64_t j = 0; j < head.n_players; ++j) {
      if (valid) HeadCase::add(outputs, head.contribution(sample, walks.permutations[r * head.n_players + j]));
      take(valid ? sample : 0, outputs);
    }
  }
}

}  // namespace shapley::tests
