// RMSNorm with the preceding residual addition, and its gradient.
//
// Forward: one CTA per row, the row stays in registers between the sum of squares and the scaling. Backward: at most
// BACKWARD_CTAS persistent CTAs; each adds the weight gradients of its rows in registers, prefetches its next row while
// it works on the current one, and finally writes one row of partial sums that a second, small kernel adds up: no
// atomics, so two runs agree bit for bit. Rows too wide or off the 16-byte grid are read twice and element by element
// instead.
#include "launch.cuh"
#include "reduction.cuh"

namespace megaphi::cuda {

constexpr int FORWARD_THREADS = 1024, FORWARD_VECTORS = 2;
constexpr int BACKWARD_THREADS = 512, BACKWARD_CTAS = 264;  // two on each of an H100's 132 multiprocessors
constexpr int GENERAL_THREADS = 512;
constexpr int PARTIAL_ROWS = 16;  // rows of partial sums that a CTA of the second kernel reads at once

template <class T>
constexpr int BACKWARD_VECTORS = sizeof(T) == 4 ? 3 : 2;  // 6,144 columns in f32, 8,192 in bf16 and f16

// x + residual, rounded as if it had been stored and read again.
template <class T, int N>
__device__ __forceinline__ Vector<T, N> add_rounded(float (&value)[N], Vector<T, N> residual) {
  float other[N];
  unpack(residual, other);
#pragma unroll
  for (int j = 0; j < N; ++j) value[j] += other[j];
  const Vector<T, N> sum = pack<T>(value);
  unpack(sum, value);
  return sum;
}

template <int N>
__device__ __forceinline__ float sum_of_squares(const float (&value)[N]) {
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < N; ++j) sum = fmaf(value[j], value[j], sum);
  return sum;
}

// 1 / sqrt(mean of squares + eps) of the row, which is also stored; in double, because all of a row shares its error.
__device__ __forceinline__ float finish_rstd(const RmsNormForward& arguments, int64_t row, float squares, Block& team) {
  const double sum = team.reduce(squares, Sum{});
  const auto rstd = static_cast<float>(1.0 / sqrt(sum / static_cast<double>(arguments.width) + arguments.eps));
  if (team.rank() == 0) static_cast<float*>(arguments.rstd)[row] = rstd;
  return rstd;
}

template <class T, int N>
__device__ __forceinline__ void store_scaled(T* y, float (&value)[N], Vector<T, N> weights, float rstd) {
  float weight[N];
  unpack(weights, weight);
#pragma unroll
  for (int j = 0; j < N; ++j) value[j] = value[j] * rstd * weight[j];
  store(y, pack<T>(value));
}

template <class T, int N>
__global__ void __launch_bounds__(FORWARD_THREADS) rms_norm_forward_resident(RmsNormForward arguments) {
  Block team;
  const int64_t row = blockIdx.x, start = row * arguments.width;
  const T* x = static_cast<const T*>(arguments.x) + start;
  const T* residual = static_cast<const T*>(arguments.residual);
  Vector<T, N> inputs[FORWARD_VECTORS], residuals[FORWARD_VECTORS];
#pragma unroll
  for (int i = 0; i < FORWARD_VECTORS; ++i) {
    const int column = (team.rank() + i * team.size()) * N;
    if (column >= arguments.width) continue;
    inputs[i] = load<N>(x + column);
    if (residual != nullptr) residuals[i] = load<N>(residual + start + column);
  }
  float value[FORWARD_VECTORS][N], squares = 0.0f;
#pragma unroll
  for (int i = 0; i < FORWARD_VECTORS; ++i) {
    const int column = (team.rank() + i * team.size()) * N;
    if (column >= arguments.width) continue;
    unpack(inputs[i], value[i]);
    if (residual != nullptr) {
      store(static_cast<T*>(arguments.sum) + start + column, add_rounded(value[i], residuals[i]));
    }
    squares += sum_of_squares(value[i]);
  }
  const float rstd = finish_rstd(arguments, row, squares, team);
#pragma unroll
  for (int i = 0; i < FORWARD_VECTORS; ++i) {
    const int column = (team.rank() + i * team.size()) * N;
    if (column >= arguments.width) continue;
    const Vector<T, N> weights = load_shared_by_all<N>(static_cast<const T*>(arguments.weight) + column);
    store_scaled(static_cast<T*>(arguments.y) + start + column, value[i], weights, rstd);
  }
}

// Reads the row twice; the second time from the sum, which the same thread has written.
template <class T>
__global__ void __launch_bounds__(GENERAL_THREADS) rms_norm_forward_general(RmsNormForward arguments) {
  Block team;
  const int64_t row = blockIdx.x, start = row * arguments.width;
  const T* x = static_cast<const T*>(arguments.x) + start;
  const T* weight = static_cast<const T*>(arguments.weight);
  const T* normalised = arguments.residual ? static_cast<const T*>(arguments.sum) + start : x;
  float squares = 0.0f;
  for (int64_t column = team.rank(); column < arguments.width; column += team.size()) {
    float value[1];
    unpack(load<1>(x + column), value);
    if (arguments.residual != nullptr) {
      const Vector<T, 1> residual = load<1>(static_cast<const T*>(arguments.residual) + start + column);
      store(static_cast<T*>(arguments.sum) + start + column, add_rounded(value, residual));
    }
    squares += sum_of_squares(value);
  }
  const float rstd = finish_rstd(arguments, row, squares, team);
  for (int64_t column = team.rank(); column < arguments.width; column += team.size()) {
    float value[1];
    unpack(load_own<1>(normalised + column), value);
    store_scaled(static_cast<T*>(arguments.y) + start + column, value, load_shared_by_all<1>(weight + column), rstd);
  }
}

// One thread's share of the inputs to a row's gradient, still packed.
template <class T, int N, int VECTORS>
struct GradientInputs {
  Vector<T, N> x[VECTORS], grad_y[VECTORS], grad_sum[VECTORS];

  __device__ __forceinline__ void read(const RmsNormBackward& arguments, int64_t row) {
    const int64_t start = row * arguments.width;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
      const int column = (threadIdx.x + i * blockDim.x) * N;
      if (column >= arguments.width) continue;
      x[i] = load<N>(static_cast<const T*>(arguments.x) + start + column);
      grad_y[i] = load<N>(static_cast<const T*>(arguments.grad_y) + start + column);
      if (arguments.grad_sum) grad_sum[i] = load<N>(static_cast<const T*>(arguments.grad_sum) + start + column);
    }
  }
};

// Adds grad_y * xhat to the weight gradient and returns the sum of g * x.
template <class T, int N>
__device__ __forceinline__ float accumulate(Vector<T, N> xs, Vector<T, N> grads, Vector<T, N> weights, float rstd,
                                            float (&weight_gradient)[N]) {
  float x[N], grad_y[N], weight[N], dot = 0.0f;
  unpack(xs, x);
  unpack(grads, grad_y);
  unpack(weights, weight);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float product = grad_y[j] * x[j];
    dot = fmaf(product, weight[j], dot);
    weight_gradient[j] = fmaf(product, rstd, weight_gradient[j]);
  }
  return dot;
}

// rstd * (g - xhat * mean(g * xhat)), where slope = rstd * mean(g * xhat).
template <class T, int N>
__device__ __forceinline__ void input_gradient(Vector<T, N> xs, Vector<T, N> grads, Vector<T, N> weights, float rstd,
                                               float slope, float (&grad_x)[N]) {
  float x[N], weight[N];
  unpack(xs, x);
  unpack(grads, grad_x);
  unpack(weights, weight);
#pragma unroll
  for (int j = 0; j < N; ++j) grad_x[j] = rstd * (grad_x[j] * weight[j] - x[j] * slope);
}

template <class T, int N>
__device__ __forceinline__ void store_gradient(const RmsNormBackward& arguments, int64_t at, float (&grad_x)[N],
                                               Vector<T, N> grad_sums) {
  if (arguments.grad_sum != nullptr) {
    float grad_sum[N];
    unpack(grad_sums, grad_sum);
#pragma unroll
    for (int j = 0; j < N; ++j) grad_x[j] += grad_sum[j];
  }
  store(static_cast<T*>(arguments.grad_x) + at, pack<T>(grad_x));
}

template <class T, int N, int VECTORS>
__global__ void __launch_bounds__(BACKWARD_THREADS) rms_norm_backward_resident(RmsNormBackward arguments) {
  Block team;
  const T* weight = static_cast<const T*>(arguments.weight);
  float weight_gradient[VECTORS][N] = {};
  GradientInputs<T, N, VECTORS> next;
  next.read(arguments, blockIdx.x);
  for (int64_t row = blockIdx.x; row < arguments.rows; row += gridDim.x) {
    const GradientInputs<T, N, VECTORS> now = next;
    const float rstd = static_cast<const float*>(arguments.rstd)[row];
    if (row + gridDim.x < arguments.rows) next.read(arguments, row + gridDim.x);
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
      const int column = (team.rank() + i * team.size()) * N;
      if (column >= arguments.width) continue;
      dot += accumulate(now.x[i], now.grad_y[i], load_shared_by_all<N>(weight + column), rstd, weight_gradient[i]);
    }
    const float slope = team.reduce(dot, Sum{}) / static_cast<float>(arguments.width) * rstd * rstd;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
      const int column = (team.rank() + i * team.size()) * N;
      if (column >= arguments.width) continue;
      float grad_x[N];
      input_gradient(now.x[i], now.grad_y[i], load_shared_by_all<N>(weight + column), rstd, slope, grad_x);
      store_gradient<T>(arguments, row * arguments.width + column, grad_x, now.grad_sum[i]);
    }
  }
  float* partials = static_cast<float*>(arguments.workspace) + blockIdx.x * arguments.width;
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int column = (team.rank() + i * team.size()) * N;
    if (column >= arguments.width) continue;
#pragma unroll
    for (int j = 0; j < N; ++j) partials[column + j] = weight_gradient[i][j];
  }
}

// Keeps the partial sums in the workspace: a column belongs to one thread, so it may read back what it wrote.
template <class T>
__global__ void __launch_bounds__(GENERAL_THREADS) rms_norm_backward_general(RmsNormBackward arguments) {
  Block team;
  const T* weight = static_cast<const T*>(arguments.weight);
  float* partials = static_cast<float*>(arguments.workspace) + blockIdx.x * arguments.width;
  for (int64_t row = blockIdx.x; row < arguments.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(arguments.x) + row * arguments.width;
    const T* grad_y = static_cast<const T*>(arguments.grad_y) + row * arguments.width;
    const T* grad_sum = static_cast<const T*>(arguments.grad_sum);
    const float rstd = static_cast<const float*>(arguments.rstd)[row];
    float dot = 0.0f;
    for (int64_t column = team.rank(); column < arguments.width; column += team.size()) {
      float partial[1] = {row == blockIdx.x ? 0.0f : partials[column]};
      const Vector<T, 1> weights = load_shared_by_all<1>(weight + column);
      dot += accumulate(load<1>(x + column), load<1>(grad_y + column), weights, rstd, partial);
      partials[column] = partial[0];
    }
    const float slope = team.reduce(dot, Sum{}) / static_cast<float>(arguments.width) * rstd * rstd;
    for (int64_t column = team.rank(); column < arguments.width; column += team.size()) {
      const Vector<T, 1> weights = load_shared_by_all<1>(weight + column);
      float grad_x[1];
      input_gradient(load<1>(x + column), load<1>(grad_y + column), weights, rstd, slope, grad_x);
      Vector<T, 1> grad_sums{};
      if (grad_sum != nullptr) grad_sums = load<1>(grad_sum + row * arguments.width + column);
      store_gradient<T>(arguments, row * arguments.width + column, grad_x, grad_sums);
    }
  }
}

// grad_weight = the sum of `parts` rows of partial sums, each thread along one column; zeros where there are none.
template <class T>
__global__ void __launch_bounds__(WARP* PARTIAL_ROWS)
    rms_norm_weight_gradient(const float* partials, int parts, int64_t width, T* grad_weight) {
  __shared__ float sums[PARTIAL_ROWS][WARP];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * WARP + threadIdx.x;
  float sum = 0.0f;
  if (column < width) {
#pragma unroll 4
    for (int part = threadIdx.y; part < parts; part += PARTIAL_ROWS) sum += partials[part * width + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  for (int i = 1; i < PARTIAL_ROWS; ++i) sum += sums[i][threadIdx.x];
  grad_weight[column] = Convert<T>::narrow(sum);
}

int backward_ctas(int64_t rows) { return static_cast<int>(std::min<int64_t>(rows, BACKWARD_CTAS)); }

template <class T>
void launch_forward(const RmsNormForward& arguments, void* stream) {
  const bool fits = vectors_fit<T>(arguments.width, {arguments.x, arguments.residual, arguments.weight, arguments.y,
                                                     arguments.sum});
  if (fits && arguments.width <= FORWARD_THREADS * FORWARD_VECTORS * FULL<T>) {
    const int threads = threads_for(arguments.width, FORWARD_VECTORS * FULL<T>, FORWARD_THREADS);
    launch(rms_norm_forward_resident<T, FULL<T>>, grid_of_rows(arguments.rows), threads, stream, arguments);
  } else {
    const int threads = threads_for(arguments.width, 4, GENERAL_THREADS);
    launch(rms_norm_forward_general<T>, grid_of_rows(arguments.rows), threads, stream, arguments);
  }
}

template <class T>
void launch_backward(const RmsNormBackward& arguments, void* stream) {
  constexpr int VECTORS = BACKWARD_VECTORS<T>;
  const dim3 grid = backward_ctas(arguments.rows);
  const bool fits = vectors_fit<T>(arguments.width, {arguments.grad_y, arguments.grad_sum, arguments.x,
                                                     arguments.weight, arguments.grad_x});
  if (fits && arguments.width <= BACKWARD_THREADS * VECTORS * FULL<T>) {
    const int threads = threads_for(arguments.width, VECTORS * FULL<T>, BACKWARD_THREADS);
    launch(rms_norm_backward_resident<T, FULL<T>, VECTORS>, grid, threads, stream, arguments);
  } else {
    const int threads = threads_for(arguments.width, 4, GENERAL_THREADS);
    launch(rms_norm_backward_general<T>, grid, threads, stream, arguments);
  }
}

template <class T>
void launch_weight_gradient(const RmsNormBackward& arguments, void* stream) {
  const dim3 grid = static_cast<unsigned>(ceiling_divide(arguments.width, WARP));
  launch(rms_norm_weight_gradient<T>, grid, dim3(WARP, PARTIAL_ROWS), stream,
         static_cast<const float*>(arguments.workspace), backward_ctas(arguments.rows), arguments.width,
         static_cast<T*>(arguments.grad_weight));
}

int32_t rms_norm_forward(const RmsNormForward& arguments, Element element, void* stream) {
  return for_element(element, arguments.rows > 0, [&](auto type) {
    launch_forward<typename decltype(type)::Type>(arguments, stream);
  });
}

// Without rows there is still a weight gradient to write: zeros.
int32_t rms_norm_backward(const RmsNormBackward& arguments, Element element, void* stream) {
  return for_element(element, arguments.width > 0, [&](auto type) {
    using T = typename decltype(type)::Type;
    if (arguments.rows > 0) launch_backward<T>(arguments, stream);
    launch_weight_gradient<T>(arguments, stream);
  });
}

int64_t rms_norm_workspace(int64_t rows, int64_t width) { return backward_ctas(rows) * width; }

}  // namespace megaphi::cuda
