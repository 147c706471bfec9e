// permutation_eval: the metric of a linear head at every step of walks that add one channel at a time.
//
//     out[r, j] = metric(bias + sum over i < j of contribution[n, permutations[r, i], :], target[n]),
//     n = sample_index[r], j = 0 .. C; contributions as in head.h, metrics as in metric.h
//
// In: features float32 [N, C, S], weight, bias, targets (head.h), permutations int32 [R, C], sample_index int64 [R].
// Out: float32 [R, C + 1], overwritten.
//
// Outputs are accumulated in float32, in stretches of steps (16, 8 or 4 on the CPU, 32 on CUDA): within a stretch onto
// zero, the stretch onto the outputs before it. S = 1: one fused multiply-add a step and output. S > 1: the sample's
// contributions are computed first, four partial sums over s each, and added. The error of an output grows like the
// square root of C / stretch; at C = 4096 it was 1e-6 of the greatest partial sum. The order depends on C, S and K
// alone: a row has the same bits on every run, in any split of the walks, on any number of threads.
//
// CPU: a task is a walk. Vectors are outputs; after a stretch its square of steps and outputs is turned around, so that
// exp and log work on as many steps as a vector has lanes. Between panels of outputs three numbers a step are kept.
//
// CUDA: blocks of 4 warps. Up to 32 outputs, a warp has 4, 2 or 1 walks side by side, a lane an output; beyond, up to 4
// warps share a walk. A warp stores a stretch's outputs in shared memory (pitch 33: no bank conflicts either way) and
// reads them back with a lane a step, so that exponentials keep every lane busy. The steps of a walk are a chain of
// additions; weights of 8 steps are loaded at once. Shared memory: 23 KiB a block, and 4 K bytes a walk.
//
// Bytes: 8 C R; the weight comes from L1 and L2. Operations: about 20 R C K. Bound by the exponentials; for S > 1 with
// few walks a sample by the contributions, 2 C S K a sample.
//
// Limits: on CUDA K <= kPermutationEvalMaxOutputs. There a sample, class or player out of range makes its walk's row
// NaN, and a player that is twice in a row is not noticed; on the CPU the caller has checked them.
#pragma once

#include "head.h"

namespace shapley {

constexpr int64_t kPermutationEvalMaxOutputs = 32768;  // on CUDA: a walk's outputs are in shared memory

struct PermutationEvalParams {
  HeadParams head;
  const int32_t* permutations;  // [R, C]
  const int64_t* sample_index;  // [R]
  const int64_t* order;         // CPU: [R], the walks sorted by sample, or null for 0, 1, ...: the order of the tasks
  float* scratch;               // CPU: permutation_eval_scratch floats. CUDA: walk_scratch floats
  int64_t scratch_size;         // CUDA: how many floats that is
  int64_t n_walks;
  float* out;  // [R, C + 1]
};

// Floats of scratch that one call of permutation_eval_cpu uses: the state of a walk's rows between panels of outputs,
// and for S > 1 the contributions of the sample at hand.
static inline int64_t permutation_eval_scratch(const HeadParams& head) {
  const int64_t outputs = round_up(head.n_outputs, kMaxLanes);
  return 3 * round_up(head.n_players + 1, kMaxLanes) + (head.n_positions > 1 ? outputs * head.n_players : 0);
}

// A task is one walk.
SHAPLEY_CPU_KERNEL(permutation_eval_cpu, PermutationEvalParams)
int launch_permutation_eval(const PermutationEvalParams& params, void* stream);

}  // namespace shapley
