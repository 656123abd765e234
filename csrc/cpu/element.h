// Numbers in memory and in registers: fp32, bfloat16 and (for gradient checks) fp64; an exponential that vectorises.
//
// Everything here is in a namespace named after the instruction set that the including file is compiled for
// (MEGAPHI_INSTRUCTION_SET), and the standard library is not used: an inline function of <cmath> compiled for AVX-512
// could be the copy that the linker keeps for everyone.
#pragma once
#include <cstdint>

#include "../kernels.h"
#include "parallel.h"

namespace megaphi::MEGAPHI_INSTRUCTION_SET {

struct bf16 {
  uint16_t bits;
};

template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class T>
using Accumulator = typename accumulator<T>::type;

inline uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

inline double load(const double* from) { return *from; }
inline float load(const float* from) { return *from; }
inline float load(const bf16* from) { return float_of(static_cast<uint32_t>(from->bits) << 16); }

inline void store(double* to, double value) { *to = value; }
inline void store(float* to, float value) { *to = value; }
// Round to nearest, ties to even; a NaN stays one (the carry must not turn it into infinity).
inline void store(bf16* to, float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to->bits = static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}

// e^x for x <= 88, relative error below 2e-7 (Cody-Waite reduction, polynomial of degree 6 as in Cephes). Below -87.3
// it is 0, so that a masked -inf contributes nothing. Selecting at the end costs less than clamping x at the beginning.
inline float exponential(float x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits
  const float shifted = x * 1.44269504088896341f + magic;
  const float n = shifted - magic;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float power = float_of((bits_of(shifted) << 23) + 0x3f800000u);
  const float result = (p * (r * r) + r + 1.0f) * power;
  return x < -87.3f ? 0.0f : result;
}
inline double exponential(double x) { return __builtin_exp(x); }

// 1 / (1 + e^-x), with the argument clamped to the exponential's range: e^88 is large enough to give zero.
inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(x > -88.0f ? -x : 88.0f)); }
inline double sigmoid(double x) { return 1.0 / (1.0 + __builtin_exp(-x)); }

// The shift before the exponential: the maximum, or 0 where all is -inf, so that a -inf counts 0 and a NaN, which a
// maximum may hide, stays NaN.
template <class A>
A shift_of(A highest) {
  return highest == -__builtin_inff() ? A(0) : highest;
}

inline float logarithm(float x) { return __builtin_logf(x); }
inline double logarithm(double x) { return __builtin_log(x); }

// The sum of term(j) over [0, n): in many lanes (which also hides the latency of an addition) that are combined in fp64
// periodically. Closer to the exact sum than one long chain. For cheap terms only: an exponential is not vectorised.
template <class A, class Term>
A lane_sum(int64_t n, Term term) {
  constexpr int64_t lanes = 32, block = 1024;
  double total = 0;
  for (int64_t from = 0; from < n; from += block) {
    A part[lanes] = {};
    const int64_t to = from + block < n ? from + block : n;
    int64_t j = from;
    for (; j + lanes <= to; j += lanes) {
#pragma omp simd
      for (int64_t lane = 0; lane < lanes; lane++) part[lane] += term(j + lane);
    }
#pragma omp simd
    for (int64_t lane = 0; lane < to - j; lane++) part[lane] += term(j + lane);
    for (int64_t lane = 0; lane < lanes; lane++) total += part[lane];
  }
  return static_cast<A>(total);
}

// Call `kernel` with a value of the element type; UNSUPPORTED where there is none.
template <class Kernel>
int32_t by_element(Element element, Kernel kernel) {
  switch (element) {
    case Element::f32:
      kernel(float{});
      return 0;
    case Element::bf16:
      kernel(bf16{});
      return 0;
    case Element::f64:
      kernel(double{});
      return 0;
    default:
      return UNSUPPORTED;
  }
}

}  // namespace megaphi::MEGAPHI_INSTRUCTION_SET
