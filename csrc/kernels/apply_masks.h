// apply_masks: rows of data with the removed players' channels set to zero.
//
//     out[r, c, ...] = masks[m, c] ? x[n, c, ...] : 0,   (m, n) = (r, sample_index[r]), or (r / N, r % N) without it
//
// A select, not a product: a NaN in a removed channel leaves no trace.
//
// In: x [N, C, ...] of 2, 4 or 8-byte elements, one sample after another, either channels first ([C, S] per sample)
// or channels last ([S, C]); masks bool [M, C]; sample_index int64 [R] or null. Out: like x, [R, C, ...], overwritten.
//
// CPU: a task is a row. Channels first: kept channels are copied, others cleared; channels last: a masked copy per
// position. CUDA: grid (row, part of the row), flattened into x; a thread writes one vector of up to 16 bytes that lies
// within one channel (channels first) or one element (channels last). Neighbouring threads touch neighbouring
// addresses; the mask byte is shared by a channel's threads and comes from L1. Bytes: rows are written once and their
// kept part read once, x mostly from L2 where samples repeat. Bound by memory. No arithmetic: CPU and CUDA give the
// same bits. Limits: fewer than 2^31 elements per sample. On CUDA a sample out of range makes the row NaN; on the CPU
// the caller has checked them.
#pragma once

#include "isa.h"

namespace shapley {

struct ApplyMasksParams {
  const void* x;                // [N, C, S], or [N, S, C] with channels_last
  const bool* masks;            // [M, C]
  const int64_t* sample_index;  // [R] or null
  void* out;                    // [R, C, S], or [R, S, C]
  int64_t n_rows;
  int64_t n_samples;
  int64_t n_players;
  int64_t n_positions;
  int element_bytes;  // 2, 4 or 8
  uint64_t nan_bits;  // a NaN of the element's type
  bool channels_last;
};

SHAPLEY_CPU_KERNEL(apply_masks_cpu, ApplyMasksParams)
int launch_apply_masks(const ApplyMasksParams& params, void* stream);

}  // namespace shapley
