// launch.h: how an op runs its kernel: over threads on the CPU, on the current stream on CUDA.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <exception>
#include <string>
#include <type_traits>

#include "kernels/isa.h"

namespace shapley {

using torch::stable::Tensor;

// Calls body(begin, end) over parts of [0, tasks) on torch's threads. `task_cost` is roughly the number of simple
// operations in a task; parts are made long enough to pay for a thread. body must not throw.
template <class Body>
void parallel(int64_t tasks, int64_t task_cost, const Body& body) {
  constexpr int64_t kPartCost = 32768;
  if (tasks > 0)
    torch::stable::parallel_for(0, tasks, std::max<int64_t>(1, kPartCost / std::max<int64_t>(1, task_cost)), body);
}

// Throws "shapley::<op>: <message>".
[[noreturn]] void fail(const char* op, const std::string& message);

// Called while an error is handled: throws it again, and names the op where it does not, as errors of torch do not.
[[noreturn]] void fail_again(const char* op, const std::exception& error);

// Throws, with what to do about it, where op cannot run on CUDA: this build or torch is without, or there is no GPU.
void require_cuda(const char* op);

// Makes the device of a tensor current for its lifetime, for torch and for this module's own copy of the CUDA
// runtime, and calls launchers on that device's current stream.
class CudaScope {
 public:
  CudaScope(const char* op, int32_t device_index);
  void* stream() const { return stream_; }
  void check(int error) const;  // cudaError_t as int

 private:
  const char* op_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

// One op's kernel on both devices. `cuda` is null in a build without CUDA.
template <class Params>
struct Kernel {
  const char* op;
  void (*cpu)(const Params& params, int64_t begin, int64_t end);
  int (*cuda)(const Params& params, void* stream);
};

template <class Params>
Kernel<Params> kernel_of(const char* op, void (*cpu)(const Params&, int64_t, int64_t),
                         int (*cuda)(const std::common_type_t<Params>&, void*)) {
  return {op, cpu, cuda};
}

template <class Params>
void launch(const Kernel<Params>& kernel, const Tensor& like, const Params& params) {
  const CudaScope scope(kernel.op, like.get_device_index());
  scope.check(kernel.cuda(params, scope.stream()));
}

// Runs `tasks` independent tasks on the device of `like`.
template <class Params>
void run(const Kernel<Params>& kernel, const Tensor& like, const Params& params, int64_t tasks, int64_t task_cost) {
  if (tasks == 0) return;
  if (like.is_cuda()) return launch(kernel, like, params);
  parallel(tasks, task_cost, [&](int64_t begin, int64_t end) { kernel.cpu(params, begin, end); });
}

// A function as it is registered: every error names the op.
template <const char* op, auto function>
struct Named;

template <const char* op, class Result, class... Args, Result (*function)(Args...)>
struct Named<op, function> {
  static Result call(Args... args) {
    try {
      return function(args...);
    } catch (const std::exception& error) {
      fail_again(op, error);
    }
  }
};

}  // namespace shapley

#define SHAPLEY_BOX(op) TORCH_BOX((&Named<op##_name, &op>::call))
#define SHAPLEY_NAME(op) static constexpr char op##_name[] = #op;

#ifdef SHAPLEY_WITH_CUDA
#define SHAPLEY_KERNEL(op) kernel_of(#op, &op##_cpu, &launch_##op)
#else
#define SHAPLEY_KERNEL(op) kernel_of(#op, &op##_cpu, nullptr)
#endif

// Registers op's one implementation for both devices: it validates and allocates alike and branches in run().
// Without CUDA kernels it is registered all the same, so that CUDA tensors get an error that says what to do.
#define SHAPLEY_REGISTER(op)                          \
  SHAPLEY_NAME(op)                                    \
  STABLE_TORCH_LIBRARY_IMPL(shapley, CPU, library) {  \
    library.impl(#op, SHAPLEY_BOX(op));               \
  }                                                   \
  STABLE_TORCH_LIBRARY_IMPL(shapley, CUDA, library) { \
    library.impl(#op, SHAPLEY_BOX(op));               \
  }
