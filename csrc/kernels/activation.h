// activation.h: the functions that a network applies to each value of a layer's output.
#pragma once

namespace shapley {

enum class Activation : int { kNone, kRelu, kRelu6, kLeakyRelu, kSilu, kHardswish, kGelu, kSigmoid, kTanh };

}  // namespace shapley
