// planted.h: kernels with one bug each, and the same kernels without it.
#pragma once

namespace shapley::tests {

struct Planted {
  const char* name;
  void (*run)(bool bug);
  // What each build must print when it finds the bug; null where only another build can.
  const char* plain;
  const char* asan;
  const char* tsan;
};

extern const Planted kPlanted[];
extern const int kPlantedCount;

}  // namespace shapley::tests
