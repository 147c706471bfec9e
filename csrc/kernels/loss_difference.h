// loss_difference: the metric of every row of outputs, less that of a reference, in one pass.
//
//     out[r] = metric(outputs[r], targets[s]) - baseline[s],   s = sample_index[r], or r without it
//
// In: outputs float32 [R, K], targets (int64 [N] or float32 [N, K]), sample_index int64 [R] or null, baseline
// float32 [N] or null. Out: float32 [R], overwritten.
//
// CPU: a task is a row. The lanes of a vector take a row's outputs in turn; as many rows as lanes are reduced across
// lanes together, by one transposition.
// CUDA: one warp per row, 8 rows per block of 256 threads, no shared memory; a lane takes the outputs lane, lane + 32,
// ... and the warp combines them by butterfly shuffles. Reads of a row are coalesced, and its second pass (the
// exponentials after the maximum) hits the cache.
// Bytes: 4 R K read, 4 R written; about 20 operations per output. Bound by memory bandwidth.
// Accumulators float32; the order depends on K and the vectors' width alone: same bits on every run and in any split
// of the rows.
// Limits: K >= 1. On CUDA a sample or class out of range makes the row NaN; on the CPU the caller has checked them.
#pragma once

#include "isa.h"
#include "metric.h"

namespace shapley {

struct LossDifferenceParams {
  const float* outputs;         // [R, K]
  Targets targets;              // [N] or [N, K]
  const int64_t* sample_index;  // [R] or null
  const float* baseline;        // [N] or null
  float* out;                   // [R]
  int64_t n_rows;
  int64_t n_samples;
  int64_t n_outputs;
  Metric metric;
};

SHAPLEY_CPU_KERNEL(loss_difference_cpu, LossDifferenceParams)
int launch_loss_difference(const LossDifferenceParams& params, void* stream);

}  // namespace shapley
