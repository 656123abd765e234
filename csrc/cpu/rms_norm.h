// RMSNorm, alone or after a residual addition. The weight's gradient is summed in blocks of rows, and these in pairs:
// closer to the exact sum than one long chain, and the same for any number of threads.
#pragma once
#include "element.h"

namespace megaphi::MEGAPHI_INSTRUCTION_SET {

constexpr int64_t ROWS_PER_BLOCK = 16;

template <class T>
void add_row(const T* x, const T* residual, T* sum, int64_t width) {
#pragma omp simd
  for (int64_t j = 0; j < width; j++) store(sum + j, load(x + j) + load(residual + j));
}

template <class T>
Accumulator<T> normalise_row(const T* x, const T* weight, T* y, int64_t width, double eps) {
  using A = Accumulator<T>;
  const A squares = lane_sum<A>(width, [=](int64_t j) { return load(x + j) * load(x + j); });
  // Once per row, so in fp64: every element inherits this number's error.
  const A rstd = static_cast<A>(1.0 / __builtin_sqrt(static_cast<double>(squares) / width + eps));
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
void rms_norm_backward_row(const T* grad, const T* grad_sum, const T* x, const T* weight, Accumulator<T> rstd,
                           T* grad_x, Accumulator<T>* weight_sum, int64_t width) {
  using A = Accumulator<T>;
  const A dot = lane_sum<A>(width, [=](int64_t j) {
    const A scaled = load(grad + j) * load(x + j);
    weight_sum[j] += scaled * rstd;
    return scaled * load(weight + j);
  });
  const A along = static_cast<A>(static_cast<double>(dot) * rstd * rstd / width);
  if (grad_sum != nullptr) {
#pragma omp simd
    for (int64_t j = 0; j < width; j++)
      store(grad_x + j, (load(grad + j) * load(weight + j) - load(x + j) * along) * rstd + load(grad_sum + j));
  } else {
#pragma omp simd
    for (int64_t j = 0; j < width; j++)
      store(grad_x + j, (load(grad + j) * load(weight + j) - load(x + j) * along) * rstd);
  }
}

inline int64_t rms_norm_blocks(int64_t rows) { return (rows + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK; }

// Sum the rows of partial[blocks, width] into its first, columns [begin, end): neighbours first, then their sums.
template <class A>
void add_blocks_pairwise(A* partial, int64_t blocks, int64_t width, int64_t begin, int64_t end) {
  for (int64_t step = 1; step < blocks; step *= 2) {
    for (int64_t block = 0; block + step < blocks; block += 2 * step) {
      A* to = partial + block * width;
      const A* from = to + step * width;
#pragma omp simd
      for (int64_t j = begin; j < end; j++) to[j] += from[j];
    }
  }
}

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
    add_blocks_pairwise(partial, blocks, width, begin, end);
    for (int64_t j = begin; j < end; j++) store(grad_weight + j, blocks > 0 ? partial[j] : A(0));
  });
}

}  // namespace megaphi::MEGAPHI_INSTRUCTION_SET
