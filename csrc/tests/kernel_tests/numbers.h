// numbers.h: the same test data everywhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace shapley::tests {

// SplitMix64 (Steele, Lea, Flood 2014).
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  // Roughly normal: mean 0, variance 1, within +-6.
  double normal() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

  // Multiples of 1/8 in [-1, 1]: sums of thousands of products of two are exact in float32, in any order.
  std::vector<float> exact(int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = static_cast<float>(below(17) - 8) / 8.0f;
    return values;
  }
  std::vector<float> normals(int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = static_cast<float>(normal());
    return values;
  }
  std::vector<int64_t> indices(int64_t n, int64_t limit) {
    std::vector<int64_t> values(static_cast<size_t>(n));
    for (int64_t& value : values) value = below(limit);
    return values;
  }
  std::vector<int32_t> permutations(int64_t rows, int64_t n) {
    std::vector<int32_t> values(static_cast<size_t>(rows * n));
    for (int64_t r = 0; r < rows; ++r) {
      int32_t* row = values.data() + r * n;
      for (int64_t i = 0; i < n; ++i) row[i] = static_cast<int32_t>(i);
      for (int64_t i = n; i > 1; --i) {
        const int64_t j = below(i);
        const int32_t other = row[j];
        row[j] = row[i - 1];
        row[i - 1] = other;
      }
    }
    return values;
  }

 private:
  uint64_t state_;
};

}  // namespace shapley::tests
