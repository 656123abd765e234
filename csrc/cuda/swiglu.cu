// SwiGLU: y = silu(gate) * up with x = [gate | up], and its gradient.
//
// A CTA owns one row and a slice of its columns; every thread loads all it needs before it computes. Rows run along the
// grid's x, slices along y. With s = sigmoid(gate): d gate = grad_y * up * s * (1 + gate * (1 - s)),
// d up = grad_y * gate * s. The backward pass can emit y again, so that a training step need not save it.
#include "launch.cuh"

namespace megaphi::cuda {

constexpr int SWIGLU_THREADS = 256, SWIGLU_VECTORS = 2;

__device__ __forceinline__ float sigmoid(float value) { return 1.0f / (1.0f + expf(-value)); }

template <class T, int N>
__global__ void __launch_bounds__(SWIGLU_THREADS) swiglu_forward_kernel(SwigluForward arguments) {
  const int64_t row = blockIdx.x, width = arguments.width, step = static_cast<int64_t>(blockDim.x) * N;
  const T* gate = static_cast<const T*>(arguments.x) + row * 2 * width;
  T* y = static_cast<T*>(arguments.y) + row * width;
  int64_t first = blockIdx.y * (SWIGLU_VECTORS * step) + threadIdx.x * N;
  for (; first < width; first += gridDim.y * (SWIGLU_VECTORS * step)) {
    Vector<T, N> gates[SWIGLU_VECTORS], ups[SWIGLU_VECTORS];
#pragma unroll
    for (int i = 0; i < SWIGLU_VECTORS; ++i) {
      if (first + i * step >= width) continue;
      gates[i] = load<N>(gate + first + i * step);
      ups[i] = load<N>(gate + width + first + i * step);
    }
#pragma unroll
    for (int i = 0; i < SWIGLU_VECTORS; ++i) {
      if (first + i * step >= width) continue;
      float a[N], b[N];
      unpack(gates[i], a);
      unpack(ups[i], b);
#pragma unroll
      for (int j = 0; j < N; ++j) a[j] = a[j] * sigmoid(a[j]) * b[j];
      store(y + first + i * step, pack<T>(a));
    }
  }
}

// One vector of each of the five streams, from (gate, up, grad_y) to (d gate, d up, y), in place.
template <int N>
__device__ __forceinline__ void swiglu_gradient(float (&gate)[N], float (&up)[N], float (&grad_y)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float s = sigmoid(gate[j]), silu = gate[j] * s, y = silu * up[j];
    const float grad_gate = grad_y[j] * up[j] * (s * (1.0f + gate[j] * (1.0f - s)));
    up[j] = grad_y[j] * silu;
    gate[j] = grad_gate;
    grad_y[j] = y;
  }
}

template <class T, int N>
__global__ void __launch_bounds__(SWIGLU_THREADS) swiglu_backward_kernel(SwigluBackward arguments) {
  const int64_t row = blockIdx.x, width = arguments.width, step = static_cast<int64_t>(blockDim.x) * N;
  const T* gate = static_cast<const T*>(arguments.x) + row * 2 * width;
  const T* grad_y = static_cast<const T*>(arguments.grad_y) + row * width;
  T* grad_gate = static_cast<T*>(arguments.grad_x) + row * 2 * width;
  for (int64_t column = blockIdx.y * step + threadIdx.x * N; column < width; column += gridDim.y * step) {
    const Vector<T, N> gates = load<N>(gate + column);
    const Vector<T, N> ups = load<N>(gate + width + column);
    const Vector<T, N> grads = load<N>(grad_y + column);
    float a[N], b[N], g[N];
    unpack(gates, a);
    unpack(ups, b);
    unpack(grads, g);
    swiglu_gradient(a, b, g);
    store(grad_gate + column, pack<T>(a));
    store(grad_gate + width + column, pack<T>(b));
    if (arguments.y != nullptr) store(static_cast<T*>(arguments.y) + row * width + column, pack<T>(g));
  }
}

template <class T, int N>
void launch_forward(const SwigluForward& arguments, void* stream) {
  const int threads = threads_for(arguments.width, SWIGLU_VECTORS * N, SWIGLU_THREADS);
  const dim3 grid = grid_of_slices(arguments.rows, arguments.width, static_cast<int64_t>(threads) * SWIGLU_VECTORS * N);
  launch(swiglu_forward_kernel<T, N>, grid, threads, stream, arguments);
}

template <class T, int N>
void launch_backward(const SwigluBackward& arguments, void* stream) {
  const int threads = threads_for(arguments.width, N, SWIGLU_THREADS);
  const dim3 grid = grid_of_slices(arguments.rows, arguments.width, static_cast<int64_t>(threads) * N);
  launch(swiglu_backward_kernel<T, N>, grid, threads, stream, arguments);
}

int32_t swiglu_forward(const SwigluForward& arguments, Element element, void* stream) {
  return for_element(element, arguments.rows > 0, [&](auto type) {
    using T = typename decltype(type)::Type;
    const bool fits = vectors_fit<T>(arguments.width, {arguments.x, arguments.y});
    fits ? launch_forward<T, FULL<T>>(arguments, stream) : launch_forward<T, 1>(arguments, stream);
  });
}

int32_t swiglu_backward(const SwigluBackward& arguments, Element element, void* stream) {
  return for_element(element, arguments.rows > 0, [&](auto type) {
    using T = typename decltype(type)::Type;
    const bool fits =
        vectors_fit<T>(arguments.width, {arguments.grad_y, arguments.x, arguments.grad_x, arguments.y});
    fits ? launch_backward<T, FULL<T>>(arguments, stream) : launch_backward<T, 1>(arguments, stream);
  });
}

}  // namespace megaphi::cuda
