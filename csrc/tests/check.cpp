#include "check.h"

#include <cstdarg>
#include <cstring>
#include <vector>

namespace shapley::tests {
namespace {

struct Test {
  const char* name;
  TestFunction function;
};

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

constexpr long kMostShown = 20;
long passed = 0, failed = 0;
const char* running = "";

}  // namespace

bool register_test(const char* name, TestFunction function) {
  tests().push_back({name, function});
  return true;
}

bool check(bool ok, const char* what, const char* file, int line, const char* format, ...) {
  if (ok) {
    ++passed;
    return true;
  }
  if (++failed > kMostShown) return false;
  std::printf("FAILED %s (%s:%d): %s\n  ", running, file, line, what);
  std::va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::putchar('\n');
  std::fflush(stdout);
  return false;
}

int run_tests(const char* filter) {
  for (const Test& test : tests()) {
    if (filter != nullptr && std::strstr(test.name, filter) == nullptr) continue;
    running = test.name;
    const long before = passed + failed, failed_before = failed;
    test.function();
    std::printf("%-70s %7ld checks%s\n", test.name, passed + failed - before, failed > failed_before ? "  FAILED" : "");
    std::fflush(stdout);
    if (passed + failed == before) check(false, "the test checks something", __FILE__, __LINE__, "%s", test.name);
  }
  std::printf("%ld passed, %ld failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace shapley::tests
