// The launchers of the CUDA table, one per entry of `KernelTable`; csrc/kernels.h says what each computes.
//
// Element types f32, bf16 and f16, arithmetic in float. A launcher enqueues on the given stream and returns
// immediately: it allocates nothing and waits for nothing. f64 is UNSUPPORTED.
#pragma once
#include "../kernels.h"

namespace megaphi::cuda {

int32_t rms_norm_forward(const RmsNormForward&, Element, void* stream);
int32_t rms_norm_backward(const RmsNormBackward&, Element, void* stream);
int64_t rms_norm_workspace(int64_t rows, int64_t width);
int32_t rotary(const Rotary&, Element, void* stream);
int32_t softmax_forward(const SoftmaxForward&, Element, void* stream);
int32_t softmax_backward(const SoftmaxBackward&, Element, void* stream);
int32_t paged_attention(const PagedAttention&, Element, void* stream);
int64_t paged_attention_workspace(const PagedAttention&);
int32_t swiglu_forward(const SwigluForward&, Element, void* stream);
int32_t swiglu_backward(const SwigluBackward&, Element, void* stream);
int32_t cross_entropy_forward(const CrossEntropyForward&, Element, void* stream);
int32_t cross_entropy_backward(const CrossEntropyBackward&, Element, void* stream);

}  // namespace megaphi::cuda
