// Softmax over keys, causal or masked or both, and its gradient.
//
// Three kernels per direction, by the number of keys. Up to 1,024 a warp owns a row and eight rows share a CTA. Up to
// 16,384 a CTA owns a row that stays in registers between its one read and its one write. Beyond (or beyond 512 where
// rows are off the 16-byte grid) the row is read twice, carrying a running maximum and sum. Under `causal` reads stop
// at the diagonal; the rest is only written, as zeros. There may be more than 2^31 rows.
#include "launch.cuh"
#include "reduction.cuh"

namespace megaphi::cuda {

constexpr int ROWS_PER_CTA = 8;    // where a warp owns a row
constexpr int CTA_VALUES = 16;     // elements of a CTA's row in one thread's registers
constexpr int CTA_THREADS = 1024;  // for a row of 16,384

// Elements of a warp's row in one lane's registers; single elements cost an address each.
template <int N>
constexpr int WARP_VALUES = N == 1 ? 16 : 32;

// The row of a team: a CTA's, or a warp's of a CTA. Rows beyond a grid's x dimension go on along y.
template <class Team>
struct RowOf;

template <>
struct RowOf<Block> {
  static constexpr int LARGEST_CTA = CTA_THREADS;
  static __device__ __forceinline__ int64_t get() { return static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x; }
};

template <>
struct RowOf<Warp> {
  static constexpr int LARGEST_CTA = ROWS_PER_CTA * WARP;
  static __device__ __forceinline__ int64_t get() { return RowOf<Block>::get() * ROWS_PER_CTA + threadIdx.x / WARP; }
};

template <class Arguments>
__host__ __device__ __forceinline__ int64_t rows_of(const Arguments& arguments) {
  return arguments.batch * arguments.heads * arguments.queries;
}

// Number of keys, from the first, that a query may see.
template <class Arguments>
__device__ __forceinline__ int64_t visible_keys(const Arguments& arguments, int64_t row) {
  if (!arguments.causal) return arguments.keys;
  const int64_t visible = row % arguments.queries + 1 + arguments.keys - arguments.queries;
  return visible < 0 ? 0 : visible;
}

__device__ __forceinline__ const uint8_t* mask_row(const SoftmaxForward& arguments, int64_t row) {
  if (arguments.mask == nullptr) return nullptr;
  const int64_t query = row % arguments.queries, batch_and_head = row / arguments.queries;
  const int64_t head = batch_and_head % arguments.heads, batch = batch_and_head / arguments.heads;
  return arguments.mask + batch * arguments.mask_batch + head * arguments.mask_head + query * arguments.mask_query;
}

// Number of visible elements of the vector at `key`.
template <int N>
__device__ __forceinline__ int visible_lanes(int64_t visible, int64_t key) {
  return visible - key < N ? static_cast<int>(visible - key) : N;
}

// From the scores at `key` to scaled ones, -inf where hidden. `visible` counts from this vector's first element.
template <class T, int N>
__device__ __forceinline__ void scale_and_hide(Vector<T, N> scores, float scale, int visible, const uint8_t* mask,
                                               int64_t key, float (&value)[N]) {
  unpack(scores, value);
#pragma unroll
  for (int j = 0; j < N; ++j) value[j] = j < visible ? value[j] * scale : -INFINITY;
  if (mask == nullptr) return;
  const Vector<uint8_t, N> bytes = load_shared_by_all<N>(mask + key);
  const auto* hidden = reinterpret_cast<const uint8_t*>(&bytes.word);
#pragma unroll
  for (int j = 0; j < N; ++j) value[j] = hidden[j] ? -INFINITY : value[j];
}

// Divides many values by one sum: a product with its inverse, then one step of refinement that makes it as exact as a
// division. A sum of 0 belongs to a row that sees nothing, and its values are 0.
struct Divisor {
  float sum, inverse;

  __device__ __forceinline__ explicit Divisor(float sum) : sum(sum), inverse(sum == 0.0f ? 0.0f : 1.0f / sum) {}

  __device__ __forceinline__ float divide(float value) const {
    const float quotient = value * inverse;
    return fmaf(fmaf(-quotient, sum, value), inverse, quotient);
  }
};

template <class T, int N, int VECTORS, class Team>
__device__ __forceinline__ void softmax_row(const SoftmaxForward& arguments, int64_t row, Team& team) {
  const T* x = static_cast<const T*>(arguments.x) + row * arguments.keys;
  T* y = static_cast<T*>(arguments.y) + row * arguments.keys;
  const uint8_t* mask = mask_row(arguments, row);
  const int keys = arguments.keys, visible = visible_keys(arguments, row);
  const float scale = arguments.scale;
  Vector<T, N> scores[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int key = (team.rank() + i * team.size()) * N;
    if (key < visible) scores[i] = load<N>(x + key);
  }
  float value[VECTORS][N], maximum = -INFINITY, sum = 0.0f;
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int key = (team.rank() + i * team.size()) * N;
    if (key >= visible) continue;
    scale_and_hide(scores[i], scale, visible - key, mask, key, value[i]);
#pragma unroll
    for (int j = 0; j < N; ++j) maximum = fmaxf(maximum, value[i][j]);
  }
  const float shift = shift_of(team.reduce(maximum, Maximum{}));
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const bool is_visible = (team.rank() + i * team.size()) * N < visible;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      value[i][j] = is_visible ? expf(value[i][j] - shift) : 0.0f;
      sum += value[i][j];
    }
  }
  const Divisor total(team.reduce(sum, Sum{}));
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int key = (team.rank() + i * team.size()) * N;
    if (key >= keys) continue;
#pragma unroll
    for (int j = 0; j < N; ++j) value[i][j] = total.divide(value[i][j]);
    store(y + key, pack<T>(value[i]));
  }
}

template <class T, int N, int VECTORS, class Team>
__global__ void __launch_bounds__(RowOf<Team>::LARGEST_CTA) softmax_forward_resident(SoftmaxForward arguments) {
  Team team;
  const int64_t row = RowOf<Team>::get();
  if (row < rows_of(arguments)) softmax_row<T, N, VECTORS>(arguments, row, team);
}

template <class T, int N>
__device__ __forceinline__ void stream_row(const SoftmaxForward& arguments, int64_t row, Block& team) {
  const T* x = static_cast<const T*>(arguments.x) + row * arguments.keys;
  T* y = static_cast<T*>(arguments.y) + row * arguments.keys;
  const uint8_t* mask = mask_row(arguments, row);
  const int64_t visible = visible_keys(arguments, row), step = static_cast<int64_t>(team.size()) * N;
  const float scale = arguments.scale;
  const int64_t first = team.rank() * N;
  RunningSoftmax running;
#pragma unroll 4
  for (int64_t key = first; key < visible; key += step) {
    float value[N];
    scale_and_hide(load<N>(x + key), scale, visible_lanes<N>(visible, key), mask, key, value);
    running.add(value);
  }
  running.merge(team);
  const float shift = shift_of(running.maximum);
  const Divisor total(running.sum);
  for (int64_t key = first; key < arguments.keys; key += step) {
    float value[N] = {};
    if (key < visible) {
      scale_and_hide(load<N>(x + key), scale, visible_lanes<N>(visible, key), mask, key, value);
#pragma unroll
      for (int j = 0; j < N; ++j) value[j] = total.divide(expf(value[j] - shift));
    }
    store(y + key, pack<T>(value));
  }
}

template <class T, int N>
__global__ void __launch_bounds__(CTA_THREADS) softmax_forward_streamed(SoftmaxForward arguments) {
  Block team;
  const int64_t row = RowOf<Block>::get();
  if (row < rows_of(arguments)) stream_row<T, N>(arguments, row, team);
}

// The sum of grad_y * y over the visible elements of a vector.
template <class T, int N>
__device__ __forceinline__ float dot(Vector<T, N> grads, Vector<T, N> ys, int visible) {
  float grad_y[N], y[N], sum = 0.0f;
  unpack(grads, grad_y);
  unpack(ys, y);
#pragma unroll
  for (int j = 0; j < N; ++j) sum = j < visible ? fmaf(grad_y[j], y[j], sum) : sum;
  return sum;
}

template <class T, int N>
__device__ __forceinline__ Vector<T, N> gradient(Vector<T, N> grads, Vector<T, N> ys, int visible, float mean,
                                                 float scale) {
  float grad_y[N], y[N];
  unpack(grads, grad_y);
  unpack(ys, y);
#pragma unroll
  for (int j = 0; j < N; ++j) y[j] = j < visible ? scale * (y[j] * (grad_y[j] - mean)) : 0.0f;
  return pack<T>(y);
}

template <class T, int N, int VECTORS, class Team>
__device__ __forceinline__ void gradient_row(const SoftmaxBackward& arguments, int64_t row, Team& team) {
  const int64_t start = row * arguments.keys;
  const int keys = arguments.keys, visible = visible_keys(arguments, row);
  Vector<T, N> grads[VECTORS], ys[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int key = (team.rank() + i * team.size()) * N;
    if (key >= visible) continue;
    grads[i] = load<N>(static_cast<const T*>(arguments.grad_y) + start + key);
    ys[i] = load<N>(static_cast<const T*>(arguments.y) + start + key);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int key = (team.rank() + i * team.size()) * N;
    if (key < visible) sum += dot(grads[i], ys[i], visible - key);
  }
  const float mean = team.reduce(sum, Sum{}), scale = arguments.scale;
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int key = (team.rank() + i * team.size()) * N;
    if (key >= keys) continue;
    Vector<T, N> grad_x{};
    if (key < visible) grad_x = gradient(grads[i], ys[i], visible - key, mean, scale);
    store(static_cast<T*>(arguments.grad_x) + start + key, grad_x);
  }
}

template <class T, int N, int VECTORS, class Team>
__global__ void __launch_bounds__(RowOf<Team>::LARGEST_CTA) softmax_backward_resident(SoftmaxBackward arguments) {
  Team team;
  const int64_t row = RowOf<Team>::get();
  if (row < rows_of(arguments)) gradient_row<T, N, VECTORS>(arguments, row, team);
}

template <class T, int N>
__device__ __forceinline__ void stream_gradient_row(const SoftmaxBackward& arguments, int64_t row, Block& team) {
  const T* grad_y = static_cast<const T*>(arguments.grad_y) + row * arguments.keys;
  const T* y = static_cast<const T*>(arguments.y) + row * arguments.keys;
  T* grad_x = static_cast<T*>(arguments.grad_x) + row * arguments.keys;
  const int64_t visible = visible_keys(arguments, row), step = static_cast<int64_t>(team.size()) * N;
  const int64_t first = team.rank() * N;
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t key = first; key < visible; key += step) {
    sum += dot(load<N>(grad_y + key), load<N>(y + key), visible_lanes<N>(visible, key));
  }
  const float mean = team.reduce(sum, Sum{}), scale = arguments.scale;
  for (int64_t key = first; key < arguments.keys; key += step) {
    Vector<T, N> result{};
    if (key < visible) {
      const int lanes = visible_lanes<N>(visible, key);
      result = gradient(load<N>(grad_y + key), load<N>(y + key), lanes, mean, scale);
    }
    store(grad_x + key, result);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(CTA_THREADS) softmax_backward_streamed(SoftmaxBackward arguments) {
  Block team;
  const int64_t row = RowOf<Block>::get();
  if (row < rows_of(arguments)) stream_gradient_row<T, N>(arguments, row, team);
}

// Picks by the number of keys. `Kernels` offers resident<VECTORS, Team>() and streamed() for its elements per load, N.
template <class Kernels, class Arguments>
void launch_by_keys(const Arguments& arguments, void* stream) {
  constexpr int N = Kernels::N;
  const int64_t rows = rows_of(arguments), keys = arguments.keys;
  const int threads = threads_for(keys, CTA_VALUES, CTA_THREADS);
  if (keys <= WARP * WARP_VALUES<N>) {
    const dim3 grid = grid_of_rows(ceiling_divide(rows, ROWS_PER_CTA));
    const auto kernel = Kernels::template resident<WARP_VALUES<N> / N, Warp>();
    launch(kernel, grid, ROWS_PER_CTA * WARP, stream, arguments);
    return;
  }
  if constexpr (N > 1) {
    if (keys <= CTA_THREADS * CTA_VALUES) {
      launch(Kernels::template resident<CTA_VALUES / N, Block>(), grid_of_rows(rows), threads, stream, arguments);
      return;
    }
  }
  launch(Kernels::streamed(), grid_of_rows(rows), threads, stream, arguments);
}

template <class T, int ELEMENTS>
struct ForwardKernels {
  static constexpr int N = ELEMENTS;
  template <int VECTORS, class Team>
  static auto resident() { return softmax_forward_resident<T, N, VECTORS, Team>; }
  static auto streamed() { return softmax_forward_streamed<T, N>; }
};

template <class T, int ELEMENTS>
struct BackwardKernels {
  static constexpr int N = ELEMENTS;
  template <int VECTORS, class Team>
  static auto resident() { return softmax_backward_resident<T, N, VECTORS, Team>; }
  static auto streamed() { return softmax_backward_streamed<T, N>; }
};

// A vector of mask bytes is loaded at once too, so rows of the mask must start on its boundary.
bool mask_fits(const SoftmaxForward& arguments, int lanes) {
  const uint64_t all = reinterpret_cast<uintptr_t>(arguments.mask) | static_cast<uint64_t>(arguments.mask_batch) |
                       static_cast<uint64_t>(arguments.mask_head) | static_cast<uint64_t>(arguments.mask_query);
  return arguments.mask == nullptr || all % lanes == 0;
}

int32_t softmax_forward(const SoftmaxForward& arguments, Element element, void* stream) {
  return for_element(element, rows_of(arguments) > 0 && arguments.keys > 0, [&](auto type) {
    using T = typename decltype(type)::Type;
    const bool fits = vectors_fit<T>(arguments.keys, {arguments.x, arguments.y}) && mask_fits(arguments, FULL<T>);
    fits ? launch_by_keys<ForwardKernels<T, FULL<T>>>(arguments, stream)
         : launch_by_keys<ForwardKernels<T, 1>>(arguments, stream);
  });
}

int32_t softmax_backward(const SoftmaxBackward& arguments, Element element, void* stream) {
  return for_element(element, rows_of(arguments) > 0 && arguments.keys > 0, [&](auto type) {
    using T = typename decltype(type)::Type;
    const bool fits = vectors_fit<T>(arguments.keys, {arguments.grad_y, arguments.y, arguments.grad_x});
    fits ? launch_by_keys<BackwardKernels<T, FULL<T>>>(arguments, stream)
         : launch_by_keys<BackwardKernels<T, 1>>(arguments, stream);
  });
}

}  // namespace megaphi::cuda
