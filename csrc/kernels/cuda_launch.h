// cuda_launch.h: the few spellings that let one .cu source be compiled by nvcc and, for tests without a GPU, run by
// the emulator in csrc/tests (which is included first and defines its own).
#pragma once

#include <cstdint>

#ifndef SHAPLEY_EMULATOR

#include <cuda_runtime.h>

#define SHAPLEY_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)

// `T* name` points at the block's dynamic shared memory, 16-byte aligned.
#define SHAPLEY_DYN_SHARED(T, name)                           \
  extern __shared__ __align__(16) unsigned char name##_raw[]; \
  T* name = reinterpret_cast<T*>(name##_raw)

#endif
