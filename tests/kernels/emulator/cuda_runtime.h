// As much of CUDA as csrc/cuda needs, for a C++ compiler: the kernels run on a CPU, one CTA after the other.
//
// The threads of a CTA are fibers (emulator.cpp). One runs until it comes to a barrier or a shuffle, then another does;
// which one is drawn at random, so that a barrier that is missing becomes a wrong number. A CTA whose threads do not
// all come to the same barrier, or a warp that does not shuffle together, ends the process.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

using std::max;
using std::min;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float2 {
  float x, y;
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

typedef void* cudaStream_t;
inline int cudaGetLastError() { return 0; }

extern dim3 threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads();
float __shfl_xor_sync(unsigned mask, float value, int distance);

template <class Word>
Word __ldcs(const Word* from) {
  return *from;
}
template <class Word>
Word __ldg(const Word* from) {
  return *from;
}

inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

void run_grid(dim3 grid, dim3 block, const std::function<void()>& thread);

// Stands where `kernel<<<grid, block, 0, stream>>>(values...)` is.
template <class Kernel, class... Values>
void emulate(Kernel kernel, dim3 grid, dim3 block, const Values&... values) {
  run_grid(grid, block, [&] { kernel(values...); });
}
