// `megaphi._C`: the kernels and queries about them. Needs torch neither to build nor to load.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/choose.h"
#include "attachment.h"
#include "checked.h"
#include "index.h"

#ifndef MEGAPHI_WITH_CUDA
extern "C" const megaphi::KernelTable* megaphi_cuda_kernels() { return nullptr; }
#endif

PYBIND11_MODULE(_C, module) {
  module.doc() = "Fused kernels of megaphi for CPUs and, where it was built with nvcc, for CUDA devices.";
  module.def("instruction_sets", &megaphi::instruction_sets, "Instruction sets of this processor, best first.");
  module.def("instruction_set", &megaphi::instruction_set, "The instruction set that the CPU kernels use.");
  module.def("use_instruction_set", &megaphi::use_instruction_set, pybind11::arg("name"),
             "Use another one from now on; False if this processor lacks it.");
  module.def("has_cuda", [] { return megaphi_cuda_kernels() != nullptr; }, "True if CUDA kernels were built.");
  static const megaphi::Attachment attachment{&megaphi::cpu_kernels, &megaphi::set_parallel_for,
                                              megaphi_cuda_kernels()};
  module.attr("attachment") = reinterpret_cast<uintptr_t>(&attachment);
  bind_order(module);
  bind_reader(module);
  bind_megatron_order(module);
  bind_text(module);
  refuse_unfilled_objects(module);
  module.attr("compiler") = MEGAPHI_COMPILER;
}
