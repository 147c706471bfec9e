// activation.cuh: activations on the device. The CPU's are in activation_simd.h.
#pragma once

#include "activation.h"
#include "cuda_launch.h"

namespace shapley {
namespace {

// slope is leaky_relu's, for x below 0.
__device__ __forceinline__ float activate(float x, Activation activation, float slope) {
  // Comparisons are such that a NaN stays. The two common ones take no jump.
  if (activation <= Activation::kRelu) return activation == Activation::kRelu && x < 0.0f ? 0.0f : x;
  switch (activation) {
    case Activation::kRelu6: return x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x;
    case Activation::kLeakyRelu: return x > 0.0f ? x : x * slope;
    case Activation::kSilu: return x / (1.0f + expf(-x));
    case Activation::kHardswish: return x * (x < -3.0f ? 0.0f : x > 3.0f ? 6.0f : x + 3.0f) / 6.0f;
    case Activation::kGelu: return 0.5f * x * erfcf(-0.70710678f * x);
    case Activation::kSigmoid: return 1.0f / (1.0f + expf(-x));
    case Activation::kTanh: return tanhf(x);
    default: return x;
  }
}

}  // namespace
}  // namespace shapley
