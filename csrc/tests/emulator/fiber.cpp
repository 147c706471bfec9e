// fiber.cpp: the switch between stacks. On x86-64 a few instructions; elsewhere ucontext, which makes a system call
// each time.
#include "fiber.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#ifdef SHAPLEY_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SHAPLEY_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace emulator {
namespace {

constexpr size_t kStackBytes = 256 * 1024;  // room for ASan's padded frames; pages that are not touched cost nothing

void* scheduler_context = nullptr;

#ifdef SHAPLEY_ASAN
void* scheduler_asan = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;
#endif
#ifdef SHAPLEY_TSAN
void* scheduler_tsan = nullptr;
#endif

// A stack with a page below it that must not be touched, so that an overflow is a fault.
char* new_stack() {
  const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* pages =
      mmap(nullptr, kStackBytes + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED || mprotect(pages, guard, PROT_NONE) != 0) {
    std::perror("emulator: no memory for a fiber's stack");
    std::abort();
  }
  return static_cast<char*>(pages) + guard;
}

#if defined(__x86_64__)

// Saves the callee-saved registers on the running stack and its pointer in *save, then continues on `load`.
extern "C" void shapley_emulator_switch(void** save, void* load);
asm(R"(
.text
.type shapley_emulator_switch, @function
shapley_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size shapley_emulator_switch, .-shapley_emulator_switch
)");

void* new_context(char* stack, void (*main)()) {
  auto* top = reinterpret_cast<uintptr_t*>(stack + kStackBytes);
  *--top = 0;  // main's return address: there is none
  *--top = reinterpret_cast<uintptr_t>(main);
  for (int saved = 0; saved < 6; ++saved) *--top = 0;
  return top;
}

void switch_context(void** save, void* load) {
  shapley_emulator_switch(save, load);
}

#else

void* new_context(char* stack, void (*main)()) {
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  makecontext(context, main, 0);
  return context;
}

void switch_context(void** save, void* load) {
  if (*save == nullptr) *save = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(*save), static_cast<ucontext_t*>(load));
}

#endif

}  // namespace

void Fiber::create(unsigned number, void (*main)()) {
  stack_ = new_stack();
  context_ = new_context(stack_, main);
#ifdef SHAPLEY_TSAN
  tsan_ = __tsan_create_fiber(0);
#endif
  char name[32];
  std::snprintf(name, sizeof(name), "CUDA thread %u", number);
  set_name(name);
}

void Fiber::set_name([[maybe_unused]] const char* name) {
#ifdef SHAPLEY_TSAN
  __tsan_set_fiber_name(tsan_, name);
#endif
}

void Fiber::resume() {
#ifdef SHAPLEY_ASAN
  __sanitizer_start_switch_fiber(&scheduler_asan, stack_, kStackBytes);
#endif
#ifdef SHAPLEY_TSAN
  scheduler_tsan = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_, __tsan_switch_to_fiber_no_sync);
#endif
  switch_context(&scheduler_context, context_);
#ifdef SHAPLEY_ASAN
  __sanitizer_finish_switch_fiber(scheduler_asan, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#ifdef SHAPLEY_ASAN
  __sanitizer_start_switch_fiber(&asan_, scheduler_stack, scheduler_stack_bytes);
#endif
#ifdef SHAPLEY_TSAN
  __tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  switch_context(&context_, scheduler_context);
#ifdef SHAPLEY_ASAN
  __sanitizer_finish_switch_fiber(asan_, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void Fiber::started() {
#ifdef SHAPLEY_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void hb_release([[maybe_unused]] void* place) {
#ifdef SHAPLEY_TSAN
  __tsan_release(place);
#endif
}

void hb_acquire([[maybe_unused]] void* place) {
#ifdef SHAPLEY_TSAN
  __tsan_acquire(place);
#endif
}

}  // namespace emulator
