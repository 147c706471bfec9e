#include "kernels/loss_difference.h"

#include "guarded.h"
#include "metric_reference.h"
#include "numbers.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kKernels, LossDifferenceParams, loss_difference_cpu);

struct Case {
  int64_t n_rows, n_samples, n_outputs;
  Metric metric;
  std::vector<float> outputs, target_values, baseline;
  std::vector<int64_t> classes, sample_index;

  bool has_classes() const { return metric != Metric::kSquaredError; }

  std::vector<float> run(const Machine& machine, int64_t offset) const {
    Guarded<float> z(outputs, offset), values(target_values, offset), reference(baseline, offset);
    Guarded<float> out(n_rows, offset);
    Guarded<int64_t> targets(classes), samples(sample_index);
    LossDifferenceParams p{};
    p.outputs = z.data();
    p.targets.classes = has_classes() ? targets.data() : nullptr;
    p.targets.values = has_classes() ? nullptr : values.data();
    p.sample_index = sample_index.empty() ? nullptr : samples.data();
    p.baseline = baseline.empty() ? nullptr : reference.data();
    p.out = out.data();
    p.n_rows = n_rows;
    p.n_samples = n_samples;
    p.n_outputs = n_outputs;
    p.metric = metric;
    if (machine.cuda()) {
      CHECK(launch_loss_difference(p, nullptr) == 0, "%s", name().c_str());
    } else {
      machine.run_tasks(kKernels, p, n_rows);
    }
    CHECK(out.intact(), "%s: wrote beside its output", name().c_str());
    return out.values();
  }

  std::vector<Expected> expected() const {
    std::vector<Expected> all;
    for (int64_t r = 0; r < n_rows; ++r) {
      const int64_t sample = sample_index.empty() ? r : sample_index[r];
      const bool valid = sample >= 0 && sample < n_samples &&
                         (!has_classes() || (classes[sample] >= 0 && classes[sample] < n_outputs));
      if (!valid) {
        all.push_back({NAN, 0.0});
        continue;
      }
      const std::vector<double> z(outputs.begin() + r * n_outputs, outputs.begin() + (r + 1) * n_outputs);
      Expected e = metric_reference(metric, z, 0.0, has_classes() ? classes[sample] : 0,
                                    target_values.data() + (has_classes() ? 0 : sample * n_outputs));
      if (!baseline.empty()) {
        e.value -= baseline[sample];
        e.tolerance += kEpsilon * std::fabs(e.value);
      }
      all.push_back(e);
    }
    return all;
  }

  std::string name() const {
    return std::string(metric_name(metric)) + " R=" + std::to_string(n_rows) + " K=" + std::to_string(n_outputs) +
           (sample_index.empty() ? "" : " with sample_index") + (baseline.empty() ? "" : " with baseline");
  }
};

Case make_case(Metric metric, int64_t n_rows, int64_t n_outputs, bool indexed, uint64_t seed) {
  Numbers numbers(seed);
  Case c{};
  c.metric = metric;
  c.n_rows = n_rows;
  c.n_samples = indexed ? 5 : n_rows;
  c.n_outputs = n_outputs;
  // Multiples of 1/8 have many ties, which accuracy must break; the others test rounding.
  c.outputs = metric == Metric::kAccuracy ? numbers.exact(n_rows * n_outputs) : numbers.normals(n_rows * n_outputs);
  if (c.has_classes()) {
    c.classes = numbers.indices(c.n_samples, n_outputs);
  } else {
    c.target_values = numbers.normals(c.n_samples * n_outputs);
  }
  if (indexed) {
    c.sample_index = numbers.indices(n_rows, c.n_samples);
    c.baseline = numbers.normals(c.n_samples);
  }
  return c;
}

TEST(loss_difference_all_metrics_match_reference) {
  uint64_t seed = 1;
  for (Metric metric : kMetrics) {
    for (int64_t n_outputs : sizes({1, 2, 31, 33, 129, 1003})) {
      for (int64_t n_rows : {1, 7, 33}) {
        for (bool indexed : {false, true}) {
          const Case c = make_case(metric, n_rows, n_outputs, indexed, ++seed);
          check_machines<float>(c.name(), c.expected(), [&](const Machine& m) { return c.run(m, seed % 3); });
        }
      }
    }
  }
}

TEST(loss_difference_extreme_outputs_match_reference) {
  for (Metric metric : kMetrics) {
    Case c = make_case(metric, 6, 33, false, 7);
    for (int64_t k = 0; k < 33; ++k) {
      c.outputs[k] = 300.0f;                          // all equal, and too great for exp alone
      c.outputs[33 + k] *= 1e4f;                      // one output far above the rest
      if (k != 3) c.outputs[2 * 33 + k] = -INFINITY;  // one possible output
    }
    c.outputs[2 * 33 + 3] = 1.0f;
    if (c.has_classes()) c.classes[2] = 3;
    c.outputs[3 * 33 + 32] = NAN;  // in the last lane group
    c.outputs[4 * 33] = NAN;       // in front of everything
    if (!c.has_classes()) std::fill(c.outputs.begin() + 2 * 33, c.outputs.begin() + 3 * 33, 1e15f);
    check_machines<float>(c.name() + " extreme", c.expected(), [&](const Machine& m) { return c.run(m, 0); });
  }
}

TEST(loss_difference_cuda_rows_out_of_range_become_nan) {
  for (Metric metric : kMetrics) {
    Case c = make_case(metric, 9, 33, true, 11);
    c.sample_index[2] = -1;
    c.sample_index[5] = c.n_samples;
    c.sample_index[6] = 1;
    c.sample_index[7] = INT64_MAX;
    if (c.has_classes()) c.classes[1] = 33;
    const std::vector<Expected> expected = c.expected();
    for_each_schedule([&] {
      const std::vector<float> got = c.run(Machine{}, 0);
      for (size_t r = 0; r < got.size(); ++r) {
        CHECK(std::isnan(got[r]) == std::isnan(expected[r].value), "%s row %zu: %g", metric_name(metric), r, got[r]);
      }
    });
  }
}

}  // namespace
}  // namespace shapley::tests
