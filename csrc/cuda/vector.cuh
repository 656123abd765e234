// Reading and writing N neighbouring elements at once, as floats.
//
// A memory-bound kernel lives on 16-byte loads. Kernels are written for N elements per load: 16 bytes of them on the
// fast path, N = 1 for rows that start or end off a 16-byte boundary. A `Vector` holds what was loaded, still packed:
// many can be in flight in few registers; `unpack` and `pack` convert to float and back, rounding to nearest even. The
// address of a Vector must be a multiple of its size: launchers ask `vectors_fit`.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace megaphi::cuda {

template <class T>
constexpr int FULL = 16 / static_cast<int>(sizeof(T));  // elements in the widest load

template <int BYTES>
struct WordOf;
template <>
struct WordOf<1> {
  using Type = unsigned char;
};
template <>
struct WordOf<2> {
  using Type = unsigned short;
};
template <>
struct WordOf<4> {
  using Type = unsigned int;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<16> {
  using Type = uint4;
};

template <class T, int N>
struct Vector {
  using Word = typename WordOf<N * static_cast<int>(sizeof(T))>::Type;
  Word word;
};

// Element types convert two at a time: the hardware rounds a pair in one instruction.
template <class T>
struct Convert;

template <>
struct Convert<float> {
  using Pair = float2;
  static __device__ __forceinline__ float widen(float value) { return value; }
  static __device__ __forceinline__ float narrow(float value) { return value; }
  static __device__ __forceinline__ float2 widen_pair(Pair pair) { return pair; }
  static __device__ __forceinline__ Pair narrow_pair(float low, float high) { return make_float2(low, high); }
};

template <>
struct Convert<__nv_bfloat16> {
  using Pair = __nv_bfloat162;
  static __device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
  static __device__ __forceinline__ __nv_bfloat16 narrow(float value) { return __float2bfloat16_rn(value); }
  static __device__ __forceinline__ float2 widen_pair(Pair pair) { return __bfloat1622float2(pair); }
  static __device__ __forceinline__ Pair narrow_pair(float low, float high) { return __floats2bfloat162_rn(low, high); }
};

template <>
struct Convert<__half> {
  using Pair = __half2;
  static __device__ __forceinline__ float widen(__half value) { return __half2float(value); }
  static __device__ __forceinline__ __half narrow(float value) { return __float2half_rn(value); }
  static __device__ __forceinline__ float2 widen_pair(Pair pair) { return __half22float2(pair); }
  static __device__ __forceinline__ Pair narrow_pair(float low, float high) { return __floats2half2_rn(low, high); }
};

// For data that is read once: it is evicted first. This kernel may write the address later, but not earlier: the
// compiler sees an instruction here, not a read of memory.
template <int N, class T>
__device__ __forceinline__ Vector<T, N> load(const T* from) {
  return {__ldcs(reinterpret_cast<const typename Vector<T, N>::Word*>(from))};
}

// For data that this thread has written itself.
template <int N, class T>
__device__ __forceinline__ Vector<T, N> load_own(const T* from) {
  return {*reinterpret_cast<const typename Vector<T, N>::Word*>(from)};
}

// For data that many CTAs read and none writes: weights, tables, masks.
template <int N, class T>
__device__ __forceinline__ Vector<T, N> load_shared_by_all(const T* from) {
  return {__ldg(reinterpret_cast<const typename Vector<T, N>::Word*>(from))};
}

template <class T, int N>
__device__ __forceinline__ void store(T* to, Vector<T, N> vector) {
  *reinterpret_cast<typename Vector<T, N>::Word*>(to) = vector.word;
}

template <class T, int N>
__device__ __forceinline__ void unpack(Vector<T, N> vector, float (&value)[N]) {
  if constexpr (N == 1) {
    value[0] = Convert<T>::widen(*reinterpret_cast<const T*>(&vector.word));
  } else {
    const auto* pairs = reinterpret_cast<const typename Convert<T>::Pair*>(&vector.word);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      const float2 pair = Convert<T>::widen_pair(pairs[i]);
      value[2 * i] = pair.x;
      value[2 * i + 1] = pair.y;
    }
  }
}

template <class T, int N>
__device__ __forceinline__ Vector<T, N> pack(const float (&value)[N]) {
  Vector<T, N> vector;
  if constexpr (N == 1) {
    *reinterpret_cast<T*>(&vector.word) = Convert<T>::narrow(value[0]);
  } else {
    auto* pairs = reinterpret_cast<typename Convert<T>::Pair*>(&vector.word);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) pairs[i] = Convert<T>::narrow_pair(value[2 * i], value[2 * i + 1]);
  }
  return vector;
}

}  // namespace megaphi::cuda
