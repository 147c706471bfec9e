// activation_reference.h: activations in float64.
#pragma once

#include <cmath>

#include "kernels/activation.h"

namespace shapley::tests {

constexpr int kActivations = 9;
constexpr double kSlope = 0.125;  // leaky_relu's

inline const char* activation_name(Activation activation) {
  constexpr const char* kNames[kActivations] = {"none",      "relu", "relu6",   "leaky_relu", "silu",
                                                "hardswish", "gelu", "sigmoid", "tanh"};
  return kNames[static_cast<int>(activation)];
}

inline double activate(double x, Activation activation) {
  switch (activation) {
    case Activation::kRelu: return x < 0.0 ? 0.0 : x;
    case Activation::kRelu6: return x < 0.0 ? 0.0 : x > 6.0 ? 6.0 : x;
    case Activation::kLeakyRelu: return x > 0.0 ? x : kSlope * x;
    case Activation::kSilu: return x / (1.0 + std::exp(-x));
    case Activation::kHardswish: return x * (x < -3.0 ? 0.0 : x > 3.0 ? 6.0 : x + 3.0) / 6.0;
    case Activation::kGelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kSigmoid: return 1.0 / (1.0 + std::exp(-x));
    case Activation::kTanh: return std::tanh(x);
    default: return x;
  }
}

// Whether sums that are exact stay so.
inline bool is_exact(Activation activation) {
  return activation <= Activation::kLeakyRelu;
}

}  // namespace shapley::tests
