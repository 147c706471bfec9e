// cuda_emulator.h: runs the project's .cu sources on the CPU, for tests without a GPU. It is included in front of a
// source with `g++ -x c++ -include cuda_emulator.h`; the source itself is what nvcc gets, unchanged.
//
// How: every thread of a block is a fiber. A scheduler resumes the fibers of one block in turn; a fiber gives way only
// at a block barrier, at a warp collective and when it returns. Blocks run one after another, on one OS thread. Blocks
// and threads run in forward, reverse or shuffled order (set_schedule): a kernel that lacks a barrier gives other
// results in another order.
//
// What is found, and by which build:
//   every build   threads of a block in different barriers; deadlock; lanes of a warp in different collectives; a
//                 lane outside its own mask; a shuffle that reads a lane which does not take part; launches that CUDA
//                 would refuse; dynamic shared memory that is read before it is written (it starts as NaN)
//   plain build   the same for static shared memory
//   ASan, UBSan   overruns of shared and of global memory; float4 accesses that are not aligned; integer overflow
//   TSan          accesses that no barrier orders. As the CUDA programming guide has it, __syncthreads and __syncwarp
//                 order memory, while shuffles, votes and reductions do not
//
// Stricter than hardware: lanes that meet in a collective must come from the same source line, and threads that meet in
// a __syncthreads too. __activemask is left out, because its answer depends on the schedule, and so are atomics on
// floating point, because their sums do.
//
// Of tensor cores there is one instruction (tensor_cores.h), for kernels to call in place of their inline PTX.
//
// Not covered: races between blocks on global memory (blocks run one after another), streams, cp.async, TMA, inline
// PTX, cooperative groups, clusters, CUB, register and total shared memory limits (compile_report.sh shows those), and
// the rounding of approximate intrinsics.
#pragma once

#define SHAPLEY_EMULATOR

#include "types.h"

#include "runtime.h"

#include "collectives.h"

#include "device_math.h"

#include "tensor_cores.h"

#include "launch.h"
