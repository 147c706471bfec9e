#include "kernels/permutation_conv2d.h"

#include "activation_reference.h"
#include "guarded.h"
#include "machines.h"
#include "numbers.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kKernels, PermutationConv2dParams, permutation_conv2d_cpu);

struct Pair {
  int64_t rows, columns;
};

struct Shape {
  int64_t n_players, n_outputs;
  Pair size, kernel, stride{1, 1}, padding{0, 0}, dilation{1, 1};
  int64_t pool = 1;
  Activation activation = Activation::kNone;
  bool with_residual = false, with_bias = true;
};

// Multiples of 1/8, so that sums are exact in any order; NaNs and other numbers are put in by tests.
struct Case {
  static constexpr int64_t kSamples = 3;
  Shape shape;
  int64_t n_walks;
  Pair conv, out;  // sizes before and after pooling
  std::vector<float> x, weight, bias, residual;
  std::vector<int32_t> permutations;
  std::vector<int64_t> sample_index;

  Case(const Shape& s, int64_t walks, uint64_t seed) : shape(s), n_walks(walks) {
    const auto size = [](int64_t n, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
      return (n + 2 * padding - (kernel - 1) * dilation - 1) / stride + 1;
    };
    conv = {size(s.size.rows, s.kernel.rows, s.stride.rows, s.padding.rows, s.dilation.rows),
            size(s.size.columns, s.kernel.columns, s.stride.columns, s.padding.columns, s.dilation.columns)};
    out = {conv.rows / s.pool, conv.columns / s.pool};
    Numbers numbers(seed);
    x = numbers.exact(kSamples * s.n_players * s.size.rows * s.size.columns);
    weight = numbers.exact(s.n_outputs * columns());
    if (s.with_bias) bias = numbers.exact(s.n_outputs);
    if (s.with_residual) residual = numbers.exact(kSamples * s.n_outputs * conv.rows * conv.columns);
    permutations = numbers.permutations(walks, s.n_players);
    sample_index = numbers.indices(walks, kSamples);
  }

  int64_t columns() const { return shape.n_players * shape.kernel.rows * shape.kernel.columns; }
  int64_t row_size() const { return shape.n_outputs * out.rows * out.columns; }

  bool is_valid(int64_t walk) const {
    bool valid = sample_index[walk] >= 0 && sample_index[walk] < kSamples;
    for (int64_t j = 0; j < shape.n_players; ++j) {
      const int32_t player = permutations[walk * shape.n_players + j];
      valid = valid && player >= 0 && player < shape.n_players;
    }
    return valid;
  }

  // What a player adds to one output at one position before pooling; zeros around the image are not looked at.
  double contribution(int64_t sample, int64_t player, int64_t k, int64_t y, int64_t at) const {
    double sum = 0.0;
    for (int64_t dy = 0; dy < shape.kernel.rows; ++dy) {
      for (int64_t dx = 0; dx < shape.kernel.columns; ++dx) {
        const int64_t row = y * shape.stride.rows - shape.padding.rows + dy * shape.dilation.rows;
        const int64_t column = at * shape.stride.columns - shape.padding.columns + dx * shape.dilation.columns;
        if (row < 0 || row >= shape.size.rows || column < 0 || column >= shape.size.columns) continue;
        const int64_t tap = (player * shape.kernel.rows + dy) * shape.kernel.columns + dx;
        sum += static_cast<double>(weight[k * columns() + tap]) *
               static_cast<double>(
                   x[((sample * shape.n_players + player) * shape.size.rows + row) * shape.size.columns + column]);
      }
    }
    return sum;
  }

  // In the order [R, C + 1, K, H', W'].
  std::vector<Expected> expected(double relative_error) const {
    std::vector<Expected> result;
    for (int64_t r = 0; r < n_walks; ++r) {
      const bool valid = is_valid(r);
      const int64_t sample = valid ? sample_index[r] : 0;
      std::vector<double> sums(shape.n_outputs * conv.rows * conv.columns, valid ? 0.0 : NAN);
      for (size_t i = 0; i < sums.size(); ++i) {
        const size_t k = i / (conv.rows * conv.columns);
        sums[i] += bias.empty() ? 0.0 : static_cast<double>(bias[k]);
        sums[i] += residual.empty() ? 0.0 : static_cast<double>(residual[sample * sums.size() + i]);
      }
      for (int64_t j = 0; j <= shape.n_players; ++j) {
        append_row(sums, relative_error, result);
        if (j == shape.n_players || !valid) continue;
        for (size_t i = 0; i < sums.size(); ++i) {
          const int64_t position = i % (conv.rows * conv.columns), k = i / (conv.rows * conv.columns);
          sums[i] += contribution(sample, permutations[r * shape.n_players + j], k, position / conv.columns,
                                  position % conv.columns);
        }
      }
    }
    return result;
  }

  void append_row(const std::vector<double>& sums, double relative_error, std::vector<Expected>& to) const {
    for (int64_t k = 0; k < shape.n_outputs; ++k) {
      for (int64_t position = 0; position < out.rows * out.columns; ++position) {
        double greatest = -INFINITY;
        for (int64_t in_window = 0; in_window < shape.pool * shape.pool; ++in_window) {
          const int64_t y = position / out.columns * shape.pool + in_window / shape.pool;
          const int64_t at = position % out.columns * shape.pool + in_window % shape.pool;
          const double value = activate(sums[(k * conv.rows + y) * conv.columns + at], shape.activation);
          greatest = std::isnan(greatest) || value <= greatest ? greatest : value;
        }
        to.push_back({greatest, relative_error * (std::fabs(greatest) + 0.1)});
      }
    }
  }

  // Images come with their positions' channels side by side where `x_last`, the result always as expected() has it.
  std::vector<float> run(const Machine& machine, bool channels_last, bool x_last) const {
    const int64_t positions = shape.size.rows * shape.size.columns;
    std::vector<float> images = x, columns_first = weight;
    for (size_t i = 0; x_last && i < x.size(); ++i) {
      const int64_t n = i / (shape.n_players * positions), c = i / positions % shape.n_players;
      images[(n * positions + i % positions) * shape.n_players + c] = x[i];
    }
    for (size_t i = 0; machine.cuda() && i < weight.size(); ++i) {
      columns_first[i % columns() * shape.n_outputs + i / columns()] = weight[i];
    }
    Guarded<float> image(images), filter(columns_first), offsets(bias), added(residual);
    Guarded<int32_t> players(permutations);
    Guarded<int64_t> samples(sample_index);
    Guarded<float> rows(n_walks * (shape.n_players + 1) * row_size(), machine.cuda() ? 1 : 0);
    PermutationConv2dParams p{};
    p.x = image.data();
    p.weight = filter.data();
    p.bias = bias.empty() ? nullptr : offsets.data();
    p.residual = residual.empty() ? nullptr : added.data();
    p.permutations = players.data();
    p.sample_index = samples.data();
    p.out = rows.data();
    const int64_t inner = x_last ? shape.n_players : 1;
    const int64_t x_strides[] = {shape.n_players * positions, x_last ? 1 : positions, shape.size.columns * inner,
                                 inner};
    const int64_t residual_strides[] = {shape.n_outputs * conv.rows * conv.columns, conv.rows * conv.columns,
                                        conv.columns, 1};
    std::memcpy(p.x_strides, x_strides, sizeof(x_strides));
    std::memcpy(p.residual_strides, residual_strides, sizeof(residual_strides));
    p.n_samples = kSamples;
    p.n_players = shape.n_players;
    p.n_outputs = shape.n_outputs;
    p.n_walks = n_walks;
    const auto put = [](int64_t* to, const Pair& from) {
      to[0] = from.rows;
      to[1] = from.columns;
    };
    put(p.size, shape.size);
    put(p.kernel, shape.kernel);
    put(p.stride, shape.stride);
    put(p.padding, shape.padding);
    put(p.dilation, shape.dilation);
    put(p.out_size, out);
    p.pool = shape.pool;
    p.activation = shape.activation;
    p.negative_slope = static_cast<float>(kSlope);
    p.channels_last = channels_last;
    const Conv2dTile tile = conv2d_tile(p);
    Guarded<float> scratch(conv2d_scratch(p, tile).total);
    p.scratch = scratch.data();
    p.stream = machine.cut && conv2d_can_stream(p, tile);
    if (machine.cuda()) {
      CHECK(launch_permutation_conv2d(p, nullptr) == 0, "%s", name(channels_last).c_str());
    } else {
      machine.run_tasks(kKernels, p, conv2d_tasks(p, tile));
    }
    CHECK(rows.intact() && scratch.intact(), "%s: wrote beside its output", name(channels_last).c_str());
    return channels_last ? channels_first(rows.values()) : rows.values();
  }

  std::vector<float> channels_first(const std::vector<float>& rows) const {
    std::vector<float> result(rows.size());
    const int64_t positions = out.rows * out.columns;
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t row = i / row_size(), k = i % shape.n_outputs, position = i % row_size() / shape.n_outputs;
      result[row * row_size() + k * positions + position] = rows[i];
    }
    return result;
  }

  void check(double relative_error = 0.0) const {
    const std::vector<Expected> all = expected(relative_error);
    for (bool channels_last : {false, true}) {
      check_machines<float>(name(channels_last), all, [&](const Machine& m) {
        return run(m, channels_last, channels_last == (shape.n_players % 2 == 0));
      });
    }
  }

  std::string name(bool channels_last) const {
    const auto pair = [](const char* what, const Pair& p) {
      return std::string(what) + std::to_string(p.rows) + "x" + std::to_string(p.columns);
    };
    return "C=" + std::to_string(shape.n_players) + " K=" + std::to_string(shape.n_outputs) +
           pair(" image ", shape.size) + pair(" kernel ", shape.kernel) + pair(" stride ", shape.stride) +
           pair(" padding ", shape.padding) + pair(" dilation ", shape.dilation) + " " +
           activation_name(shape.activation) + (shape.pool > 1 ? " pooled" : "") +
           (shape.with_residual ? " with residual" : "") + (channels_last ? " channels last" : "");
  }
};

TEST(permutation_conv2d_any_number_of_channels_matches_reference) {
  uint64_t seed = 1;
  for (int64_t n_players : sizes({1, 2, 31, 129})) {
    for (int64_t n_outputs : sizes({1, 2, 31, 33, 129})) {
      Shape shape{n_players, n_outputs, {2, 2}, {3, 3}, {1, 1}, {1, 1}};
      shape.with_bias = n_outputs != 2;
      if (n_players * n_outputs > 129 * 33 || (kSmall && n_players * n_outputs > 33)) continue;
      Case(shape, n_players > 31 ? 1 : 3, ++seed).check();
    }
  }
}

TEST(permutation_conv2d_any_image_matches_reference) {
  uint64_t seed = 100;
  for (const Pair& size :
       std::vector<Pair>{{1, 1}, {1, 2}, {3, 1}, {4, 4}, {7, 7}, {8, 8}, {16, 16}, {33, 17}, {2, 80}}) {
    for (int64_t n_outputs : {5, 16}) {
      if (kSmall && size.rows * size.columns > 64) continue;
      Case({3, n_outputs, size, {3, 3}, {1, 1}, {1, 1}}, 2, ++seed).check();
      Case({2, n_outputs, size, {1, 1}}, 2, ++seed).check();
    }
  }
}

TEST(permutation_conv2d_any_kernel_matches_reference) {
  const std::vector<Shape> shapes = {
      {3, 20, {9, 8}, {2, 2}},
      {3, 7, {9, 10}, {5, 5}, {1, 1}, {2, 2}},
      {2, 33, {11, 9}, {7, 7}, {2, 2}, {3, 3}},
      {2, 5, {9, 12}, {3, 3}, {1, 1}, {2, 2}, {2, 2}},
      {2, 5, {8, 9}, {1, 3}, {1, 2}, {0, 4}, {1, 3}},
      {2, 5, {9, 8}, {5, 2}, {3, 1}, {1, 0}, {2, 5}},
      {2, 3, {4, 3}, {2, 3}, {7, 5}, {3, 1}},
      {1, 3, {31, 5}, {31, 5}, {1, 1}, {2, 2}},
      {1, 130, {12, 12}, {11, 11}, {1, 1}, {1, 1}},
  };
  uint64_t seed = 200;
  for (const Shape& shape : shapes) {
    if (kSmall && shape.kernel.rows > 7) continue;
    Case(shape, 2, ++seed).check();
  }
}

TEST(permutation_conv2d_any_activation_matches_reference) {
  for (int activation = 0; activation < kActivations; ++activation) {
    for (int64_t pool : {1, 2}) {
      Shape shape{5, 6, {6, 5}, {3, 3}, {1, 1}, {1, 1}};
      shape.activation = static_cast<Activation>(activation);
      shape.pool = pool;
      shape.with_residual = true;
      Case(shape, 2, 300 + static_cast<uint64_t>(activation)).check(is_exact(shape.activation) ? 0.0 : 1e-6);
    }
  }
}

TEST(permutation_conv2d_pooled_images_of_any_size_match_reference) {
  uint64_t seed = 400;
  for (const Pair& size : std::vector<Pair>{{2, 2}, {3, 5}, {4, 4}, {8, 8}, {9, 7}, {2, 40}}) {
    for (int64_t n_outputs : sizes({3, 16, 129})) {
      Shape shape{3, n_outputs, size, {3, 3}, {1, 1}, {1, 1}};
      shape.pool = 2;
      shape.activation = Activation::kRelu;
      shape.with_residual = n_outputs == 3;
      Case(shape, 2, ++seed).check();
    }
  }
}

TEST(permutation_conv2d_nan_reaches_only_windows_and_steps_that_have_it) {
  for (int64_t pool : {1, 2}) {
    for (Activation activation : {Activation::kNone, Activation::kRelu, Activation::kRelu6, Activation::kHardswish}) {
      Shape shape{9, 5, {6, 6}, {3, 3}, {1, 1}, {1, 1}};
      shape.pool = pool;
      shape.activation = activation;
      Case c(shape, 4, 500);
      c.x[4 * 36] = NAN;                      // the corner of a channel
      c.x[(9 + 2) * 36 + 15] = NAN;           // inside another
      c.x[(2 * 9 + 7) * 36 + 35] = INFINITY;  // turns into NaN only where it is added to its opposite
      c.weight.assign(c.weight.size(), 0.5f);
      c.check(activation == Activation::kHardswish ? 1e-6 : 0.0);
    }
  }
}

#if !defined(__SANITIZE_THREAD__)
TEST(permutation_conv2d_cuda_sums_are_those_of_a_cpu_with_fused_operations) {
  for (int isa = static_cast<int>(Isa::kAvx2); isa <= static_cast<int>(cpu_isa()); ++isa) {
    for (const Pair& kernel : std::vector<Pair>{{3, 3}, {7, 7}, {11, 11}}) {
      Case c({9, 33, {13, 12}, kernel, {1, 1}, {3, 3}}, 2, 550);
      Numbers numbers(551);
      c.x = numbers.normals(static_cast<int64_t>(c.x.size()));
      c.weight = numbers.normals(static_cast<int64_t>(c.weight.size()));
      Machine cpu;
      cpu.isa = isa;
      const std::vector<float> expected = c.run(cpu, false, false), got = c.run(Machine{}, false, false);
      CHECK(got == expected, "%s on %s", c.name(false).c_str(), cpu.name().c_str());
    }
  }
}
#endif

TEST(permutation_conv2d_cuda_walks_out_of_range_become_nan) {
  Shape shape{9, 5, {4, 3}, {3, 3}, {1, 1}, {1, 1}};
  shape.activation = Activation::kRelu;
  Case c(shape, 6, 600);
  c.sample_index[1] = -1;
  c.sample_index[3] = Case::kSamples;
  c.permutations[4 * 9 + 8] = 9;
  c.permutations[5 * 9] = -1;
  const std::vector<Expected> expected = c.expected(0.0);
  for_each_schedule([&] {
    const std::vector<float> got = c.run(Machine{}, false, false);
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK(within(static_cast<double>(got[i]), expected[i]), "[%zu]: %g, not %g", i, static_cast<double>(got[i]),
            expected[i].value);
    }
  });
}

}  // namespace
}  // namespace shapley::tests
