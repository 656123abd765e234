// The bridge from `_T`, which knows torch, to the kernels, which live in `_C` alone: Python passes these three
// addresses from one to the other when both are loaded (megaphi/kernels/loading.py).
#pragma once
#include "../cpu/parallel.h"
#include "../kernels.h"

namespace megaphi {

struct Attachment {
  const KernelTable& (*cpu_kernels)();
  void (*set_parallel_for)(ParallelFor);
  const KernelTable* cuda_kernels;  // null where the build had no CUDA compiler
};

}  // namespace megaphi
