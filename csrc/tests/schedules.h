// schedules.h: the orders of blocks and threads that tests run kernels in.
#pragma once

#include "emulator/schedule.h"

namespace shapley::tests {

struct Schedule {
  const char* name;
  emulator::Order order;
  unsigned seed;
};

constexpr Schedule kSchedules[] = {
    {"forward", emulator::Order::kForward, 0},
    {"reverse", emulator::Order::kReverse, 0},
    {"shuffled", emulator::Order::kShuffled, 1},
    {"shuffled again", emulator::Order::kShuffled, 2},
};

// Runs a function once in every schedule.
template <class Function>
void for_each_schedule(Function function) {
  for (const Schedule& schedule : kSchedules) {
    emulator::set_schedule(schedule.order, schedule.seed);
    function();
  }
  emulator::set_schedule(emulator::Order::kForward);
}

}  // namespace shapley::tests
