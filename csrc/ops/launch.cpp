#include "ops/launch.h"

#include <stdexcept>

#ifdef SHAPLEY_WITH_CUDA
#include <cuda_runtime_api.h>

// Lives in libtorch_cuda.so. Weak, so that this module also loads where torch has no CUDA.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif

// In torch from 2.13 on; weak, so that this module also loads where it is not.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace shapley {

void fail(const char* op, const std::string& message) {
  throw std::runtime_error(std::string("shapley::") + op + ": " + message);
}

void fail_again(const char* op, const std::exception& error) {
  std::string message = error.what();
  if (message.rfind("shapley::", 0) == 0) throw;
  const bool by_torch = message.find("API call failed") != std::string::npos;  // which says no more than where
  if (by_torch && torch_exception_get_what_without_backtrace != nullptr) {
    message = torch_exception_get_what_without_backtrace();
  }
  fail(op, message);
}

#ifdef SHAPLEY_WITH_CUDA

void require_cuda(const char* op) {
  if (aoti_torch_get_current_cuda_stream == nullptr) fail(op, "this torch has no CUDA");
  int n_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&n_devices);
  if (error != cudaSuccess) fail(op, std::string("no CUDA device can be used: ") + cudaGetErrorString(error));
}

CudaScope::CudaScope(const char* op, int32_t device_index) : op_(op), guard_(device_index) {
  check(cudaSetDevice(device_index));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream_));
}

void CudaScope::check(int error) const {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // the runtime keeps it, and the next launch would be blamed for it
  fail(op_, "CUDA error " + std::to_string(error) + ": " + cudaGetErrorString(static_cast<cudaError_t>(error)));
}

#else

void require_cuda(const char* op) {
  fail(op,
       "this build of shapley_cuda has no CUDA kernels; install it again where nvcc is on PATH, with SHAPLEY_CUDA=1");
}

CudaScope::CudaScope(const char* op, int32_t device_index) : op_(op), guard_(device_index) {
  require_cuda(op);
}

void CudaScope::check(int) const {}

#endif

}  // namespace shapley
