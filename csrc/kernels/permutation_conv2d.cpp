// permutation_conv2d on the CPU: a walk's tile at a time, with everything that its steps touch in the caches. Sums are
// [pixels, outputs]; a step adds 4 pixels by up to 4 vectors of outputs in registers at a time, tap by tap, so that a
// vector of weights serves 4 pixels and a pixel 4 vectors.
//
// Measured with 3 x 3 kernels, 64 channels at 16 x 16 to 512 at 2 x 2: the multiply-adds alone would take a third to
// half of the time; the rest is reading and writing sums, rows and, at 512 channels, packing weight.
#include "permutation_conv2d.h"

#include "activation_simd.h"
#include "permutation_conv2d_rows.h"

namespace shapley {
namespace SHAPLEY_ISA {
namespace {

// The most vectors of outputs that are added up in registers at a time, for 4 pixels or, where it is one, for 8: fewer
// sums would wait for each other.
#if defined(__AVX512F__)
constexpr int kPanels = 4;
#else
constexpr int kPanels = 2;
#endif

// weight [K, columns] to panels [n_panels, columns, kLanes] of the block's outputs; padding is zero.
void pack_weight(const Work& work) {
  const int64_t columns = work.p.n_players * work.n_taps;
  for (int64_t panel = 0; panel < work.n_panels; ++panel) {
    const int64_t n_rows = smaller(work.n_outputs - panel * kLanes, kLanes);
    const float* from = work.p.weight + (work.first_output + panel * kLanes) * columns;
    float* to = work.weight + panel * columns * kLanes;
    for (int64_t column = 0; column < columns; column += kLanes) {
      const int64_t n_columns = smaller(columns - column, kLanes);
      VecF square[kLanes];
      if (n_rows == kLanes && n_columns == kLanes) {  // loops of fixed length, which the compiler unrolls
        for (int i = 0; i < kLanes; ++i) square[i] = load(from + i * columns + column);
        transpose(square);
        for (int i = 0; i < kLanes; ++i) store(to + (column + i) * kLanes, square[i]);
        continue;
      }
      for (int64_t i = 0; i < kLanes; ++i) {
        square[i] = i < n_rows ? load_part(from + i * columns + column, n_columns) : splat(0.0f);
      }
      transpose(square);
      for (int64_t i = 0; i < n_columns; ++i) store(to + (column + i) * kLanes, square[i]);
    }
  }
}

// Clears plane, lays out the tile's pixels, and sets the sums to what the empty coalition gives: bias and residual.
void start_tile(const Work& work) {
  const PermutationConv2dParams& p = work.p;
  for (int64_t i = 0; i < work.rows * work.columns; ++i) work.plane[i] = 0.0f;
  const float* residual = p.residual ? p.residual + work.sample * p.residual_strides[0] : nullptr;
  float* sums = work.sums;
  for (int64_t pixel = 0; pixel < work.n_pixels; ++pixel) {
    const int64_t position = pixel / (p.pool * p.pool), in_window = pixel % (p.pool * p.pool);
    const int64_t y = position / work.size[1] * p.pool + in_window / p.pool;
    const int64_t x = position % work.size[1] * p.pool + in_window % p.pool;
    work.pixels[pixel] = static_cast<int32_t>(y * p.stride[0] * work.columns + x * p.stride[1]);
    const int64_t at =
        (work.start[0] * p.pool + y) * p.residual_strides[2] + (work.start[1] * p.pool + x) * p.residual_strides[3];
    for (int64_t k = 0; k < work.n_panels * kLanes; ++k) {
      const int64_t output = work.first_output + k;
      float sum = 0.0f;
      if (k < work.n_outputs) {
        if (p.bias) sum = p.bias[output];
        if (residual) sum += residual[output * p.residual_strides[1] + at];
      }
      *sums++ = sum;
    }
  }
}

// Copies the channel's part under the tile into plane.
void read_channel(const Work& work, int64_t channel) {
  const PermutationConv2dParams& p = work.p;
  const int64_t y0 = work.start[0] * p.pool * p.stride[0] - p.padding[0];
  const int64_t x0 = work.start[1] * p.pool * p.stride[1] - p.padding[1];
  const int64_t end_row = smaller(work.rows, p.size[0] - y0);
  const int64_t column = larger(0, -x0), n = smaller(work.columns, p.size[1] - x0) - column;
  const float* from = p.x + work.sample * p.x_strides[0] + channel * p.x_strides[1] + (x0 + column) * p.x_strides[3];
  for (int64_t row = larger(0, -y0); row < end_row; ++row) {
    const float* line = from + (y0 + row) * p.x_strides[2];
    float* to = work.plane + row * work.columns + column;
    int64_t i = 0;
    if (p.x_strides[3] == 1) {
      for (; i + kLanes <= n; i += kLanes) store(to + i, load(line + i));
    }
    for (; i < n; ++i) to[i] = line[i * p.x_strides[3]];
  }
}

// Adds the channel in plane to n_pixels pixels of n_panels panels: its taps one after another, then their sum to the
// sums.
template <int n_pixels, int n_panels>
void add_to_pixels(const Work& work, const float* weight, int64_t pixel, int64_t panel) {
  const int64_t stride = work.p.n_players * work.n_taps * kLanes;  // from panel to panel
  const int64_t n_taps = work.n_taps, width = work.n_panels * kLanes;
  const int32_t* taps = work.taps;
  const float* windows[n_pixels];
  VecF added[n_pixels][n_panels];
#pragma GCC unroll 8
  for (int i = 0; i < n_pixels; ++i) {
    windows[i] = work.plane + work.pixels[pixel + i];
#pragma GCC unroll 4
    for (int v = 0; v < n_panels; ++v) added[i][v] = splat(0.0f);
  }
  const float* column = weight + panel * stride;
  for (int64_t tap = 0; tap < n_taps; ++tap, column += kLanes) {
    const int64_t offset = taps[tap];
    VecF w[n_panels];
#pragma GCC unroll 4
    for (int v = 0; v < n_panels; ++v) w[v] = load(column + v * stride);
#pragma GCC unroll 8
    for (int i = 0; i < n_pixels; ++i) {
      const VecF value = splat(windows[i][offset]);
#pragma GCC unroll 4
      for (int v = 0; v < n_panels; ++v) added[i][v] = fma(value, w[v], added[i][v]);
    }
  }
  float* sums = work.sums + pixel * width + panel * kLanes;
#pragma GCC unroll 8
  for (int i = 0; i < n_pixels; ++i, sums += width) {
#pragma GCC unroll 4
    for (int v = 0; v < n_panels; ++v) store(sums + v * kLanes, load(sums + v * kLanes) + added[i][v]);
  }
}

template <int n_panels>
void add_to_panels(const Work& work, const float* weight, int64_t panel) {
  constexpr int kPixels = n_panels == 1 ? 8 : 4;
  int64_t pixel = 0;
  for (; pixel + kPixels <= work.n_pixels; pixel += kPixels) {
    add_to_pixels<kPixels, n_panels>(work, weight, pixel, panel);
  }
  for (; pixel < work.n_pixels; ++pixel) add_to_pixels<1, n_panels>(work, weight, pixel, panel);
}

void add_channel(const Work& work, int64_t channel) {
  const float* weight = work.weight + channel * work.n_taps * kLanes;
  read_channel(work, channel);
  int64_t panel = 0;
  for (; panel + kPanels <= work.n_panels; panel += kPanels) add_to_panels<kPanels>(work, weight, panel);
  switch (work.n_panels - panel) {
    case 3: return add_to_panels<3>(work, weight, panel);
    case 2: return add_to_panels<2>(work, weight, panel);
    case 1: return add_to_panels<1>(work, weight, panel);
  }
}

// The players come in random order, so that the processor cannot guess what is read next.
void prefetch_weight(const Work& work, int64_t channel) {
  const int64_t floats = work.n_taps * kLanes;
  for (int64_t panel = 0; panel < work.n_panels; ++panel) {
    const float* from = work.weight + (panel * work.p.n_players + channel) * floats;
    for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(from + i);
  }
}

template <class Function>
void run_walk(const Work& work, const Function& function) {
  const PermutationConv2dParams& p = work.p;
  const int64_t row_size = p.n_outputs * p.out_size[0] * p.out_size[1];
  const int32_t* players = p.permutations + work.walk * p.n_players;
  float* row = p.out + work.walk * (p.n_players + 1) * row_size;
  const auto write_row = p.pool == 1 ? writer<1, Function>(work) : writer<4, Function>(work);
  write_row(work, row, function);
  for (int64_t j = 0; j < p.n_players; ++j) {
    add_channel(work, players[j]);
    if (j + 1 < p.n_players) prefetch_weight(work, players[j + 1]);
    write_row(work, row += row_size, function);
  }
}

}  // namespace

void permutation_conv2d_cpu(const PermutationConv2dParams& p, int64_t begin, int64_t end) {
  const Conv2dTile tile = conv2d_tile(p);
  const Conv2dScratch scratch = conv2d_scratch(p, tile);
  const int64_t n_tiles = conv2d_tiles(p, tile), tiles_across = ceil_div(p.out_size[1], tile.size[1]);
  int64_t packed = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t in_walk = task % n_tiles, block = task / n_tiles / p.n_walks;
    Work work(p);
    work.walk = task / n_tiles % p.n_walks;
    work.sample = p.sample_index[work.walk];
    work.first_output = block * tile.outputs;
    work.n_outputs = smaller(p.n_outputs - work.first_output, tile.outputs);
    work.n_panels = ceil_div(work.n_outputs, kLanes);
    work.start[0] = in_walk / tiles_across * tile.size[0];
    work.start[1] = in_walk % tiles_across * tile.size[1];
    Conv2dTile part = tile;
    for (int axis = 0; axis < 2; ++axis) {
      part.size[axis] = work.size[axis] = smaller(p.out_size[axis] - work.start[axis], tile.size[axis]);
    }
    work.n_pixels = work.size[0] * work.size[1] * p.pool * p.pool;
    work.n_taps = p.kernel[0] * p.kernel[1];
    work.rows = conv2d_extent(p, part, 0);
    work.columns = conv2d_extent(p, part, 1);
    work.sums = p.scratch;
    work.weight = p.scratch + scratch.weight;
    work.plane = p.scratch + scratch.plane;
    work.pixels = reinterpret_cast<int32_t*>(p.scratch + scratch.pixels);
    work.taps = reinterpret_cast<int32_t*>(p.scratch + scratch.taps);
    for (int64_t tap = 0; tap < work.n_taps; ++tap) {
      work.taps[tap] =
          static_cast<int32_t>(tap / p.kernel[1] * p.dilation[0] * work.columns + tap % p.kernel[1] * p.dilation[1]);
    }
    if (packed != block) pack_weight(work);
    packed = block;
    start_tile(work);
    with_activation(p.activation, p.negative_slope, [&](const auto& function) { run_walk(work, function); });
  }
#if defined(__AVX2__)
  if (p.stream) _mm_sfence();
#endif
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
