#include "guarded.h"
#include "kernels/head.h"
#include "machines.h"
#include "numbers.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kKernels, MeanPositionsParams, mean_positions_cpu);

void check_case(int64_t rows, int64_t n_positions, uint64_t seed) {
  const std::vector<float> values = Numbers(seed).normals(rows * n_positions);
  std::vector<float> expected;
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0.0;
    for (int64_t s = 0; s < n_positions; ++s) sum += static_cast<double>(values[row * n_positions + s]);
    expected.push_back(static_cast<float>(sum / static_cast<double>(n_positions)));
  }
  const std::string name = "rows=" + std::to_string(rows) + " S=" + std::to_string(n_positions);
  check_machines_exactly<float>(name, expected, [&](const Machine& machine) {
    Guarded<float> from(values, 1), means(rows, 1);
    const MeanPositionsParams p{from.data(), means.data(), rows, n_positions};
    if (machine.cuda()) {
      CHECK(launch_mean_positions(p, nullptr) == 0, "%s", name.c_str());
    } else {
      machine.run_tasks(kKernels, p, rows);
    }
    CHECK(means.intact(), "%s: wrote beside its output", name.c_str());
    return means.values();
  });
}

TEST(mean_positions_any_shape_gives_the_reference_bits) {
  for (int64_t n_positions : sizes({1, 2, 31, 33, 129})) {
    for (int64_t rows : sizes({1, 33, 1031})) check_case(rows, n_positions, static_cast<uint64_t>(rows + n_positions));
  }
}

}  // namespace
}  // namespace shapley::tests
