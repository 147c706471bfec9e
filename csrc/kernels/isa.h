// isa.h: run-time choice of the instruction set for the CPU kernels.
//
// Every CPU kernel source is compiled once for each instruction set, with SHAPLEY_ISA naming the namespace that its
// functions live in. SHAPLEY_CPU_KERNEL declares all of them and a function of the same name that picks one for
// the processor it runs on. A CPU kernel takes its params struct and a half-open range of independent tasks; who
// calls it decides how ranges are dealt to threads. Results never depend on how the range is cut.
//
// Kernel sources use no standard library templates, and functions in their headers are static: the linker could
// keep an AVX-512 copy of an inline function for callers that run on older processors.
#pragma once

#include <cstdint>

#ifndef SHAPLEY_ISA
#define SHAPLEY_ISA baseline
#endif

namespace shapley {

enum class Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The best instruction set that this build has and this processor runs. SHAPLEY_ISA=baseline|avx2|avx512 in the
// environment lowers it. Read once.
Isa cpu_isa();
const char* cpu_isa_name();

}  // namespace shapley

#ifdef SHAPLEY_MULTI_ISA
#define SHAPLEY_CPU_KERNEL(name, Params)                                      \
  namespace baseline {                                                        \
  void name(const Params& params, int64_t begin, int64_t end);                \
  }                                                                           \
  namespace avx2 {                                                            \
  void name(const Params& params, int64_t begin, int64_t end);                \
  }                                                                           \
  namespace avx512 {                                                          \
  void name(const Params& params, int64_t begin, int64_t end);                \
  }                                                                           \
  static inline void name(const Params& params, int64_t begin, int64_t end) { \
    switch (cpu_isa()) {                                                      \
      case Isa::kAvx512: return avx512::name(params, begin, end);             \
      case Isa::kAvx2: return avx2::name(params, begin, end);                 \
      default: return baseline::name(params, begin, end);                     \
    }                                                                         \
  }
#else
#define SHAPLEY_CPU_KERNEL(name, Params)                                      \
  namespace baseline {                                                        \
  void name(const Params& params, int64_t begin, int64_t end);                \
  }                                                                           \
  static inline void name(const Params& params, int64_t begin, int64_t end) { \
    baseline::name(params, begin, end);                                       \
  }
#endif

// a * b + c in float, fused where the instruction set has it. The build turns implicit contraction off, so that two
// loops over the same numbers give the same bits.
#if defined(__CUDA_ARCH__)
#define SHAPLEY_FMA(a, b, c) fmaf((a), (b), (c))
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define SHAPLEY_FMA(a, b, c) __builtin_fmaf((a), (b), (c))
#else
#define SHAPLEY_FMA(a, b, c) ((a) * (b) + (c))
#endif
