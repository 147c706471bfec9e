// mma.cuh: a warp's matrix product on tensor cores, and its twin for the emulator.
//
//     sums [16, 8] += a [16, 16] * b [16, 8],   a and b bfloat16, sums float32
//
// A lane holds, with g = lane / 4 and t = lane % 4, pairs of neighbouring k (the lower one in the lower half):
//     a[0]: row g, k = 2t, 2t + 1;  a[1]: row g + 8, the same k;  a[2], a[3]: the same rows, k + 8
//     b0: k = 2t, 2t + 1 of column g;  b1: k + 8 of it
//     sums[0], sums[1]: row g, columns 2t, 2t + 1;  sums[2], sums[3]: row g + 8
//
// Products are exact. Tensor cores bring the addends to the greatest exponent and cut, not round, what is below
// float32's last place there: each product of matrices may lose up to a unit in the last place an addend.
// Needs compute capability 8.0: a launcher asks has_mma first, for code made for less traps.
#pragma once

#include "cuda_launch.h"

namespace shapley {
namespace {

__device__ __forceinline__ void mma_bf16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(SHAPLEY_EMULATOR)
  emulator::mma_m16n8k16_bf16(sums, a, b0, b1);
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

// Whether the code of `kernel` that this device runs was compiled with mma_bf16. The device's own capability does not
// say: it may run code made for less.
template <class Kernel>
cudaError_t has_mma(Kernel kernel, bool* answer) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  *answer = error == cudaSuccess && attributes.ptxVersion >= 80;
  return error;
}

}  // namespace
}  // namespace shapley
