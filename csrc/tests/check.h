// check.h: tests that register themselves, and checks that say what they saw.
#pragma once

#include <cstdio>

namespace shapley::tests {

using TestFunction = void (*)();

// A test's name begins with its subject: `TEST(shuffle_up_partial_mask_keeps_own_value)`.
bool register_test(const char* name, TestFunction function);

// Counts, and prints what failed. The text in printf form says which case it was.
bool check(bool ok, const char* what, const char* file, int line, const char* format, ...)
    __attribute__((format(printf, 5, 6)));

// Runs the tests whose name contains `filter` (null: all), prints "N passed, N failed" and gives the exit status.
int run_tests(const char* filter);

}  // namespace shapley::tests

#define TEST(name)                                                                                   \
  static void name();                                                                                \
  [[maybe_unused]] static const bool name##_registered = shapley::tests::register_test(#name, name); \
  static void name()

#define CHECK(condition, ...) shapley::tests::check((condition), #condition, __FILE__, __LINE__, __VA_ARGS__)
