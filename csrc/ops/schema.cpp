// Every op's schema. Implementations register themselves beside their code; fake kernels are in shapley_cuda/ops.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(shapley, library) {
  library.def(
      "loss_difference(Tensor outputs, Tensor targets, *, Tensor? sample_index=None, Tensor? baseline=None, "
      "str metric=\"cross_entropy\") -> Tensor");
}
