// launch.h: the launch of a kernel on the emulated device.
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>

#include "runtime.h"
#include "types.h"

namespace emulator {

// The running block's dynamic shared memory, 16-byte aligned, exactly as long as the launch asked for.
void* dynamic_shared();

// Runs every block of the grid, or, where CUDA would refuse the launch, runs nothing and sets the last error. `thread`
// is called once for each thread with `arguments`.
void run_grid(const char* name, const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
              void (*thread)(const void*), const void* arguments);

template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            Args&&... args) {
  static_assert((std::is_trivially_copyable_v<Params> && ...), "kernel parameters are copied to the device bytewise");
  struct Call {
    void (*kernel)(Params...);
    std::tuple<Params...> arguments;
  } call{kernel, std::tuple<Params...>(static_cast<Params>(args)...)};
  run_grid(
      name, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
      [](const void* context) {
        const Call& c = *static_cast<const Call*>(context);
        std::apply(c.kernel, c.arguments);
      },
      &call);
}

}  // namespace emulator

#define SHAPLEY_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  emulator::launch(#kernel, (kernel), (grid), (block), (shared_bytes), (stream), __VA_ARGS__)

#define SHAPLEY_DYN_SHARED(T, name) T* name = reinterpret_cast<T*>(emulator::dynamic_shared())
