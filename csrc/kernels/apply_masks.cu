#include "apply_masks.h"
#include "cuda_launch.h"

namespace shapley {
namespace {

constexpr int kThreads = 256;
constexpr int kVectorsPerThread = 4;
constexpr unsigned kPart = kThreads * kVectorsPerThread;  // vectors of a row that a block writes

// A vector is one channel's elements, so that one mask byte decides it.
template <class Vector>
__device__ Vector filled(uint64_t bits);
template <>
__device__ uint16_t filled<uint16_t>(uint64_t bits) {
  return static_cast<uint16_t>(bits);
}
template <>
__device__ uint32_t filled<uint32_t>(uint64_t bits) {
  return static_cast<uint32_t>(bits);
}
template <>
__device__ uint64_t filled<uint64_t>(uint64_t bits) {
  return bits;
}
template <>
__device__ uint4 filled<uint4>(uint64_t bits) {
  const unsigned low = static_cast<unsigned>(bits);
  const unsigned high = static_cast<unsigned>(bits >> 32);
  return make_uint4(low, high, low, high);
}

// per_channel: vectors of one channel in a row (channels first), 0 with channels last.
template <class Vector>
__global__ void __launch_bounds__(kThreads)
    apply_masks_kernel(ApplyMasksParams p, unsigned per_row, unsigned per_channel, unsigned parts) {
  const int64_t row = blockIdx.x / parts;
  const unsigned start = blockIdx.x % parts * kPart + threadIdx.x;
  const int64_t sample = p.sample_index ? p.sample_index[row] : row % p.n_samples;
  const bool* mask = p.masks + (p.sample_index ? row : row / p.n_samples) * p.n_players;
  const bool valid = sample >= 0 && sample < p.n_samples;
  const Vector* from = static_cast<const Vector*>(p.x) + (valid ? sample : 0) * per_row;
  Vector* to = static_cast<Vector*>(p.out) + row * per_row;
#pragma unroll
  for (int step = 0; step < kVectorsPerThread; ++step) {
    const unsigned i = start + step * kThreads;
    if (i >= per_row) return;
    const unsigned player = per_channel ? i / per_channel : i % static_cast<unsigned>(p.n_players);
    Vector value = filled<Vector>(valid ? 0 : p.nan_bits);
    if (valid && mask[player]) value = from[i];
    to[i] = value;
  }
}

template <class Vector>
int launch_as(const ApplyMasksParams& p, void* stream) {
  const int64_t bytes = static_cast<int64_t>(sizeof(Vector));
  const unsigned per_row = static_cast<unsigned>(p.n_players * p.n_positions * p.element_bytes / bytes);
  const unsigned per_channel = p.channels_last ? 0 : static_cast<unsigned>(p.n_positions * p.element_bytes / bytes);
  const unsigned parts = (per_row + kPart - 1) / kPart;
  if (p.n_rows * parts > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
  SHAPLEY_LAUNCH(apply_masks_kernel<Vector>, static_cast<unsigned>(p.n_rows * parts), kThreads, 0,
                 static_cast<cudaStream_t>(stream), p, per_row, per_channel, parts);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

int launch_apply_masks(const ApplyMasksParams& p, void* stream) {
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(p.x) | reinterpret_cast<uintptr_t>(p.out);
  // The widest vector that neither crosses a channel nor is misaligned.
  const uint64_t unit =
      addresses | static_cast<uint64_t>(p.channels_last ? p.element_bytes : p.n_positions * p.element_bytes);
  if (unit % 16 == 0) return launch_as<uint4>(p, stream);
  if (unit % 8 == 0) return launch_as<uint64_t>(p, stream);
  if (unit % 4 == 0) return launch_as<uint32_t>(p, stream);
  return launch_as<uint16_t>(p, stream);
}

}  // namespace shapley
