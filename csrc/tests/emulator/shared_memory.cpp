// shared_memory.cpp: allocating and poisoning shared memory.
#include "shared_memory.h"

#include <link.h>

#include <cstdlib>
#include <cstring>

#include "launch.h"

namespace emulator {
namespace {

void* dynamic = nullptr;
size_t dynamic_bytes = 0;

#if !defined(SHAPLEY_ASAN) && !defined(SHAPLEY_TSAN)
// The program's thread_local variables: the kernels' static shared memory.
struct Section {
  void* begin = nullptr;
  size_t bytes = 0;
};

int find_section(dl_phdr_info* info, size_t, void* found) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type == PT_TLS) {
      *static_cast<Section*>(found) = {info->dlpi_tls_data, info->dlpi_phdr[i].p_memsz};
    }
  }
  return 1;  // the program itself comes first: libraries are not looked at
}

void poison_static_shared() {
  static const Section section = [] {
    Section found;
    dl_iterate_phdr(find_section, &found);
    return found;
  }();
  if (section.begin != nullptr) std::memset(section.begin, 0xff, section.bytes);
}
#else
void poison_static_shared() {}
#endif

}  // namespace

void allocate_dynamic_shared(size_t bytes) {
  dynamic = std::malloc(bytes);
  dynamic_bytes = bytes;
}

void free_dynamic_shared() {
  std::free(dynamic);
  dynamic = nullptr;
  dynamic_bytes = 0;
}

void poison_shared() {
  if (dynamic_bytes > 0) std::memset(dynamic, 0xff, dynamic_bytes);
  poison_static_shared();
}

void* dynamic_shared() {
  return dynamic;
}

}  // namespace emulator
