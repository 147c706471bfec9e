// head.h: the linear head that masked_eval, permutation_eval, permutation_linear and exhaustive_eval share, and the two
// kernels that bring its inputs into the form the others read.
//
// The head's output under a coalition T of players is
//     z[k] = bias[k] + sum over c in T of contribution[n, c, k]
//     contribution[n, c, k] = sum over s of features[n, c, s] * weight[k, c * S + s]
// A head that averages over positions is brought to S = 1 first, by mean_positions.
#pragma once

#include <cstdint>

#include "isa.h"
#include "metric.h"

namespace shapley {

// Sizes as in the design: N samples, C players, S positions, K outputs.
struct HeadParams {
  const float* features;  // [N, C, S]
  const float* weight;    // CPU: panels, as pack_head writes them. CUDA: [C * S, K], for masked_eval [K, C * S]
  const float* bias;      // CPU: zero-padded, as pack_head writes it. CUDA: [K], or null for zeros
  Targets targets;        // of every sample; not read by permutation_linear
  int64_t n_samples, n_players, n_positions, n_outputs;
  Metric metric;
};

// The widest vector of any instruction set: what buffers are sized for.
constexpr int64_t kMaxLanes = 16;

static inline int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// weight [K, C * S] to panels [ceil(K / L), C * S, L] with L the lanes of a vector, so that the CPU kernels read L
// outputs of a column with one load; and bias to [ceil(K / L) * L]. Padding is zero. A task is one column of weight.
struct PackHeadParams {
  const float* weight;  // [K, columns]
  const float* bias;    // [K] or null
  float* panels;        // room for round_up(K, kMaxLanes) * columns
  float* bias_panels;   // room for round_up(K, kMaxLanes); written with column 0
  int64_t n_outputs, columns;
};

// means[row] = (sum over s of values[row, s]) / S, summed in float64 in the order of s. A task is one row.
struct MeanPositionsParams {
  const float* values;  // [rows, S]
  float* means;         // [rows]
  int64_t rows, n_positions;
};

// CUDA, for walks over heads with S > 1: table[slot, c, k] = what channel c of the slot's sample adds to output k. A
// slot is a sample, or, with sample_index, sample_index[slot]; a sample out of range leaves its slot as it is.
struct ContributionsParams {
  HeadParams head;
  const int64_t* sample_index;  // [slots] or null
  float* table;                 // [slots, C, K]
  int64_t n_slots;
};

// Floats of scratch for a walk kernel's contributions on CUDA: of all samples, or of all walks, if 256 MiB hold them,
// else as many as 256 MiB hold.
static inline int64_t walk_scratch(const HeadParams& head, int64_t n_walks) {
  if (head.n_positions == 1) return 0;
  const int64_t slot = head.n_players * head.n_outputs, fit = (int64_t{64} << 20) / slot;
  const int64_t slots = head.n_samples < n_walks && head.n_samples <= fit ? head.n_samples : n_walks;
  return slot * (slots <= fit ? slots : fit < 1 ? 1 : fit);
}

SHAPLEY_CPU_KERNEL(pack_head_cpu, PackHeadParams)
SHAPLEY_CPU_KERNEL(mean_positions_cpu, MeanPositionsParams)
int launch_mean_positions(const MeanPositionsParams& params, void* stream);
int launch_contributions(const ContributionsParams& params, void* stream);

}  // namespace shapley
