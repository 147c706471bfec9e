// tensor_cores.h: a warp's matrix product, with the registers of mma.sync.m16n8k16 and a pessimist's rounding.
#pragma once

#include <cmath>
#include <cstdint>

#include "collectives.h"
#include "device_math.h"

namespace emulator {

constexpr unsigned kMostLanes = 1024;

struct MmaOperands {
  uint32_t a[4], b[2];
};
inline MmaOperands mma_operands[kMostLanes];  // of the running block's lanes

inline float bf16_half(uint32_t pair, int half) {
  return bit_cast<float>(half ? pair & 0xffff0000u : pair << 16);
}

// The sum, each addend cut at the 24th bit from the greatest one's exponent, and so is the sum. Tensor cores keep that
// much or a little more (Fasi, Higham, Mikaitis, Pranesh, PeerJ Computer Science 2021).
inline float cut_sum(const float* addends, int n) {
  float greatest = 0.0f, plain = 0.0f;
  for (int i = 0; i < n; ++i) {
    const float magnitude = addends[i] < 0.0f ? -addends[i] : addends[i];
    greatest = magnitude > greatest ? magnitude : greatest;
    plain += addends[i];
  }
  if (!(std::fabs(plain) <= 3e38f) || greatest == 0.0f) return plain;
  // In units of the greatest's last place the addends are whole numbers of 24 bits.
  const int unit = std::ilogb(greatest) - 23;
  const double per_unit = std::ldexp(1.0, -unit);
  int64_t sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<int64_t>(addends[i] * per_unit);
  int64_t last = 1;
  while (sum / last >= int64_t{1} << 24 || sum / last <= -(int64_t{1} << 24)) last *= 2;
  return static_cast<float>(std::ldexp(static_cast<double>(sum / last * last), unit));
}

// The lanes of a one-dimensional block's warp meet here, all of them.
inline void mma_m16n8k16_bf16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SHAPLEY_CALL_SITE) {
  MmaOperands* const warp = mma_operands + threadIdx.x / 32 * 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  warp[lane] = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  __syncwarp(0xffffffffu, file, line);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
    float addends[17] = {sums[i]};
    int n = 1;
    for (int k = 0; k < 16; ++k) {
      const int pair = k % 8 / 2, upper = k / 8;
      addends[n] = bf16_half(warp[row % 8 * 4 + pair].a[row / 8 + 2 * upper], k % 2) *
                   bf16_half(warp[column * 4 + pair].b[upper], k % 2);
      if (addends[n] != 0.0f) ++n;
    }
    sums[i] = cut_sum(addends, n);
  }
  __syncwarp(0xffffffffu, file, line);
}

}  // namespace emulator
