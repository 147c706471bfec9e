#include "kernels/apply_masks.h"

#include "guarded.h"
#include "numbers.h"

#include "machines.h"

namespace shapley::tests {
namespace {

CPU_KERNELS(kKernels, ApplyMasksParams, apply_masks_cpu);

struct Shape {
  int64_t n_samples, n_players, n_positions, n_masks;
  bool indexed, channels_last;
};

// Elements are arbitrary bits: nothing may be computed with them. 0x7e00 and its wider kin are the NaN of bad rows.
template <class Element>
struct Case {
  Shape shape;
  int64_t n_rows;
  std::vector<Element> x;
  std::vector<unsigned char> masks;
  std::vector<int64_t> sample_index;
  static constexpr Element kNan = static_cast<Element>(0x7ff87fc07e007e01ull);

  Case(const Shape& s, uint64_t seed) : shape(s), n_rows(s.indexed ? s.n_masks : s.n_masks * s.n_samples) {
    Numbers numbers(seed);
    x.resize(s.n_samples * s.n_players * s.n_positions);
    for (Element& element : x) element = static_cast<Element>(numbers.bits());
    masks.resize(s.n_masks * s.n_players);
    for (unsigned char& kept : masks) kept = numbers.below(3) > 0;
    if (s.indexed) sample_index = numbers.indices(s.n_masks, s.n_samples);
  }

  std::vector<Element> expected() const {
    std::vector<Element> out;
    for (int64_t r = 0; r < n_rows; ++r) {
      const int64_t sample = shape.indexed ? sample_index[r] : r % shape.n_samples;
      const int64_t mask = shape.indexed ? r : r / shape.n_samples;
      for (int64_t i = 0; i < shape.n_players * shape.n_positions; ++i) {
        const int64_t player = shape.channels_last ? i % shape.n_players : i / shape.n_positions;
        if (sample < 0 || sample >= shape.n_samples) {
          out.push_back(kNan);
        } else if (masks[mask * shape.n_players + player]) {
          out.push_back(x[sample * shape.n_players * shape.n_positions + i]);
        } else {
          out.push_back(0);
        }
      }
    }
    return out;
  }

  std::vector<Element> run(const Machine& machine, int64_t offset) const {
    Guarded<Element> from(x, offset);
    Guarded<unsigned char> mask(masks);
    Guarded<int64_t> samples(sample_index);
    Guarded<Element> out(n_rows * shape.n_players * shape.n_positions, offset);
    ApplyMasksParams p{};
    p.x = from.data();
    p.masks = reinterpret_cast<const bool*>(mask.data());
    p.sample_index = shape.indexed ? samples.data() : nullptr;
    p.out = out.data();
    p.n_rows = n_rows;
    p.n_samples = shape.n_samples;
    p.n_players = shape.n_players;
    p.n_positions = shape.n_positions;
    p.element_bytes = sizeof(Element);
    p.nan_bits = 0x7ff87fc07e007e01ull;
    for (size_t bytes = sizeof(Element); bytes < 8; bytes *= 2) {  // the element's NaN, repeated over 8 bytes
      const int bits = static_cast<int>(bytes) * 8;
      p.nan_bits = (p.nan_bits & ((1ull << bits) - 1)) | p.nan_bits << bits;
    }
    p.channels_last = shape.channels_last;
    if (machine.cuda()) {
      CHECK(launch_apply_masks(p, nullptr) == 0, "%s", name().c_str());
    } else {
      machine.run_tasks(kKernels, p, n_rows);
    }
    CHECK(out.intact(), "%s: wrote beside its output", name().c_str());
    return out.values();
  }

  std::string name() const {
    return std::to_string(8 * sizeof(Element)) + " bits N=" + std::to_string(shape.n_samples) +
           " C=" + std::to_string(shape.n_players) + " S=" + std::to_string(shape.n_positions) +
           " M=" + std::to_string(shape.n_masks) + (shape.indexed ? " with sample_index" : "") +
           (shape.channels_last ? " channels last" : "");
  }
};

template <class Element>
void check_all_shapes() {
  uint64_t seed = 1;
  for (int64_t n_players : sizes({1, 2, 31, 33, 129, 1031})) {
    for (int64_t n_positions : {1, 4, 7, 16}) {
      for (bool indexed : {false, true}) {
        for (bool channels_last : {false, true}) {
          const Case<Element> c(Shape{3, n_players, n_positions, 5, indexed, channels_last}, ++seed);
          const int64_t offset = seed % 3;
          check_machines_exactly<Element>(c.name(), c.expected(), [&](const Machine& m) { return c.run(m, offset); });
        }
      }
    }
  }
}

TEST(apply_masks_elements_of_2_bytes_are_selected) {
  check_all_shapes<uint16_t>();
}
TEST(apply_masks_elements_of_4_bytes_are_selected) {
  check_all_shapes<uint32_t>();
}
TEST(apply_masks_elements_of_8_bytes_are_selected) {
  check_all_shapes<uint64_t>();
}

TEST(apply_masks_more_rows_than_one_part_are_selected) {
  const Case<uint32_t> c(Shape{2, 33, kSmall ? 40 : 200, kSmall ? 2 : 33, false, false}, 5);
  check_machines_exactly<uint32_t>(c.name(), c.expected(), [&](const Machine& m) { return c.run(m, 0); });
}

template <class Element>
void check_out_of_range() {
  Case<Element> c(Shape{3, 9, 4, 6, true, false}, 9);
  c.sample_index[1] = -1;
  c.sample_index[3] = 3;
  c.sample_index[4] = INT64_MIN;
  const std::vector<Element> expected = c.expected();
  for_each_schedule([&] { CHECK(c.run(Machine{}, 0) == expected, "%s", c.name().c_str()); });
}

TEST(apply_masks_cuda_rows_out_of_range_become_nan) {
  check_out_of_range<uint16_t>();
  check_out_of_range<uint32_t>();
  check_out_of_range<uint64_t>();
}

}  // namespace
}  // namespace shapley::tests
