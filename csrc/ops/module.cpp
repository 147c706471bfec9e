// The Python module shapley_cuda._C. Importing it registers torch.ops.shapley.*; it also tells how it was built.
#include <pybind11/pybind11.h>

#include "kernels/isa.h"

#ifndef SHAPLEY_WITH_CUDA
#define SHAPLEY_CUDA_VERSION ""
#define SHAPLEY_CUDA_ARCHS ""
#endif

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native ops of shapley_cuda; importing it registers torch.ops.shapley.*";
  module.attr("version") = SHAPLEY_VERSION;
  module.attr("torch_version") = SHAPLEY_TORCH_VERSION;
  module.attr("cuda_version") = SHAPLEY_CUDA_VERSION;  // empty without CUDA kernels
  module.attr("cuda_archs") = SHAPLEY_CUDA_ARCHS;
  module.def("cpu_isa", &shapley::cpu_isa_name, "The instruction set that the CPU kernels use here.");
}
