// All CPU kernels for one instruction set. Compiled once for each: setup.py names the set and the compiler's flags.
#include "cross_entropy.h"
#include "paged_attention.h"
#include "rms_norm.h"
#include "rotary.h"
#include "softmax.h"
#include "swiglu.h"

namespace megaphi::MEGAPHI_INSTRUCTION_SET {

extern const KernelTable table;
const KernelTable table = {
    [](const RmsNormForward& a, Element element, void*) {
      return by_element(element, [&](auto e) { rms_norm_forward<decltype(e)>(a); });
    },
    [](const RmsNormBackward& a, Element element, void*) {
      return by_element(element, [&](auto e) { rms_norm_backward<decltype(e)>(a); });
    },
    [](int64_t rows, int64_t width) { return rms_norm_blocks(rows) * width; },
    [](const Rotary& a, Element element, void*) {
      return by_element(element, [&](auto e) { rotary<decltype(e)>(a); });
    },
    [](const SoftmaxForward& a, Element element, void*) {
      return by_element(element, [&](auto e) { softmax_forward<decltype(e)>(a); });
    },
    [](const SoftmaxBackward& a, Element element, void*) {
      return by_element(element, [&](auto e) { softmax_backward<decltype(e)>(a); });
    },
    [](const PagedAttention& a, Element element, void*) {
      return by_element(element, [&](auto e) { paged_attention<decltype(e)>(a); });
    },
    [](const PagedAttention&) -> int64_t { return 0; },  // reads the lengths, and allocates no more than they need
    [](const SwigluForward& a, Element element, void*) {
      return by_element(element, [&](auto e) { swiglu_forward<decltype(e)>(a); });
    },
    [](const SwigluBackward& a, Element element, void*) {
      return by_element(element, [&](auto e) { swiglu_backward<decltype(e)>(a); });
    },
    [](const CrossEntropyForward& a, Element element, void*) {
      return by_element(element, [&](auto e) { cross_entropy_forward<decltype(e)>(a); });
    },
    [](const CrossEntropyBackward& a, Element element, void*) {
      return by_element(element, [&](auto e) { cross_entropy_backward<decltype(e)>(a); });
    },
};

}  // namespace megaphi::MEGAPHI_INSTRUCTION_SET
