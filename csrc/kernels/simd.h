// simd.h: the vectors of the CPU kernels. One vector is as wide as the instruction set that the including source is
// compiled for: 16, 8 or 4 floats. Every operation acts on each lane alone, so a lane's bits do not depend on its
// neighbours, and vectors of different width differ only in how many rows they hold.
//
// exp_nonpositive and log_positive are polynomials; the largest error seen over their range is 1.2 and 0.9 units in
// the last place.
#pragma once

#include <cstdint>

#include "isa.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace shapley {
namespace SHAPLEY_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float VecF __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecI __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecU __attribute__((vector_size(4 * kLanes)));
typedef float VecFUnaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

static inline VecF splat(float x) {
  return x - VecF{};  // an addition would be carried out, for the sake of -0.0
}
static inline VecI splat_int(int32_t x) {
  return VecI{} + x;
}
static inline VecF load(const float* from) {
  return *reinterpret_cast<const VecFUnaligned*>(from);
}
static inline void store(float* to, VecF x) {
  *reinterpret_cast<VecFUnaligned*>(to) = x;
}

// The first `count` lanes alone touch memory; the others read as zero.
static inline VecF load_part(const float* from, int64_t count) {
  if (count >= kLanes) return load(from);
  VecF x = {};
  for (int64_t i = 0; i < count; ++i) x[i] = from[i];
  return x;
}
static inline void store_part(float* to, VecF x, int64_t count) {
  if (count >= kLanes) return store(to, x);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), x);
#elif defined(__AVX2__)
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes), x);
#else
  for (int64_t i = 0; i < count; ++i) to[i] = x[i];
#endif
}

// Adds the lanes to kLanes sums.
static inline void add_to(double* sums, VecF x) {
  typedef float Half __attribute__((vector_size(2 * kLanes)));
  typedef double Sums __attribute__((vector_size(4 * kLanes), aligned(8), may_alias));
  Half halves[2];
  __builtin_memcpy(halves, &x, sizeof(x));
  Sums* to = reinterpret_cast<Sums*>(sums);
  for (int h = 0; h < 2; ++h) to[h] += __builtin_convertvector(halves[h], Sums);
}

// a * b + c, rounded once where the instruction set has a fused operation.
static inline VecF fma(VecF a, VecF b, VecF c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// x where it is greater than y, else y: a NaN in x is passed over.
static inline VecF greater(VecF x, VecF y) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, x, y);  // the unmasked spelling warns of an uninitialised value
#elif defined(__AVX2__)
  return _mm256_max_ps(x, y);
#else
  return x > y ? x : y;
#endif
}

// Whether a lane of a comparison's result holds.
static inline bool any(VecI holds) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(holds)) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(reinterpret_cast<__m256>(holds)) != 0;
#else
  return (holds[0] | holds[1] | holds[2] | holds[3]) != 0;
#endif
}

static inline VecF as_float(VecI x) {
  return reinterpret_cast<VecF>(x);
}
static inline VecI as_int(VecF x) {
  return reinterpret_cast<VecI>(x);
}

// exp(x) for x <= 0. Below -86.6 it gives exp(-86.6) = 2.5e-38: beside a term of 1 that adds nothing.
static inline VecF exp_nonpositive(VecF x) {
  // Adding the constant rounds to an integer n and leaves n + 127, the exponent of 2^n, in the low bits.
  const VecF shift = splat(12582912.0f + 127.0f);
  x = greater(splat(-86.6f), x);  // in this order a NaN in x stays
  const VecF shifted = fma(x, splat(1.44269504f), shift);
  const VecF n = shifted - shift;
  VecF r = fma(n, splat(-0.693145751953125f), x);
  r = fma(n, splat(-1.42860677e-6f), r);
  VecF p = fma(splat(1.3814539e-3f), r, splat(8.3687454e-3f));
  p = fma(p, r, splat(4.1668389e-2f));
  p = fma(p, r, splat(1.6666521e-1f));
  p = fma(p, r, splat(4.9999994e-1f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return p * as_float(as_int(shifted) << 23);
}

// log(x) for a normal x > 0; a NaN stays. Lanes that hold no row may be any bits: hence the unsigned difference.
static inline VecF log_positive(VecF x) {
  const VecI root_half = splat_int(0x3f3504f3);  // sqrt(1/2): x = 2^e * m with m in [sqrt(1/2), sqrt(2))
  const VecI above = reinterpret_cast<VecI>(reinterpret_cast<VecU>(x) - reinterpret_cast<VecU>(root_half));
  const VecF e = __builtin_convertvector(above >> 23, VecF);
  const VecF f = as_float((above & 0x007fffff) + root_half) - 1.0f;
  VecF p = fma(splat(7.0376836292e-2f), f, splat(-1.1514610310e-1f));
  p = fma(p, f, splat(1.1676998740e-1f));
  p = fma(p, f, splat(-1.2420140846e-1f));
  p = fma(p, f, splat(1.4249322787e-1f));
  p = fma(p, f, splat(-1.6668057665e-1f));
  p = fma(p, f, splat(2.0000714765e-1f));
  p = fma(p, f, splat(-2.4999993993e-1f));
  p = fma(p, f, splat(3.3333331174e-1f));
  const VecF square = f * f;
  VecF y = fma(e, splat(-2.12194440e-4f), p * f * square);
  y = fma(square, splat(-0.5f), y) + f;
  y = fma(e, splat(0.693359375f), y);
  return x == x ? y : x;
}

template <int... lane>
struct LaneList {
  // One exchange of a transposition: of rows i and i + step, the lanes whose index lacks the bit `step` go to row i.
  template <int step>
  static inline void exchange(VecF& low, VecF& high) {
    const VecF a = low, b = high;
    low = __builtin_shufflevector(a, b, ((lane & step) ? kLanes + lane - step : lane)...);
    high = __builtin_shufflevector(a, b, ((lane & step) ? kLanes + lane : lane + step)...);
  }
};
template <int count, int... lane>
struct FirstLanes : FirstLanes<count - 1, count - 1, lane...> {};
template <int... lane>
struct FirstLanes<0, lane...> {
  using List = LaneList<lane...>;
};

template <int step>
static inline void exchange_rows(VecF* rows) {
  for (int i = 0; i < kLanes; ++i) {
    if ((i & step) == 0) FirstLanes<kLanes>::List::template exchange<step>(rows[i], rows[i + step]);
  }
}

// Turns a square of vectors around: lane j of rows[i] and lane i of rows[j] change places.
static inline void transpose(VecF* rows) {
  exchange_rows<1>(rows);
  exchange_rows<2>(rows);
#if defined(__AVX2__)
  exchange_rows<4>(rows);
#endif
#if defined(__AVX512F__)
  exchange_rows<8>(rows);
#endif
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
