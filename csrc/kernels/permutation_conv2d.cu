// permutation_conv2d on CUDA.
//
// A block of 128 threads takes one tile of one walk through all steps: `pixels` neighbouring positions (before pooling)
// by `outputs` output channels, 2048 sums in all, 16 in the registers of each thread: 4 outputs by 4 pixels. Small
// images get few pixels by many outputs. For each step
//   1. the threads put their sums into shared memory, and bring in what the step's player adds: for every tap the input
//      under each pixel, zero outside the image, and the weight of each output;
//   2. after a barrier they write the step's row from shared memory (activation, pooling), neighbouring threads at
//      neighbouring addresses in either memory order, and multiply and add the taps up in registers;
//   3. after another barrier the next step begins.
// Taps that do not fit shared memory at once come in chunks. The sums, before the activation, are bit for bit those of
// a CPU that has fused multiply-adds.
//
// Bytes per block and step: 4 * 2048 written; 4 * taps * (outputs + pixels) read, weights from L2 (for 3 x 3 at 64 by
// 32 3.4 KB), inputs mostly from L1. Operations: 2 * 2048 * taps. On an H100 (3.3 TB/s) an SM may write a block's step
// in about 570 cycles; its multiply-adds for 3 x 3 take 144, its accesses to shared memory about 440. So up to 3 x 3
// the bound is the writing, from 5 x 5 on the reading of shared memory (counted, not measured). A block takes up to 32
// KiB of shared memory and 80 registers a thread: several share an SM, and one computes while another waits. A walk
// whose sample or one of whose players is out of range becomes NaN.
#include "activation.cuh"
#include "cuda_launch.h"
#include "permutation_conv2d.h"

namespace shapley {
namespace {

constexpr int kThreads = 128;
constexpr int kOwn = 4;  // outputs, and pixels, of a thread
constexpr int kSharedBytes = 32 * 1024;

struct Tiling {
  int pixels, outputs;          // of a tile: pixels * outputs == kThreads * kOwn * kOwn; both powers of two
  int chunk;                    // taps in shared memory at a time
  int runs, blocks_of_outputs;  // tiles of a walk
};

// Whether the walk's sample and all of its players exist; the same for all threads of the block.
__device__ bool walk_is_valid(const PermutationConv2dParams& p, int64_t sample, const int32_t* players) {
  int bad = sample < 0 || sample >= p.n_samples;
  for (int64_t j = threadIdx.x; j < p.n_players; j += kThreads) bad |= players[j] < 0 || players[j] >= p.n_players;
  return __syncthreads_or(bad) == 0;
}

// The row and column, before pooling, of a pixel: the pixels of a pool's window come one after another.
__device__ void locate(const PermutationConv2dParams& p, int pixel, int* y, int* x) {
  const int pool = static_cast<int>(p.pool), width = static_cast<int>(p.out_size[1]);
  const int position = pixel / (pool * pool), in_window = pixel % (pool * pool);
  *y = position / width * pool + in_window / pool;
  *x = position % width * pool + in_window % pool;
}

// One tile, as a thread of its block sees it.
struct Tile {
  int first_pixel, first_output;
  int n_positions, n_outputs;  // that exist
  int lane, pixel;             // the thread's first output and first pixel of its own
};

// Brings the taps first .. end - 1 of a channel into shared memory: inputs [taps, pixels], weights [taps, outputs].
__device__ void read_taps(const PermutationConv2dParams& p, const Tiling& t, const Tile& tile, const float* image,
                          int channel, int first, int end, float* inputs, float* weights) {
  const int kernel_width = static_cast<int>(p.kernel[1]), n_outputs = static_cast<int>(p.n_outputs);
  const int pixel = threadIdx.x % t.pixels;  // of the tile; the same for all inputs that the thread brings in
  const bool exists = pixel < tile.n_positions * static_cast<int>(p.pool * p.pool);
  int y, x;
  locate(p, tile.first_pixel + (exists ? pixel : 0), &y, &x);
  y = y * static_cast<int>(p.stride[0]) - static_cast<int>(p.padding[0]);
  x = x * static_cast<int>(p.stride[1]) - static_cast<int>(p.padding[1]);
  image += channel * p.x_strides[1];
  for (int tap = first + threadIdx.x / t.pixels; tap < end; tap += kThreads / t.pixels) {
    const int row = y + tap / kernel_width * static_cast<int>(p.dilation[0]);
    const int column = x + tap % kernel_width * static_cast<int>(p.dilation[1]);
    const bool inside = exists && row >= 0 && row < p.size[0] && column >= 0 && column < p.size[1];
    inputs[(tap - first) * t.pixels + pixel] =
        inside ? __ldg(image + row * p.x_strides[2] + column * p.x_strides[3]) : 0.0f;
  }
  const float* columns = p.weight + (channel * (p.kernel[0] * p.kernel[1]) + first) * p.n_outputs + tile.first_output;
  for (int i = threadIdx.x; i < (end - first) * t.outputs; i += kThreads) {
    const int tap = i / t.outputs, output = i % t.outputs;
    weights[i] = output < tile.n_outputs ? __ldg(columns + tap * n_outputs + output) : 0.0f;
  }
}

__device__ void add_taps(const Tiling& t, const Tile& tile, int n, const float* inputs, const float* weights,
                         float (&added)[kOwn][kOwn]) {
  inputs += tile.pixel;
  weights += tile.lane;
#pragma unroll 3
  for (int tap = 0; tap < n; ++tap) {
    float input[kOwn], weight[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) input[i] = inputs[tap * t.pixels + i * (t.pixels / kOwn)];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) weight[k] = weights[tap * t.outputs + k * (t.outputs / kOwn)];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) added[i][k] = fmaf(input[i], weight[k], added[i][k]);
    }
  }
}

// Writes the tile's part of a row from sums [pixels, outputs + 1].
__device__ void write_row(const PermutationConv2dParams& p, const Tiling& t, const Tile& tile, const float* sums,
                          float* row) {
  const int window = static_cast<int>(p.pool * p.pool), pitch = t.outputs + 1;
  const int positions = static_cast<int>(p.out_size[0] * p.out_size[1]), first = tile.first_pixel / window;
  // Elements in the order of memory: `inner` of them lie side by side.
  const int inner = p.channels_last ? tile.n_outputs : tile.n_positions;
  const int outer = p.channels_last ? tile.n_positions : tile.n_outputs;
  const int inner_pitch = p.channels_last ? 1 : window * pitch, outer_pitch = p.channels_last ? window * pitch : 1;
  const int64_t stride = p.channels_last ? p.n_outputs : positions;
  row += p.channels_last ? first * p.n_outputs + tile.first_output
                         : static_cast<int64_t>(tile.first_output) * positions + first;
  const int step = kThreads % inner, big_step = kThreads / inner;
  for (int i = threadIdx.x % inner, j = threadIdx.x / inner; j < outer; j += big_step) {
    const float* from = sums + i * inner_pitch + j * outer_pitch;
    float value = activate(from[0], p.activation, p.negative_slope);
    for (int w = 1; w < window; ++w) {
      const float other = activate(from[w * pitch], p.activation, p.negative_slope);
      value = other > value || other != other ? other : value;
    }
    row[j * stride + i] = value;
    i += step;
    if (i >= inner) {
      i -= inner;
      ++j;
    }
  }
}

__global__ void __launch_bounds__(kThreads, 6) permutation_conv2d_kernel(PermutationConv2dParams p, Tiling t) {
  SHAPLEY_DYN_SHARED(float, shared);
  float* const sums = shared;  // [pixels, outputs + 1]
  float* const inputs = sums + t.pixels * (t.outputs + 1);
  float* const weights = inputs + t.chunk * t.pixels;
  const int n_players = static_cast<int>(p.n_players), positions = static_cast<int>(p.out_size[0] * p.out_size[1]);
  const int n_taps = static_cast<int>(p.kernel[0] * p.kernel[1]), window = static_cast<int>(p.pool * p.pool);
  const int in_walk = blockIdx.x % (t.runs * t.blocks_of_outputs);
  const int64_t walk = blockIdx.x / (t.runs * t.blocks_of_outputs), sample = p.sample_index[walk];
  const int32_t* players = p.permutations + walk * n_players;
  const float* image = p.x + sample * p.x_strides[0];
  Tile tile;
  tile.first_pixel = in_walk % t.runs * t.pixels;
  tile.first_output = in_walk / t.runs * t.outputs;
  tile.n_positions = min(t.pixels / window, positions - tile.first_pixel / window);
  tile.n_outputs = min(t.outputs, static_cast<int>(p.n_outputs) - tile.first_output);
  tile.lane = threadIdx.x % (t.outputs / kOwn);
  tile.pixel = threadIdx.x / (t.outputs / kOwn);

  const bool valid = walk_is_valid(p, sample, players);
  float own[kOwn][kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int pixel = tile.pixel + i * (t.pixels / kOwn);
    int y, x;
    locate(p, tile.first_pixel + pixel, &y, &x);
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int output = tile.lane + k * (t.outputs / kOwn);
      own[i][k] = valid ? 0.0f : NAN;
      if (!valid || pixel >= tile.n_positions * window || output >= tile.n_outputs) continue;
      if (p.bias) own[i][k] = p.bias[tile.first_output + output];
      if (p.residual) {
        own[i][k] += p.residual[sample * p.residual_strides[0] + (tile.first_output + output) * p.residual_strides[1] +
                                y * p.residual_strides[2] + x * p.residual_strides[3]];
      }
    }
  }

  float* row = p.out + walk * (n_players + 1) * p.n_outputs * positions;
  for (int j = 0; j <= n_players; ++j, row += p.n_outputs * positions) {
    float* to = sums + tile.pixel * (t.outputs + 1) + tile.lane;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) to[i * (t.pixels / kOwn) * (t.outputs + 1) + k * (t.outputs / kOwn)] = own[i][k];
    }
    const bool adds = valid && j < n_players;
    if (adds) read_taps(p, t, tile, image, players[j], 0, t.chunk, inputs, weights);
    __syncthreads();
    write_row(p, t, tile, sums, row);
    if (adds) {
      float added[kOwn][kOwn] = {};
      add_taps(t, tile, t.chunk, inputs, weights, added);
      for (int first = t.chunk; first < n_taps; first += t.chunk) {
        const int end = min(first + t.chunk, n_taps);
        __syncthreads();  // everyone is done with the chunk before
        read_taps(p, t, tile, image, players[j], first, end, inputs, weights);
        __syncthreads();
        add_taps(t, tile, end - first, inputs, weights, added);
      }
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
#pragma unroll
        for (int k = 0; k < kOwn; ++k) own[i][k] += added[i][k];
      }
    }
    __syncthreads();  // the row is written, and the taps are used
  }
}

// The tile that does a walk in the least time, by count of what a block does in a step.
Tiling choose_tiling(const PermutationConv2dParams& p) {
  const int64_t pixels_in_all = p.out_size[0] * p.out_size[1] * p.pool * p.pool;
  const int64_t n_taps = p.kernel[0] * p.kernel[1];
  Tiling best{};
  int64_t least = INT64_MAX;
  for (int pixels = kOwn; pixels <= kThreads; pixels *= 2) {
    Tiling t{};
    t.pixels = pixels;
    t.outputs = kThreads * kOwn * kOwn / pixels;
    const int64_t for_taps = kSharedBytes / 4 - pixels * (t.outputs + 1);
    t.chunk = static_cast<int>(min(n_taps, for_taps / (pixels + t.outputs)));
    t.runs = static_cast<int>((pixels_in_all + pixels - 1) / pixels);
    t.blocks_of_outputs = static_cast<int>((p.n_outputs + t.outputs - 1) / t.outputs);
    const int64_t moved = n_taps * (pixels + t.outputs) / kThreads, multiplied = n_taps * kOwn * kOwn;
    const int64_t cost = int64_t{t.runs} * t.blocks_of_outputs * (multiplied + 4 * moved + 4 * kOwn * kOwn);
    if (cost < least) {
      least = cost;
      best = t;
    }
  }
  return best;
}

}  // namespace

int launch_permutation_conv2d(const PermutationConv2dParams& p, void* stream) {
  const Tiling t = choose_tiling(p);
  const int64_t blocks = p.n_walks * int64_t{t.runs} * t.blocks_of_outputs;
  if (blocks > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  const size_t shared = sizeof(float) * (t.pixels * (t.outputs + 1) + t.chunk * (t.pixels + t.outputs));
  SHAPLEY_LAUNCH(permutation_conv2d_kernel, static_cast<unsigned>(blocks), kThreads, shared,
                 static_cast<cudaStream_t>(stream), p, t);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace shapley
