#include "kernels/sample_permutations.h"

#include "ops/checks.h"
#include "ops/launch.h"

namespace shapley {
namespace {

using torch::stable::Device;
using torch::stable::DeviceType;

Tensor sample_permutations(int64_t seed, int64_t first, int64_t count, int64_t n_players, bool antithetic,
                           std::optional<Device> device) {
  constexpr int64_t kMostPlayers = 65535 * 256;  // the CUDA grid's limit
  const Device where = device.value_or(Device(DeviceType::CPU));
  const Check check("sample_permutations", where);
  check.require(first >= 0, "first", "at least 0", std::to_string(first));
  check.require(count >= 0 && count <= INT64_MAX - first, "count", "at least 0 and first + count below 2^63",
                std::to_string(count));
  check.require(n_players >= 1 && n_players <= kMostPlayers, "n_players", "in [1, 16776960]",
                std::to_string(n_players));

  Tensor out = torch::stable::empty({count, n_players}, ScalarType::Int, std::nullopt, where);
  const SamplePermutationsParams params{out.mutable_data_ptr<int32_t>(),
                                        static_cast<uint64_t>(seed),
                                        static_cast<uint64_t>(first),
                                        count,
                                        n_players,
                                        antithetic};
  run(SHAPLEY_KERNEL(sample_permutations), out, params, count, 20 * n_players);
  return out;
}

}  // namespace

SHAPLEY_NAME(sample_permutations)

// No tensor argument says where to run, so that this is no CPU or CUDA implementation but one for all.
STABLE_TORCH_LIBRARY_IMPL(shapley, CompositeExplicitAutograd, library) {
  library.impl("sample_permutations", SHAPLEY_BOX(sample_permutations));
}

}  // namespace shapley
