// fp16 by hand, rounded to nearest even, subnormal numbers too.
#pragma once
#include "cuda_runtime.h"

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};

inline float __half2float(__half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16, rest = value.bits & 0x7fff;
  if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);  // infinity, NaN
  return bits_to_float(sign | float_to_bits(bits_to_float(rest << 13) * 0x1p112f));    // 2^112: the exponents' distance
}
inline __half __float2half_rn(float value) {
  const uint32_t bits = float_to_bits(value), rest = bits & 0x7fffffff;
  const uint16_t sign = bits >> 16 & 0x8000;
  if (rest > 0x7f800000) return {0x7fff};
  if (rest >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // from 65,520 on to infinity
  if (rest < 0x38800000) {                                                // below 2^-14: the adder rounds to 2^-24
    return {static_cast<uint16_t>(sign | (float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000))};
  }
  return {static_cast<uint16_t>(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13)};
}
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }
inline __half2 __floats2half2_rn(float low, float high) { return {__float2half_rn(low), __float2half_rn(high)}; }
