// sanitizers.cpp: their defaults for the test programs.
#if defined(__SANITIZE_THREAD__)
// The longest history, so that both sides of a race are named.
extern "C" const char* __tsan_default_options() {
  return "history_size=7:atexit_sleep_ms=0";
}
#elif defined(__SANITIZE_ADDRESS__)
extern "C" const char* __ubsan_default_options() {
  return "print_stacktrace=1";
}
#endif
