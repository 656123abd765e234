// Cross-entropy over this rank's part of the vocabulary: one read of the logits forward, one pass in place backward.
// The forward pass works tile by tile, so that a tile's maximum and its sum of exponentials cost one read of memory.
#pragma once
#include "element.h"

namespace megaphi::MEGAPHI_INSTRUCTION_SET {

template <class T>
void row_statistics(const T* logits, int64_t width, Accumulator<T>* statistics) {
  using A = Accumulator<T>;
  constexpr int64_t tile = 1024;
  A terms[tile];
  A highest = -__builtin_inff(), sum = 0;
  for (int64_t from = 0; from < width; from += tile) {
    const T* x = logits + from;
    const int64_t n = width - from < tile ? width - from : tile;
    A top = -__builtin_inff();
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < n; j++) {
      const A logit = load(x + j);
      top = logit > top ? logit : top;
    }
    if (top > highest) {
      sum *= exponential(highest - top);
      highest = top;
    }
    const A shift = shift_of(highest);
#pragma omp simd
    for (int64_t j = 0; j < n; j++) terms[j] = exponential(load(x + j) - shift);
    sum += lane_sum<A>(n, [&](int64_t j) { return terms[j]; });
  }
  statistics[0] = highest;
  statistics[1] = sum;
}

template <class T>
void cross_entropy_forward(const CrossEntropyForward& a) {
  parallel_rows(a.rows, a.width, [=, &a](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const T* logits = static_cast<const T*>(a.logits) + i * a.width;
      auto* stats = static_cast<Accumulator<T>*>(a.stats) + 3 * i;
      row_statistics(logits, a.width, stats);
      const int64_t label = a.labels[i] - a.first;
      stats[2] = label >= 0 && label < a.width ? load(logits + label) : Accumulator<T>(0);
    }
  });
}

template <class T>
void cross_entropy_backward(const CrossEntropyBackward& a) {
  using A = Accumulator<T>;
  parallel_rows(a.rows, a.width, [=, &a](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const T* logits = static_cast<const T*>(a.logits) + i * a.width;
      T* out = static_cast<T*>(a.grad_logits) + i * a.width;
      if (a.labels[i] == a.ignored) {
        __builtin_memset(out, 0, a.width * sizeof(T));
        continue;
      }
      const A highest = static_cast<const A*>(a.totals)[2 * i], sum = static_cast<const A*>(a.totals)[2 * i + 1];
      const A grad = static_cast<const A*>(a.grad)[i];
      const A factor = grad * (A(1) + 2 * static_cast<A>(a.z_weight) * (highest + logarithm(sum))) / sum;
      const int64_t label = a.labels[i] - a.first;
      const bool is_ours = label >= 0 && label < a.width;
      const A at_label = is_ours ? factor * exponential(load(logits + label) - highest) - grad : A(0);
#pragma omp simd
      for (int64_t j = 0; j < a.width; j++) store(out + j, factor * exponential(load(logits + j) - highest));
      if (is_ours) store(out + label, at_label);
    }
  });
}

}  // namespace megaphi::MEGAPHI_INSTRUCTION_SET
