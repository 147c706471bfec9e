#include "planted.h"

#include <cstdint>
#include <memory>

#include "kernels/cuda_launch.h"

namespace {

constexpr unsigned kFull = 0xffffffffu;
constexpr int kThreads = 64;

// Data on the heap, so that ASan guards it.
template <class T>
struct DeviceArray {
  explicit DeviceArray(size_t n) : data(new T[n]()) {}
  std::unique_ptr<T[]> data;
  operator T*() { return data.get(); }
};

__global__ void missing_barrier_kernel(bool bug, float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!bug) __syncthreads();
  out[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
}
void missing_barrier(bool bug) {
  DeviceArray<float> out(kThreads);
  SHAPLEY_LAUNCH(missing_barrier_kernel, 1, kThreads, 0, nullptr, bug, out);
}

// The second barrier of a loop: without it a fast thread overwrites what a slow one has still to read.
__global__ void missing_reuse_barrier_kernel(bool bug, float* out) {
  SHAPLEY_DYN_SHARED(float, values);
  float sum = 0.0f;
  for (int round = 0; round < 3; ++round) {
    values[threadIdx.x] = static_cast<float>(threadIdx.x + round);
    __syncthreads();
    sum += values[(threadIdx.x + 1) % kThreads];
    if (!bug) __syncthreads();
  }
  out[threadIdx.x] = sum;
}
void missing_reuse_barrier(bool bug) {
  DeviceArray<float> out(kThreads);
  SHAPLEY_LAUNCH(missing_reuse_barrier_kernel, 1, kThreads, kThreads * sizeof(float), nullptr, bug, out);
}

// A shuffle makes lanes meet, but orders no memory.
__global__ void missing_syncwarp_kernel(bool bug, int* out) {
  __shared__ int values[32];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (bug) {
    out[32] = __shfl_sync(kFull, 1, 0) * static_cast<int>(threadIdx.x) * 0;
  } else {
    __syncwarp();
  }
  out[threadIdx.x] = values[threadIdx.x ^ 1u];
}
void missing_syncwarp(bool bug) {
  DeviceArray<int> out(33);
  SHAPLEY_LAUNCH(missing_syncwarp_kernel, 1, 32, 0, nullptr, bug, out);
}

__global__ void plain_add_kernel(bool bug, int* count) {
  if (bug) {
    *count += 1;
  } else {
    atomicAdd(count, 1);
  }
}
void plain_add(bool bug) {
  DeviceArray<int> count(1);
  SHAPLEY_LAUNCH(plain_add_kernel, 1, kThreads, 0, nullptr, bug, count);
}

__global__ void static_overrun_kernel(bool bug, float* out) {
  __shared__ float values[kThreads];
  float* own = values + threadIdx.x;
  asm volatile("" : "+r"(own));  // hides the array from UBSan, whose bounds check would come before ASan's
  own[bug ? 1 : 0] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}
void static_overrun(bool bug) {
  DeviceArray<float> out(kThreads);
  SHAPLEY_LAUNCH(static_overrun_kernel, 1, kThreads, 0, nullptr, bug, out);
}

__global__ void dynamic_overrun_kernel(bool bug, float* out) {
  SHAPLEY_DYN_SHARED(float, values);
  values[threadIdx.x + (bug ? 1 : 0)] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}
void dynamic_overrun(bool bug) {
  DeviceArray<float> out(kThreads);
  SHAPLEY_LAUNCH(dynamic_overrun_kernel, 1, kThreads, kThreads * sizeof(float), nullptr, bug, out);
}

__global__ void global_overrun_kernel(bool bug, const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x + (bug ? 1 : 0)];
}
void global_overrun(bool bug) {
  DeviceArray<float> in(kThreads), out(kThreads);
  SHAPLEY_LAUNCH(global_overrun_kernel, 1, kThreads, 0, nullptr, bug, in, out);
}

__global__ void misaligned_vector_kernel(bool bug, const float* in, float* out) {
  const float4 v = *reinterpret_cast<const float4*>(in + 4 * threadIdx.x + (bug ? 1 : 0));
  out[threadIdx.x] = v.x + v.w;
}
void misaligned_vector(bool bug) {
  DeviceArray<float> in(4 * kThreads + 4), out(kThreads);
  SHAPLEY_LAUNCH(misaligned_vector_kernel, 1, kThreads, 0, nullptr, bug, in, out);
}

__global__ void diverged_barriers_kernel(bool bug, int* out) {
  if (bug && threadIdx.x < 7) __syncthreads();
  out[threadIdx.x] = 1;
  __syncthreads();
}
void diverged_barriers(bool bug) {
  DeviceArray<int> out(kThreads);
  SHAPLEY_LAUNCH(diverged_barriers_kernel, 1, kThreads, 0, nullptr, bug, out);
}

// Half a warp waits for the other half, which waits at the block barrier.
__global__ void deadlock_kernel(bool bug, int* out) {
  if (threadIdx.x < 16) __syncwarp(bug ? kFull : 0xffffu);
  __syncthreads();
  out[threadIdx.x] = 1;
}
void deadlock(bool bug) {
  DeviceArray<int> out(kThreads);
  SHAPLEY_LAUNCH(deadlock_kernel, 1, kThreads, 0, nullptr, bug, out);
}

__global__ void outside_own_mask_kernel(bool bug, int* out) {
  out[threadIdx.x] = __any_sync(bug ? kFull >> 1 : kFull, 1);
}
void outside_own_mask(bool bug) {
  DeviceArray<int> out(32);
  SHAPLEY_LAUNCH(outside_own_mask_kernel, 1, 32, 0, nullptr, bug, out);
}

__global__ void absent_source_kernel(bool bug, int* out) {
  if (threadIdx.x >= 24) return;
  out[threadIdx.x] = __shfl_xor_sync(kFull, static_cast<int>(threadIdx.x), bug ? 16 : 4);
}
void absent_source(bool bug) {
  DeviceArray<int> out(32);
  SHAPLEY_LAUNCH(absent_source_kernel, 1, 32, 0, nullptr, bug, out);
}

__global__ void mixed_collectives_kernel(bool bug, int* out) {
  int value = static_cast<int>(threadIdx.x);
  if (bug && threadIdx.x % 2 == 0) {
    value = __shfl_xor_sync(kFull, value, 1);
  } else {
    value = __shfl_xor_sync(kFull, value, 2);
  }
  out[threadIdx.x] = value;
}
void mixed_collectives(bool bug) {
  DeviceArray<int> out(32);
  SHAPLEY_LAUNCH(mixed_collectives_kernel, 1, 32, 0, nullptr, bug, out);
}

__global__ void odd_width_kernel(bool bug, int* out) {
  out[threadIdx.x] = __shfl_sync(kFull, 1, 0, bug ? 24 : 16);
}
void odd_width(bool bug) {
  DeviceArray<int> out(32);
  SHAPLEY_LAUNCH(odd_width_kernel, 1, 32, 0, nullptr, bug, out);
}

}  // namespace

namespace shapley::tests {

constexpr const char* kDiverged = "threads of a block meet in different __syncthreads";
constexpr const char* kDeadlock = "deadlock: no thread can go on";
constexpr const char* kOwnMask = "is not in its own mask";
constexpr const char* kAbsent = "which does not take part";
constexpr const char* kMixed = "meet in different collectives";
constexpr const char* kWidth = "shuffle width 24 is no power of two";

const Planted kPlanted[] = {
    {"missing_barrier", missing_barrier, nullptr, nullptr, " in missing_barrier_kernel"},
    {"missing_reuse_barrier", missing_reuse_barrier, nullptr, nullptr, " in missing_reuse_barrier_kernel"},
    {"missing_syncwarp", missing_syncwarp, nullptr, nullptr, " in missing_syncwarp_kernel"},
    {"plain_add", plain_add, nullptr, nullptr, " in plain_add_kernel"},
    {"static_overrun", static_overrun, nullptr, "global-buffer-overflow", nullptr},
    {"dynamic_overrun", dynamic_overrun, nullptr, "heap-buffer-overflow", nullptr},
    {"global_overrun", global_overrun, nullptr, "heap-buffer-overflow", nullptr},
    {"misaligned_vector", misaligned_vector, nullptr, "misaligned address", nullptr},
    {"diverged_barriers", diverged_barriers, kDiverged, kDiverged, kDiverged},
    {"deadlock", deadlock, kDeadlock, kDeadlock, kDeadlock},
    {"outside_own_mask", outside_own_mask, kOwnMask, kOwnMask, kOwnMask},
    {"absent_source", absent_source, kAbsent, kAbsent, kAbsent},
    {"mixed_collectives", mixed_collectives, kMixed, kMixed, kMixed},
    {"odd_width", odd_width, kWidth, kWidth, kWidth},
};
const int kPlantedCount = static_cast<int>(sizeof(kPlanted) / sizeof(kPlanted[0]));

}  // namespace shapley::tests
