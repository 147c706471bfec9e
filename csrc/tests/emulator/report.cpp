// report.cpp: what the emulator says before it ends the program.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "scheduler.h"

namespace emulator {
namespace {

void print_place() {
  if (block.kernel == nullptr) return;
  std::fprintf(stderr, "  in kernel %s, block (%u,%u,%u)", block.kernel, blockIdx.x, blockIdx.y, blockIdx.z);
  if (block.in_thread) {
    const uint3& index = running_thread().index;
    std::fprintf(stderr, ", thread (%u,%u,%u)", index.x, index.y, index.z);
  }
  std::fputc('\n', stderr);
}

bool waits_alike(const Thread& a, const Thread& b) {
  if (a.state != b.state || a.site.line != b.site.line || a.site.file != b.site.file) return false;
  return a.state != State::kAtCollective || a.mask == b.mask;
}

// One line for each place where threads wait, with the first thread that waits there.
void print_waiting() {
  for (unsigned i = 0; i < block.n_threads; ++i) {
    const Thread& thread = block.threads[i];
    if (thread.state != State::kAtBarrier && thread.state != State::kAtCollective) continue;
    unsigned alike = 0, first = block.n_threads;
    for (unsigned j = 0; j < block.n_threads; ++j) {
      if (!waits_alike(thread, block.threads[j])) continue;
      ++alike;
      if (j < first) first = j;
    }
    if (first != i) continue;
    std::fprintf(stderr, "  %u threads, first (%u,%u,%u), wait at %s:%d", alike, thread.index.x, thread.index.y,
                 thread.index.z, thread.site.file, thread.site.line);
    if (thread.state == State::kAtCollective) std::fprintf(stderr, " for lanes 0x%08x", thread.mask);
    std::fputc('\n', stderr);
  }
}

}  // namespace

void fail(const char* format, ...) {
  std::fputs("emulator: ", stderr);
  std::va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  print_place();
  print_waiting();
  std::abort();
}

void fail_deadlock() {
  fail("deadlock: no thread can go on");
}

}  // namespace emulator
