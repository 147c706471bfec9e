// collectives.cpp: where threads of a block, and lanes of a warp, wait for each other.
#include "collectives.h"

#include "scheduler.h"

namespace emulator {
namespace {

bool same_site(const Site& a, const Site& b) {
  return a.line == b.line && a.file == b.file;
}

Thread& lane_of(unsigned warp, unsigned lane) {
  return block.threads[warp * kWarpLanes + lane];
}

uint64_t combine(Collective collective, uint64_t a, uint64_t b) {
  const unsigned x = static_cast<unsigned>(a), y = static_cast<unsigned>(b);
  const int i = static_cast<int>(x), j = static_cast<int>(y);
  switch (collective) {
    case Collective::kAdd: return x + y;
    case Collective::kMin: return x < y ? x : y;
    case Collective::kMax: return x > y ? x : y;
    case Collective::kMinSigned: return i < j ? x : y;
    case Collective::kMaxSigned: return i > j ? x : y;
    case Collective::kAnd: return x & y;
    case Collective::kOr: return x | y;
    default: return x ^ y;
  }
}

// What all of `lanes` get from a vote or a reduction.
uint64_t reduce(unsigned warp, unsigned lanes, Collective collective) {
  uint64_t result = 0;
  bool first = true;
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
    if ((lanes >> lane & 1u) == 0) continue;
    const uint64_t value = lane_of(warp, lane).value;
    if (collective == Collective::kBallot) {
      result |= value << lane;
    } else {
      result = first ? value : combine(collective, result, value);
    }
    first = false;
  }
  return result;
}

// If every live lane of `mask` waits with this mask, gives them their results and lets them go.
void try_complete(unsigned warp, unsigned mask) {
  Warp& w = block.warps[warp];
  const unsigned lanes = mask & w.live;
  if (lanes == 0 || (lanes & ~w.waiting) != 0) return;
  const Thread* one = nullptr;
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
    if ((lanes >> lane & 1u) == 0) continue;
    one = &lane_of(warp, lane);
    if (one->mask != mask) return;
  }
  const Collective collective = one->collective;
  if (collective == Collective::kShuffle) {
    for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
      if ((lanes >> lane & 1u) == 0) continue;
      Thread& thread = lane_of(warp, lane);
      if ((lanes >> thread.source & 1u) == 0) {
        fail("lane %u of warp %u shuffles from lane %u, which does not take part (mask 0x%08x)", lane, warp,
             thread.source, mask);
      }
      thread.result = lane_of(warp, thread.source).value;
    }
  } else if (collective != Collective::kSyncWarp) {
    const uint64_t result = reduce(warp, lanes, collective);
    for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
      if (lanes >> lane & 1u) lane_of(warp, lane).result = result;
    }
  }
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
    if (lanes >> lane & 1u) lane_of(warp, lane).state = State::kReady;
  }
  w.waiting &= ~lanes;
}

// A lane that already waits with this mask, or null.
Thread* first_waiting(unsigned warp, unsigned mask) {
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
    if ((block.warps[warp].waiting >> lane & 1u) != 0 && lane_of(warp, lane).mask == mask) return &lane_of(warp, lane);
  }
  return nullptr;
}

}  // namespace

unsigned lane_id() {
  return block.running % kWarpLanes;
}

uint64_t warp_collective(Collective collective, unsigned mask, uint64_t value, unsigned source, Site site) {
  const unsigned warp = block.running / kWarpLanes, lane = lane_id();
  Thread& me = running_thread();
  Warp& w = block.warps[warp];
  if ((mask >> lane & 1u) == 0) {
    fail("lane %u of warp %u is not in its own mask 0x%08x at %s:%d", lane, warp, mask, site.file, site.line);
  }
  if (const Thread* other = first_waiting(warp, mask)) {
    if (other->collective != collective || !same_site(other->site, site)) {
      fail("lanes of warp %u meet in different collectives: %s:%d and %s:%d", warp, other->site.file, other->site.line,
           site.file, site.line);
    }
    me.place = other->place;
  } else {
    me.place = &w.places[w.next_place++ % sizeof(w.places)];
  }
  me.collective = collective;
  me.mask = mask;
  me.value = value;
  me.source = source;
  me.site = site;
  me.state = State::kAtCollective;
  w.waiting |= 1u << lane;
  void* place = me.place;
  if (collective == Collective::kSyncWarp) hb_release(place);
  try_complete(warp, mask);
  if (me.state != State::kReady) me.fiber.suspend();
  if (collective == Collective::kSyncWarp) hb_acquire(place);
  return me.result;
}

void leave_warp() {
  const unsigned warp = block.running / kWarpLanes;
  Warp& w = block.warps[warp];
  w.live &= ~(1u << lane_id());
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
    if (w.waiting >> lane & 1u) try_complete(warp, lane_of(warp, lane).mask);
  }
}

int block_barrier(Barrier barrier, bool predicate, Site site) {
  Thread& me = running_thread();
  me.predicate = predicate;
  me.site = site;
  me.state = State::kAtBarrier;
  ++block.n_at_barrier;
  // Two places in turn: a thread that is late to acquire must not see what the others did after the barrier.
  void* place = &block.barrier_places[block.generation % 2];
  hb_release(place);
  me.fiber.suspend();
  hb_acquire(place);
  const unsigned count = static_cast<unsigned>(me.result), all = static_cast<unsigned>(me.result >> 32);
  switch (barrier) {
    case Barrier::kAnd: return count == all;
    case Barrier::kOr: return count != 0;
    default: return static_cast<int>(count);
  }
}

void open_block_barrier() {
  const Thread* first = nullptr;
  unsigned count = 0;
  for (unsigned i = 0; i < block.n_threads; ++i) {
    Thread& thread = block.threads[i];
    if (thread.state != State::kAtBarrier) continue;
    if (first == nullptr) first = &thread;
    if (!same_site(first->site, thread.site)) fail("threads of a block meet in different __syncthreads");
    count += thread.predicate ? 1 : 0;
  }
  for (unsigned i = 0; i < block.n_threads; ++i) {
    Thread& thread = block.threads[i];
    if (thread.state != State::kAtBarrier) continue;
    thread.result = static_cast<uint64_t>(block.n_at_barrier) << 32 | count;
    thread.state = State::kReady;
  }
  block.n_at_barrier = 0;
  ++block.generation;
}

}  // namespace emulator
