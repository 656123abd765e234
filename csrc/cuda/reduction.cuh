// Sums and maxima over the threads that share a row: a `Warp`, or a whole `Block`.
//
// Both answer `rank`, `size` and `reduce`, so a kernel is written once for either. Butterfly shuffles give every lane
// the same bits. A Block's reduction costs one barrier: it writes to one half of its scratch while the other half may
// still be read, and the barrier of the other half separates any two uses of one half. All threads of the team must
// call `reduce`; a block's size is a multiple of 32.
#pragma once
#include <cuda_runtime.h>

#include <cmath>

namespace megaphi::cuda {

constexpr int WARP = 32;

struct Sum {
  static constexpr float identity = 0.0f;
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};

struct Maximum {
  static constexpr float identity = -INFINITY;
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

class Warp {
 public:
  __device__ __forceinline__ int rank() const { return threadIdx.x % WARP; }
  __device__ __forceinline__ int size() const { return WARP; }

  template <class Combine>
  __device__ __forceinline__ float reduce(float value, Combine combine) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
      value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
  }
};

class Block {
 public:
  __device__ __forceinline__ int rank() const { return threadIdx.x; }
  __device__ __forceinline__ int size() const { return blockDim.x; }

  template <class Combine>
  __device__ __forceinline__ float reduce(float value, Combine combine) {
    float* partials = scratch(half_);
    half_ ^= 1;
    value = Warp().reduce(value, combine);
    const int lane = threadIdx.x % WARP;
    if (lane == 0) partials[threadIdx.x / WARP] = value;
    __syncthreads();
    const int warps = blockDim.x / WARP;
    return Warp().reduce(lane < warps ? partials[lane] : Combine::identity, combine);
  }

 private:
  static __device__ __forceinline__ float* scratch(int half) {
    __shared__ float partials[2][WARP];
    return partials[half];
  }

  int half_ = 0;
};

// The shift before exp: the maximum, or 0 where all is -inf, so that exp(-inf - shift) is 0 and NaN stays NaN.
__device__ __forceinline__ float shift_of(float maximum) { return maximum == -INFINITY ? 0.0f : maximum; }

// exp for the terms of a sum whose largest term is 1, in two instructions. Its relative error grows with |value|, but
// the term's weight falls faster: the sum is as good as with expf. Terms below 2^-126 count as 0.
__device__ __forceinline__ float exp_in_sum(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value * 1.4426950408889634f));
  return result;
}

// The maximum and the sum of exp(value - maximum) of values that come in pieces, in one pass.
struct RunningSoftmax {
  float maximum = -INFINITY;
  float sum = 0.0f;

  template <int N>
  __device__ __forceinline__ void add(const float (&value)[N]) {
    float largest = value[0];
#pragma unroll
    for (int j = 1; j < N; ++j) largest = fmaxf(largest, value[j]);
    if (largest > maximum) {
      sum *= expf(maximum - largest);
      maximum = largest;
    }
    const float shift = shift_of(maximum);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += exp_in_sum(value[j] - shift);
  }

  template <class Team>
  __device__ __forceinline__ void merge(Team& team) {
    const float largest = team.reduce(maximum, Maximum{});
    sum = team.reduce(sum * expf(maximum - shift_of(largest)), Sum{});
    maximum = largest;
  }
};

}  // namespace megaphi::cuda
