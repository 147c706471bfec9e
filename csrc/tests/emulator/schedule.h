// schedule.h: the order in which blocks and threads run.
#pragma once

namespace emulator {

enum class Order { kForward, kReverse, kShuffled };

// Blocks, and the threads of a block between two waits, run in this order from the next launch on. `seed` is for
// kShuffled: threads in a new random order after every wait, blocks in turn from a random one on.
void set_schedule(Order order, unsigned seed = 0);

}  // namespace emulator
