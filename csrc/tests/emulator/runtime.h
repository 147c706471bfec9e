// runtime.h: the few functions of the CUDA runtime that launchers call. Everything is synchronous.
#pragma once

#include <cstddef>

using cudaStream_t = void*;

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
};

enum cudaFuncAttribute : int { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

enum cudaDeviceAttr : int {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

struct cudaFuncAttributes {
  size_t sharedSizeBytes;  // static shared memory: not known here, and set aside (see below)
  int ptxVersion;          // the virtual architecture that the code was made for
};

enum cudaMemcpyKind : int { cudaMemcpyDeviceToDevice = 3, cudaMemcpyDefault = 4 };

// As in CUDA: gives the last launch's error once, then forgets it.
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);

namespace emulator {

// CUDA's limits, 48 KiB without opting in and 227 KiB on sm_90, are for static and dynamic shared memory together. How
// much of it a kernel has as static is not known here, so 1 KiB is set aside.
constexpr size_t kDefaultDynamicShared = 47 * 1024;
constexpr size_t kLargestDynamicShared = 226 * 1024;

cudaError_t set_dynamic_shared_limit(const void* kernel, int bytes);
size_t dynamic_shared_limit(const void* kernel);
void set_last_error(cudaError_t error);

// How many multiprocessors the emulated device says it has (4 unless set): launchers size grids by it, and results must
// not depend on it.
void set_multiprocessors(int count);

// Which virtual architecture kernels were compiled for (90 unless set): launchers pick kernels by it.
void set_ptx_version(int version);
int ptx_version();

}  // namespace emulator

template <class... Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute, int value) {
  return emulator::set_dynamic_shared_limit(reinterpret_cast<const void*>(kernel), value);
}

template <class... Params>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)(Params...)) {
  attributes->sharedSizeBytes = 0;
  attributes->ptxVersion = emulator::ptx_version();
  return cudaSuccess;
}
