#include "kernels/marginals.h"

#include <algorithm>

#include "guarded.h"
#include "machines.h"
#include "numbers.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kTiles, MarginalsParams, marginals_cpu);
CPU_KERNELS(kSums, MarginalsParams, marginals_sum_cpu);

template <class Value>
struct Case {
  int64_t n_walks, n_players, block, walks_per_tile;
  std::vector<Value> values;
  std::vector<int32_t> permutations;

  Case(int64_t walks, int64_t players, int64_t walks_per_block, uint64_t seed)
      : n_walks(walks), n_players(players), block(walks_per_block) {
    walks_per_tile = kWalksPerTile > block ? kWalksPerTile / block * block : block;
    Numbers numbers(seed);
    for (int64_t i = 0; i < walks * (players + 1); ++i) values.push_back(static_cast<Value>(numbers.normal()));
    permutations = numbers.permutations(walks, players);
  }

  int64_t n_tiles() const { return (n_walks + walks_per_tile - 1) / walks_per_tile; }

  // The header's order of operations, so equal to the bit: tiles, then the tiles' sums.
  std::vector<double> expected() const {
    std::vector<double> out(2 * n_players, 0.0);
    for (int64_t tile = 0; tile < n_tiles(); ++tile) {
      const int64_t end = std::min(n_walks, (tile + 1) * walks_per_tile);
      std::vector<double> sum(n_players, 0.0), squares(n_players, 0.0);
      for (int64_t first = tile * walks_per_tile; first < end; first += block) {
        std::vector<double> in_block(n_players, 0.0);
        for (int64_t r = first; r < first + block; ++r) {
          for (int64_t j = 0; j < n_players; ++j) {
            const Value* row = values.data() + r * (n_players + 1);
            in_block[permutations[r * n_players + j]] += static_cast<double>(row[j + 1]) - static_cast<double>(row[j]);
          }
        }
        for (int64_t c = 0; c < n_players; ++c) {
          const double mean = in_block[c] / static_cast<double>(block);
          sum[c] += in_block[c];
          squares[c] += mean * mean;
        }
      }
      for (int64_t c = 0; c < n_players; ++c) {
        out[c] += sum[c];
        out[n_players + c] += squares[c];
      }
    }
    return out;
  }

  std::vector<double> run(const Machine& machine) const {
    Guarded<Value> v(values);
    Guarded<int32_t> order(permutations);
    Guarded<double> partials(n_tiles() * 3 * n_players), sum(n_players), squares(n_players);
    MarginalsParams p{};
    p.values = v.data();
    p.permutations = order.data();
    p.partials = partials.data();
    p.sum = sum.data();
    p.squares = squares.data();
    p.n_walks = n_walks;
    p.n_players = n_players;
    p.block = block;
    p.walks_per_tile = walks_per_tile;
    p.n_tiles = n_tiles();
    p.wide = sizeof(Value) == 8;
    if (machine.cuda()) {
      CHECK(launch_marginals(p, nullptr) == 0, "%s", name().c_str());
    } else {
      machine.run_tasks(kTiles, p, p.n_tiles);
      machine.run_tasks(kSums, p, n_players);
    }
    CHECK(sum.intact() && squares.intact() && partials.intact(), "%s: wrote beside its output", name().c_str());
    std::vector<double> results = sum.values();
    for (double value : squares.values()) results.push_back(value);
    return results;
  }

  std::string name() const {
    return std::string(sizeof(Value) == 8 ? "float64" : "float32") + " R=" + std::to_string(n_walks) +
           " C=" + std::to_string(n_players) + " block=" + std::to_string(block);
  }
};

template <class Value>
void check_case(int64_t n_walks, int64_t n_players, int64_t block, uint64_t seed) {
  const Case<Value> c(n_walks, n_players, block, seed);
  check_machines_exactly<double>(c.name(), c.expected(), [&](const Machine& m) { return c.run(m); });
}

TEST(marginals_any_shape_gives_the_reference_bits) {
  uint64_t seed = 1;
  for (int64_t n_players : sizes({1, 2, 31, 33, 257, 1031})) {
    for (int64_t n_walks : {2, 6, 34}) {
      for (int64_t block : {1, 2}) {
        check_case<float>(n_walks, n_players, block, ++seed);
        check_case<double>(n_walks, n_players, block, ++seed);
      }
    }
  }
}

TEST(marginals_several_tiles_and_long_blocks_give_the_reference_bits) {
  for (int64_t block : {1, 2, 5, 50}) check_case<float>(kSmall ? 100 : 300, 9, block, 3);
  check_case<double>(3 * 70, 5, 70, 4);  // a block longer than a tile
}

TEST(marginals_no_walks_give_zeros) {
  check_case<float>(0, 5, 1, 5);
}

// Around the number of players whose sums fit into shared memory.
TEST(marginals_many_players_give_the_reference_bits) {
  if (kSmall) return check_case<float>(2, 34, 2, 6);
  for (int64_t n_players : {1920, 1921, 2048}) check_case<float>(4, n_players, 2, 6);
}

TEST(marginals_cuda_player_out_of_range_makes_all_nan) {
  for (int32_t bad : {-1, 9, INT32_MAX}) {
    Case<float> c(5, 9, 1, 7);
    c.permutations[3 * 9 + 8] = bad;
    for_each_schedule([&] {
      for (double value : c.run(Machine{})) CHECK(std::isnan(value), "player %d: %g", bad, value);
    });
  }
}

}  // namespace
}  // namespace shapley::tests
