// The tensor cores' twin against plain matrix products; fragments as in the PTX ISA, "Matrix Fragments for
// mma.m16n8k16 with floating point type".
#include <cmath>
#include <vector>

#include "../check.h"
#include "../schedules.h"
#include "kernels/mma.cuh"

namespace {

constexpr int kRows = 16, kColumns = 8, kDepth = 16, kWarps = 2;

uint32_t bf16(float value) {
  return emulator::bit_cast<uint32_t>(value) >> 16;
}

// a [16, 16] and b [16, 8] hold bfloat16 values; every warp adds its product to sums [warps, 16, 8].
__global__ void mma_kernel(const float* a, const float* b, float* sums) {
  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
  uint32_t a_pairs[4], b_pairs[2];
  float own[4];
  for (int i = 0; i < 4; ++i) {
    const float* pair = a + (group + i % 2 * 8) * kDepth + 2 * place + i / 2 * 8;
    a_pairs[i] = bf16(pair[0]) | bf16(pair[1]) << 16;
    own[i] = sums[warp * kRows * kColumns + (group + i / 2 * 8) * kColumns + 2 * place + i % 2];
  }
  for (int i = 0; i < 2; ++i) {
    const float* pair = b + (2 * place + i * 8) * kColumns + group;
    b_pairs[i] = bf16(pair[0]) | bf16(pair[kColumns]) << 16;
  }
  shapley::mma_bf16(own, a_pairs, b_pairs[0], b_pairs[1]);
  for (int i = 0; i < 4; ++i) {
    sums[warp * kRows * kColumns + (group + i / 2 * 8) * kColumns + 2 * place + i % 2] = own[i];
  }
}

std::vector<float> product(const std::vector<float>& a, const std::vector<float>& b, std::vector<float> sums) {
  for (int warp = 1; warp < kWarps; ++warp) sums.insert(sums.end(), sums.begin(), sums.begin() + kRows * kColumns);
  SHAPLEY_LAUNCH(mma_kernel, 1, 32 * kWarps, 0, nullptr, a.data(), b.data(), sums.data());
  return sums;
}

TEST(mma_integers_give_the_matrix_product) {
  std::vector<float> a(kRows * kDepth), b(kDepth * kColumns), start(kRows * kColumns);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i * 7 % 31) - 15.0f;
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i * 5 % 23) - 11.0f;
  for (size_t i = 0; i < start.size(); ++i) start[i] = static_cast<float>(i * 3 % 17);
  shapley::tests::for_each_schedule([&] {
    const std::vector<float> got = product(a, b, start);
    for (int i = 0; i < kWarps * kRows * kColumns; ++i) {
      const int row = i / kColumns % kRows, column = i % kColumns;
      float wanted = start[row * kColumns + column];
      for (int k = 0; k < kDepth; ++k) wanted += a[row * kDepth + k] * b[k * kColumns + column];
      CHECK(got[i] == wanted, "warp %d row %d column %d: %g, not %g", i / kColumns / kRows, row, column,
            static_cast<double>(got[i]), static_cast<double>(wanted));
    }
  });
}

TEST(mma_small_addends_are_cut_and_nan_stays_in_its_column) {
  std::vector<float> a(kRows * kDepth, 0.0f), b(kDepth * kColumns, 0.0f), start(kRows * kColumns, 1.0f);
  for (int row = 0; row < kRows; ++row) a[row * kDepth] = a[row * kDepth + 9] = 1.0f;
  b[0] = b[9 * kColumns] = 0x1.8p-24f;  // three quarters of a unit in the last place of 1, twice
  b[1] = 0x1p-23f;
  b[2] = NAN;
  const std::vector<float> got = product(a, b, start);
  for (int row = 0; row < kRows; ++row) {
    CHECK(got[row * kColumns] == 1.0f, "%.9g", static_cast<double>(got[row * kColumns]));
    CHECK(got[row * kColumns + 1] == 1.0f + 0x1p-23f, "%.9g", static_cast<double>(got[row * kColumns + 1]));
    CHECK(std::isnan(got[row * kColumns + 2]), "%g", static_cast<double>(got[row * kColumns + 2]));
    CHECK(got[row * kColumns + 3] == 1.0f, "%g", static_cast<double>(got[row * kColumns + 3]));
  }
}

}  // namespace
