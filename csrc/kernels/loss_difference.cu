#include "cuda_launch.h"
#include "loss_difference.h"

namespace shapley {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / 32;
constexpr unsigned kFullWarp = 0xffffffffu;

__device__ float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kFullWarp, value, offset);
  return value;
}

__device__ float warp_cross_entropy(const float* z, int64_t n, int64_t target, int lane) {
  float greatest = -INFINITY;
  for (int64_t k = lane; k < n; k += 32) greatest = fmaxf(greatest, z[k]);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    greatest = fmaxf(greatest, __shfl_xor_sync(kFullWarp, greatest, offset));
  }
  float sum = 0.0f;
  for (int64_t k = lane; k < n; k += 32) sum += expf(z[k] - greatest);
  return logf(warp_sum(sum)) + (greatest - z[target]);
}

__device__ float warp_accuracy(const float* z, int64_t n, int64_t target, int lane) {
  const float chosen = z[target];
  unsigned beaten = 0;
  unsigned nan = 0;
  for (int64_t k = lane; k < n; k += 32) {
    beaten |= k < target ? z[k] >= chosen : z[k] > chosen;
    nan |= z[k] != z[k];
  }
  beaten = __ballot_sync(kFullWarp, beaten != 0);
  nan = __ballot_sync(kFullWarp, nan != 0);
  return nan ? NAN : beaten ? 0.0f : 1.0f;
}

__device__ float warp_squared_error(const float* z, const float* target, int64_t n, int lane) {
  float sum = 0.0f;
  for (int64_t k = lane; k < n; k += 32) {
    const float d = z[k] - target[k];
    sum = fmaf(d, d, sum);
  }
  return warp_sum(sum) / static_cast<float>(n);
}

__global__ void __launch_bounds__(kThreads) loss_difference_kernel(LossDifferenceParams p) {
  const int lane = threadIdx.x & 31;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + (threadIdx.x >> 5);
  if (row >= p.n_rows) return;
  const float* z = p.outputs + row * p.n_outputs;
  const int64_t sample = p.sample_index ? p.sample_index[row] : row;
  bool valid = sample >= 0 && sample < p.n_samples;
  int64_t target = 0;
  if (valid && p.targets.classes) {
    target = p.targets.classes[sample];
    valid = target >= 0 && target < p.n_outputs;
  }
  float value = NAN;
  if (valid) {
    switch (p.metric) {
      case Metric::kCrossEntropy: value = warp_cross_entropy(z, p.n_outputs, target, lane); break;
      case Metric::kAccuracy: value = warp_accuracy(z, p.n_outputs, target, lane); break;
      default: value = warp_squared_error(z, p.targets.values + sample * p.n_outputs, p.n_outputs, lane);
    }
    if (p.baseline) value -= p.baseline[sample];
  }
  if (lane == 0) p.out[row] = value;
}

}  // namespace

int launch_loss_difference(const LossDifferenceParams& p, void* stream) {
  const int64_t blocks = (p.n_rows + kRowsPerBlock - 1) / kRowsPerBlock;
  SHAPLEY_LAUNCH(loss_difference_kernel, static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream),
                 p);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace shapley
