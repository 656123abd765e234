// RMSNorm, alone or behind a residual addition. The weight's gradient is summed in blocks of rows and then over blocks:
// closer to the exact sum than one long chain, and the same for any number of threads.
#pragma once
#include "element.h"

namespace megaphi::MEGAPHI_INSTRUCTION_SET {

constexpr int64_t ROWS_PER_BLOCK = 32;

template <class T>
void add_row(const T* x, const T* residual, T* sum, int64_t width) {
#pragma omp simd
  for (int64_t j = 0; j < width; j++) store(sum + j, load(x + j) + load(residual + j));
}

template <class T>
Accumulator<T> normalise_row(const T* x, const T* weight, T* y, int64_t width, double eps) {
  using A = Accumulator<T>;
  A squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t j = 0; j < width; j++) squares += load(x + j) * load(x + j);
  const A rstd = A(1) / square_root(squares / static_cast<A>(width) + static_cast<A>(eps));
#pragma omp simd
  for (int64_t j = 0; j < width; j++) store(y + j, load(x + j) * rstd * load(weight + j));
  return rstd;
}

template <class T>
void rms_norm_forward(const RmsNormForward& a) {
  const auto x = static_cast<const T*>(a.x), residual = static_cast<const T*>(a.residual);
  const auto weight = static_cast<const T*>(a.weight);
  const auto y = static_cast<T*>(a.y), sum = static_cast<T*>(a.sum);
  const auto rstd = static_cast<Accumulator<T>*>(a.rstd);
  parallel_rows(a.rows, a.width, [=, &a](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const T* row = x + i * a.width;
      if (residual != nullptr) {
        add_row(row, residual + i * a.width, sum + i * a.width, a.width);
        row = sum + i * a.width;
      }
      rstd[i] = normalise_row(row, weight, y + i * a.width, a.width, a.eps);
    }
  });
}

// One row's grad_x; adds the row's part to the block's weight gradient.
template <class T>
void rms_norm_backward_row(const T* grad, const T* grad_sum, const T* x, const T* weight, Accumulator<T> rstd, T* grad_x,
                           Accumulator<T>* weight_sum, int64_t width) {
  using A = Accumulator<T>;
  A dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t j = 0; j < width; j++) {
    const A scaled = load(grad + j) * load(x + j);
    weight_sum[j] += scaled * rstd;
    dot += scaled * load(weight + j);
  }
  const A along = dot * rstd * rstd * rstd / static_cast<A>(width);
  if (grad_sum != nullptr) {
#pragma omp simd
    for (int64_t j = 0; j < width; j++)
      store(grad_x + j, load(grad + j) * load(weight + j) * rstd - load(x + j) * along + load(grad_sum + j));
  } else {
#pragma omp simd
    for (int64_t j = 0; j < width; j++) store(grad_x + j, load(grad + j) * load(weight + j) * rstd - load(x + j) * along);
  }
}

inline int64_t rms_norm_blocks(int64_t rows) { return (rows + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK; }

template <class T>
void rms_norm_backward(const RmsNormBackward& a) {
  using A = Accumulator<T>;
  const int64_t width = a.width, blocks = rms_norm_blocks(a.rows);
  const auto partial = static_cast<A*>(a.workspace);
  parallel_rows(blocks, ROWS_PER_BLOCK * width, [=, &a](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++) {
      __builtin_memset(partial + block * width, 0, width * sizeof(A));
      const int64_t first = block * ROWS_PER_BLOCK, last = first + ROWS_PER_BLOCK;
      for (int64_t i = first; i < (last < a.rows ? last : a.rows); i++) {
        const auto grad_sum = a.grad_sum == nullptr ? nullptr : static_cast<const T*>(a.grad_sum) + i * width;
        rms_norm_backward_row(static_cast<const T*>(a.grad_y) + i * width, grad_sum,
                              static_cast<const T*>(a.x) + i * width, static_cast<const T*>(a.weight),
                              static_cast<const A*>(a.rstd)[i], static_cast<T*>(a.grad_x) + i * width,
                              partial + block * width, width);
      }
    }
  });
  const auto grad_weight = static_cast<T*>(a.grad_weight);
  parallel_rows(width, blocks, [=](int64_t begin, int64_t end) {
    constexpr int64_t columns = 64;  // as many as stay in registers while the blocks go by
    for (int64_t from = begin; from < end; from += columns) {
      const int64_t count = end - from < columns ? end - from : columns;
      A total[columns] = {};
      for (int64_t block = 0; block < blocks; block++) {
        const A* part = partial + block * width + from;
#pragma omp simd
        for (int64_t j = 0; j < count; j++) total[j] += part[j];
      }
      for (int64_t j = 0; j < count; j++) store(grad_weight + from + j, total[j]);
    }
  });
}

}  // namespace megaphi::MEGAPHI_INSTRUCTION_SET
