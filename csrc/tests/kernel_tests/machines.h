// machines.h: everything that an op can run on here: its CPU twin for each instruction set that the processor has, its
// tasks in one range or cut up, and its CUDA kernels in several schedules.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../check.h"
#include "../schedules.h"
#include "kernels/isa.h"

namespace shapley::tests {

template <class Params>
using CpuKernel = void (*)(const Params&, int64_t, int64_t);

struct Machine {
  int isa = -1;  // of a CPU; -1 is CUDA
  bool cut = false;
  Schedule schedule{};

  bool cuda() const { return isa < 0; }
  std::string name() const {
    static const char* const kIsas[] = {"baseline", "avx2", "avx512"};
    if (cuda()) return std::string("CUDA ") + schedule.name;
    return std::string(kIsas[isa]) + (cut ? " in pieces" : "");
  }

  // On a CPU: all tasks in one range, or the last range first, in pieces of 1, 2, 3, ... tasks.
  template <class Params>
  void run_tasks(const CpuKernel<Params>* kernels, const Params& params, int64_t n_tasks) const {
    if (!cut) return kernels[isa](params, 0, n_tasks);
    int64_t end = n_tasks;
    for (int64_t size = 1; end > 0; ++size) {
      const int64_t begin = end > size ? end - size : 0;
      kernels[isa](params, begin, end);
      end = begin;
    }
  }
};

// TSan looks at CUDA kernels only: CPU tasks share nothing.
std::vector<Machine> all_machines();

// What a result may be: within `tolerance` of `value`; NaN where the value is NaN.
struct Expected {
  double value;
  double tolerance;
};

inline bool within(double got, const Expected& expected) {
  if (std::isnan(expected.value)) return std::isnan(got);
  return got == expected.value || std::fabs(got - expected.value) <= expected.tolerance;
}

// Runs `run(machine)`, which gives a std::vector<T>, on every machine. Checks each result against `expected` and that
// the machines of one device agree to the bit.
template <class T, class Run>
void check_machines(const std::string& which, const std::vector<Expected>& expected, Run run) {
  std::vector<T> first[4];  // by instruction set, then CUDA
  for (const Machine& machine : all_machines()) {
    emulator::set_schedule(machine.schedule.order, machine.schedule.seed);
    const std::vector<T> got = run(machine);
    const std::string where = which + " on " + machine.name();
    if (!CHECK(got.size() == expected.size(), "%s: %zu results", where.c_str(), got.size())) continue;
    size_t first_wrong = 0, n_wrong = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      if (within(static_cast<double>(got[i]), expected[i])) continue;
      if (n_wrong++ == 0) first_wrong = i;
    }
    const double seen = n_wrong > 0 ? static_cast<double>(got[first_wrong]) : 0.0;
    const Expected wanted = n_wrong > 0 ? expected[first_wrong] : Expected{0.0, 0.0};
    CHECK(n_wrong == 0, "%s: %zu of %zu, first [%zu]: %.9g, not %.9g within %.2g", where.c_str(), n_wrong, got.size(),
          first_wrong, seen, wanted.value, wanted.tolerance);
    std::vector<T>& same = first[machine.cuda() ? 3 : machine.isa];
    if (same.empty()) same = got;
    CHECK(got.empty() || std::memcmp(same.data(), got.data(), got.size() * sizeof(T)) == 0,
          "%s: other bits than in the first order", where.c_str());
  }
  emulator::set_schedule(emulator::Order::kForward);
}

// The same for results that must be right to the bit.
template <class T, class Run>
void check_machines_exactly(const std::string& which, const std::vector<T>& expected, Run run) {
  for (const Machine& machine : all_machines()) {
    emulator::set_schedule(machine.schedule.order, machine.schedule.seed);
    const std::vector<T> got = run(machine);
    const bool same = got.size() == expected.size() &&
                      (got.empty() || std::memcmp(got.data(), expected.data(), got.size() * sizeof(T)) == 0);
    size_t at = 0;
    while (!same && at < got.size() && at < expected.size() && std::memcmp(&got[at], &expected[at], sizeof(T)) == 0)
      ++at;
    CHECK(same, "%s on %s: differs first at %zu of %zu", which.c_str(), machine.name().c_str(), at, expected.size());
  }
  emulator::set_schedule(emulator::Order::kForward);
}

#if defined(__SANITIZE_THREAD__)
constexpr bool kSmall = true;  // TSan takes milliseconds for a barrier
#else
constexpr bool kSmall = false;
#endif

// The sizes to go through: all of them, or in a small run those up to 33.
inline std::vector<int64_t> sizes(std::vector<int64_t> all) {
  std::vector<int64_t> kept;
  for (int64_t size : all) {
    if (!kSmall || size <= 33) kept.push_back(size);
  }
  return kept;
}

}  // namespace shapley::tests

// A table of a CPU kernel's versions, indexed by Machine::isa. In the TSan build CPU kernels are not linked.
#if defined(__SANITIZE_THREAD__)
#define CPU_KERNELS(table, Params, name) constexpr shapley::tests::CpuKernel<Params> table[1] = {nullptr}
#elif defined(SHAPLEY_MULTI_ISA)
#define CPU_KERNELS(table, Params, name)                                                               \
  constexpr shapley::tests::CpuKernel<Params> table[] = {shapley::baseline::name, shapley::avx2::name, \
                                                         shapley::avx512::name}
#else
#define CPU_KERNELS(table, Params, name) constexpr shapley::tests::CpuKernel<Params> table[] = {shapley::baseline::name}
#endif
