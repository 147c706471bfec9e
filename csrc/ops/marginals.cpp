#include "kernels/marginals.h"

#include <tuple>

#include "ops/checks.h"
#include "ops/launch.h"

namespace shapley {
namespace {

std::tuple<Tensor, Tensor> marginals(const Tensor& values, const Tensor& permutations, int64_t block) {
  const Check check("marginals", "values", values);
  check.tensor("values", values, Kind::kFloat32Or64, {{"R"}, {"C + 1"}});
  const int64_t n_walks = values.size(0);
  const int64_t n_players = values.size(1) - 1;
  check.require(n_players >= 1, "values", "of at least one player, [R, C + 1] with C >= 1", text(values));
  check.tensor("permutations", permutations, Kind::kInt32, {{"R", n_walks}, {"C", n_players}});
  check.require(block >= 1 && n_walks % block == 0, "block",
                "at least 1 and a divisor of R = " + std::to_string(n_walks), std::to_string(block));
  const Tensor walk_values = torch::stable::contiguous(values);
  const Tensor players = torch::stable::contiguous(permutations);
  check.permutations("permutations", players);

  block = std::min(block, std::max<int64_t>(1, n_walks));  // any number divides no walks
  const int64_t walks_per_tile = std::max(block, kWalksPerTile / block * block);
  const int64_t n_tiles = (n_walks + walks_per_tile - 1) / walks_per_tile;
  const Tensor partials = torch::stable::new_empty(values, {n_tiles, 3, n_players}, ScalarType::Double);
  Tensor sum = torch::stable::new_empty(values, {n_players}, ScalarType::Double);
  Tensor squares = torch::stable::new_empty(values, {n_players}, ScalarType::Double);
  const MarginalsParams params{walk_values.const_data_ptr(),
                               players.const_data_ptr<int32_t>(),
                               partials.mutable_data_ptr<double>(),
                               sum.mutable_data_ptr<double>(),
                               squares.mutable_data_ptr<double>(),
                               n_walks,
                               n_players,
                               block,
                               walks_per_tile,
                               n_tiles,
                               values.scalar_type() == ScalarType::Double};
  if (sum.is_cuda()) {
    launch(SHAPLEY_KERNEL(marginals), sum, params);
  } else {
    run(SHAPLEY_KERNEL(marginals), sum, params, n_tiles, walks_per_tile * n_players);
    parallel(n_players, 2 * n_tiles, [&](int64_t begin, int64_t end) { marginals_sum_cpu(params, begin, end); });
  }
  return {sum, squares};
}

}  // namespace

SHAPLEY_REGISTER(marginals)

}  // namespace shapley
