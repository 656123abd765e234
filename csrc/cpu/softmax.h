// Softmax over the keys that a query may see. Under a causal mask only the visible part of a row is read; the rest of
// the output is filled with zeros.
#pragma once
#include <cstdlib>

#include "element.h"

namespace megaphi::MEGAPHI_INSTRUCTION_SET {

// Keys [0, n) that row `row` can see under a causal mask: the last query sees all.
inline int64_t visible_keys(int64_t row, int64_t queries, int64_t keys, bool causal) {
  return causal ? row % queries + 1 + keys - queries : keys;
}

// scores = scale * x where visible, -inf elsewhere; returns their maximum.
template <class T>
Accumulator<T> scaled_scores(const T* x, const uint8_t* mask, Accumulator<T> scale, Accumulator<T>* scores, int64_t n) {
  using A = Accumulator<T>;
  const A nothing = -__builtin_inff();
  A highest = nothing;
  if (mask == nullptr) {
#pragma omp simd reduction(max : highest)
    for (int64_t j = 0; j < n; j++) {
      const A score = load(x + j) * scale;
      scores[j] = score;
      highest = score > highest ? score : highest;
    }
    return highest;
  }
#pragma omp simd
  for (int64_t j = 0; j < n; j++) scores[j] = load(x + j) * scale;
#pragma omp simd  // a separate loop: three widths of numbers in one make slow code
  for (int64_t j = 0; j < n; j++) scores[j] = mask[j] != 0 ? nothing : scores[j];
#pragma omp simd reduction(max : highest)
  for (int64_t j = 0; j < n; j++) highest = scores[j] > highest ? scores[j] : highest;
  return highest;
}

template <class T>
void softmax_row(const T* x, const uint8_t* mask, Accumulator<T> scale, Accumulator<T>* scores, T* y, int64_t n) {
  using A = Accumulator<T>;
  const A shift = shift_of(scaled_scores(x, mask, scale, scores, n));
#pragma omp simd
  for (int64_t j = 0; j < n; j++) scores[j] = exponential(scores[j] - shift);
  const A sum = lane_sum<A>(n, [=](int64_t j) { return scores[j]; });
  const A share = sum == 0 ? A(0) : A(1) / sum;  // 0: a row that sees nothing
#pragma omp simd
  for (int64_t j = 0; j < n; j++) store(y + j, scores[j] * share);
}

template <class T>
void softmax_forward(const SoftmaxForward& a) {
  using A = Accumulator<T>;
  const int64_t rows = a.batch * a.heads * a.queries;
  parallel_rows(rows, a.keys, [=, &a](int64_t begin, int64_t end) {
    const auto scores = static_cast<A*>(std::malloc(a.keys * sizeof(A)));
    for (int64_t row = begin; row < end; row++) {
      const int64_t n = visible_keys(row, a.queries, a.keys, a.causal);
      const int64_t query = row % a.queries, head = row / a.queries % a.heads, sample = row / a.queries / a.heads;
      const int64_t mask_row = sample * a.mask_batch + head * a.mask_head + query * a.mask_query;
      const uint8_t* mask = a.mask == nullptr ? nullptr : a.mask + mask_row;
      T* y = static_cast<T*>(a.y) + row * a.keys;
      softmax_row(static_cast<const T*>(a.x) + row * a.keys, mask, static_cast<A>(a.scale), scores, y, n);
      __builtin_memset(y + n, 0, (a.keys - n) * sizeof(T));
    }
    std::free(scores);
  });
}

template <class T>
void softmax_backward(const SoftmaxBackward& a) {
  using A = Accumulator<T>;
  const int64_t rows = a.batch * a.heads * a.queries;
  parallel_rows(rows, a.keys, [=, &a](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t n = visible_keys(row, a.queries, a.keys, a.causal);
      const T* grad = static_cast<const T*>(a.grad_y) + row * a.keys;
      const T* y = static_cast<const T*>(a.y) + row * a.keys;
      T* grad_x = static_cast<T*>(a.grad_x) + row * a.keys;
      const A mean = lane_sum<A>(n, [=](int64_t j) { return load(grad + j) * load(y + j); });
      const A scale = static_cast<A>(a.scale);
#pragma omp simd
      for (int64_t j = 0; j < n; j++) store(grad_x + j, scale * load(y + j) * (load(grad + j) - mean));
      __builtin_memset(grad_x + n, 0, (a.keys - n) * sizeof(T));
    }
  });
}

}  // namespace megaphi::MEGAPHI_INSTRUCTION_SET
