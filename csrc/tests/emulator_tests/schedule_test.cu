// A missing barrier without any sanitizer: another schedule gives another result.
#include <cstring>

#include "../check.h"
#include "../schedules.h"
#include "kernels/cuda_launch.h"

namespace {

constexpr int kThreads = 96;

__global__ void reverse_kernel(bool bug, int* out) {
  SHAPLEY_DYN_SHARED(int, values);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (!bug) __syncthreads();
  out[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
}

int distinct_results(bool bug) {
  int first[kThreads] = {}, distinct = 1;
  bool have_first = false;
  shapley::tests::for_each_schedule([&] {
    int out[kThreads];
    SHAPLEY_LAUNCH(reverse_kernel, 1, kThreads, sizeof(out), nullptr, bug, out);
    if (!have_first) std::memcpy(first, out, sizeof(out));
    have_first = true;
    distinct += std::memcmp(first, out, sizeof(out)) != 0;
  });
  return distinct;
}

// TSan would stop here, and has a test of its own.
#ifndef __SANITIZE_THREAD__
TEST(schedule_missing_barrier_shows_as_different_results) {
  CHECK(distinct_results(true) > 1, "%d", distinct_results(true));
}
#endif

TEST(schedule_with_barrier_gives_one_result) {
  CHECK(distinct_results(false) == 1, "%d", distinct_results(false));
}

}  // namespace
