#include "ops/checks.h"

#include <atomic>
#include <iterator>
#include <limits>
#include <vector>

#include "ops/launch.h"

namespace shapley {
namespace {

const char* text(Kind kind) {
  switch (kind) {
    case Kind::kFloat: return "float32, bfloat16 or float16";
    case Kind::kFloat32: return "float32";
    case Kind::kFloat32Or64: return "float32 or float64";
    case Kind::kInt64: return "int64";
    case Kind::kInt32: return "int32";
    default: return "bool";
  }
}

bool matches(Kind kind, ScalarType dtype) {
  switch (kind) {
    case Kind::kFloat: return dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
    case Kind::kFloat32: return dtype == ScalarType::Float;
    case Kind::kFloat32Or64: return dtype == ScalarType::Float || dtype == ScalarType::Double;
    case Kind::kInt64: return dtype == ScalarType::Long;
    case Kind::kInt32: return dtype == ScalarType::Int;
    default: return dtype == ScalarType::Bool;
  }
}

bool matches(std::initializer_list<Dim> shape, const Tensor& tensor) {
  if (tensor.dim() != static_cast<int64_t>(shape.size())) return false;
  int64_t axis = 0;
  for (const Dim& dim : shape) {
    if (dim.size >= 0 && dim.size != tensor.size(axis)) return false;
    ++axis;
  }
  return true;
}

std::string text(std::initializer_list<Dim> shape) {
  std::string out;
  for (const Dim& dim : shape) {
    out += out.empty() ? "[" : ", ";
    out += dim.letter;
    if (dim.size >= 0) out += " = " + std::to_string(dim.size);
  }
  return out + "]";
}

std::string text(const Device& device) {
  if (device.is_cpu()) return "cpu";
  if (!device.is_cuda()) return "another device";
  return "cuda" + (device.has_index() ? ":" + std::to_string(device.index()) : "");
}

// None passes for a tensor in a call from Python; here it is one that is not defined.
Device device_of(const char* op, const char* argument, const Tensor& tensor) {
  if (!tensor.defined()) fail(op, std::string(argument) + " must be a tensor, got None");
  return tensor.device();
}

// The smallest row for which `bad` holds, or -1: the same whatever the number of threads.
template <class Bad>
int64_t first_bad(int64_t rows, int64_t row_cost, const Bad& bad) {
  std::atomic<int64_t> first{std::numeric_limits<int64_t>::max()};
  parallel(rows, row_cost, [&](int64_t begin, int64_t end) {
    const int64_t row = bad(begin, end);
    int64_t seen = first.load();
    while (row >= 0 && row < seen && !first.compare_exchange_weak(seen, row)) {
    }
  });
  return first.load() == std::numeric_limits<int64_t>::max() ? -1 : first.load();
}

}  // namespace

std::string text(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Long: return "int64";
    case ScalarType::Int: return "int32";
    case ScalarType::Short: return "int16";
    case ScalarType::Char: return "int8";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Bool: return "bool";
    default: return torch::headeronly::toString(dtype);
  }
}

std::string text(const Tensor& tensor) {
  std::string out = text(tensor.scalar_type()) + " [";
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
    out += (axis ? ", " : "") + std::to_string(tensor.size(axis));
  }
  return out + "]";
}

Check::Check(const char* op, const Device& device) : op_(op), device_(device) {
  require(device.is_cpu() || device.is_cuda(), "device", "cpu or cuda", text(device));
  if (device.is_cuda()) require_cuda(op);
}

Check::Check(const char* op, const char* argument, const Tensor& like) : Check(op, device_of(op, argument, like)) {}

void Check::require(bool ok, const char* argument, const std::string& expected, const std::string& got) const {
  if (!ok) fail(op_, std::string(argument) + " must be " + expected + ", got " + got);
}

void Check::device(const char* argument, const Tensor& tensor) const {
  const Device device = device_of(op_, argument, tensor);
  if (device.is_cpu() && device_.is_cpu()) return;  // with or without index 0
  if (device != device_) require(false, argument, "on " + text(device_), text(device));
}

void Check::tensor(const char* argument, const Tensor& tensor, Kind kind, std::initializer_list<Dim> shape) const {
  device(argument, tensor);
  if (!matches(kind, tensor.scalar_type()) || !matches(shape, tensor)) {
    require(false, argument, std::string(text(kind)) + " " + text(shape), text(tensor));
  }
}

void Check::tensor(const char* argument, const OptionalTensor& tensor, Kind kind,
                   std::initializer_list<Dim> shape) const {
  if (tensor) this->tensor(argument, *tensor, kind, shape);
}

Metric Check::metric(const std::string& name) const {
  if (name == "cross_entropy") return Metric::kCrossEntropy;
  if (name == "accuracy") return Metric::kAccuracy;
  require(name == "squared_error", "metric", "cross_entropy, accuracy or squared_error", "'" + name + "'");
  return Metric::kSquaredError;
}

Activation Check::activation(const std::string& name) const {
  constexpr const char* kNames[] = {"none",      "relu", "relu6",   "leaky_relu", "silu",
                                    "hardswish", "gelu", "sigmoid", "tanh"};  // in the order of Activation
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name == kNames[i]) return static_cast<Activation>(i);
  }
  require(false, "activation", "none, relu, relu6, leaky_relu, silu, hardswish, gelu, sigmoid or tanh",
          "'" + name + "'");
  return Activation::kNone;
}

Tensor Check::targets(const Tensor& targets, Metric metric, int64_t n_samples, int64_t n_outputs) const {
  if (metric == Metric::kSquaredError) {
    tensor("targets", targets, Kind::kFloat, {{"N", n_samples}, {"K", n_outputs}});
    return as_float32(targets);
  }
  tensor("targets", targets, Kind::kInt64, {{"N", n_samples}});
  const Tensor classes = torch::stable::contiguous(targets);
  index("targets", classes, n_outputs);
  return classes;
}

void Check::index(const char* argument, const Tensor& index, int64_t limit) const {
  if (!device_.is_cpu()) return;
  const int64_t* values = index.const_data_ptr<int64_t>();
  const int64_t bad = first_bad(index.numel(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (values[i] < 0 || values[i] >= limit) return i;
    }
    return int64_t{-1};
  });
  if (bad >= 0) {
    require(false, argument, "in [0, " + std::to_string(limit) + ")",
            std::to_string(values[bad]) + " at position " + std::to_string(bad));
  }
}

void Check::permutations(const char* argument, const Tensor& permutations) const {
  if (!device_.is_cpu()) return;
  const int32_t* players = permutations.const_data_ptr<int32_t>();
  const int64_t n_players = permutations.size(1);
  const int64_t bad = first_bad(permutations.size(0), n_players, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> seen(n_players, -1);  // the last row in which a player was met
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t j = 0; j < n_players; ++j) {
        const int64_t player = players[row * n_players + j];
        if (player < 0 || player >= n_players || seen[player] == row) return row;
        seen[player] = row;
      }
    }
    return int64_t{-1};
  });
  if (bad >= 0) {
    require(false, argument, "rows that hold each of 0 .. " + std::to_string(n_players - 1) + " once",
            "another at row " + std::to_string(bad));
  }
}

Tensor as_float32(const Tensor& tensor) {
  const Tensor converted =
      tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float);
  return torch::stable::contiguous(converted);
}

OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(torch::stable::contiguous(*tensor)) : std::nullopt;
}

Targets view_targets(const Tensor& targets) {
  if (targets.scalar_type() == ScalarType::Long) return {targets.const_data_ptr<int64_t>(), nullptr};
  return {nullptr, targets.const_data_ptr<float>()};
}

}  // namespace shapley
