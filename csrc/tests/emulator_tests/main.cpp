// The emulator's own tests. `emulator_tests --planted NAME bug|clean` runs one planted kernel in a process of its own,
// because what finds a bug ends the process.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "../check.h"
#include "planted.h"

namespace {

using shapley::tests::kPlanted;
using shapley::tests::kPlantedCount;
using shapley::tests::Planted;

struct Outcome {
  int status;
  std::string text;
};

Outcome run_planted(const char* name, const char* variant) {
  char self[4096];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
  self[length > 0 ? length : 0] = '\0';
  const std::string command = "'" + std::string(self) + "' --planted " + name + " " + variant + " 2>&1";
  Outcome outcome{-1, ""};
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  char buffer[4096];
  size_t n;
  while ((n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0) outcome.text.append(buffer, n);
  outcome.status = pclose(pipe);
  return outcome;
}

const char* expected_text(const Planted& planted) {
#if defined(__SANITIZE_ADDRESS__)
  return planted.asan;
#elif defined(__SANITIZE_THREAD__)
  return planted.tsan;
#else
  return planted.plain;
#endif
}

TEST(planted_bugs_are_reported_by_the_build_that_can) {
  int n_expected = 0;
  for (int i = 0; i < kPlantedCount; ++i) {
    const Planted& planted = kPlanted[i];
    const char* expected = expected_text(planted);
    if (expected == nullptr) continue;
    ++n_expected;
    const Outcome outcome = run_planted(planted.name, "bug");
    CHECK(outcome.status != 0, "%s went unnoticed", planted.name);
    CHECK(outcome.text.find(expected) != std::string::npos, "%s: no '%s' in:\n%s", planted.name, expected,
          outcome.text.c_str());
  }
  CHECK(n_expected >= 6, "%d", n_expected);
}

TEST(planted_kernels_without_their_bug_run_clean) {
  for (int i = 0; i < kPlantedCount; ++i) {
    const Outcome outcome = run_planted(kPlanted[i].name, "clean");
    const bool silent = outcome.text.find("emulator:") == std::string::npos;
    CHECK(outcome.status == 0 && silent, "%s: status %d, printed:\n%s", kPlanted[i].name, outcome.status,
          outcome.text.c_str());
  }
}

int run_one(const char* name, bool bug) {
  for (int i = 0; i < kPlantedCount; ++i) {
    if (std::strcmp(kPlanted[i].name, name) != 0) continue;
    kPlanted[i].run(bug);
    return 0;
  }
  std::fprintf(stderr, "no planted kernel %s\n", name);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "--planted") == 0) return run_one(argv[2], std::strcmp(argv[3], "bug") == 0);
  return shapley::tests::run_tests(argc > 1 ? argv[1] : nullptr);
}
