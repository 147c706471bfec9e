// scheduler.cpp: runs the blocks of a grid one after another, and the fibers of a block in turn.
#include "scheduler.h"

#include <cstdio>

#include "launch.h"
#include "schedule.h"
#include "shared_memory.h"

uint3 threadIdx{}, blockIdx{};
dim3 blockDim, gridDim;

namespace emulator {

Block block;

namespace {

Order order = Order::kForward;
uint64_t random_state = 0;
void (*thread_function)(const void*) = nullptr;
const void* thread_arguments = nullptr;
char block_begins, block_ends;  // places for TSan: blocks are ordered one after another

// A number in [0, n), from the schedule's seed (a 64-bit linear congruential generator).
unsigned random_below(unsigned n) {
  random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<unsigned>((random_state >> 33) % n);
}

void fill_order(unsigned* numbers, unsigned n) {
  for (unsigned i = 0; i < n; ++i) numbers[i] = order == Order::kReverse ? n - 1 - i : i;
  if (order != Order::kShuffled) return;
  for (unsigned i = n; i > 1; --i) {
    const unsigned j = random_below(i), other = numbers[j];
    numbers[j] = numbers[i - 1];
    numbers[i - 1] = other;
  }
}

// A fiber serves thread number i of every block.
void fiber_main() {
  Fiber::started();
  for (;;) {
    hb_acquire(&block_begins);
    thread_function(thread_arguments);
    hb_release(&block_ends);
    running_thread().state = State::kExited;
    --block.n_live;
    leave_warp();
    running_thread().fiber.suspend();
  }
}

void run_thread(unsigned number) {
  Thread& thread = block.threads[number];
  block.running = number;
  threadIdx = thread.index;
  block.in_thread = true;
  thread.fiber.resume();
  block.in_thread = false;
}

void begin_block() {
  const unsigned n = block.n_threads;
  block.n_live = n;
  block.n_at_barrier = 0;
  for (unsigned i = 0; i < n; ++i) {
    Thread& thread = block.threads[i];
    thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    thread.state = State::kReady;
    if (!thread.fiber.created()) thread.fiber.create(i, fiber_main);
  }
  for (unsigned i = 0; i < n; i += kWarpLanes) {
    Warp& warp = block.warps[i / kWarpLanes];
    warp.live = n - i >= kWarpLanes ? 0xffffffffu : (1u << (n - i)) - 1;
    warp.waiting = 0;
  }
  poison_shared();
  hb_release(&block_begins);
}

void run_block() {
  unsigned numbers[kMostThreads];
  begin_block();
  while (block.n_live > 0) {
    bool progress = false;
    fill_order(numbers, block.n_threads);
    for (unsigned i = 0; i < block.n_threads; ++i) {
      if (block.threads[numbers[i]].state != State::kReady) continue;
      progress = true;
      run_thread(numbers[i]);
    }
    if (block.n_live > 0 && block.n_at_barrier == block.n_live) {
      open_block_barrier();
      progress = true;
    }
    if (!progress) fail_deadlock();
  }
  hb_acquire(&block_ends);
}

cudaError_t launch_error(const void* kernel, dim3 grid, dim3 block_shape, size_t shared_bytes) {
  const uint64_t threads = static_cast<uint64_t>(block_shape.x) * block_shape.y * block_shape.z;
  if (threads == 0 || block_shape.x > kMostThreads || block_shape.y > kMostThreads || block_shape.z > 64 ||
      threads > kMostThreads) {
    return cudaErrorInvalidConfiguration;
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  return shared_bytes > dynamic_shared_limit(kernel) ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace

void set_schedule(Order new_order, unsigned seed) {
  order = new_order;
  random_state = seed;
}

void run_grid(const char* name, const void* kernel, dim3 grid, dim3 block_shape, size_t shared_bytes,
              void (*thread)(const void*), const void* arguments) {
  const cudaError_t error = launch_error(kernel, grid, block_shape, shared_bytes);
  if (error != cudaSuccess) {
    std::fprintf(stderr, "emulator: %s<<<(%u,%u,%u), (%u,%u,%u), %zu>>> refused: %s\n", name, grid.x, grid.y, grid.z,
                 block_shape.x, block_shape.y, block_shape.z, shared_bytes, cudaGetErrorString(error));
    set_last_error(error);
    return;
  }
  block.kernel = name;
  block.n_threads = block_shape.x * block_shape.y * block_shape.z;
  blockDim = block_shape;
  gridDim = grid;
  thread_function = thread;
  thread_arguments = arguments;
  allocate_dynamic_shared(shared_bytes);
  const uint64_t n_blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  const uint64_t start = order == Order::kShuffled ? random_below(static_cast<unsigned>(n_blocks)) : 0;
  for (uint64_t i = 0; i < n_blocks; ++i) {
    const uint64_t number = order == Order::kReverse ? n_blocks - 1 - i : (start + i) % n_blocks;
    blockIdx = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                static_cast<unsigned>(number / grid.x / grid.y)};
    run_block();
  }
  free_dynamic_shared();
  block.kernel = nullptr;
}

}  // namespace emulator
