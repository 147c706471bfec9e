// scheduler.h: the state of the running block, shared by the scheduler and the collectives.
#pragma once

#include "collectives.h"
#include "fiber.h"
#include "types.h"

namespace emulator {

constexpr unsigned kMostThreads = 1024;
constexpr unsigned kWarpLanes = 32;

enum class State { kReady, kAtBarrier, kAtCollective, kExited };

struct Thread {
  Fiber fiber;
  uint3 index;
  State state;
  Site site;  // of the call that it waits in
  uint64_t result;

  bool predicate;  // at a block barrier

  Collective collective;  // at a warp collective
  unsigned mask;
  uint64_t value;
  unsigned source;
  void* place;  // where those who meet in a __syncwarp release and acquire
};

struct Warp {
  unsigned live;
  unsigned waiting;  // lanes at a collective
  unsigned next_place;
  char places[8];  // several, so that a lane which is late to acquire does not see what came after the meeting
};

struct Block {
  const char* kernel = nullptr;
  unsigned n_threads = 0;
  unsigned n_live = 0;
  unsigned n_at_barrier = 0;
  unsigned generation = 0;  // of the block barrier
  char barrier_places[2];
  unsigned running = 0;  // the thread whose fiber runs
  bool in_thread = false;
  Thread threads[kMostThreads];
  Warp warps[kMostThreads / kWarpLanes];
};

extern Block block;

inline Thread& running_thread() {
  return block.threads[block.running];
}

// Lets everyone go who waits at the block barrier. All live threads must be there.
void open_block_barrier();

// Removes the running thread from its warp; collectives that waited for no one else go on.
void leave_warp();

[[noreturn]] void fail_deadlock();

}  // namespace emulator
