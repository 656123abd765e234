// From a KernelTable call to a kernel on a stream: the element type, the shape of the grid, the status. Nothing here
// allocates, waits or queries the device. A grid's x dimension may reach 2^31 - 1 and carries the rows; y may reach
// 65,535 and carries slices of a row.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels_cuda.h"
#include "vector.cuh"

namespace megaphi::cuda {

constexpr int64_t LARGEST_GRID_X = 2147483647, LARGEST_GRID_Y = 65535;

template <class T>
struct ElementType {
  using Type = T;
};

// Calls `launch` with the element type and returns the status of what it launched; without work it is not called.
template <class Launch>
int32_t for_element(Element element, bool has_work, Launch launch) {
  if (element == Element::f64) return UNSUPPORTED;
  if (!has_work) return 0;
  switch (element) {
    case Element::f32: launch(ElementType<float>{}); break;
    case Element::bf16: launch(ElementType<__nv_bfloat16>{}); break;
    case Element::f16: launch(ElementType<__half>{}); break;
    default: return UNSUPPORTED;
  }
  return static_cast<int32_t>(cudaGetLastError());
}

template <class... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, void* stream,
            const std::common_type_t<Parameters>&... values) {
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(values...);
}

inline int64_t ceiling_divide(int64_t total, int64_t part) { return (total + part - 1) / part; }

// Whether every row of `width` elements of these tensors starts and ends on a 16-byte boundary. Null counts as aligned.
template <class T>
bool vectors_fit(int64_t width, std::initializer_list<const void*> tensors) {
  return width % FULL<T> == 0 && std::all_of(tensors.begin(), tensors.end(), [](const void* tensor) {
           return reinterpret_cast<uintptr_t>(tensor) % 16 == 0;
         });
}

// Whole warps that cover `width` with `elements` each, no more than `largest` threads.
inline int threads_for(int64_t width, int elements, int largest) {
  const int64_t warps = ceiling_divide(ceiling_divide(width, elements), 32);
  return static_cast<int>(std::clamp<int64_t>(warps * 32, 32, largest));
}

// One CTA per row; rows beyond x continue along y, where the last CTAs may have no row.
inline dim3 grid_of_rows(int64_t rows) {
  const int64_t more = ceiling_divide(rows, LARGEST_GRID_X);
  return dim3(static_cast<unsigned>(std::min(rows, LARGEST_GRID_X)), static_cast<unsigned>(more));
}

// One CTA per row and slice of `slice` elements.
inline dim3 grid_of_slices(int64_t rows, int64_t width, int64_t slice) {
  const int64_t slices = std::min(ceiling_divide(width, slice), LARGEST_GRID_Y);
  return dim3(static_cast<unsigned>(rows), static_cast<unsigned>(slices));
}

}  // namespace megaphi::cuda
