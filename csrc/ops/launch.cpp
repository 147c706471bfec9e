#include "ops/launch.h"

#include <stdexcept>

#ifdef SHAPLEY_WITH_CUDA
#include <cuda_runtime_api.h>

// Lives in libtorch_cuda.so. Weak, so that this module also loads where torch has no CUDA.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif

namespace shapley {

std::string no_cuda_message() {
  return "this build of shapley_cuda has no CUDA kernels; install it again where nvcc is on PATH, with SHAPLEY_CUDA=1";
}

#ifdef SHAPLEY_WITH_CUDA

CudaScope::CudaScope(const char* op, int32_t device_index) : op_(op), guard_(device_index) {
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    throw std::runtime_error(std::string("shapley::") + op + ": this torch has no CUDA");
  }
  check(cudaSetDevice(device_index));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream_));
}

void CudaScope::check(int error) const {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("shapley::") + op_ + ": CUDA error " + std::to_string(error) + ": " +
                           cudaGetErrorString(static_cast<cudaError_t>(error)));
}

#else

CudaScope::CudaScope(const char* op, int32_t device_index) : op_(op), guard_(device_index) {
  throw std::runtime_error(std::string("shapley::") + op + ": " + no_cuda_message());
}

void CudaScope::check(int) const {}

#endif

}  // namespace shapley
