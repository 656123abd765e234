// SwiGLU: silu(gate) * up on the product of the MLP's first matrix, [gate | up].
#pragma once
#include "element.h"

namespace megaphi::MEGAPHI_INSTRUCTION_SET {

template <class T>
void swiglu_forward(const SwigluForward& a) {
  using A = Accumulator<T>;
  parallel_rows(a.rows, 2 * a.width, [=, &a](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const T* gate = static_cast<const T*>(a.x) + i * 2 * a.width;
      const T* up = gate + a.width;
      T* y = static_cast<T*>(a.y) + i * a.width;
#pragma omp simd
      for (int64_t j = 0; j < a.width; j++) {
        const A g = load(gate + j);
        store(y + j, g * sigmoid(g) * load(up + j));  // in the order of the backward pass, bit for bit
      }
    }
  });
}

// One row; `y` is written too if the caller did not save it in the forward pass.
template <class T, bool emit>
void swiglu_backward_row(const T* grad_y, const T* x, T* grad_x, T* y, int64_t width) {
  using A = Accumulator<T>;
#pragma omp simd
  for (int64_t j = 0; j < width; j++) {
    const A gate = load(x + j), up = load(x + width + j), grad = load(grad_y + j);
    const A share = sigmoid(gate), silu = gate * share;
    store(grad_x + j, grad * up * (share + silu * (A(1) - share)));
    store(grad_x + width + j, grad * silu);
    if constexpr (emit) store(y + j, silu * up);
  }
}

template <class T>
void swiglu_backward(const SwigluBackward& a) {
  parallel_rows(a.rows, 2 * a.width, [=, &a](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const T* grad_y = static_cast<const T*>(a.grad_y) + i * a.width;
      const T* x = static_cast<const T*>(a.x) + i * 2 * a.width;
      T* grad_x = static_cast<T*>(a.grad_x) + i * 2 * a.width;
      T* y = static_cast<T*>(a.y);
      if (y != nullptr) swiglu_backward_row<T, true>(grad_y, x, grad_x, y + i * a.width, a.width);
      else swiglu_backward_row<T, false>(grad_y, x, grad_x, nullptr, a.width);
    }
  });
}

}  // namespace megaphi::MEGAPHI_INSTRUCTION_SET
