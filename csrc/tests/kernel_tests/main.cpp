// The kernels of every op against references in float64: CPU twins on each instruction set, CUDA kernels in the
// emulator.
#include "../check.h"

int main(int argc, char** argv) {
  return shapley::tests::run_tests(argc > 1 ? argv[1] : nullptr);
}
