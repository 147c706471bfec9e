#include "kernels/apply_masks.h"

#include <vector>

#include "ops/checks.h"
#include "ops/launch.h"

namespace shapley {
namespace {

using torch::headeronly::MemoryFormat;

bool is_channels_last(const Tensor& x) {
  if (x.dim() != 4 || x.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int axis : {1, 3, 2, 0}) {
    if (x.size(axis) != 1 && x.stride(axis) != expected) return false;  // as torch has it
    expected *= x.size(axis);
  }
  return true;
}

// The quiet NaN of a dtype, repeated to fill 8 bytes.
uint64_t nan_bits(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half: return 0x7E007E007E007E00u;
    case ScalarType::BFloat16: return 0x7FC07FC07FC07FC0u;
    case ScalarType::Float: return 0x7FC000007FC00000u;
    default: return 0x7FF8000000000000u;
  }
}

Tensor apply_masks(const Tensor& x, const Tensor& masks, const OptionalTensor& sample_index) {
  const Check check("apply_masks", "x", x);
  const ScalarType dtype = x.scalar_type();
  const bool known = dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half;
  check.require(known && x.dim() >= 2, "x", "float32, float64, bfloat16 or float16 [N, C, ...]", text(x));
  const int64_t n_samples = x.size(0);
  const int64_t n_players = x.size(1);
  check.require(n_players >= 1, "x", "of at least one player, [N, C, ...] with C >= 1", text(x));
  check.tensor("masks", masks, Kind::kBool, {{"M"}, {"C", n_players}});
  const int64_t n_masks = masks.size(0);
  check.tensor("sample_index", sample_index, Kind::kInt64, {{"M", n_masks}});

  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  int64_t n_positions = 1;
  for (size_t axis = 2; axis < shape.size(); ++axis) n_positions *= shape[axis];
  check.require(n_players * n_positions <= INT32_MAX, "x", "of fewer than 2^31 elements per sample", text(x));
  shape[0] = sample_index ? n_masks : n_masks * n_samples;

  const bool channels_last = is_channels_last(x);
  const MemoryFormat format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  const Tensor data = torch::stable::contiguous(x, format);
  const Tensor rows = torch::stable::contiguous(masks);
  const OptionalTensor samples = contiguous(sample_index);
  if (samples) check.index("sample_index", *samples, n_samples);

  Tensor out = torch::stable::empty(shape, dtype, std::nullopt, x.device(), std::nullopt, format);
  const ApplyMasksParams params{data.const_data_ptr(),
                                rows.const_data_ptr<bool>(),
                                data_or_null<int64_t>(samples),
                                out.mutable_data_ptr(),
                                shape[0],
                                n_samples,
                                n_players,
                                n_positions,
                                static_cast<int>(x.element_size()),
                                nan_bits(dtype),
                                channels_last};
  const int64_t n_rows = n_positions == 0 ? 0 : shape[0];
  run(SHAPLEY_KERNEL(apply_masks), out, params, n_rows, n_players * n_positions / 4);
  return out;
}

}  // namespace

SHAPLEY_REGISTER(apply_masks)

}  // namespace shapley
