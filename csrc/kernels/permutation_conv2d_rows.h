// permutation_conv2d_rows.h: a task of permutation_conv2d on the CPU, and how the sums of its tile become the row of a
// step.
#pragma once

#include "permutation_conv2d.h"
#include "simd.h"

namespace shapley {
namespace SHAPLEY_ISA {
namespace {

// One task, and what its steps share.
struct Work {
  explicit Work(const PermutationConv2dParams& params) : p(params) {}

  const PermutationConv2dParams& p;
  int64_t walk, sample;
  int64_t first_output, n_outputs, n_panels;
  int64_t start[2], size[2];  // of the tile, in positions of the output
  int64_t n_pixels;           // before pooling, a pool's window one after another
  int64_t n_taps;
  int64_t rows, columns;  // of plane
  float* sums;            // [n_pixels, n_panels, kLanes]
  float* weight;          // [n_panels, C, n_taps, kLanes]
  float* plane;           // the channel's part under the tile's windows, with zeros around
  int32_t* pixels;        // [n_pixels]: where in plane a pixel's window begins
  int32_t* taps;          // [n_taps]: where in a window a tap lies
};

int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

void stream_store(float* to, VecF x) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, x);
#elif defined(__AVX2__)
  _mm256_stream_ps(to, x);
#else
  store(to, x);
#endif
}

// The greater, or NaN if one is.
VecF greater_or_nan(VecF x, VecF y) {
  const VecF m = x > y ? x : y;
  return x == x ? m : x;
}

// The values of one panel at one position of the tile, from the pixels of the position's window.
template <int window, class Function>
inline VecF position_value(const float* sums, int64_t width, const Function& function) {
  VecF value = function(load(sums));
  for (int i = 1; i < window; ++i) value = greater_or_nan(value, function(load(sums + i * width)));
  return value;
}

inline void put(float* to, VecF x, int64_t count, bool stream) {
  if (stream) return stream_store(to, x);
  store_part(to, x, count);
}

// Writes the tile of one step to `row`, the step's [H', W', K].
template <int window, class Function>
void write_channels_last(const Work& work, float* row, const Function& function) {
  const int64_t n = work.size[0] * work.size[1], n_outputs = work.n_outputs, width = work.n_panels * kLanes;
  const int64_t stride = work.p.n_outputs;
  const bool stream = work.p.stream;
  const float* sums = work.sums;
  float* to = row + (work.start[0] * work.p.out_size[1] + work.start[1]) * stride + work.first_output;
  for (int64_t i = 0; i < n; ++i, to += stride, sums += window * width) {
    for (int64_t k = 0; k < n_outputs; k += kLanes) {
      put(to + k, position_value<window>(sums + k, width, function), n_outputs - k, stream);
    }
  }
}

// Riffles n vectors, a power of two of them: rows[i][lane] goes to place lane * n + i of all n * kLanes.
template <int n, int... lane>
inline void interleave(VecF* rows, LaneList<lane...>) {
  constexpr int kHalf = kLanes / 2;
  for (int pass = 1; pass < n; pass *= 2) {
    VecF riffled[n];
    for (int i = 0; i < n / 2; ++i) {
      const VecF a = rows[i], b = rows[i + n / 2];
      riffled[2 * i] = __builtin_shufflevector(a, b, (lane / 2 + lane % 2 * kLanes)...);
      riffled[2 * i + 1] = __builtin_shufflevector(a, b, (kHalf + lane / 2 + lane % 2 * kLanes)...);
    }
    for (int i = 0; i < n; ++i) rows[i] = riffled[i];
  }
}

// The same for [K, H', W']. Squares of kLanes positions by kLanes outputs are turned around in registers.
template <int window, class Function>
void write_channels_first(const Work& work, float* row, const Function& function) {
  const int64_t n = work.size[0] * work.size[1], width = work.n_panels * kLanes;
  const int64_t stride = work.p.out_size[0] * work.p.out_size[1];
  const bool stream = work.p.stream;
  for (int64_t k = 0; k < work.n_outputs; k += kLanes) {
    const int64_t n_outputs = smaller(work.n_outputs - k, kLanes);
    float* to = row + (work.first_output + k) * stride + work.start[0] * work.p.out_size[1] + work.start[1];
    for (int64_t i = 0; i < n; i += kLanes) {
      const float* sums = work.sums + i * window * width + k;
      VecF square[kLanes];
      if (n - i >= kLanes && n_outputs == kLanes) {  // loops of fixed length, which the compiler unrolls
        for (int j = 0; j < kLanes; ++j) square[j] = position_value<window>(sums + j * window * width, width, function);
        transpose(square);
        if (stream) {
          for (int lane = 0; lane < kLanes; ++lane) stream_store(to + lane * stride + i, square[lane]);
        } else {
          for (int lane = 0; lane < kLanes; ++lane) store(to + lane * stride + i, square[lane]);
        }
      } else {
        for (int64_t j = 0; j < kLanes; ++j) {
          square[j] = i + j < n ? position_value<window>(sums + j * window * width, width, function) : splat(0.0f);
        }
        transpose(square);
        for (int64_t lane = 0; lane < n_outputs; ++lane) store_part(to + lane * stride + i, square[lane], n - i);
      }
    }
  }
}

// The same for all `n` positions of a small image, whose outputs lie one after another.
template <int n, int window, class Function>
void write_small(const Work& work, float* row, const Function& function) {
  const int64_t width = work.n_panels * kLanes;
  for (int64_t k = 0; k < work.n_outputs; k += kLanes) {
    float* to = row + (work.first_output + k) * n;
    const int64_t count = (work.n_outputs - k) * n;
    VecF rows[n];
    for (int i = 0; i < n; ++i) rows[i] = position_value<window>(work.sums + i * window * width + k, width, function);
    interleave<n>(rows, FirstLanes<kLanes>::List());
    for (int i = 0; i < n && i * kLanes < count; ++i) put(to + i * kLanes, rows[i], count - i * kLanes, work.p.stream);
  }
}

template <class Function>
using RowWriter = void (*)(const Work& work, float* row, const Function& function);

template <int window, class Function>
RowWriter<Function> writer(const Work& work) {
  if (work.p.channels_last) return write_channels_last<window, Function>;
  switch (work.p.out_size[0] * work.p.out_size[1]) {
    case 1: return write_channels_last<window, Function>;
    case 2: return write_small<2, window, Function>;
    case 4: return write_small<4, window, Function>;
    case 16: return write_small<16, window, Function>;
    default: return write_channels_first<window, Function>;
  }
}

}  // namespace
}  // namespace SHAPLEY_ISA
}  // namespace shapley
