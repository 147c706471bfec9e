// Barriers, early exits, atomics, shared memory and launches.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../check.h"
#include "../schedules.h"
#include "kernels/cuda_launch.h"

namespace {

using shapley::tests::for_each_schedule;

// Each thread passes its number round the block, one step at a time, through shared memory.
__global__ void rotate_kernel(int steps, int* out) {
  __shared__ int ring[1024];
  const unsigned n = blockDim.x * blockDim.y * blockDim.z;
  const unsigned me = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  int value = static_cast<int>(me);
  for (int step = 0; step < steps; ++step) {
    ring[me] = value;
    __syncthreads();
    value = ring[(me + 1) % n];
    __syncthreads();
  }
  out[me] = value;
}

TEST(barrier_orders_shared_memory_for_blocks_of_any_shape) {
  for_each_schedule([] {
    for (dim3 shape : {dim3(1), dim3(33), dim3(5, 7, 3), dim3(256)}) {
      const int n = static_cast<int>(shape.x * shape.y * shape.z);
      std::vector<int> out(n);
      SHAPLEY_LAUNCH(rotate_kernel, 1, shape, 0, nullptr, 5, out.data());
      for (int i = 0; i < n; ++i) CHECK(out[i] == (i + 5) % n, "%d threads, thread %d: %d", n, i, out[i]);
    }
  });
}

__global__ void counting_barrier_kernel(int* out) {
  const int i = threadIdx.x;
  out[4 * i] = __syncthreads_count(i % 3 == 0);
  out[4 * i + 1] = __syncthreads_and(i < 50);
  out[4 * i + 2] = __syncthreads_and(i < 49);
  out[4 * i + 3] = __syncthreads_or(i == 49) + 2 * __syncthreads_or(0);
}

TEST(barrier_with_predicate_gives_count_and_or) {
  for_each_schedule([] {
    int out[4 * 50];
    SHAPLEY_LAUNCH(counting_barrier_kernel, 1, 50, 0, nullptr, out);
    for (int i = 0; i < 50; ++i) {
      CHECK(out[4 * i] == 17, "thread %d: %d", i, out[4 * i]);
      CHECK(out[4 * i + 1] == 1 && out[4 * i + 2] == 0 && out[4 * i + 3] == 1, "thread %d", i);
    }
  });
}

// Threads past `n` leave at once; the others go on to use barriers and collectives that do not wait for them.
__global__ void early_exit_kernel(unsigned n, unsigned* out) {
  __shared__ unsigned last[1];
  const unsigned i = threadIdx.x;
  if (i >= n) return;
  if (i == n - 1) last[0] = i;
  __syncthreads();
  out[i] = last[0] + 1000 * static_cast<unsigned>(__popc(__ballot_sync(0xffffffffu, 1)));
}

TEST(threads_that_leave_early_are_not_waited_for) {
  for_each_schedule([] {
    unsigned out[96];
    SHAPLEY_LAUNCH(early_exit_kernel, 1, 96, 0, nullptr, 70u, out);
    for (unsigned i = 0; i < 70; ++i) CHECK(out[i] == 69 + (i < 64 ? 32000u : 6000u), "thread %u: %u", i, out[i]);
  });
}

__global__ void atomics_kernel(int* sums, unsigned long long* most, unsigned* bits) {
  const int i = threadIdx.x + blockDim.x * blockIdx.x;
  atomicAdd(&sums[0], i);
  atomicSub(&sums[1], 1);
  atomicMin(&sums[2], 50 - i);
  atomicCAS(&sums[3], i, i + 1);
  atomicMax(most, static_cast<unsigned long long>(i) << 33);
  atomicOr(bits, 1u << i % 32);
  atomicAnd(bits + 1, ~(1u << i % 8));
  atomicXor(bits + 2, 1u);
  if (i == 7) atomicExch(bits + 3, 9u);
}

TEST(atomics_combine_every_thread_of_every_block) {
  for_each_schedule([] {
    int sums[4] = {0, 0, 0, 99};
    unsigned long long most = 0;
    unsigned bits[4] = {0, 0xffffu, 0, 0};
    SHAPLEY_LAUNCH(atomics_kernel, 3, 33, 0, nullptr, sums, &most, bits);
    CHECK(sums[0] == 99 * 98 / 2 && sums[1] == -99 && sums[2] == -48 && sums[3] == 99, "%d %d %d %d", sums[0], sums[1],
          sums[2], sums[3]);
    CHECK(most == 98ull << 33 && bits[0] == 0xffffffffu && bits[1] == 0xff00u && bits[2] == 1 && bits[3] == 9,
          "%llu %x %x %x %x", most, bits[0], bits[1], bits[2], bits[3]);
  });
}

__global__ void grid_kernel(int* visits) {
  atomicAdd(&visits[blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z)], 1);
}

TEST(grid_every_block_runs_once) {
  for_each_schedule([] {
    int visits[2 * 3 * 4] = {};
    SHAPLEY_LAUNCH(grid_kernel, dim3(2, 3, 4), 1, 0, nullptr, visits);
    for (int count : visits) CHECK(count == 1, "%d", count);
  });
}

__global__ void read_unwritten_kernel(float* out, bool write) {
  SHAPLEY_DYN_SHARED(float, dynamic);
  __shared__ float fixed[3];
  if (write) dynamic[1] = fixed[2] = 1.0f;
  out[2 * blockIdx.x] = dynamic[1];
  out[2 * blockIdx.x + 1] = fixed[2];
}

TEST(shared_memory_read_before_written_is_nan) {
  float out[4];
  SHAPLEY_LAUNCH(read_unwritten_kernel, 2, 1, 8, nullptr, out, true);
  for (float value : out) CHECK(value == 1.0f, "%g", value);
  SHAPLEY_LAUNCH(read_unwritten_kernel, 2, 1, 8, nullptr, out, false);
  for (int i : {0, 2}) CHECK(std::isnan(out[i]), "block %d: %g", i / 2, out[i]);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  for (int i : {1, 3}) CHECK(std::isnan(out[i]), "block %d: %g", i / 2, out[i]);
#endif
}

__global__ void touch_kernel(int* touched) {
  atomicAdd(touched, 1);
}
__global__ void opted_in_kernel(int* touched) {
  atomicAdd(touched, 1);
}

TEST(launches_that_cuda_refuses_run_nothing_and_give_its_error) {
  int touched = 0;
  const auto launch = [&](dim3 grid, dim3 block, size_t shared) {
    SHAPLEY_LAUNCH(touch_kernel, grid, block, shared, nullptr, &touched);
    return cudaGetLastError();
  };
  CHECK(launch(1, 1025, 0) == cudaErrorInvalidConfiguration, "1025 threads");
  CHECK(launch(1, dim3(32, 33), 0) == cudaErrorInvalidConfiguration, "32 * 33 threads");
  CHECK(launch(1, dim3(1, 1, 65), 0) == cudaErrorInvalidConfiguration, "65 threads in z");
  CHECK(launch(1, 0, 0) == cudaErrorInvalidConfiguration, "no threads");
  CHECK(launch(0, 1, 0) == cudaErrorInvalidConfiguration, "no blocks");
  CHECK(launch(dim3(1, 65536), 1, 0) == cudaErrorInvalidConfiguration, "65536 blocks in y");
  CHECK(launch(dim3(1, 1, 65536), 1, 0) == cudaErrorInvalidConfiguration, "65536 blocks in z");
  CHECK(launch(0x80000000u, 1, 0) == cudaErrorInvalidConfiguration, "2^31 blocks in x");
  CHECK(launch(1, 1, emulator::kDefaultDynamicShared + 1) == cudaErrorInvalidValue,
        "47 KiB and more without opting in");
  CHECK(touched == 0, "%d", touched);
  CHECK(launch(dim3(1, 65535), 1, emulator::kDefaultDynamicShared) == cudaSuccess && touched == 65535, "%d", touched);
  CHECK(cudaGetLastError() == cudaSuccess, "the error is given once");
}

TEST(dynamic_shared_memory_beyond_the_default_needs_the_attribute) {
  int touched = 0;
  constexpr int kMost = emulator::kLargestDynamicShared;
  CHECK(cudaFuncSetAttribute(opted_in_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMost + 1) ==
            cudaErrorInvalidValue,
        "more than a block can have");
  CHECK(cudaFuncSetAttribute(opted_in_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMost) == cudaSuccess,
        "all that a block can have");
  SHAPLEY_LAUNCH(opted_in_kernel, 1, 1, kMost, nullptr, &touched);
  CHECK(cudaGetLastError() == cudaSuccess && touched == 1, "%d", touched);
  SHAPLEY_LAUNCH(opted_in_kernel, 1, 1, kMost + 1, nullptr, &touched);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue && touched == 1, "%d", touched);
}

TEST(runtime_device_queries_and_copies_answer) {
  int device = -1, count = 0, shared = 0;
  CHECK(cudaGetDevice(&device) == cudaSuccess && device == 0, "%d", device);
  CHECK(cudaSetDevice(0) == cudaSuccess && cudaSetDevice(1) == cudaErrorInvalidDevice, "one device");
  emulator::set_multiprocessors(7);
  CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess && count == 7, "%d", count);
  emulator::set_multiprocessors(4);
  CHECK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) == cudaSuccess &&
            shared == 226 * 1024,
        "%d", shared);
  int from[3] = {1, 2, 3}, to[3];
  CHECK(cudaMemcpyAsync(to, from, sizeof(to), cudaMemcpyDeviceToDevice) == cudaSuccess && to[2] == 3, "%d", to[2]);
  CHECK(cudaMemsetAsync(to, 0, 8) == cudaSuccess && to[0] == 0 && to[1] == 0 && to[2] == 3, "%d %d", to[1], to[2]);
}

TEST(device_math_bit_functions_match_their_definitions) {
  CHECK(__popc(0xf0f0u) == 8 && __popcll(~0ull) == 64 && __ffs(0) == 0 && __ffs(8) == 4, "counts");
  CHECK(__clz(0) == 32 && __clz(1) == 31 && __clzll(1) == 63 && __brev(1u) == 0x80000000u, "leading zeros");
  CHECK(__umulhi(0xffffffffu, 0xffffffffu) == 0xfffffffeu && __umulhi(1u << 16, 1u << 16) == 1, "high product");
  CHECK(__float_as_int(1.0f) == 0x3f800000 && __uint_as_float(0x40000000u) == 2.0f, "bits");
}

}  // namespace
