// Every op's schema. Implementations register themselves beside their code; fake kernels are in shapley_cuda/ops.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(shapley, library) {
  library.def("apply_masks(Tensor x, Tensor masks, Tensor? sample_index=None) -> Tensor");
  library.def(
      "exhaustive_eval(Tensor features, Tensor weight, Tensor? bias, Tensor targets, *, "
      "str metric=\"cross_entropy\") -> Tensor");
  library.def(
      "loss_difference(Tensor outputs, Tensor targets, *, Tensor? sample_index=None, Tensor? baseline=None, "
      "str metric=\"cross_entropy\") -> Tensor");
  library.def("marginals(Tensor values, Tensor permutations, *, int block=1) -> (Tensor, Tensor)");
  library.def(
      "masked_eval(Tensor features, Tensor masks, Tensor weight, Tensor? bias, Tensor targets, *, "
      "Tensor? sample_index=None, Tensor? baseline=None, str metric=\"cross_entropy\") -> Tensor");
  library.def(
      "permutation_conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor permutations, Tensor sample_index, "
      "int[2] stride=1, int[2] padding=0, int[2] dilation=1, *, Tensor? residual=None, str activation=\"none\", "
      "float negative_slope=0.01, int pool=1, bool channels_last=False) -> Tensor");
  library.def(
      "permutation_eval(Tensor features, Tensor permutations, Tensor weight, Tensor? bias, Tensor targets, "
      "Tensor sample_index, *, str metric=\"cross_entropy\") -> Tensor");
  library.def(
      "permutation_linear(Tensor features, Tensor permutations, Tensor weight, Tensor? bias, Tensor sample_index, "
      "*, Tensor? residual=None, str activation=\"none\", float negative_slope=0.01) -> Tensor");
  library.def(
      "sample_permutations(int seed, int first, int count, int n_players, *, bool antithetic=False, "
      "Device? device=None) -> Tensor");
}
