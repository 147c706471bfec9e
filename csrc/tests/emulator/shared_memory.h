// shared_memory.h: a block's shared memory, as a block finds it: full of NaN.
#pragma once

#include <cstddef>

namespace emulator {

// Dynamic shared memory for the blocks of one launch, exactly `bytes` long.
void allocate_dynamic_shared(size_t bytes);
void free_dynamic_shared();

// All bits set: NaN in every floating-point format, -1 in integers. Static shared memory is reached in the plain build
// only, see __shared__ in types.h.
void poison_shared();

}  // namespace emulator
