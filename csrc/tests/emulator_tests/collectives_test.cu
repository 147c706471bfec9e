// Every collective against values worked out by hand, in every schedule.
#include <cstdint>
#include <vector>

#include "../check.h"
#include "../schedules.h"
#include "kernels/cuda_launch.h"

namespace {

constexpr unsigned kFull = 0xffffffffu;
using shapley::tests::for_each_schedule;

enum class Shuffle { kIndex, kUp, kDown, kXor };

template <class T>
__device__ T shuffle(Shuffle kind, unsigned mask, T value, int argument, int width) {
  switch (kind) {
    case Shuffle::kIndex: return __shfl_sync(mask, value, argument, width);
    case Shuffle::kUp: return __shfl_up_sync(mask, value, static_cast<unsigned>(argument), width);
    case Shuffle::kDown: return __shfl_down_sync(mask, value, static_cast<unsigned>(argument), width);
    default: return __shfl_xor_sync(mask, value, argument, width);
  }
}

// The lane that `lane` reads, from the definitions in the CUDA programming guide, section "Warp Shuffle Functions".
int expected_source(Shuffle kind, int lane, int argument, int width) {
  const int first = lane / width * width;
  switch (kind) {
    case Shuffle::kIndex: return first + argument % width;
    case Shuffle::kUp: return lane - argument < first ? lane : lane - argument;
    case Shuffle::kDown: return lane + argument >= first + width ? lane : lane + argument;
    default: return (lane ^ argument) >= first + width ? lane : lane ^ argument;
  }
}

template <class T>
__global__ void shuffle_kernel(Shuffle kind, int argument, int width, T* out) {
  const T mine = static_cast<T>(threadIdx.x) + static_cast<T>(100);
  out[threadIdx.x] = shuffle(kind, kFull, mine, argument, width);
}

template <class T>
void check_shuffles(const char* type) {
  for (Shuffle kind : {Shuffle::kIndex, Shuffle::kUp, Shuffle::kDown, Shuffle::kXor}) {
    for (int width = 1; width <= 32; width *= 2) {
      for (int argument : {0, 1, 3, 8, 16, 31}) {
        T out[64];
        SHAPLEY_LAUNCH((shuffle_kernel<T>), 1, 64, 0, nullptr, kind, argument, width, out);
        for (int i = 0; i < 64; ++i) {
          const int source = i / 32 * 32 + expected_source(kind, i % 32, argument, width);
          CHECK(out[i] == static_cast<T>(source + 100), "%s kind %d width %d argument %d thread %d: %g", type,
                static_cast<int>(kind), width, argument, i, static_cast<double>(out[i]));
        }
      }
    }
  }
}

TEST(shuffles_every_kind_and_width_give_the_source_lanes_value) {
  for_each_schedule([] {
    check_shuffles<int>("int");
    check_shuffles<float>("float");
    check_shuffles<double>("double");
    check_shuffles<unsigned long long>("unsigned long long");
  });
}

// The two halves of a warp go separate ways with masks of their own, the upper one twice as often, then meet again.
__global__ void partial_mask_kernel(int* out) {
  const int lane = threadIdx.x;
  int value = lane;
  if (lane < 16) {
    value = __shfl_xor_sync(0x0000ffffu, value, 1, 16);
  } else {
    value = __shfl_down_sync(0xffff0000u, value, 2, 16);
    value += __shfl_sync(0xffff0000u, value, 0, 16);
  }
  out[lane] = value + 1000 * __popc(__ballot_sync(kFull, value % 2));
}

TEST(shuffles_partial_masks_of_diverged_halves_do_not_mix) {
  for_each_schedule([] {
    int out[32], expected[32], odd = 0;
    for (int lane = 0; lane < 32; ++lane) {
      const int down = lane + 2 < 32 ? lane + 2 : lane;
      expected[lane] = lane < 16 ? lane ^ 1 : down + 18;
      odd += expected[lane] % 2;
    }
    SHAPLEY_LAUNCH(partial_mask_kernel, 1, 32, 0, nullptr, out);
    for (int lane = 0; lane < 32; ++lane) {
      CHECK(out[lane] == expected[lane] + 1000 * odd, "lane %d: %d, not %d", lane, out[lane], expected[lane]);
    }
  });
}

struct Votes {
  unsigned ballot, partial;
  int any, none, all, not_all;
};

__global__ void vote_kernel(Votes* out) {
  const int lane = threadIdx.x % 32;
  Votes& v = out[threadIdx.x];
  v.ballot = __ballot_sync(kFull, lane % 3 == 0);
  v.any = __any_sync(kFull, lane == 17);
  v.none = __any_sync(kFull, 0);
  v.all = __all_sync(kFull, lane < 32);
  v.not_all = __all_sync(kFull, lane != 5);
  const unsigned mask = lane % 2 ? 0xaaaaaaaau : 0x55555555u;
  v.partial = __ballot_sync(mask, lane > 7);
}

TEST(votes_full_and_partial_masks_give_the_lanes_predicates) {
  for_each_schedule([] {
    Votes out[64];
    SHAPLEY_LAUNCH(vote_kernel, 1, 64, 0, nullptr, out);
    for (int i = 0; i < 64; ++i) {
      CHECK(out[i].ballot == 0x49249249u, "thread %d: 0x%08x", i, out[i].ballot);
      CHECK(out[i].any != 0 && out[i].none == 0 && out[i].all != 0 && out[i].not_all == 0, "thread %d", i);
      CHECK(out[i].partial == (i % 2 ? 0xaaaaaa00u : 0x55555500u), "thread %d: 0x%08x", i, out[i].partial);
    }
  });
}

struct Reductions {
  unsigned add, least, most, both, either, odd;
  int signed_add, signed_least, signed_most;
};

__global__ void reduce_kernel(Reductions* out) {
  const unsigned lane = threadIdx.x;
  const int signed_value = static_cast<int>(lane) - 20;
  Reductions& r = out[lane];
  r.add = __reduce_add_sync(kFull, lane);
  r.least = __reduce_min_sync(kFull, lane + 5);
  r.most = __reduce_max_sync(kFull, static_cast<unsigned>(signed_value));
  r.both = __reduce_and_sync(kFull, lane | 0x40u);
  r.either = __reduce_or_sync(kFull, lane);
  r.odd = __reduce_xor_sync(kFull, lane == 9 ? 3u : 1u);
  r.signed_add = __reduce_add_sync(kFull, signed_value);
  r.signed_least = __reduce_min_sync(kFull, signed_value);
  r.signed_most = __reduce_max_sync(kFull, signed_value);
}

TEST(reductions_signed_and_unsigned_give_the_warps_result) {
  for_each_schedule([] {
    Reductions out[32];
    SHAPLEY_LAUNCH(reduce_kernel, 1, 32, 0, nullptr, out);
    for (const Reductions& r : out) {
      CHECK(r.add == 496 && r.least == 5 && r.most == 0xffffffffu, "%u %u %u", r.add, r.least, r.most);
      CHECK(r.both == 0x40u && r.either == 31 && r.odd == 2, "%u %u %u", r.both, r.either, r.odd);
      CHECK(r.signed_add == -144 && r.signed_least == -20 && r.signed_most == 11, "%d %d %d", r.signed_add,
            r.signed_least, r.signed_most);
    }
  });
}

}  // namespace
