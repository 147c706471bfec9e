#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace shapley {
namespace {

const char* const kNames[] = {"baseline", "avx2", "avx512"};

Isa detect() {
  int best = 0;
#ifdef SHAPLEY_MULTI_ISA
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) best = 1;
  if (best == 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    best = 2;
#endif
  if (const char* wanted = std::getenv("SHAPLEY_ISA")) {
    for (int isa = 0; isa < best; ++isa) {
      if (std::strcmp(wanted, kNames[isa]) == 0) best = isa;
    }
  }
  return static_cast<Isa>(best);
}

}  // namespace

Isa cpu_isa() {
  static const Isa isa = detect();
  return isa;
}

const char* cpu_isa_name() {
  return kNames[static_cast<int>(cpu_isa())];
}

}  // namespace shapley
