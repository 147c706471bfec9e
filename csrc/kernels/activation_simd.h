// activation_simd.h: activations on the CPU's vectors, within 1e-6 relative or 1e-7 of the exact value. A NaN stays.
#pragma once

#include "activation.h"
#include "simd.h"

namespace shapley {
namespace SHAPLEY_ISA {

// x where y is greater than x, else y: a NaN in y stays.
static inline VecF lesser(VecF x, VecF y) {
  return y > x ? x : y;
}

static inline VecF magnitude(VecF x) {
  return as_float(as_int(x) & 0x7fffffff);
}

static inline VecF copy_sign(VecF to, VecF from) {
  return as_float(as_int(to) | (as_int(from) & static_cast<int32_t>(0x80000000u)));
}

static inline VecF sigmoid(VecF x) {
  const VecF e = exp_nonpositive(-magnitude(x));
  return (x < splat(0.0f) ? e : splat(1.0f)) / (1.0f + e);
}

static inline VecF relu(VecF x) {
  return greater(splat(0.0f), x);
}

static inline VecF relu6(VecF x) {
  return lesser(splat(6.0f), relu(x));
}

static inline VecF gelu(VecF x) {
  // x times the normal distribution function, by erfc's rational Chebyshev fit (Press et al., Numerical Recipes in C,
  // section 6.2, erfcc), whose relative error is below 1.2e-7 everywhere.
  const VecF z = magnitude(x) * 0.70710678f;
  const VecF t = 1.0f / fma(splat(0.5f), z, splat(1.0f));
  VecF p = fma(splat(0.17087277f), t, splat(-0.82215223f));
  p = fma(p, t, splat(1.48851587f));
  p = fma(p, t, splat(-1.13520398f));
  p = fma(p, t, splat(0.27886807f));
  p = fma(p, t, splat(-0.18628806f));
  p = fma(p, t, splat(0.09678418f));
  p = fma(p, t, splat(0.37409196f));
  p = fma(p, t, splat(1.00002368f));
  p = fma(p, t, splat(-1.26551223f));
  const VecF tail = 0.5f * t * exp_nonpositive(fma(-z, z, p));  // of the normal distribution beyond |x|
  return x * (x < splat(0.0f) ? tail : 1.0f - tail);
}

static inline VecF tanh(VecF x) {
  const VecF size = magnitude(x), square = x * x;
  const VecF e = exp_nonpositive(-2.0f * size);
  const VecF far = copy_sign((1.0f - e) / (1.0f + e), x);
  // Near zero that form cancels: the polynomial of Cephes' tanhf.
  VecF p = fma(splat(-5.70498872745e-3f), square, splat(2.06390887954e-2f));
  p = fma(p, square, splat(-5.37397155531e-2f));
  p = fma(p, square, splat(1.33314422036e-1f));
  p = fma(p, square, splat(-3.33332819422e-1f));
  return size > splat(0.625f) ? far : fma(p * square, x, x);
}

// slope is leaky_relu's, for x below 0.
static inline VecF activate(VecF x, Activation activation, float slope) {
  switch (activation) {
    case Activation::kRelu: return relu(x);
    case Activation::kRelu6: return relu6(x);
    case Activation::kLeakyRelu: return x > splat(0.0f) ? x : x * slope;
    case Activation::kSilu: return x * (x < splat(-88.0f) ? splat(0.0f) : sigmoid(x));  // which does not go to 0
    case Activation::kHardswish: return x * relu6(x + 3.0f) / 6.0f;
    case Activation::kGelu: return gelu(x);
    case Activation::kSigmoid: return sigmoid(x);
    case Activation::kTanh: return tanh(x);
    default: return x;
  }
}

// Calls body(function), where function(VecF) is the activation. What follows most layers decides nothing per vector.
template <class Body>
static inline void with_activation(Activation activation, float slope, const Body& body) {
  switch (activation) {
    case Activation::kNone: return body([](VecF x) { return x; });
    case Activation::kRelu: return body([](VecF x) { return relu(x); });
    default: return body([=](VecF x) { return activate(x, activation, slope); });
  }
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
