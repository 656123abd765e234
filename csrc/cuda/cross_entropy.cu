// Cross-entropy over this rank's slice of the vocabulary: one read forward, one read and one write backward.
//
// Forward: one CTA per row carries a running maximum and sum of exponentials, so the row is read only once; its result,
// (maximum, sum, logit of the label), is all that the ranks have to exchange. Backward: every element is read and then
// written by one thread, so the gradient may overwrite the logits. A row is long (200 KB in bf16 for the whole
// vocabulary) and is split into slices.
#include "launch.cuh"
#include "reduction.cuh"

namespace megaphi::cuda {

constexpr int STATISTICS_THREADS = 512, STATISTICS_VECTORS = 4;
constexpr int GRADIENT_THREADS = 256, GRADIENT_VECTORS = 2;

template <class T, int N>
__device__ __forceinline__ RunningSoftmax read_row(const T* logits, int64_t width, Block& team) {
  RunningSoftmax running;
  const int64_t step = static_cast<int64_t>(team.size()) * N;
  for (int64_t first = team.rank() * N; first < width; first += STATISTICS_VECTORS * step) {
    Vector<T, N> vectors[STATISTICS_VECTORS];
#pragma unroll
    for (int i = 0; i < STATISTICS_VECTORS; ++i) {
      if (first + i * step < width) vectors[i] = load<N>(logits + first + i * step);
    }
#pragma unroll
    for (int i = 0; i < STATISTICS_VECTORS; ++i) {
      if (first + i * step >= width) continue;
      float value[N];
      unpack(vectors[i], value);
      running.add(value);
    }
  }
  running.merge(team);
  return running;
}

template <class T, int N>
__global__ void __launch_bounds__(STATISTICS_THREADS, 2) cross_entropy_forward_kernel(CrossEntropyForward arguments) {
  Block team;
  const int64_t row = blockIdx.x;
  const T* logits = static_cast<const T*>(arguments.logits) + row * arguments.width;
  const RunningSoftmax running = read_row<T, N>(logits, arguments.width, team);
  if (team.rank() != 0) return;
  const int64_t label = arguments.labels[row] - arguments.first;
  float* stats = static_cast<float*>(arguments.stats) + 3 * row;
  stats[0] = running.maximum;
  stats[1] = running.sum;
  stats[2] = label >= 0 && label < arguments.width ? Convert<T>::widen(logits[label]) : 0.0f;
}

// Values shared by all elements of a row.
struct GradientRow {
  int64_t label;  // column of the label on this rank, out of range if it is another rank's
  float maximum, grad, scale;

  __device__ __forceinline__ GradientRow(const CrossEntropyBackward& arguments, int64_t row)
      : label(arguments.labels[row] - arguments.first),
        maximum(static_cast<const float*>(arguments.totals)[2 * row]),
        grad(static_cast<const float*>(arguments.grad)[row]) {
    const float sum = static_cast<const float*>(arguments.totals)[2 * row + 1];
    const float z_weight = static_cast<float>(arguments.z_weight);
    scale = grad * (1.0f + 2.0f * z_weight * (maximum + logf(sum))) / sum;
  }
};

template <class T, int N>
__device__ __forceinline__ void store_gradient(T* to, Vector<T, N> logits, int64_t column, const GradientRow& row) {
  float value[N];
  unpack(logits, value);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    value[j] = expf(value[j] - row.maximum) * row.scale;
    if (column + j == row.label) value[j] -= row.grad;
  }
  store(to, pack<T>(value));
}

template <class T, int N>
__global__ void __launch_bounds__(GRADIENT_THREADS) cross_entropy_backward_kernel(CrossEntropyBackward arguments) {
  const int64_t row = blockIdx.x, width = arguments.width, step = static_cast<int64_t>(blockDim.x) * N;
  const T* logits = static_cast<const T*>(arguments.logits) + row * width;
  T* grad_logits = static_cast<T*>(arguments.grad_logits) + row * width;
  const bool is_ignored = arguments.labels[row] == arguments.ignored;
  const GradientRow common(arguments, row);
  int64_t first = blockIdx.y * (GRADIENT_VECTORS * step) + threadIdx.x * N;
  for (; first < width; first += gridDim.y * (GRADIENT_VECTORS * step)) {
    Vector<T, N> vectors[GRADIENT_VECTORS] = {};
#pragma unroll
    for (int i = 0; i < GRADIENT_VECTORS; ++i) {
      if (!is_ignored && first + i * step < width) vectors[i] = load<N>(logits + first + i * step);
    }
#pragma unroll
    for (int i = 0; i < GRADIENT_VECTORS; ++i) {
      const int64_t column = first + i * step;
      if (column >= width) continue;
      if (is_ignored) {
        store(grad_logits + column, vectors[i]);
      } else {
        store_gradient(grad_logits + column, vectors[i], column, common);
      }
    }
  }
}

template <class T, int N>
void launch_forward(const CrossEntropyForward& arguments, void* stream) {
  const int threads = threads_for(arguments.width, STATISTICS_VECTORS * N, STATISTICS_THREADS);
  launch(cross_entropy_forward_kernel<T, N>, grid_of_rows(arguments.rows), threads, stream, arguments);
}

template <class T, int N>
void launch_backward(const CrossEntropyBackward& arguments, void* stream) {
  const int threads = threads_for(arguments.width, GRADIENT_VECTORS * N, GRADIENT_THREADS);
  const int64_t slice = static_cast<int64_t>(threads) * GRADIENT_VECTORS * N;
  launch(cross_entropy_backward_kernel<T, N>, grid_of_slices(arguments.rows, arguments.width, slice), threads, stream,
         arguments);
}

int32_t cross_entropy_forward(const CrossEntropyForward& arguments, Element element, void* stream) {
  return for_element(element, arguments.rows > 0, [&](auto type) {
    using T = typename decltype(type)::Type;
    const bool fits = vectors_fit<T>(arguments.width, {arguments.logits});
    fits ? launch_forward<T, FULL<T>>(arguments, stream) : launch_forward<T, 1>(arguments, stream);
  });
}

int32_t cross_entropy_backward(const CrossEntropyBackward& arguments, Element element, void* stream) {
  return for_element(element, arguments.rows > 0, [&](auto type) {
    using T = typename decltype(type)::Type;
    const bool fits = vectors_fit<T>(arguments.width, {arguments.logits, arguments.grad_logits});
    fits ? launch_backward<T, FULL<T>>(arguments, stream) : launch_backward<T, 1>(arguments, stream);
  });
}

}  // namespace megaphi::cuda
