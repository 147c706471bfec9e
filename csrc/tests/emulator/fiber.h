// fiber.h: stacks that take turns on one OS thread, known to the sanitizers.
//
// Switching orders nothing for TSan: only hb_release and hb_acquire do, so that TSan judges a kernel by its barriers
// and not by the schedule. The emulator's own sources are compiled without sanitizers.
#pragma once

#include <cstddef>

namespace emulator {

class Fiber {
 public:
  // `main` runs on the fiber's stack at the first resume and must never return.
  void create(unsigned number, void (*main)());
  bool created() const { return stack_ != nullptr; }

  // From the scheduler: runs the fiber until it calls suspend.
  void resume();
  // From the fiber: back to the scheduler.
  void suspend();
  // `main` calls this first.
  static void started();

  // The name TSan gives the fiber in reports.
  void set_name(const char* name);

 private:
  char* stack_ = nullptr;
  void* context_ = nullptr;  // a saved stack pointer, or a ucontext_t
  void* tsan_ = nullptr;
  void* asan_ = nullptr;
};

// What precedes a release of a place happens before what follows an acquire of it.
void hb_release(void* place);
void hb_acquire(void* place);

}  // namespace emulator
