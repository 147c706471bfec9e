#include "machines.h"

namespace shapley::tests {

std::vector<Machine> all_machines() {
  std::vector<Machine> machines;
#if !defined(__SANITIZE_THREAD__)
  for (int isa = 0; isa <= static_cast<int>(cpu_isa()); ++isa) {
    for (bool cut : {false, true}) {
      Machine machine;
      machine.isa = isa;
      machine.cut = cut;
      machines.push_back(machine);
    }
  }
#endif
  for (const Schedule& schedule : kSchedules) {
    Machine machine;
    machine.schedule = schedule;
    machines.push_back(machine);
  }
  return machines;
}

}  // namespace shapley::tests
