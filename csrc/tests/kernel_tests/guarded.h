// guarded.h: arrays that notice when a kernel writes beside them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace shapley::tests {

// n elements between two stretches of canaries, which ASan refuses access to. The array begins at a multiple of 64
// bytes, plus `offset` elements; it starts out as numbers so large that they show wherever they are used.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t n, int64_t offset = 0) : n_(n) {
    bytes_ = kGuard + (n + offset) * static_cast<int64_t>(sizeof(T)) + kGuard;
    memory_ = static_cast<unsigned char*>(std::aligned_alloc(64, static_cast<size_t>((bytes_ + 63) / 64 * 64)));
    if (memory_ == nullptr) throw std::bad_alloc();
    std::memset(memory_, kCanary, static_cast<size_t>(bytes_));
    data_ = reinterpret_cast<T*>(memory_ + kGuard) + offset;
    std::memset(begin(), kFresh, static_cast<size_t>(end() - begin()));
    fence(true);
  }
  explicit Guarded(const std::vector<T>& values, int64_t offset = 0)
      : Guarded(static_cast<int64_t>(values.size()), offset) {
    if (n_ > 0) std::memcpy(data_, values.data(), values.size() * sizeof(T));
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    fence(false);
    std::free(memory_);
  }

  T* data() { return data_; }
  std::vector<T> values() const { return std::vector<T>(data_, data_ + n_); }

  // Whether the canaries on both sides are untouched.
  bool intact() {
    fence(false);
    bool ok = true;
    for (const unsigned char* byte = memory_; byte < begin(); ++byte) ok &= *byte == kCanary;
    for (const unsigned char* byte = end(); byte < memory_ + bytes_; ++byte) ok &= *byte == kCanary;
    fence(true);
    return ok;
  }

 private:
  static constexpr int64_t kGuard = 1024;
  static constexpr unsigned char kCanary = 0xa5;
  static constexpr unsigned char kFresh = 0x7b;  // 1.3e36 in a float, 1.4e286 in a double, no index of anything

  unsigned char* begin() const { return reinterpret_cast<unsigned char*>(data_); }
  unsigned char* end() const { return reinterpret_cast<unsigned char*>(data_ + n_); }

  void fence([[maybe_unused]] bool up) const {
#if defined(__SANITIZE_ADDRESS__)
    const auto change = up ? __asan_poison_memory_region : __asan_unpoison_memory_region;
    change(memory_, static_cast<size_t>(begin() - memory_));
    change(end(), static_cast<size_t>(memory_ + bytes_ - end()));
#endif
  }

  int64_t n_, bytes_;
  unsigned char* memory_;
  T* data_;
};

}  // namespace shapley::tests
