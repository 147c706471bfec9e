// permutation_conv2d: a convolution's output at every step of walks that add one input channel at a time.
//
//     z[r, 0] = bias + residual[n],   z[r, j + 1] = z[r, j] + conv2d(x[n, c], weight[:, c]),
//     out[r, j] = max_pool(activation(z[r, j])),   n = sample_index[r], c = permutations[r, j], j = 0 .. C
//
// An evaluation of a coalition costs C * K * kh * kw operations a position; a step costs C times less, and its sums
// stay where they are added up. A channel that has not joined is not looked at: its NaN leaves no trace.
//
// In and out: see PermutationConv2dParams. `out` is overwritten, everything else is only read.
//
// Algorithm, for a tile of outputs and positions of one walk: the sums start as bias and residual; row 0 is written;
// then for each player its plane is copied with zeros around it, its taps are multiplied and added up in registers and
// added to the sums, and the row is written: activation, maximum of each window, one of two memory orders.
//
// CPU: a task is a tile of one walk. Vectors hold neighbouring outputs, a pixel of the plane is spread over one. The
// sums fill half the first-level cache; a block of outputs has its weight packed once for all walks that follow.
// CUDA: permutation_conv2d.cu.
//
// Bytes: 4 R (C + 1) K H' W' written once, C K kh kw weights and N C H W inputs read mostly from caches; operations:
// 2 R C K kh kw a position. A 3 x 3 kernel is bound by the writing: on the CPU, outputs too large for its caches go
// past them. Sums are float32: a channel's taps in order by fused multiply-adds, then one addition. Same bits on every
// run, in any split of the walks and for both memory orders. Limits: fewer than 2^31 elements in a plane.
#pragma once

#include "activation.h"
#include "isa.h"

namespace shapley {

// Pairs are rows (height), then columns (width).
struct PermutationConv2dParams {
  const float* x;                             // [N, C, H, W] with strides x_strides
  const float* weight;                        // CPU: [K, C, kh, kw]. CUDA: [C, kh, kw, K]
  const float* bias;                          // [K] or null
  const float* residual;                      // [N, K, pool * H', pool * W'] with strides residual_strides, or null
  const int32_t* permutations;                // [R, C]
  const int64_t* sample_index;                // [R]
  float* out;                                 // [R, C + 1, K, H', W'], or [R, C + 1, H', W', K] with channels_last
  float* scratch;                             // CPU: conv2d_scratch(..).total floats, 64-byte aligned
  int64_t x_strides[4], residual_strides[4];  // in elements
  int64_t n_samples, n_players, n_outputs, n_walks;
  int64_t size[2], kernel[2], stride[2], padding[2], dilation[2];
  int64_t out_size[2];  // after pooling
  int64_t pool;         // 1, or 2 for the greatest of every 2 x 2
  Activation activation;
  float negative_slope;  // of leaky_relu
  bool channels_last;
  bool stream;  // CPU: write past the caches, where conv2d_can_stream and out is 64-byte aligned
};

static inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// The CPU's tile of a walk: `outputs` output channels at size[0] x size[1] positions. It is as wide as the image or one
// row high, so that its positions are one run.
struct Conv2dTile {
  int64_t outputs, size[2];
};

// Cuts the image evenly into tiles of at most 64 positions before pooling, and takes as many outputs as keep a tile's
// sums to 16 KiB and a block's weight to 2 MiB, but 64 at least and 256 at most.
static inline Conv2dTile conv2d_tile(const PermutationConv2dParams& p) {
  constexpr int64_t kPixels = 64, kSums = 4096, kWeights = 1 << 19, kFewest = 64, kMost = 256, kWidestVector = 16;
  const int64_t window = p.pool * p.pool, positions = kPixels / window, height = p.out_size[0], width = p.out_size[1];
  Conv2dTile tile{kMost, {1, width}};
  if (width > positions) {
    tile.size[1] = ceil_div(width, ceil_div(width, positions));
  } else {
    tile.size[0] = ceil_div(height, ceil_div(height, positions / width));
  }
  const int64_t pixels = tile.size[0] * tile.size[1] * window, columns = p.n_players * p.kernel[0] * p.kernel[1];
  while (tile.outputs > kFewest && (pixels * tile.outputs > kSums || columns * tile.outputs > kWeights)) {
    tile.outputs /= 2;
  }
  const int64_t all = ceil_div(p.n_outputs, kWidestVector) * kWidestVector;
  if (tile.outputs > all) tile.outputs = all;
  return tile;
}

// The rows (axis 0) or columns (1) of input under the windows of a tile.
static inline int64_t conv2d_extent(const PermutationConv2dParams& p, const Conv2dTile& tile, int axis) {
  return (tile.size[axis] * p.pool - 1) * p.stride[axis] + (p.kernel[axis] - 1) * p.dilation[axis] + 1;
}

static inline int64_t conv2d_tiles(const PermutationConv2dParams& p, const Conv2dTile& tile) {
  return ceil_div(p.out_size[0], tile.size[0]) * ceil_div(p.out_size[1], tile.size[1]);
}

static inline int64_t conv2d_tasks(const PermutationConv2dParams& p, const Conv2dTile& tile) {
  return ceil_div(p.n_outputs, tile.outputs) * p.n_walks * conv2d_tiles(p, tile);
}

// Whether every vector that the CPU writes is whole and, with out, aligned.
static inline bool conv2d_can_stream(const PermutationConv2dParams& p, const Conv2dTile& tile) {
  constexpr int64_t kLine = 16;
  const int64_t width = p.out_size[1], positions = p.out_size[0] * width;
  if (p.channels_last || kLine % positions == 0) return p.n_outputs % kLine == 0;
  return tile.size[0] * tile.size[1] % kLine == 0 && (tile.size[1] == width ? positions : width) % kLine == 0;
}

// Where the parts of the CPU's scratch begin, and how long it is, in floats; sums come first.
struct Conv2dScratch {
  int64_t weight, plane, pixels, taps, total;
};

static inline Conv2dScratch conv2d_scratch(const PermutationConv2dParams& p, const Conv2dTile& tile) {
  const auto lines = [](int64_t floats) { return ceil_div(floats, 16) * 16; };
  const int64_t n_taps = p.kernel[0] * p.kernel[1], n_pixels = tile.size[0] * tile.size[1] * p.pool * p.pool;
  Conv2dScratch s;
  s.weight = lines(n_pixels * tile.outputs);
  s.plane = s.weight + p.n_players * n_taps * tile.outputs;
  s.pixels = s.plane + lines(conv2d_extent(p, tile, 0) * conv2d_extent(p, tile, 1));
  s.taps = s.pixels + lines(n_pixels);
  s.total = s.taps + lines(n_taps);
  return s;
}

// Tasks are numbered by blocks of outputs, then walks, then tiles.
SHAPLEY_CPU_KERNEL(permutation_conv2d_cpu, PermutationConv2dParams)
int launch_permutation_conv2d(const PermutationConv2dParams& params, void* stream);

}  // namespace shapley
