// checks.h: what every op asks of its arguments, and the one form of its errors:
//
//     shapley::<op>: <argument> must be <expected>, got <what came>
//
// STD_TORCH_CHECK is not used for these: it puts the path of the source file into the text.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <optional>
#include <string>

#include "kernels/activation.h"
#include "kernels/metric.h"

namespace shapley {

using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// An expected dimension as it is printed: "N" where any size will do, "N = 5" where only 5 will.
struct Dim {
  const char* letter;
  int64_t size = -1;
};

enum class Kind { kFloat, kFloat32, kFloat32Or64, kInt64, kInt32, kBool };  // kFloat: float32, bfloat16 or float16

std::string text(ScalarType dtype);
std::string text(const Tensor& tensor);  // "float32 [2, 3]"

class Check {
 public:
  // Every tensor argument has to be on this device: the CPU, or CUDA where that was built.
  Check(const char* op, const Device& device);
  Check(const char* op, const char* argument, const Tensor& like);

  void require(bool ok, const char* argument, const std::string& expected, const std::string& got) const;

  // Presence, device, dtype and shape of one argument; an absent optional passes.
  void tensor(const char* argument, const Tensor& tensor, Kind kind, std::initializer_list<Dim> shape) const;
  void tensor(const char* argument, const OptionalTensor& tensor, Kind kind, std::initializer_list<Dim> shape) const;
  void device(const char* argument, const Tensor& tensor) const;  // presence and device alone

  Metric metric(const std::string& name) const;
  Activation activation(const std::string& name) const;

  // Checked and contiguous targets for a metric: int64 classes [N] below n_outputs, or float values [N, n_outputs]
  // as float32. n_samples -1 takes any N.
  Tensor targets(const Tensor& targets, Metric metric, int64_t n_samples, int64_t n_outputs) const;

  // Values, on the CPU alone: on CUDA they would cost a synchronisation, and the kernels check bounds themselves.
  // int64 values of a contiguous tensor lie in [0, limit).
  void index(const char* argument, const Tensor& index, int64_t limit) const;
  // Every row of a contiguous int32 [R, C] holds each of 0 .. C-1 once.
  void permutations(const char* argument, const Tensor& permutations) const;

 private:
  const char* op_;
  Device device_;
};

// The values as contiguous float32: the tensor itself where it is that already.
Tensor as_float32(const Tensor& tensor);

OptionalTensor contiguous(const OptionalTensor& tensor);

// What Check::targets returned, as kernels take it.
Targets view_targets(const Tensor& targets);

// The data of an optional argument, or null.
template <class T>
const T* data_or_null(const OptionalTensor& tensor) {
  return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

}  // namespace shapley
