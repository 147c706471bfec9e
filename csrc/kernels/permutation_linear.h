// permutation_linear: the outputs of a linear layer at every step of walks that add one channel at a time.
//
//     out[r, j, :] = activation(bias + residual[n] + sum over i < j of contribution[n, permutations[r, i], :]),
//     n = sample_index[r], j = 0 .. C
//
// In: features float32 [N, C, S], weight, bias (head.h; targets and metric are not read), residual float32 [N, K] or
// null, permutations int32 [R, C], sample_index int64 [R]. Out: float32 [R, C + 1, K], overwritten.
//
// Without residual the sums, their order and their error are permutation_eval's, bit for bit: the numbers before its
// metric. Activations are within 1e-6 relative or 1e-7 of the exact function of the sum.
//
// CPU: a task is a walk; vectors are outputs, stored after every step.
// CUDA: a thread is one output of one walk. 8 to 128 threads side by side are a walk's outputs, so that a step's stores
// are one contiguous piece and the steps of a walk follow each other. Loads of 8 steps are in flight at once. Each
// activation is a kernel of its own, so that none pays for another. No shared memory.
//
// Bytes: 4 R (C + 1) K written, 8 C R read; the weight comes from L1 and L2. Operations: 2 R C K. Bound by writing.
//
// Limits: on CUDA a sample or player out of range makes the whole walk NaN, and a player that is twice in a row is not
// noticed; on the CPU the caller has checked them.
#pragma once

#include "activation.h"
#include "head.h"

namespace shapley {

struct PermutationLinearParams {
  HeadParams head;
  const float* residual;        // [N, K] or null
  const int32_t* permutations;  // [R, C]
  const int64_t* sample_index;  // [R]
  const int64_t* order;         // CPU: [R], the walks sorted by sample, or null for 0, 1, ...: the order of the tasks
  float* scratch;               // CPU: permutation_linear_scratch floats. CUDA: walk_scratch floats
  int64_t scratch_size;         // CUDA: how many floats that is
  int64_t n_walks;
  float* out;  // [R, C + 1, K]
  Activation activation;
  float negative_slope;  // of leaky_relu
};

// Floats of scratch that one call of permutation_linear_cpu uses: the outputs at the start of a stretch, and for S > 1
// the contributions of the sample at hand.
static inline int64_t permutation_linear_scratch(const HeadParams& head) {
  const int64_t outputs = round_up(head.n_outputs, kMaxLanes);
  return outputs + (head.n_positions > 1 ? outputs * head.n_players : 0);
}

// A task is one walk.
SHAPLEY_CPU_KERNEL(permutation_linear_cpu, PermutationLinearParams)
int launch_permutation_linear(const PermutationLinearParams& params, void* stream);

}  // namespace shapley
