// The CUDA kernels under one name of C linkage, in the order of `KernelTable`. There is no kernel here: a loader finds
// all of them through this one symbol.
#include "kernels_cuda.h"

extern "C" const megaphi::KernelTable* megaphi_cuda_kernels() {
  static constexpr megaphi::KernelTable table = {
      megaphi::cuda::rms_norm_forward,
      megaphi::cuda::rms_norm_backward,
      megaphi::cuda::rms_norm_workspace,
      megaphi::cuda::rotary,
      megaphi::cuda::softmax_forward,
      megaphi::cuda::softmax_backward,
      megaphi::cuda::paged_attention,
      megaphi::cuda::paged_attention_workspace,
      megaphi::cuda::swiglu_forward,
      megaphi::cuda::swiglu_backward,
      megaphi::cuda::cross_entropy_forward,
      megaphi::cuda::cross_entropy_backward,
  };
  return &table;
}
