// exhaustive_eval: the metric of a linear head under every coalition of at most 24 channels.
//
//     out[T] = mean over n of metric(bias + sum over c in T of contribution[n, c, :], target[n]),  T = 0 .. 2^C - 1
//
// Bit c of T says whether player c is kept. Contributions as in head.h, metrics as in metric.h.
//
// In: features float32 [N, C, S], weight, bias, targets (head.h). Out: float32 [2^C], overwritten.
//
// CPU: the cube is cut into low players (8; 6 for many outputs), middle ones and high ones; a task is one subset of the
// high ones. Per sample it has tables of the sums of all low subsets and of all middle subsets with bias and high
// players; a coalition's outputs are the sum of two entries, and vectors hold coalitions. For cross_entropy both tables
// are exponentiated, each less its greatest output, so that a coalition costs a multiply-add an output and one
// logarithm: the exponentials cost nothing beside 2^C. Where their product is below 1e-8 (the two halves favour other
// classes by far) the coalition is computed from its outputs instead.
// CUDA: a block of 256 threads is the coalitions that agree in players 8 and up, a thread one of them. Per sample and 4
// to 16 outputs the block computes contributions, the sums of its high players and of the subsets of players 0-3 and
// 4-7 in shared memory (at most 7 KiB), and for cross_entropy the exponentials of the two tables, as the CPU does; a
// thread multiplies their entries, or adds three sums and takes the metric.
//
// Bytes: 4 N C S read per task or block, from caches, and 4 * 2^C written. Operations: 2^C N K multiply-adds and 2^C N
// logarithms for cross_entropy, a few 2^C N K for other metrics. Bound by arithmetic. Memory beside the output: scratch
// per thread, whatever C.
//
// Accumulators: outputs float32, by the tables: subsets in ascending order of players, then the tables' sum. Means
// float64, in the order of the samples. The order depends on C, S, K and N alone: same bits on every run and on any
// number of threads.
//
// Limits: 1 <= C <= 24. On CUDA a class out of range makes everything NaN, as it is in every mean; on the CPU the
// caller has checked them.
#pragma once

#include "head.h"

namespace shapley {

constexpr int64_t kExhaustiveMaxPlayers = 24;

struct ExhaustiveEvalParams {
  HeadParams head;
  void* scratch;  // CPU: exhaustive_eval_scratch bytes
  float* out;     // [2^C]
};

// How the players are split: the lowest have a table of all their subsets, the next all their subsets' outputs, and the
// highest are a task's number.
struct ExhaustiveSplit {
  int64_t low, middle, high;  // players; low + middle + high = C
  int64_t entries;            // coalitions in the low table, at least a vector
};

static inline ExhaustiveSplit exhaustive_split(const HeadParams& head) {
  const int64_t most = head.n_outputs <= 32 ? 8 : 6;  // keeps two tables of K * 2^low floats in the caches
  ExhaustiveSplit split;
  split.low = head.n_players < most ? head.n_players : most;
  const int64_t rest = head.n_players - split.low;
  split.middle = rest <= 2 ? 0 : rest <= 8 ? rest - 2 : 6;  // 4 tasks at least, 64 blocks at most
  split.high = rest - split.middle;
  split.entries = split.low < 4 ? kMaxLanes : int64_t{1} << split.low;
  return split;
}

static inline int64_t exhaustive_tasks(const HeadParams& head) {
  return int64_t{1} << exhaustive_split(head).high;
}

// Bytes of scratch that one call of exhaustive_eval_cpu uses, whatever C.
static inline int64_t exhaustive_eval_scratch(const HeadParams& head) {
  const ExhaustiveSplit split = exhaustive_split(head);
  const int64_t outputs = round_up(head.n_outputs, kMaxLanes), blocks = int64_t{1} << split.middle;
  const int64_t floats = 2 * head.n_outputs * split.entries + 2 * split.entries + 2 * blocks * outputs +
                         round_up(blocks, kMaxLanes) + outputs * head.n_players;
  return 8 * blocks * split.entries + 4 * floats;
}

// A task is all coalitions that agree in the high players.
SHAPLEY_CPU_KERNEL(exhaustive_eval_cpu, ExhaustiveEvalParams)
int launch_exhaustive_eval(const ExhaustiveEvalParams& params, void* stream);

}  // namespace shapley
