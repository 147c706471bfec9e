#include "kernels/permutation_conv2d.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <array>

#include "ops/head.h"

namespace shapley {
namespace {

using Pair = std::vector<int64_t>;

void check_pair(const Check& check, const char* argument, const Pair& values, int64_t least) {
  std::string got;
  bool ok = values.size() == 2;
  for (int64_t value : values) {
    ok = ok && value >= least && value <= INT32_MAX;
    got += (got.empty() ? "" : ", ") + std::to_string(value);
  }
  check.require(ok, argument, "two numbers in [" + std::to_string(least) + ", 2^31)", "[" + got + "]");
}

std::string pair_text(int64_t first, int64_t second) {
  return std::to_string(first) + " x " + std::to_string(second);
}

// Fills in the sizes, and leaves out what has to do with memory.
PermutationConv2dParams check_sizes(const Check& check, const Tensor& x, const Tensor& weight, const Pair& stride,
                                    const Pair& padding, const Pair& dilation, int64_t pool) {
  check.tensor("x", x, Kind::kFloat, {{"N"}, {"C"}, {"H"}, {"W"}});
  PermutationConv2dParams p{};
  p.n_samples = x.size(0);
  p.n_players = x.size(1);
  check.require(p.n_players > 0, "x", "of at least one player, [N, C, H, W] with C >= 1", text(x));
  check.tensor("weight", weight, Kind::kFloat, {{"K"}, {"C", p.n_players}, {"kh"}, {"kw"}});
  p.n_outputs = weight.size(0);
  check.require(weight.numel() > 0, "weight", "of at least one output and one tap", text(weight));
  check_pair(check, "stride", stride, 1);
  check_pair(check, "padding", padding, 0);
  check_pair(check, "dilation", dilation, 1);
  check.require(pool == 1 || pool == 2, "pool", "1 or 2", std::to_string(pool));
  p.pool = pool;
  int64_t padded[2], window[2], conv[2];
  for (int axis = 0; axis < 2; ++axis) {
    p.size[axis] = x.size(2 + axis);
    p.kernel[axis] = weight.size(2 + axis);
    p.stride[axis] = stride[axis];
    p.padding[axis] = padding[axis];
    p.dilation[axis] = dilation[axis];
    padded[axis] = p.size[axis] + 2 * padding[axis];
    window[axis] = (p.kernel[axis] - 1) * dilation[axis] + 1;
    conv[axis] = padded[axis] < window[axis] ? 0 : (padded[axis] - window[axis]) / stride[axis] + 1;
    p.out_size[axis] = conv[axis] / pool;
  }
  check.require(p.size[0] > 0 && p.size[1] > 0 && conv[0] > 0 && conv[1] > 0, "x",
                "at least as large, with padding, as the dilated kernel (" + pair_text(window[0], window[1]) + ")",
                text(x));
  check.require(padded[0] <= (1 << 30) / padded[1], "x", "of at most 2^30 positions with padding", text(x));
  check.require(p.out_size[0] > 0 && p.out_size[1] > 0, "pool", "no larger than the convolution's output",
                std::to_string(pool) + " for " + pair_text(conv[0], conv[1]));
  return p;
}

// The residual has the size of the convolution's output before pooling.
void check_residual(const Check& check, const OptionalTensor& residual, const PermutationConv2dParams& p) {
  int64_t conv[2];
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t window = (p.kernel[axis] - 1) * p.dilation[axis] + 1;
    conv[axis] = (p.size[axis] + 2 * p.padding[axis] - window) / p.stride[axis] + 1;
  }
  check.tensor("residual", residual, Kind::kFloat,
               {{"N", p.n_samples}, {"K", p.n_outputs}, {"H'", conv[0]}, {"W'", conv[1]}});
}

// As float32, with the strides that it has: images are not put into another order for the few of them that are used.
Tensor strided_float32(const Tensor& tensor, int64_t* strides) {
  const Tensor values =
      tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float);
  for (int axis = 0; axis < 4; ++axis) strides[axis] = values.stride(axis);
  return values;
}

// Fresh memory comes in pages that are cleared when first written to. In small ones that takes longer than the kernel.
void use_large_pages([[maybe_unused]] const Tensor& out) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096, kWorthwhile = uintptr_t{4} << 20;
  const uintptr_t bytes = static_cast<uintptr_t>(out.numel()) * sizeof(float);
  if (bytes < kWorthwhile) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(out.mutable_data_ptr()),
                  first = (begin + kPage - 1) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), (begin + bytes - first) / kPage * kPage, MADV_HUGEPAGE);  // a wish
#endif
}

void run_cpu(const Kernel<PermutationConv2dParams>& kernel, const Tensor& out, PermutationConv2dParams p) {
  constexpr int64_t kCachedFloats = int64_t{4} << 20;  // more does not stay in the caches until it is read
  constexpr int64_t kVector = 8;
  const Conv2dTile tile = conv2d_tile(p);
  p.stream = out.numel() > kCachedFloats && reinterpret_cast<uintptr_t>(p.out) % 64 == 0 && conv2d_can_stream(p, tile);
  const int64_t pixels = tile.size[0] * tile.size[1] * p.pool * p.pool;
  const int64_t task_cost = (p.n_players + 1) * (p.kernel[0] * p.kernel[1] + 2) * pixels * tile.outputs / kVector;
  use_large_pages(out);
  parallel_with_scratch(out, conv2d_tasks(p, tile), task_cost, 4 * conv2d_scratch(p, tile).total,
                        [&](int64_t begin, int64_t end, char* scratch) {
                          PermutationConv2dParams part = p;
                          part.scratch = reinterpret_cast<float*>(scratch);
                          kernel.cpu(part, begin, end);
                        });
}

Tensor permutation_conv2d(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const Tensor& permutations,
                          const Tensor& sample_index, Pair stride, Pair padding, Pair dilation,
                          const OptionalTensor& residual, std::string activation, double negative_slope, int64_t pool,
                          bool channels_last) {
  const Check check("permutation_conv2d", "x", x);
  PermutationConv2dParams p = check_sizes(check, x, weight, stride, padding, dilation, pool);
  check.tensor("bias", bias, Kind::kFloat, {{"K", p.n_outputs}});
  check_residual(check, residual, p);
  p.activation = check.activation(activation);
  p.negative_slope = static_cast<float>(negative_slope);
  p.channels_last = channels_last;
  check.tensor("permutations", permutations, Kind::kInt32, {{"R"}, {"C", p.n_players}});
  p.n_walks = permutations.size(0);
  check.tensor("sample_index", sample_index, Kind::kInt64, {{"R", p.n_walks}});
  const Tensor walks = torch::stable::contiguous(permutations), samples = torch::stable::contiguous(sample_index);
  check.permutations("permutations", walks);
  check.index("sample_index", samples, p.n_samples);

  const Tensor images = strided_float32(x, p.x_strides);
  const OptionalTensor added = residual ? OptionalTensor(strided_float32(*residual, p.residual_strides)) : std::nullopt;
  const OptionalTensor bias32 = bias ? OptionalTensor(as_float32(*bias)) : std::nullopt;
  Tensor weight32 = as_float32(weight);
  if (x.is_cuda()) {
    const int64_t columns = weight32.numel() / p.n_outputs;
    weight32 = torch::stable::contiguous(
        torch::stable::transpose(torch::stable::reshape(weight32, {p.n_outputs, columns}), 0, 1));
  }
  const int64_t height = p.out_size[0], width = p.out_size[1], rows = p.n_players + 1;
  Tensor out = channels_last ? torch::stable::new_empty(images, {p.n_walks, rows, height, width, p.n_outputs})
                             : torch::stable::new_empty(images, {p.n_walks, rows, p.n_outputs, height, width});
  p.x = images.const_data_ptr<float>();
  p.weight = weight32.const_data_ptr<float>();
  p.bias = data_or_null<float>(bias32);
  p.residual = data_or_null<float>(added);
  p.permutations = walks.const_data_ptr<int32_t>();
  p.sample_index = samples.const_data_ptr<int64_t>();
  p.out = out.mutable_data_ptr<float>();
  const auto kernel = SHAPLEY_KERNEL(permutation_conv2d);
  if (p.n_walks > 0) out.is_cuda() ? launch(kernel, out, p) : run_cpu(kernel, out, p);
  if (!channels_last) return out;
  return torch::stable::transpose(torch::stable::transpose(out, 3, 4), 2, 3);
}

}  // namespace

SHAPLEY_REGISTER(permutation_conv2d)

}  // namespace shapley
