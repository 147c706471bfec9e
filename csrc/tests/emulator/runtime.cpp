// runtime.cpp: the emulated device's properties, limits and last error.
#include "runtime.h"

#include <cstdio>
#include <cstring>

namespace emulator {
namespace {

struct Limit {
  const void* kernel;
  size_t bytes;
};

constexpr int kMostKernels = 256;
Limit limits[kMostKernels];
int n_limits = 0;
int multiprocessors = 4;
int virtual_architecture = 90;
cudaError_t last_error = cudaSuccess;

}  // namespace

cudaError_t set_dynamic_shared_limit(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > kLargestDynamicShared) return cudaErrorInvalidValue;
  for (int i = 0; i < n_limits; ++i) {
    if (limits[i].kernel == kernel) {
      limits[i].bytes = static_cast<size_t>(bytes);
      return cudaSuccess;
    }
  }
  if (n_limits == kMostKernels) return cudaErrorInvalidValue;
  limits[n_limits++] = {kernel, static_cast<size_t>(bytes)};
  return cudaSuccess;
}

size_t dynamic_shared_limit(const void* kernel) {
  for (int i = 0; i < n_limits; ++i) {
    if (limits[i].kernel == kernel && limits[i].bytes > kDefaultDynamicShared) return limits[i].bytes;
  }
  return kDefaultDynamicShared;
}

void set_last_error(cudaError_t error) {
  last_error = error;
}
void set_multiprocessors(int count) {
  multiprocessors = count;
}
void set_ptx_version(int version) {
  virtual_architecture = version;
}
int ptx_version() {
  return virtual_architecture;
}

}  // namespace emulator

cudaError_t cudaGetLastError() {
  const cudaError_t error = emulator::last_error;
  emulator::last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() {
  return emulator::last_error;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    default: return "invalid argument";
  }
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = emulator::multiprocessors; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(emulator::kLargestDynamicShared);
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t) {
  std::memset(to, byte, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
