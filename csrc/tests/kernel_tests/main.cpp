// The kernels of every op against references in float64: CPU twins on each instruction set, CUDA kernels in the
// emulator.
#include "machines.h"

int main(int argc, char** argv) {
  std::printf("on");
  for (const shapley::tests::Machine& machine : shapley::tests::all_machines()) {
    std::printf(" [%s]", machine.name().c_str());
  }
  std::printf("\n");
  return shapley::tests::run_tests(argc > 1 ? argv[1] : nullptr);
}
