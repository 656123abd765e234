// Rotary positions on the packed QKV product, usually in place: queries and keys are rotated in one pass, values are
// left alone.
#pragma once
#include "element.h"

namespace megaphi::MEGAPHI_INSTRUCTION_SET {

// Both halves of one head; x may be y.
template <class T>
void rotate_head(const T* x, T* y, const Accumulator<T>* cos, const Accumulator<T>* sin, Accumulator<T> sign,
                 int64_t half) {
#pragma omp simd
  for (int64_t j = 0; j < half; j++) {
    const Accumulator<T> a = load(x + j), b = load(x + half + j), turned = sign * sin[j];
    store(y + j, a * cos[j] - b * turned);
    store(y + half + j, b * cos[j] + a * turned);
  }
}

template <class T>
void rotary(const Rotary& a) {
  using A = Accumulator<T>;
  const int64_t half = a.head_size / 2, group = a.heads * a.head_size, token_width = a.groups * group;
  parallel_rows(a.tokens, token_width, [=, &a](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; token++) {
      const int64_t position = a.positions != nullptr ? a.positions[token] : a.offset + token / a.batch;
      const A* cos = static_cast<const A*>(a.cos) + position * half;
      const A* sin = static_cast<const A*>(a.sin) + position * half;
      for (int64_t g = 0; g < a.groups; g++) {
        const T* from = static_cast<const T*>(a.x) + token * token_width + g * group;
        T* to = static_cast<T*>(a.y) + token * token_width + g * group;
        for (int64_t h = 0; h < a.rotated; h++)
          rotate_head(from + h * a.head_size, to + h * a.head_size, cos, sin, static_cast<A>(a.sign), half);
        const int64_t turned = a.rotated * a.head_size;
        if (from != to) __builtin_memcpy(to + turned, from + turned, (group - turned) * sizeof(T));
      }
    }
  });
}

}  // namespace megaphi::MEGAPHI_INSTRUCTION_SET
